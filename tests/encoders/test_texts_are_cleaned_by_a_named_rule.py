"""Each cleaning rule does what its encoder's authors did, and an encoder applies the rule that its manifest names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.encoders.clean import RULES, clean

REPORT = "1. Small LEFT effusion.\n2. No pneumothorax. Clear. Heart size is 12.5 cm, normal!"


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("none", " As\tit IS. ", " As\tit IS. "),
        ("open_clip_whitespace", " As\tit \r\n IS. ", "As it IS."),
        ("open_clip_lower", "\u201cMild\u201d ef\ufb01cacy &amp;amp; more", '"mild" efficacy & more'),
        ("open_clip_lower", "&lt;b&gt; x &EACUTE; &bogus;", "<b> x é &bogus;"),
        ("open_clip_lower", "<b>&rsquo;</b> \u2019", "<b>\u2019</b> '"),  # HTML is not repaired twice
        ("open_clip_canonicalize", "T2_weighted, (MRI)-scan.", "t2 weighted mriscan"),
        ("siglip", "T2_weighted, (MRI)-scan.\n ", "t2weighted mriscan"),
        ("biovil", "There is no effusion?!..", "There is no effusion"),
        ("biovil", "No effusion. Clear. ", "No effusion. Clear. "),
        (
            "merlin",
            REPORT,
            "1 . small left effusion . 2 . no pneumothorax . clear . heart size is 12 . 5 cm , normal !",
        ),
        ("mgca", REPORT, "small left effusion no pneumothorax heart size is 5 cm normal"),
        ("mgca", "Ménière no \ufffd\ufffd é", "mnire no"),
        ("mgca", "Pneumothorax.", "pneumothorax"),  # dropped from training, but a query of one word must be possible
        ("medclip", REPORT, "heart size is 12 . 5 cm , normal !"),
        ("medclip", "No effusion. Clear.", "no effusion clear ."),
    ],
)
def test_rules_by_hand(rule: Any, text: str, expected: str) -> None:
    assert clean(text, rule) == expected


def test_text_decoded_by_the_wrong_table_is_left_as_it_is() -> None:
    """What ftfy does beyond these rules, and what docs say that they leave out."""
    assert clean("the patient\u00e2\u20ac\u2122s chest", "open_clip_lower") == "the patient\u00e2\u20ac\u2122s chest"


@given(st.text(max_size=80))
def test_no_rule_fails_or_leaves_what_it_takes_out(text: str) -> None:
    cleaned = {rule: clean(text, rule) for rule in RULES}  # type: ignore[arg-type]
    assert cleaned["none"] == text
    for rule in ("open_clip_whitespace", "open_clip_lower", "open_clip_canonicalize", "siglip", "merlin"):
        assert re.search(r"^\s|\s$|\s\s", cleaned[rule]) is None
    assert cleaned["open_clip_lower"] == cleaned["open_clip_whitespace"].lower()
    for rule in ("open_clip_canonicalize", "siglip"):
        assert re.search(r"[!-/:-@\[-`{-~]", cleaned[rule]) is None
    for rule in ("mgca", "medclip"):
        assert cleaned[rule].isascii() and "  " not in cleaned[rule]


@given(st.text(max_size=60))
def test_words_survive_the_rules_that_do_not_drop_them(text: str) -> None:
    letters = [c for c in clean(text, "merlin") if not c.isspace()]
    assert letters == [c for c in text.lower() if not c.isspace()]


def test_the_encoder_applies_the_rule(tiny) -> None:
    plain = osler.load_encoder(tiny.save())
    tiny.manifest["text"]["clean"] = "siglip"
    ruled = osler.load_encoder(tiny.save())
    expected = plain.encode_texts(["lung clear"])
    np.testing.assert_array_equal(ruled.encode_texts(["LUNG  clear."]), expected)
    assert not np.array_equal(plain.encode_texts(["LUNG  clear."]), expected)
    assert ruled.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("rule", "text"), [("siglip", "?!..."), ("open_clip_lower", "\u0007\x1b[0m"), ("mgca", "胸部")]
)
def test_a_text_of_which_nothing_is_left_is_named(tiny, rule: str, text: str) -> None:
    tiny.manifest["text"]["clean"] = rule
    encoder = osler.load_encoder(tiny.save())
    with pytest.raises(ValueError, match=rf"^nothing of text 1 is left by the cleaning rule '{rule}'; write it in"):
        encoder.encode_texts(["lung heart", text])


def test_an_unknown_rule_is_refused(tiny) -> None:
    tiny.manifest["text"]["clean"] = "open_clip"
    with pytest.raises(osler.EncoderError, match=r"^manifest\.json: text\.clean: "):
        osler.load_encoder(tiny.save())
