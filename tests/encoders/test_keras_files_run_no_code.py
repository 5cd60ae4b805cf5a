"""The reader of .keras files gives plain arrays, the converter known layers; whatever else a file holds is refused."""

from __future__ import annotations

import copy
import io
import json
import sys
import zipfile
from typing import Any

import h5py
import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler import EncoderError
from osler.encoders.convert import keras
from osler.encoders.keras_file import open_keras

SIDE = 9


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "dtype": "float32", **config}}


def conv(name: str, filters: int, **config: Any) -> dict[str, Any]:
    usual = {"kernel_size": [3, 3], "strides": [1, 1], "padding": "same", "groups": 1, "use_bias": True}
    return layer("Conv2D", name, filters=filters, **{**usual, "activation": "relu", **config})


def network() -> dict[str, Any]:
    """A Sequential with biases, activations and paddings that the shipped networks do not have."""
    return {
        "class_name": "Sequential",
        "config": {
            "name": "small",
            "layers": [
                layer("InputLayer", "picture", batch_shape=[None, SIDE, SIDE, 3]),
                conv("first", 4, strides=[2, 2]),
                conv("second", 6, padding="valid", groups=2, activation="linear"),
                layer("AveragePooling2D", "pool", pool_size=[2, 2], strides=[2, 2], padding="same"),
                layer("GlobalAveragePooling2D", "global_average_pooling2d", keepdims=False),
                layer("Dropout", "dropout", rate=0.5),
                layer("Dense", "dense", units=5, use_bias=True, activation="softmax"),
            ],
        },
    }


def arrays() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(3)
    shapes = {
        "layers/conv2d": [(3, 3, 3, 4), (4,)],
        "layers/conv2d_1": [(3, 3, 2, 6), (6,)],
        "layers/dense": [(6, 5), (5,)],
    }
    return {path: [rng.normal(size=shape).astype(np.float32) for shape in group] for path, group in shapes.items()}


def weights_file(groups: dict[str, list[np.ndarray]], spoil: Any = None) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for path, group in groups.items():
            for number, values in enumerate(group):
                file[f"{path}/vars/{number}"] = values
        if spoil is not None:
            spoil(file)
    return stream.getvalue()


def keras_file(
    config: Any = None, stored: bytes | None = None, compression: int = zipfile.ZIP_STORED, extra: str | None = None
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.8.0"}')
        archive.writestr("config.json", json.dumps(network() if config is None else config))
        archive.writestr("model.weights.h5", weights_file(arrays()) if stored is None else stored)
        if extra is not None:
            archive.writestr(extra, "more")
    return stream.getvalue()


def convert(content: bytes) -> bytes:
    return keras.convert(content, "keras-densenet121")


def test_layers_follow_their_definition() -> None:
    picture = np.random.default_rng(4).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    (k1, b1), (k2, b2), (k3, b3) = arrays().values()
    x = np.pad(picture, ((0, 0), (1, 1), (1, 1), (0, 0)))  # 9 to 5 at stride 2: one pixel on each side
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]
    x = np.maximum(np.einsum("nyxcij,ijco->nyxo", windows, k1) + b1, 0)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    halves = [
        np.einsum("nyxcij,ijco->nyxo", windows[:, :, :, half : half + 2], k2[..., place : place + 3])
        for half, place in ((0, 0), (2, 3))
    ]
    x = np.concatenate(halves, axis=3) + b2
    # 3 to 2 at stride 2: the window hangs over below and to the right, and what is not there is not counted
    x = np.stack(
        [
            x[:, rows, columns].mean(axis=(1, 2))
            for rows in (slice(0, 2), slice(2, 3))
            for columns in (slice(0, 2), slice(2, 3))
        ],
        axis=1,
    )
    pooled = x.mean(axis=1)
    odds = np.exp(pooled @ k3 + b3)
    session = onnxruntime.InferenceSession(convert(keras_file()), providers=["CPUExecutionProvider"])
    vectors, scores = session.run(["embedding", "probabilities"], {"image": picture.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(vectors, pooled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores, odds / odds.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


def changed(position: int, **config: Any) -> dict[str, Any]:
    described = copy.deepcopy(network())
    described["config"]["layers"][position]["config"].update(config)
    return described


def replaced(position: int, kind: str) -> dict[str, Any]:
    described = copy.deepcopy(network())
    described["config"]["layers"][position]["class_name"] = kind
    return described


REFUSED = {
    "code": (replaced(5, "Lambda"), "has a layer of the kind Lambda"),
    "a class of its own": (
        replaced(5, "Bad\nClass'; rm"),
        "has a layer of the kind Bad?Class???rm",
    ),
    "half precision": (changed(1, dtype={"config": {"name": "mixed_float16"}}), "in another precision"),
    "other layout": (changed(1, data_format="channels_first"), "has a layer in a form"),
    "holes": (changed(1, dilation_rate=[2, 2]), "has a layer in a form"),
    "activation": (changed(1, activation="swish"), "has an activation"),
    "size": (changed(0, batch_shape=[None, 1 << 20, SIDE, 3]), "takes no single picture"),
    "subclass": ({**network(), "class_name": "MyModel"}, "holds no Functional or Sequential model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_it_does_not_know(name: str) -> None:
    config, message = REFUSED[name]
    with pytest.raises(EncoderError) as caught:
        convert(keras_file(config))
    assert message in str(caught.value)
    assert caught.value.code == "refused_keras" and "\n" not in str(caught.value)


def test_refuses_models_in_models_without_end() -> None:
    described = network()
    for _ in range(10):
        inner = {"class_name": "Sequential", "config": {**described["config"], "name": "global_average_pooling2d"}}
        described = {
            "class_name": "Sequential",
            "config": {"layers": [described["config"]["layers"][0], inner, described["config"]["layers"][-1]]},
        }
    with pytest.raises(EncoderError, match="nests models too deep"):
        convert(keras_file(described))


def test_refuses_other_zip_files() -> None:
    for content in (keras_file(compression=zipfile.ZIP_DEFLATED), keras_file(extra="assets/run.py")):
        with pytest.raises(EncoderError, match="refused") as caught:
            convert(content)
        assert caught.value.code == "refused_keras"
    with pytest.raises(EncoderError, match="more than 8 MiB"):
        convert(keras_file({"class_name": "x" * (9 << 20)}))


def _soft(file: h5py.File) -> None:
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = h5py.SoftLink("/layers/conv2d/vars/0")


def _elsewhere(file: h5py.File) -> None:
    del file["layers/dense"]
    file["layers/dense"] = h5py.ExternalLink("/etc/passwd", "/")


def _compressed(file: h5py.File) -> None:
    del file["layers/dense/vars/0"]
    file.create_dataset("layers/dense/vars/0", data=np.zeros((6, 5), dtype="f4"), compression="gzip")


def _chunked(file: h5py.File) -> None:
    del file["layers/dense/vars/0"]
    file.create_dataset("layers/dense/vars/0", data=np.zeros((6, 5), dtype="f4"), chunks=(3, 5))


def _external(file: h5py.File) -> None:
    del file["layers/dense/vars/0"]
    file.create_dataset("layers/dense/vars/0", (6, 5), "f4", external=[("/etc/passwd", 0, 120)])


def _virtual(file: h5py.File) -> None:
    del file["layers/dense/vars/0"]
    layout = h5py.VirtualLayout((6, 5), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (6, 5))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


@pytest.mark.parametrize("spoil", [_soft, _elsewhere, _compressed, _chunked, _external, _virtual])
def test_refuses_arrays_that_lie_elsewhere(spoil: Any) -> None:
    with pytest.raises(EncoderError, match="was refused; take it from its publisher again") as caught:
        convert(keras_file(stored=weights_file(arrays(), spoil)))
    assert caught.value.code == "refused_keras" and "passwd" not in str(caught.value)


def _many_names(file: h5py.File) -> None:
    file["big/vars/0"] = np.zeros(10_000, dtype="f4")
    for number in range(1, 50):
        file[f"big/vars/{number}"] = file["big/vars/0"]


def test_one_array_under_many_names_is_not_read_without_end() -> None:
    with (
        pytest.raises(EncoderError, match=r"not a \.keras model"),
        open_keras(keras_file(stored=weights_file(arrays(), _many_names))) as (_, weights),
    ):
        weights("big")


def _wrong(path: str, values: np.ndarray) -> dict[str, list[np.ndarray]]:
    groups = arrays()
    groups[path][0] = values
    return groups


@pytest.mark.parametrize(
    "groups",
    [
        _wrong("layers/dense", np.zeros((6, 4), dtype="f4")),
        _wrong("layers/dense", np.zeros((6, 5), dtype="f8")),
        _wrong("layers/conv2d", np.zeros((3, 3, 4, 4), dtype="f4")),
        _wrong("layers/conv2d_1", np.zeros((3, 3, 2, 5), dtype="f4")),
        {path: group for path, group in arrays().items() if path != "layers/dense"},
        {path: group[:1] for path, group in arrays().items()},
    ],
)
def test_weights_that_do_not_fit_are_damage(groups: dict[str, list[np.ndarray]]) -> None:
    with pytest.raises(EncoderError, match=r"not a \.keras model of the form this converter reads, or is damaged"):
        convert(keras_file(stored=weights_file(groups)))


@given(st.data())
def test_a_damaged_description_gives_an_error_or_a_model(data: st.DataObject) -> None:
    text = bytearray(json.dumps(network()).encode())
    text[data.draw(st.integers(0, len(text) - 1))] ^= data.draw(st.integers(1, 255))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", bytes(text))
        archive.writestr("model.weights.h5", weights_file(arrays()))
    content = stream.getvalue()
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    try:
        model = convert(content)
    except EncoderError:
        return
    assert len(model) < 3 * len(content)


def test_a_missing_reader_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = keras_file()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(EncoderError, match=r'needs the package h5py; pip install "osler\[models-more\]"') as caught:
        convert(content)
    assert caught.value.code == "package_missing"
