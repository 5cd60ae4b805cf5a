"""I3ResNet, an inflated 3-D ResNet, from its PyTorch state dict to ONNX, up to the pooled features.

The image backbone of Merlin (Blankemeier et al. 2024) and of Astra: a ResNet-152 of 2-D whose kernels got a third axis.
Takes (batch, 1, X, Y, Z) in RAS order and turns it to (Z, X, Y) as they do. Weights in bfloat16 stay so in the file,
which halves it; a runtime widens them as it loads. Works on bytes in memory.
"""

from __future__ import annotations

import numpy as np

from osler.encoders.checkpoint import read_checkpoint, widened
from osler.encoders.convert.graph import Graph
from osler.errors import EncoderError

__all__ = ["convert"]

_EPSILON = 1e-5  # PyTorch's default for batch normalisation
_STAGES = (("layer1", 1), ("layer2", 2), ("layer3", 2), ("layer4", 2))  # name, stride of the first block


def convert(content: bytes, name: str) -> bytes:
    """Return the network as a serialised ONNX model; the number of blocks and their widths are those of the file.

    Parameters
    ----------
    content : bytes
        A PyTorch checkpoint.
    name : str
        Of the converter.

    Raises
    ------
    EncoderError
        The bytes are no checkpoint, or hold other tensors than this network's.
    """
    state = read_checkpoint(content)
    try:
        return _network(state, name)
    except (KeyError, ValueError):
        raise EncoderError(
            "the checkpoint does not hold the tensors of an I3ResNet; install its package again"
        ) from None


class _Network(Graph):
    def __init__(self, state: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.state = {key: value for key, value in state.items() if not key.endswith(".num_batches_tracked")}

    def take(self, key: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """Remove a tensor, so that what is left at the end is what the network has no use for."""
        tensor = self.state.pop(key)
        if tensor.ndim != len(shape) or any(
            side not in (None, given) for side, given in zip(shape, tensor.shape, strict=True)
        ):
            raise ValueError
        return tensor

    def weight(self, name: str, tensor: np.ndarray) -> str:
        constant = self.constant(name, tensor)
        return constant if tensor.dtype == np.float32 else self.node("Cast", [constant], to=1)

    def normalised(
        self, value: str, conv: str, norm: str, channels: int, kernel: int, stride: int = 1
    ) -> tuple[str, int]:
        """Add a convolution and its batch normalisation; return the output and how many channels it has."""
        tensor = self.take(f"{conv}.weight", (None, channels, kernel, kernel, kernel))
        value = self.node(
            "Conv",
            [value, self.weight(f"{conv}.weight", tensor)],
            kernel_shape=[kernel] * 3,
            strides=[stride] * 3,
            pads=[kernel // 2] * 6,
        )
        return self.norm(value, norm, len(tensor)), len(tensor)

    def norm(self, value: str, norm: str, channels: int) -> str:
        keys = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        constants = [self.constant(key, widened(self.take(key, (channels,)))) for key in keys]
        return self.node("BatchNormalization", [value, *constants], epsilon=_EPSILON)

    def block(self, name: str, entry: str, channels: int, stride: int) -> tuple[str, int]:
        """Add a bottleneck whose stride is in its 3 x 3 x 3 convolution."""
        value, width = self.normalised(entry, f"{name}.conv1", f"{name}.bn1", channels, 1)
        value, width = self.normalised(self.node("Relu", [value]), f"{name}.conv2", f"{name}.bn2", width, 3, stride)
        value, width = self.normalised(self.node("Relu", [value]), f"{name}.conv3", f"{name}.bn3", width, 1)
        if f"{name}.downsample.0.weight" in self.state:
            entry, channels = self.normalised(
                entry, f"{name}.downsample.0", f"{name}.downsample.1", channels, 1, stride
            )
        if channels != width:
            raise ValueError
        return self.node("Relu", [self.node("Add", [value, entry])]), width


def _network(state: dict[str, np.ndarray], name: str) -> bytes:
    graph = _Network(state)
    value = graph.node("Transpose", ["volume"], perm=[0, 1, 4, 2, 3])
    # the one channel is shown three times, so the three kernels may as well be added up
    kernels = widened(graph.take("conv1.weight", (None, 3, 3, 7, 7)))
    first = graph.constant("conv1.weight", kernels.sum(axis=1, keepdims=True, dtype=np.float64))
    value = graph.node("Conv", [value, first], kernel_shape=[3, 7, 7], strides=[1, 2, 2], pads=[1, 3, 3, 1, 3, 3])
    value, channels = graph.node("Relu", [graph.norm(value, "bn1", len(kernels))]), len(kernels)
    value = graph.node("MaxPool", [value], kernel_shape=[3] * 3, strides=[2] * 3, pads=[1] * 6)
    for stage, stride in _STAGES:
        number = 0
        while f"{stage}.{number}.conv1.weight" in graph.state:
            value, channels = graph.block(f"{stage}.{number}", value, channels, stride if number == 0 else 1)
            number += 1
        if number == 0:
            raise ValueError
    if graph.state:
        raise ValueError
    value = graph.node("Flatten", [graph.node("GlobalAveragePool", [value])], axis=1)
    graph.rename(value, "embedding")
    return graph.model(name, {"volume": ["batch", 1, "x", "y", "z"]}, {"embedding": ["batch", channels]})
