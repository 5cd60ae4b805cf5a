"""A folder with a manifest and ONNX files is an encoder: right in every number, no socket opened, its graph checked."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import onnx
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from osler import EncoderError
from osler.encoders.onnx_file import check_model
from PIL import Image
from tiny_encoder import WORDS, image_model, text_model

PICTURE = [np.zeros((4, 4), dtype=np.uint8)]
WEIGHTS = np.ones((48, 5), dtype=np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def expected_images(pictures: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    rows = []
    for picture in pictures:
        small = np.asarray(Image.fromarray(picture).convert("RGB").resize((4, 4), Image.Resampling.BILINEAR))
        rows.append(((small.transpose(2, 0, 1) / 255 - 0.5) / 0.25).ravel() @ weights)
    return unit(np.array(rows))


def expected_texts(texts: list[str], weights: np.ndarray) -> np.ndarray:
    return unit(np.array([weights[[2, *(WORDS.index(w) for w in text.split()), 3]].mean(axis=0) for text in texts]))


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a socket was asked for")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.mark.usefixtures("no_sockets")
def test_every_number_is_right(tiny, rng) -> None:
    encoder = osler.load_encoder(tiny.save())
    assert (encoder.name, encoder.dim, encoder.modalities, encoder.logit_scale) == ("tiny", 5, ("image", "text"), 20.0)
    pictures = [rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for _ in range(7)]
    np.testing.assert_allclose(
        encoder.encode_images(pictures), expected_images(pictures, tiny.image_weights), atol=1e-5
    )
    texts = ["lung clear", "heart", "brain brain lung", "clear lung heart brain"]
    for size in (None, 1, 3):
        found = encoder.encode_texts(texts, batch_size=size)
        np.testing.assert_allclose(found, expected_texts(texts, tiny.token_weights), atol=1e-5)
    assert str(tiny.folder) == encoder._description.address
    assert repr(encoder) == "<osler.Encoder tiny: image and text, dim 5>"


@pytest.mark.usefixtures("no_sockets")
@pytest.mark.parametrize("name", ["efficientnet-lite0", "minilm", "reference"])
def test_shipped_encoders_open_no_socket(name: str) -> None:
    encoder = osler.load_encoder(name)
    assert encoder.device in ("cpu", "cuda")


def test_a_registry_name_wins_over_a_folder(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.save().rename(tiny.folder.parent / "minilm")
    monkeypatch.chdir(tiny.folder.parent)
    assert osler.load_encoder("minilm").dim == 384
    assert osler.load_encoder("./minilm").dim == 5


def test_projections_centre_map_and_shift(tiny, rng) -> None:
    centre, matrix, bias = rng.standard_normal(5), rng.standard_normal((5, 3)), rng.standard_normal(3)
    np.savez(tiny.folder / "image.npz", centre=centre, matrix=matrix.astype(np.float16), bias=bias)
    np.savez(tiny.folder / "text.npz", matrix=matrix)
    tiny.manifest["dim"] = 3
    for kind in ("image", "text"):
        tiny.manifest[kind]["projection"] = {"file": tiny.enter(f"{kind}.npz")}
    encoder = osler.load_encoder(tiny.save())
    pictures = [rng.integers(0, 256, (9, 7, 3), dtype=np.uint8) for _ in range(3)]
    images = unit((expected_images(pictures, tiny.image_weights) - centre) @ matrix.astype(np.float16) + bias)
    np.testing.assert_allclose(encoder.encode_images(pictures), images, atol=1e-5)
    texts = unit(expected_texts(["lung"], tiny.token_weights) @ matrix)
    np.testing.assert_allclose(encoder.encode_texts(["lung"]), texts, atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"matrix": np.ones((4, 5))}, "takes 4 numbers, the model gives 5"),
        ({"centre": np.ones(5), "matrix": np.ones((4, 5))}, "do not fit one another"),
        ({"matrix": np.ones((5, 5)), "bias": np.ones(4)}, "do not fit one another"),
        ({"matrix": np.full((5, 5), np.nan)}, "finite float arrays"),
        ({"matrix": np.ones((5, 5), dtype=int)}, "finite float arrays"),
        ({"other": np.ones(5)}, "finite float arrays"),
        ({"matrix": np.array([[{}]])}, "plain arrays, or is damaged"),
        ({"matrix": np.zeros((5, 5))}, "zero or non-finite vector"),
        ({"matrix": np.ones((5, 4))}, "gives 4 numbers, its manifest says 5"),
    ],
)
def test_projections_that_do_not_fit(tiny, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tiny.folder / "map.npz", **arrays)
    tiny.manifest["image"]["projection"] = {"file": tiny.enter("map.npz")}
    with pytest.raises(EncoderError, match=message):
        osler.load_encoder(tiny.save()).encode_images([np.arange(16, dtype=np.uint8).reshape(4, 4)])


def test_a_graph_may_fix_its_batch(tiny, rng) -> None:
    (tiny.folder / "image.onnx").write_bytes(image_model(tiny.image_weights, batch=4).SerializeToString())
    tiny.manifest["image"]["file"] = tiny.enter("image.onnx")
    encoder = osler.load_encoder(tiny.save())
    pictures = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(6)]
    for size in (None, 2, 64):
        found = encoder.encode_images(pictures, batch_size=size)
        np.testing.assert_allclose(found, expected_images(pictures, tiny.image_weights), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("image", "input", "photo", "the model takes .'pixels'., the manifest names .'photo'."),
        ("image", "output", "photo", "has no output 'photo', it has .'vector'."),
        ("image", "pooling", "cls", "does not fit the pooling"),
        ("image", "layout", "NHWC", r"the recipe gives \(4, 4, 3\), the model takes \(3, 4, 4\)"),
        ("text", "pooling", "none", "does not fit the pooling"),
        ("text", "inputs", {"ids": "ids", "mask": "mask"}, "the manifest names .'ids', 'mask'."),
    ],
)
def test_manifests_that_do_not_fit_the_graph(tiny, kind: str, field: str, value: Any, message: str) -> None:
    tiny.manifest[kind][field] = value
    encoder = osler.load_encoder(tiny.save())
    with pytest.raises(EncoderError, match=message):
        encoder.encode_images(PICTURE) if kind == "image" else encoder.encode_texts(["lung"])


def test_external_tensors_must_be_listed(tiny, rng) -> None:
    model = image_model(tiny.image_weights)
    path = str(tiny.folder / "image.onnx")
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    tiny.manifest["image"]["file"] = tiny.enter("image.onnx")
    with pytest.raises(EncoderError, match=r"takes tensors from 1 file\(s\) that the manifest does not list"):
        osler.load_encoder(tiny.save()).encode_images(PICTURE)
    tiny.manifest["image"]["external"] = [tiny.enter("weights.bin")]
    pictures = [rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)]
    found = osler.load_encoder(tiny.save()).encode_images(pictures)
    np.testing.assert_allclose(found, expected_images(pictures, tiny.image_weights), atol=1e-5)


def test_operators_of_other_domains_are_refused() -> None:
    content = image_model(WEIGHTS, domain="com.example").SerializeToString()
    with pytest.raises(EncoderError, match=r"1 operator domain\(s\) outside ai.onnx and com.microsoft"):
        check_model(content, frozenset())
    check_model(image_model(WEIGHTS, domain="com.microsoft").SerializeToString(), frozenset())


def test_domains_that_no_operator_is_of_are_no_concern() -> None:
    model = image_model(WEIGHTS)
    model.opset_import.extend(helper.make_opsetid(name, 1) for name in ("org.pytorch.aten", "com.example"))
    check_model(model.SerializeToString(), frozenset())
    model.graph.node[0].domain = "org.pytorch.aten"
    with pytest.raises(EncoderError, match=r"1 operator domain\(s\) outside"):
        check_model(model.SerializeToString(), frozenset())


def test_operators_inside_branches_and_functions_are_seen() -> None:
    inner = image_model(WEIGHTS, domain="com.example").graph
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([branch], "outer", [], []), opset_imports=[helper.make_opsetid("", 13)])
    with pytest.raises(EncoderError, match="operator domain"):
        check_model(model.SerializeToString(), frozenset())
    body = [helper.make_node("Magic", ["x"], ["y"], domain="com.example")]
    opsets = [helper.make_opsetid("", 13)]
    function = helper.make_function("com.microsoft", "F", ["x"], ["y"], body, opsets)
    model = helper.make_model(helper.make_graph([], "outer", [], []), functions=[function], opset_imports=opsets)
    with pytest.raises(EncoderError, match="operator domain"):
        check_model(model.SerializeToString(), frozenset())


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 64, b"\x3a\x05ab"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(EncoderError, match="not an ONNX file, or is damaged"):
        check_model(content, frozenset())


@given(st.data())
def test_damaged_models_never_escape_the_check(data: st.DataObject) -> None:
    content = bytearray(text_model(np.ones((3, 5), dtype=np.float32)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        check_model(bytes(content[: data.draw(st.integers(0, len(content)))]), frozenset())
    except EncoderError as error:
        assert "\n" not in str(error)


def test_a_model_that_the_runtime_cannot_open_is_said(tiny) -> None:
    model = image_model(tiny.image_weights)
    model.graph.node[1].op_type = "NoSuchOperator"
    (tiny.folder / "image.onnx").write_bytes(model.SerializeToString())
    tiny.manifest["image"]["file"] = tiny.enter("image.onnx")
    with pytest.raises(EncoderError, match="ONNX Runtime cannot open the model"):
        osler.load_encoder(tiny.save()).encode_images(PICTURE)
