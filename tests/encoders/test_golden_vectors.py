"""Each shipped encoder gives its golden vectors, and these come from an implementation that shares nothing with it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import osler
import pytest
from osler.encoders.check import check_encoder
from osler.encoders.registry import shipped
from sklearn.datasets import load_sample_image


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_the_registry_holds_the_promised_names() -> None:
    assert {"efficientnet-lite0", "minilm", "reference"} <= set(shipped())
    for info in osler.list_encoders():
        if info.name in ("efficientnet-lite0", "minilm", "reference"):
            assert info.state == "ready"
        assert info.licence and info.package and info.purpose
        assert set(info.to_dict()) == {field.name for field in dataclasses.fields(info)}
    pair = next(info for info in osler.list_encoders() if info.name == "reference")
    assert "not a medical model" in pair.purpose
    assert pair.modalities == ("image", "text")


@pytest.mark.parametrize("name", ["efficientnet-lite0", "minilm", "reference"])
def test_golden_vectors(name: str) -> None:
    check = check_encoder(osler.load_encoder(name))
    assert check.passed, check.to_dict()
    assert check.needed >= (0.9999 if name == "efficientnet-lite0" else 0.999)
    assert all(len(cosines) >= 4 for cosines in check.cosines.values())


def test_a_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = osler.load_encoder("minilm")
    texts = itertools.cycle(encoder.encode_texts([f"another text {i}" for i in range(8)]))
    monkeypatch.setattr(encoder, "encode_texts", lambda inputs: np.stack([next(texts) for _ in inputs]))
    assert check_encoder(encoder).fault == "golden_mismatch"


def test_efficientnet_equals_plain_numpy_on_new_pictures(golden_script, rng) -> None:
    script = golden_script("efficientnet-lite0")
    weights = script.state()
    pictures = [
        rng.integers(0, 256, (31, 57, 3), dtype=np.uint8),
        (rng.random((300, 200)) * 65535).astype(np.uint16),
    ]
    expected = unit(np.stack([script.forward(script.prepare(picture), weights) for picture in pictures]))
    found = osler.load_encoder("efficientnet-lite0").encode_images(pictures)
    assert (expected * found).sum(axis=1).min() >= 0.9999999


def test_the_numpy_network_knows_what_imagenet_knows(golden_script) -> None:
    script = golden_script("efficientnet-lite0")
    weights = script.state()
    features = script.forward(script.prepare(load_sample_image("flower.jpg")), weights)
    logits = weights["_fc.weight"] @ features + weights["_fc.bias"]
    assert logits.argmax() == 985  # "daisy"; 309, a bee, follows


def test_golden_inputs_reach_the_whole_recipe(golden_script) -> None:
    kinds = {(picture.dtype, picture.ndim) for picture in golden_script("efficientnet-lite0").pictures()}
    assert {(np.dtype(np.uint8), 2), (np.dtype(np.uint8), 3), (np.dtype(np.uint16), 2)} <= kinds
