"""Keras networks of pictures (DenseNet, Xception and their like) from a .keras file to ONNX, layer by layer.

Walks config.json, which lists layers in an order where each comes after its inputs, and takes the weights of each from
the group that Keras names after the layer's class and its number among these. Works on bytes in memory. Pictures are
NCHW in the ONNX graph, NHWC in Keras.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from osler.encoders.convert.graph import Graph
from osler.encoders.keras_file import Weights, open_keras, refused

__all__ = ["convert"]

# which layers of the model give the outputs of the ONNX graph
_OUTPUTS = {
    "keras-densenet121": {"embedding": "global_average_pooling2d", "probabilities": "dense"},
    "keras-xception": {"embedding": "xception"},
}
_DEEPEST = 4  # models in models
_LEAST_DEVIATION = 1e-7  # what Keras' Normalization divides by at least


def convert(content: bytes, name: str) -> bytes:
    """Return the network as a serialised ONNX model.

    Parameters
    ----------
    content : bytes
        A .keras file.
    name : str
        Of the converter; says which layers become outputs.

    Raises
    ------
    EncoderError
        As `open_keras`; or the network has a layer that is not known here, or not the layers that are asked for.
    """
    with open_keras(content) as (config, weights):
        network = _Network(weights)
        found = network.model(config, "", None, set(_OUTPUTS[name].values()))
        outputs = {}
        for output, layer in _OUTPUTS[name].items():
            network.graph.rename(found[layer].name, output)
            outputs[output] = ["batch", found[layer].shape[0]]
        assert network.picture is not None
        return network.graph.model(name, {"image": ["batch", *network.picture.shape]}, outputs)


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor of the graph: its name, and its shape without the batch, (C, H, W) or (C,)."""

    name: str
    shape: tuple[int, ...]


class _Network:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.graph = Graph()
        self.picture: _Value | None = None
        self.depth = 0

    def model(
        self, described: Mapping[str, Any], path: str, entry: _Value | None, wanted: set[str]
    ) -> dict[str, _Value]:
        """Add a Functional or Sequential model whose input is `entry`, as far as `wanted` layers need it."""
        config = described["config"]
        layers = config["layers"]
        inputs = _sources(described["class_name"], layers)
        needed = set(wanted)
        for layer in reversed(layers):
            if layer["config"]["name"] in needed:
                needed.update(inputs[layer["config"]["name"]])
        values: dict[str, _Value] = {}
        numbers: dict[str, int] = {}
        self.depth += 1
        for layer in layers:
            group = _snake(layer["class_name"])
            number = numbers[group] = numbers.get(group, -1) + 1
            place = f"{path}layers/{group}_{number}" if number else f"{path}layers/{group}"
            label = layer["config"]["name"]
            if label in needed:
                given = [values[source] for source in inputs[label]]
                values[label] = self.layer(layer, place, [entry] if not given and entry is not None else given)
        self.depth -= 1
        return {label: values[label] for label in wanted}

    def layer(self, layer: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
        kind, config = layer["class_name"], layer["config"]
        if kind in ("Functional", "Sequential"):
            if self.depth >= _DEEPEST:
                raise refused("nests models too deep")
            (entry,) = inputs
            last = config["output_layers"][0][0] if kind == "Functional" else config["layers"][-1]["config"]["name"]
            return self.model(layer, f"{place}/", entry, {last})[last]
        _check_plain(config)
        if kind == "InputLayer":
            return inputs[0] if inputs else self.input(config)
        if kind not in _LAYERS:
            shown = re.sub(r"[^A-Za-z0-9_]", "?", str(kind))[:40]
            raise refused(f"has a layer of the kind {shown}, which is not among those converted,")
        return _LAYERS[kind](self, config, place, inputs)

    def input(self, config: Mapping[str, Any]) -> _Value:
        _, height, width, channels = config["batch_shape"]
        if self.picture is not None or not all(0 < side <= 4096 for side in (height, width, channels)):
            raise refused("takes no single picture of a fixed size")
        self.picture = _Value("image", (channels, height, width))
        return self.picture

    def constant(self, place: str, values: np.ndarray) -> str:
        return self.graph.constant(place, values.astype(np.float32, copy=False))

    def then(self, kind: str, value: _Value, shape: tuple[int, ...], *constants: str, **attributes: Any) -> _Value:
        return _Value(self.graph.node(kind, [value.name, *constants], **attributes), shape)

    def activate(self, name: str, value: _Value) -> _Value:
        if name == "linear":
            return value
        if name == "relu":
            return self.then("Relu", value, value.shape)
        if name == "softmax" and len(value.shape) == 1:
            return self.then("Softmax", value, value.shape, axis=1)
        raise refused("has an activation that is not among those converted")

    def convolve(self, config: Mapping[str, Any], place: str, value: _Value, kernel: np.ndarray, groups: int) -> _Value:
        """Add a convolution; `kernel` is (height, width, in / groups, out) as Keras keeps it."""
        size = tuple(config["kernel_size"])
        out, channels = kernel.shape[3], value.shape[0]
        if kernel.shape[:3] != (*size, channels // groups) or channels % groups or out % groups:
            raise ValueError
        pads, sides = _padding(config, size, tuple(config["strides"]), value.shape[1:])
        return self.then(
            "Conv",
            value,
            (out, *sides),
            self.constant(f"{place}/kernel", kernel.transpose(3, 2, 0, 1)),
            kernel_shape=list(size),
            strides=list(config["strides"]),
            pads=pads,
            group=groups,
        )

    def biased(self, config: Mapping[str, Any], place: str, value: _Value, bias: list[np.ndarray]) -> _Value:
        if config["use_bias"]:
            (offsets,) = bias
            if offsets.shape != (value.shape[0],):
                raise ValueError
            constant = self.constant(f"{place}/bias", offsets.reshape(-1, *[1] * (len(value.shape) - 1)))
            value = self.then("Add", value, value.shape, constant)
        elif bias:
            raise ValueError
        return self.activate(config["activation"], value)


def _sources(kind: str, layers: list[Any]) -> dict[str, list[str]]:
    """Return the names of the layers that each layer takes its inputs from."""
    names = [layer["config"]["name"] for layer in layers]
    if len(set(names)) != len(names):
        raise ValueError
    if kind == "Sequential":
        return {name: names[max(i - 1, 0) : i] for i, name in enumerate(names)}
    if kind != "Functional":
        raise refused("holds no Functional or Sequential model")
    return {name: _histories(layer["inbound_nodes"]) for name, layer in zip(names, layers, strict=True)}


def _histories(nodes: list[Any]) -> list[str]:
    if not nodes:
        return []
    (node,) = nodes  # a layer that is used twice shares its weights, which no network here does
    (arguments,) = node["args"]
    found = []
    for tensor in arguments if isinstance(arguments, list) else [arguments]:
        name, node_index, tensor_index = tensor["config"]["keras_history"]
        if node_index != 0 or tensor_index != 0:
            raise ValueError
        found.append(name)
    return found


def _snake(name: str) -> str:
    """Return the name of a weight group as Keras makes it of a class."""
    spaced = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()


def _check_plain(config: Mapping[str, Any]) -> None:
    """Raise unless a layer works in float32 on NHWC without holes between the taps of its kernel."""
    dtype = config.get("dtype", "float32")
    if (dtype["config"]["name"] if isinstance(dtype, dict) else dtype) != "float32":
        raise refused("works in another precision than float32")
    if config.get("data_format", "channels_last") != "channels_last" or config.get("dilation_rate", [1, 1]) != [1, 1]:
        raise refused("has a layer in a form that is not among those converted")


def _padding(
    config: Mapping[str, Any], size: tuple[int, ...], strides: tuple[int, ...], sides: tuple[int, ...]
) -> tuple[list[int], tuple[int, ...]]:
    """Return ONNX's pads and the sides after a window; under "same" the odd pixel goes below and to the right."""
    if config["padding"] == "valid":
        after = tuple((side - width) // step + 1 for side, width, step in zip(sides, size, strides, strict=True))
        return [0, 0, 0, 0], after
    if config["padding"] != "same":
        raise ValueError
    after = tuple(-(-side // step) for side, step in zip(sides, strides, strict=True))
    totals = [
        max((kept - 1) * step + width - side, 0)
        for kept, step, width, side in zip(after, strides, size, sides, strict=True)
    ]
    return [*(total // 2 for total in totals), *(total - total // 2 for total in totals)], after


def _conv(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
    (value,) = inputs
    kernel, *bias = network.weights(place)
    return network.biased(config, place, network.convolve(config, place, value, kernel, config["groups"]), bias)


def _separable(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
    (value,) = inputs
    depthwise, pointwise, *bias = network.weights(place)
    if depthwise.shape[3] != 1 or config["depth_multiplier"] != 1:
        raise refused("has a layer in a form that is not among those converted")
    value = network.convolve(config, f"{place}/depthwise", value, depthwise.transpose(0, 1, 3, 2), value.shape[0])
    point = {"kernel_size": [1, 1], "strides": [1, 1], "padding": "valid"}
    return network.biased(config, place, network.convolve(point, place, value, pointwise, 1), bias)


def _normalise_batch(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
    (value,) = inputs
    arrays = network.weights(place)
    if not (config["scale"] and config["center"] and config["axis"] in (-1, 3)) or len(arrays) != 4:
        raise refused("has a layer in a form that is not among those converted")
    if any(array.shape != value.shape[:1] for array in arrays):
        raise ValueError
    names = ("scale", "offset", "mean", "variance")
    constants = [network.constant(f"{place}/{name}", array) for name, array in zip(names, arrays, strict=True)]
    return network.then("BatchNormalization", value, value.shape, *constants, epsilon=float(config["epsilon"]))


def _normalise(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
    (value,) = inputs
    mean, variance, _ = network.weights(place)
    if config["axis"] != [-1] or config["invert"] or not mean.shape == variance.shape == value.shape[:1]:
        raise refused("has a layer in a form that is not among those converted")
    deviation = np.maximum(np.sqrt(variance.astype(np.float64)), _LEAST_DEVIATION)
    shape = (-1, *[1] * (len(value.shape) - 1))
    value = network.then("Sub", value, value.shape, network.constant(f"{place}/mean", mean.reshape(shape)))
    return network.then("Div", value, value.shape, network.constant(f"{place}/deviation", deviation.reshape(shape)))


def _pad(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
    (value,) = inputs
    (top, bottom), (left, right) = config["padding"]
    if not all(0 <= pad <= 64 for pad in (top, bottom, left, right)):
        raise ValueError
    channels, height, width = value.shape
    pads = network.graph.constant(f"{place}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], dtype=np.int64))
    return network.then("Pad", value, (channels, height + top + bottom, width + left + right), pads)


def _pool(kind: str) -> Callable[[_Network, Mapping[str, Any], str, list[_Value]], _Value]:
    def pool(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
        (value,) = inputs
        size, strides = tuple(config["pool_size"]), tuple(config["strides"])
        pads, sides = _padding(config, size, strides, value.shape[1:])
        shape = (value.shape[0], *sides)
        return network.then(kind, value, shape, kernel_shape=list(size), strides=list(strides), pads=pads)

    return pool


def _pool_all(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
    (value,) = inputs
    if config["keepdims"]:
        raise ValueError
    value = network.then("GlobalAveragePool", value, (value.shape[0], 1, 1))
    return network.then("Flatten", value, value.shape[:1], axis=1)


def _add(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
    one, other = inputs
    if one.shape != other.shape:
        raise ValueError
    return network.then("Add", one, one.shape, other.name)


def _join(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
    first, *others = inputs
    if config["axis"] not in (-1, 3) or any(other.shape[1:] != first.shape[1:] for other in others):
        raise ValueError
    shape = (sum(value.shape[0] for value in inputs), *first.shape[1:])
    return network.then("Concat", first, shape, *(other.name for other in others), axis=1)


def _dense(network: _Network, config: Mapping[str, Any], place: str, inputs: list[_Value]) -> _Value:
    (value,) = inputs
    kernel, *bias = network.weights(place)
    if kernel.shape != (value.shape[0], config["units"]):
        raise ValueError
    value = network.then("MatMul", value, (config["units"],), network.constant(f"{place}/kernel", kernel))
    return network.biased(config, place, value, bias)


_LAYERS: dict[str, Callable[[_Network, Mapping[str, Any], str, list[_Value]], _Value]] = {
    "Activation": lambda network, config, place, inputs: network.activate(config["activation"], *inputs),
    "Add": _add,
    "AveragePooling2D": _pool("AveragePool"),
    "BatchNormalization": _normalise_batch,
    "Concatenate": _join,
    "Conv2D": _conv,
    "Dense": _dense,
    "Dropout": lambda network, config, place, inputs: inputs[0],  # does nothing after training
    "GlobalAveragePooling2D": _pool_all,
    "MaxPooling2D": _pool("MaxPool"),
    "Normalization": _normalise,
    "SeparableConv2D": _separable,
    "ZeroPadding2D": _pad,
}
