"""Texts become the ids that WordPiece gives; one that does not fit is cut with a warning, a wrong one is named."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.encoders import TruncatedTextWarning
from osler.encoders.manifest import read_manifest
from osler.encoders.registry import shipped
from osler.encoders.tokenize import Tokenizer


@pytest.fixture(scope="module")
def encoder() -> osler.Encoder:
    return osler.load_encoder("minilm")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    folder = shipped()["minilm"]
    manifest = read_manifest(folder)
    assert manifest.text is not None
    return Tokenizer((folder / "tokenizer.json").read_bytes(), manifest.text.max_length)


@pytest.fixture(scope="module")
def vocabulary() -> dict[str, int]:
    return json.loads((shipped()["minilm"] / "tokenizer.json").read_text())["model"]["vocab"]


words = st.lists(
    st.sampled_from(
        [
            "Pneumothorax",
            "of the",
            "left",
            "lung;",
            "T2-weighted",
            "(3.5 cm)",
            "Ménière",
            "non-ossifying",
            "x",
            "AND/OR",
        ]
    ),
    min_size=1,
    max_size=30,
)


@given(words)
def test_ids_equal_word_pieces_written_out(tokenizer, vocabulary, golden_script, parts: list[str]) -> None:
    text = " ".join(parts)
    assert tokenizer(text, "text 0").ids == golden_script("minilm").word_pieces(text, vocabulary)


def test_a_long_text_is_cut_with_one_warning(encoder) -> None:
    long = "lung " * 600
    with pytest.warns(TruncatedTextWarning, match=r"2 of 3 texts are longer than 256 tokens and were cut.*is text 1;"):
        vectors = encoder.encode_texts(["short", long, long])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = encoder.encode_texts(["lung " * 254])  # one piece a word, and two special tokens
    np.testing.assert_array_equal(vectors[1], fits[0])


def test_the_warning_points_at_the_caller(encoder) -> None:
    with pytest.warns(TruncatedTextWarning) as caught:
        encoder.encode_texts(["effusion " * 600])
    assert [warning.filename for warning in caught] == [__file__]


def test_a_batch_equals_single_calls(encoder) -> None:
    texts = ["lung", "a much longer sentence about the right upper lobe", "heart", "No acute findings."]
    single = np.concatenate([encoder.encode_texts([text]) for text in texts])
    np.testing.assert_array_equal(encoder.encode_texts(texts), single)
    np.testing.assert_array_equal(encoder.encode_texts(iter(texts), batch_size=3), single)
    assert encoder.encode_texts([]).shape == (0, 384)
    np.testing.assert_allclose(np.linalg.norm(single, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("", ValueError, "text 1 is empty"),
        (" \n\t", ValueError, "text 1 is empty"),
        ("\ud800", ValueError, "text 1 holds half a surrogate pair"),
        ("a" * ((1 << 20) + 1), ValueError, "text 1 has 1048577 bytes, the limit is 1048576"),
        (None, TypeError, "text 1 is a NoneType"),
        (b"lung", TypeError, "text 1 is a bytes"),
    ],
)
def test_wrong_texts_are_named_by_position(encoder, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encoder.encode_texts(["lung", value])


@pytest.mark.parametrize("value", ["lung", b"lung"])
def test_one_text_is_not_several(encoder, value: Any) -> None:
    with pytest.raises(TypeError, match="pass a list"):
        encoder.encode_texts(value)


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(osler.EncoderError, match=r"not a tokenizer\.json"):
        Tokenizer(b"{}", 16)
