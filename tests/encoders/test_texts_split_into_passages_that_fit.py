"""Every passage fits, spans are exact, no character is lost; cuts lie at sections, then sentences, then words."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.encoders import Passage, split_text
from osler.encoders.passages import sections, sentences
from osler.encoders.registry import shipped
from osler.encoders.tokenize import Tokenizer
from osler.encoders.tokenizer_files import tokenizer_json

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "tokenizers"
TEXTS: list[str] = json.loads((FIXTURES / "texts.json").read_text())

REPORT = """FINAL REPORT
EXAMINATION:  CHEST (PA AND LAT)

INDICATION:  54-year-old with cough, e.g. smoker. Dr. Smith asks for p.a. film.

FINDINGS: There is a 3.5 cm. mass in the l. upper lobe, approx. 2 mm. from the pleura. No pneumothorax. Follow-up:
1. CT chest.
2. Review in 3 mo. with Dr. Jones. J. Doe informed at 5 p.m. No more.

Impression: 1. Mass. 2. No effusion.
"""


def tokenizer(max_length: int, rule: Any = "none") -> Tokenizer:
    return Tokenizer((shipped()["minilm"] / "tokenizer.json").read_bytes(), max_length, rule)


def check(text: str, passages: list[Passage], by: Tokenizer, limit: int) -> None:
    """Assert what `split_text` promises of any text."""
    assert all(text[start:end] == passage.text for passage in passages for start, end in [passage.span])
    assert all(passage.tokens == by.count(passage.text) <= limit for passage in passages)
    covered = [False] * len(text)
    for passage in passages:
        start, end = passage.span
        covered[start:end] = [True] * (end - start)
        assert not passage.text[0].isspace() and not passage.text[-1].isspace()
    assert [c for c, there in zip(text, covered, strict=True) if not there and not c.isspace()] == []
    assert all(a.span[0] < b.span[0] and a.span[1] < b.span[1] for a, b in itertools.pairwise(passages))


def texts_of(passages: list[Passage]) -> list[str]:
    return [passage.text for passage in passages]


def test_a_text_that_fits_is_one_passage_without_its_margins() -> None:
    assert split_text("  No effusion.\n", tokenizer(77)) == [Passage("No effusion.", (2, 14), 7)]


def test_neighbouring_sections_that_fit_stay_together() -> None:
    found = split_text(REPORT, tokenizer(60))
    assert [passage.text.split()[0] for passage in found] == ["FINAL", "FINDINGS:", "J.", "Impression:"]
    check(REPORT, found, tokenizer(60), 60)


def test_sentences_are_not_cut_at_abbreviations_decimals_and_numbers_of_a_list() -> None:
    assert texts_of(split_text(REPORT, tokenizer(23))) == [
        "FINAL REPORT\nEXAMINATION:  CHEST (PA AND LAT)",
        "INDICATION:  54-year-old with cough, e.g. smoker.",
        "Dr. Smith asks for p.a. film.",
        "FINDINGS: There is a 3.5 cm. mass in the l. upper lobe, approx. 2",  # a window: the sentence has 29 tokens
        "2 mm. from the pleura.",
        "No pneumothorax. Follow-up:\n1. CT chest.",
        "2. Review in 3 mo. with Dr. Jones.",
        "J. Doe informed at 5 p.m. No more.",
        "Impression: 1. Mass. 2. No effusion.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Size is 2 cm. It grew.", ["Size is 2 cm.", "It grew."]),
        ("Size is 2 cm. in all.", ["Size is 2 cm. in all."]),
        ("Seen by Dr. Who. He agreed.", ["Seen by Dr. Who.", "He agreed."]),
        ("Lesion no. 5 grew. It bled.", ["Lesion no. 5 grew.", "It bled."]),
        ("Effusion? No. Clear!", ["Effusion?", "No.", "Clear!"]),
        ('He said "none." Then left.', ['He said "none."', "Then left."]),
        ("1. Mass. 2. Node. 3) Rib.", ["1. Mass.", "2. Node.", "3) Rib."]),
        ("a. mass. b. node.", ["a. mass.", "b. node."]),
        ("Seen at 5 p.m. and at 9 a.m. She slept.", ["Seen at 5 p.m. and at 9 a.m.", "She slept."]),
        ("all small letters. also here. done", ["all small letters.", "also here.", "done"]),
        ("one\n\ntwo\n- three\n- four\nstill four", ["one", "two", "- three", "- four\nstill four"]),
        ("胸水なし。気胸なし。", ["胸水なし。", "気胸なし。"]),
    ],
)
def test_sentences_end_where_a_reader_would_say(text: str, expected: list[str]) -> None:
    assert [text[start:end].strip() for start, end in sentences(text)] == expected


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("FINDINGS: a b c d e f g h. IMPRESSION: i j k l m n.", ["FINDINGS:", "IMPRESSION:"]),
        ("Findings: a b c d e f g h.\nImpression: i j k l m n.", ["Findings:", "Impression:"]),
        ("History: a b c d e f g. Comparison: i j k l m n.", ["History:", "Comparison:"]),
        ("FINDINGS\na b c d e f g h\nIMPRESSION\ni j k l m n", ["FINDINGS", "IMPRESSION"]),
        ("LUNGS AND PLEURA: a b c d e f g. HEART: i j k l m n.", ["LUNGS", "HEART:"]),
        ("Clinical information: a b c d e f.\n\nReason for exam: i j k l m.", ["Clinical", "Reason"]),
        ("a b c d e f g h the findings: i j k l m n", ["a"]),
        ("a b c d e f g h NOTE i j k l m n", ["a"]),
    ],
)
def test_sections_begin_at_headings(text: str, starts: list[str]) -> None:
    assert [text[start:end].split()[0] for start, end in sections(text)] == starts


def test_windows_share_an_eighth_of_their_tokens() -> None:
    text = " ".join(f"word{i % 10}" for i in range(300))  # three tokens each
    by = tokenizer(66)
    passages = split_text(text, by)
    check(text, passages, by, 66)
    shared = [a.span[1] - b.span[0] for a, b in itertools.pairwise(passages)]
    assert all(by.count(text[b.span[0] : a.span[1]]) - 2 in (6, 8) for a, b in itertools.pairwise(passages))
    assert min(shared) > 0 and all(passage.tokens >= 64 for passage in passages[:-1])


@pytest.mark.parametrize(
    "word", ["a" * 900, "ab1-" * 200, "e\u0301" * 300, "\U0001f469\u200d\u2695\ufe0f" * 90, "胸" * 200]
)
def test_a_word_that_does_not_fit_is_cut_between_letters(word: str) -> None:
    by = Tokenizer(tokenizer_json(FIXTURES / "byte-bpe", "byte-bpe"), 20)
    passages = split_text(f"before {word} after", by)
    check(f"before {word} after", passages, by, 20)
    assert not any(passage.text.startswith("\u0301") for passage in passages)


def test_a_character_that_does_not_fit_is_named_by_its_place() -> None:
    by = Tokenizer(tokenizer_json(FIXTURES / "byte-bpe", "byte-bpe"), 5)
    assert by.count("\U0001fac1") > 5
    with pytest.raises(ValueError, match=r"^5 tokens are too few for the character at 6; give a larger max_length$"):
        split_text("lungs \U0001fac1", by)


pieces = st.one_of(
    st.sampled_from(TEXTS),
    st.sampled_from(
        ["FINDINGS:", "IMPRESSION: ", "\n\n", "\n1. ", ". ", " ", "Dr. ", "3.5", "e.g. ", "a" * 60, "\n- "]
    ),
    st.text(max_size=20),
)


@given(
    st.lists(pieces, min_size=1, max_size=12), st.sampled_from([10, 16, 40, 77]), st.sampled_from(["wordpiece", "bpe"])
)
def test_any_text_is_split_without_loss(parts: list[str], limit: int, kind: str) -> None:
    text = "".join(parts)
    if not text.strip():
        return
    content = tokenizer_json(FIXTURES / "byte-bpe", "byte-bpe") if kind == "bpe" else None
    by = Tokenizer(content, 512) if content else tokenizer(512)
    check(text, split_text(text, by, max_length=limit), by, limit)


@pytest.mark.parametrize("rule", ["open_clip_lower", "siglip", "merlin", "mgca", "medclip", "biovil"])
def test_what_counts_are_the_tokens_after_the_cleaning_rule(rule: Any) -> None:
    text = "\n".join(TEXTS)
    by = tokenizer(40, rule)
    check(text, split_text(text, by), by, 40)


def test_a_text_of_the_greatest_size_is_split_in_a_number_of_steps_that_grows_with_it(monkeypatch) -> None:
    """The characters that are tokenised are bounded by a multiple of the text, however hostile it is."""
    tokenised = 0
    count = Tokenizer.count

    def counted(self: Tokenizer, text: str) -> int:
        nonlocal tokenised
        tokenised += len(text)
        return count(self, text)

    monkeypatch.setattr(Tokenizer, "count", counted)
    for text in (
        "a" * 40_000,
        "word " * 10_000,
        "A. " * 15_000,
        "HEADING: " * 5_000,
        "\n" * 1_000 + "x" + " \n" * 20_000,
    ):
        tokenised = 0
        split_text(text, tokenizer(128))
        assert tokenised < 120 * len(text)


def test_the_encoders_limit_holds_where_a_larger_one_is_asked() -> None:
    encoder = osler.load_encoder("minilm")
    text = "lung " * 300
    assert (
        split_text(text, encoder, max_length=5000) == split_text(text, encoder) == split_text(text, encoder.tokenizer)
    )
    assert len(split_text(text, encoder, max_length=20)) > len(split_text(text, encoder)) == 2


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [("  ", ValueError, "text is empty"), (None, TypeError, "text is a NoneType"), ("\ud800", ValueError, "surrogate")],
)
def test_what_is_no_text_is_refused(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        split_text(value, tokenizer(77))
