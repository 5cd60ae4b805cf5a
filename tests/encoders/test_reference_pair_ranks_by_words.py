"""The reference pair finds the pictures that a text names, keeps pictures of one kind apart, and gives usable odds."""

from __future__ import annotations

import numpy as np
import osler
import pytest
from dicom_files import path_of
from osler.decode import read_pixels

FILES = {
    "RG1_UNCR.dcm": "chest",
    "RG3_UNCR.dcm": "leg",
    "CT_small.dcm": "CT",
    "693_UNCR.dcm": "CT",
    "MR2_UNCR.dcm": "MR",
    "emri_small.dcm": "MR",
    "US1_UNCR.dcm": "US",
    "examples_palette.dcm": "US",
    "JPEG-LL.dcm": "NM",
    "SC_rgb.dcm": "OT",
}


@pytest.fixture(scope="module")
def encoder() -> osler.Encoder:
    return osler.load_encoder("reference")


@pytest.fixture(scope="module")
def vectors(encoder) -> np.ndarray:
    return encoder.encode_images([read_pixels(path_of(name)).frames[0] for name in FILES])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("chest x-ray", "chest"),
        ("radiograph of the thorax", "chest"),
        ("X-ray of a leg", "leg"),
        ("ultrasound", "US"),
        ("sonogram of the kidney", "US"),
        ("computed tomography", "CT"),
        ("magnetic resonance imaging", "MR"),
        ("bone scintigraphy", "NM"),
        ("colour test pattern", "OT"),
    ],
)
def test_a_text_finds_its_kind(encoder, vectors: np.ndarray, text: str, kind: str) -> None:
    scores = vectors @ encoder.encode_texts([text])[0]
    assert list(FILES.values())[int(scores.argmax())] == kind


def test_the_softmax_is_neither_flat_nor_certain(encoder, vectors: np.ndarray) -> None:
    texts = encoder.encode_texts(["X-ray", "CT scan", "MRI scan", "ultrasound"])
    logits = encoder.logit_scale * vectors[:8] @ texts.T
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert odds.argmax(axis=1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert odds.max(axis=1).min() > 0.5 and odds.max() < 0.9999


def test_pictures_of_one_kind_stay_apart(encoder, vectors: np.ndarray) -> None:
    again = encoder.encode_images([read_pixels(path_of("CT_small.dcm")).frames[0][:126, 2:]])
    scores = again[0] @ vectors.T
    assert int(scores.argmax()) == list(FILES).index("CT_small.dcm")
    assert vectors[2] @ vectors[3] < 0.8  # two CT slices of different patients, one sentence in the fit


def test_texts_lie_in_the_axes_of_their_encoder(encoder) -> None:
    found = encoder.encode_texts(["ultrasound", "chest x-ray"])
    assert (found[:, 384:] == 0).all()
    assert found[0] @ found[1] < 0.5  # what all texts share is taken out
