"""A text that does not fit is split or cut with one warning, or refused, as was asked; a wrong one is named."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.encoders import SplitTextWarning, TruncatedTextWarning, split_text
from osler.encoders.manifest import read_manifest
from osler.encoders.registry import shipped
from osler.encoders.session import OutOfMemory
from osler.encoders.tokenize import Tokenizer
from osler.encoders.tower import OpenTextTower


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


def test_a_long_text_is_split_with_one_warning_and_is_the_mean_of_its_passages(encoder) -> None:
    long = "FINDINGS: " + "The left lung is clear. " * 100 + "IMPRESSION: No effusion."
    said = r"2 of 4 texts are longer than 256 tokens and were split into 8 passages, .* the first is text 1;"
    with pytest.warns(SplitTextWarning, match=said) as caught:
        vectors = encoder.encode_texts(["short", long, "heart", long], batch_size=2)
    assert [warning.filename for warning in caught] == [__file__]
    passages = split_text(long, encoder)
    assert len(passages) == 4 and passages[-1].text == "IMPRESSION: No effusion."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = encoder.encode_texts([passage.text for passage in passages])
        others = encoder.encode_texts(["short", "heart"])
    mean = parts.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(vectors[1], vectors[3])
    np.testing.assert_array_equal(vectors[[0, 2]], others)


def test_the_vector_of_a_split_text_orders_texts_by_the_mean_of_their_passages(encoder) -> None:
    """What the mean promises: a query's cosine with the text is its mean cosine with the passages, times one factor."""
    long = "Opacity in the left lower lobe. " * 90 + "Fracture of the sixth rib. " * 60
    queries = encoder.encode_texts(["broken rib", "pneumonia", "normal study", "ultrasound of the liver"])
    with pytest.warns(SplitTextWarning):
        vector = encoder.encode_texts([long])[0]
    parts = encoder.encode_texts([passage.text for passage in split_text(long, encoder)])
    ratio = (queries @ vector) / (queries @ parts.T).mean(axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_a_report_of_300_tokens_is_split_by_an_encoder_of_77(tiny) -> None:
    tiny.manifest["text"] |= {"max_length": 77}
    encoder = osler.load_encoder(tiny.save())
    report = "lung heart brain clear " * 75
    assert encoder.tokenizer.count(report) == 302
    with pytest.warns(SplitTextWarning, match="1 of 1 texts are longer than 77 tokens"):
        vector = encoder.encode_texts([report])[0]
    states = tiny.token_weights[4:8]  # every window of whole words holds nearly this mean
    assert vector @ states.mean(axis=0) / np.linalg.norm(states.mean(axis=0)) > 0.9
    with pytest.raises(ValueError, match=r"text 0 has 302 tokens, the encoder takes 77; split it with .*split_text"):
        encoder.encode_texts([report], long="error")


def test_a_long_text_is_cut_with_a_warning_where_that_was_asked(encoder) -> None:
    long = "lung " * 600
    said = r"2 of 3 texts are longer than 256 tokens and were cut, so only their beginning is in the vector.*is text 1;"
    with pytest.warns(TruncatedTextWarning, match=said) as caught:
        vectors = encoder.encode_texts(["short", long, long], long="cut")
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = encoder.encode_texts(["lung " * 254])  # one piece a word, and two special tokens
    np.testing.assert_array_equal(vectors[1], fits[0])


def test_batches_of_texts_that_do_not_fit_into_memory_are_halved(encoder, tiny, monkeypatch, capsys) -> None:
    texts = ["lung", "heart brain", "clear " * 40, "lung clear", "brain", "heart " * 9, "clear"]
    tiny.manifest["text"]["batch_size"] = 8
    encoder = osler.load_encoder(tiny.save())
    with pytest.warns(SplitTextWarning):
        expected = encoder.encode_texts(texts)
    sizes: list[int] = []
    run = OpenTextTower.run

    def hungry(self: OpenTextTower, batch: Any) -> np.ndarray:
        if len(batch) > 3:
            raise OutOfMemory("does not fit")
        sizes.append(len(batch))
        return run(self, batch)

    monkeypatch.setattr(OpenTextTower, "run", hungry)
    capsys.readouterr()
    with pytest.warns(SplitTextWarning):
        found = encoder.encode_texts(texts)
    np.testing.assert_array_equal(found, expected)
    assert max(sizes) == 2 and sum(sizes) > len(texts)
    assert capsys.readouterr().err.count("does not fit into memory") == 3  # 8 to 4, each 4 to 2; no more


@pytest.mark.parametrize("long", ["Split", "", None, 3])
def test_what_becomes_of_long_texts_has_three_names(encoder, long: Any) -> None:
    with pytest.raises(ValueError, match=r"long is .*; it must be 'split', 'cut' or 'error'"):
        encoder.encode_texts(["lung"], long=long)


@pytest.mark.parametrize("long", ["split", "cut", "error"])
def test_a_text_that_just_fits_is_left_alone(encoder, long: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder.encode_texts(["lung " * 254], long=long).shape == (1, 384)


def test_a_text_to_an_encoder_of_pictures_is_one_sentence(tiny) -> None:
    del tiny.manifest["text"]
    encoder = osler.load_encoder(tiny.save())
    for call in (encoder.encode_texts, lambda texts: encoder.tokenizer, lambda texts: split_text("lung", encoder)):
        with pytest.raises(ValueError, match=r"^the encoder tiny has no text tower; it takes image only$"):
            call(["lung"])


def test_the_tokenizer_opens_without_the_model(tiny) -> None:
    encoder = osler.load_encoder(tiny.save())
    (tiny.folder / "text.onnx").write_bytes(b"gone")
    assert encoder.tokenizer("lung heart", "text 0").ids == [2, 4, 5, 3]
    assert encoder.tokenizer is encoder.tokenizer


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


def test_a_tokenizer_that_pads_on_the_left_is_refused(tiny) -> None:
    made = json.loads((tiny.folder / "tokenizer.json").read_text())
    made["padding"] = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None}
    made["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    with pytest.raises(osler.EncoderError, match="the tokenizer pads on the left"):
        Tokenizer(json.dumps(made).encode(), 16)


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(osler.EncoderError, match=r"not a tokenizer\.json"):
        Tokenizer(b"{}", 16)
