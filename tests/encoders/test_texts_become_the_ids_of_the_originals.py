"""Ids, padding included, equal those that open_clip, transformers and sentencepiece give with the same vocabularies.

The goldens are of tests/export/make_golden_ids.py; tests/export compares again with the libraries themselves.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from osler.encoders.clean import RULES, clean
from osler.encoders.registry import shipped
from osler.encoders.tokenize import Tokenizer, padded
from osler.encoders.tokenizer_files import tokenizer_json

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "tokenizers"
GOLDEN: dict[str, Any] = json.loads((FOLDER / "golden.json").read_text())
TEXTS: list[str] = json.loads((FOLDER / "texts.json").read_text())
WIDTH = len(GOLDEN["ids"]["CLIPTokenizer"][0])


def bert_files(lower_case: bool) -> dict[str, bytes]:
    """Return BERT's real vocabulary as a checkpoint holds it."""
    vocabulary = json.loads((shipped()["minilm"] / "tokenizer.json").read_text())["model"]["vocab"]
    lines = "".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.__getitem__))
    config = {"do_lower_case": lower_case}
    return {"vocab.txt": lines.encode(), "tokenizer_config.json": json.dumps(config).encode()}


def clip_files() -> dict[str, bytes]:
    """Return open_clip's vocabulary as a hub holds it: other names for the special tokens, and merges on their own."""
    model = json.loads(tokenizer_json(FOLDER / "clip", "clip"))["model"]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): i for token, i in model["vocab"].items()}
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])])
    return {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": merges.encode()}


def siglip_files() -> dict[str, bytes]:
    config = (FOLDER / "siglip" / "tokenizer_config.json").read_bytes()
    model = lzma.decompress((FOLDER / "siglip" / "spiece.model.xz").read_bytes())
    return {"spiece.model": model, "tokenizer_config.json": config}


# original, content, cleaning rule, the id that pads where the manifest must say it
SAME: list[tuple[str, Callable[[], bytes], Any, int | None]] = [
    ("open_clip SimpleTokenizer", lambda: tokenizer_json(FOLDER / "clip", "clip"), "open_clip_lower", 0),
    ("CLIPTokenizer", lambda: tokenizer_json(clip_files(), "clip"), "none", None),
    ("BertTokenizer", lambda: tokenizer_json(bert_files(True), "wordpiece"), "none", None),
    ("BertTokenizer, capitals kept", lambda: tokenizer_json(bert_files(False), "wordpiece"), "none", None),
    ("open_clip HFTokenizer of BERT", lambda: tokenizer_json(bert_files(True), "wordpiece"), "open_clip_whitespace", 0),
    ("RobertaTokenizer", lambda: tokenizer_json(FOLDER / "byte-bpe", "byte-bpe"), "none", None),
    (
        "Merlin's sanitize_report, RobertaTokenizer",
        lambda: tokenizer_json(FOLDER / "byte-bpe", "byte-bpe"),
        "merlin",
        None,
    ),
    ("SiglipTokenizer", lambda: tokenizer_json(siglip_files(), "sentencepiece"), "siglip", None),
    (
        "open_clip canonicalize, T5Tokenizer",
        lambda: tokenizer_json(siglip_files(), "sentencepiece"),
        "open_clip_canonicalize",
        None,
    ),
    ("PreTrainedTokenizerFast as CONCH", lambda: tokenizer_json(FOLDER / "conch", "tokenizer.json"), "none", 0),
    ("PreTrainedTokenizerFast as SigLIP2", lambda: tokenizer_json(FOLDER / "siglip2", "tokenizer.json"), "none", 0),
]


@pytest.mark.parametrize(("original", "content", "rule", "pad_id"), SAME, ids=[row[0] for row in SAME])
def test_ids_with_padding_are_those_of_the_original(
    original: str, content: Callable[[], bytes], rule: Any, pad_id: int | None
) -> None:
    tokenizer = Tokenizer(content(), WIDTH, rule, pad_id)
    tokens = [tokenizer(text, f"text {i}") for i, text in enumerate(TEXTS)]
    ids, mask, _ = padded(tokens, WIDTH, tokenizer.pad_id)
    assert [
        text for text, row, golden in zip(TEXTS, ids.tolist(), GOLDEN["ids"][original], strict=True) if row != golden
    ] == []
    assert mask.sum(axis=1).tolist() == [len(one.ids) for one in tokens]
    counts = [tokenizer.count(text) for text in TEXTS]
    assert [one.cut for one in tokens] == [count > WIDTH for count in counts]
    assert any(one.cut for one in tokens) and not all(one.cut for one in tokens)


def test_every_golden_is_compared() -> None:
    assert {row[0] for row in SAME} == set(GOLDEN["ids"])


@pytest.mark.parametrize("rule", sorted(GOLDEN["cleaned"]))
def test_cleaned_texts_are_those_of_the_original(rule: Any) -> None:
    assert [clean(text, rule) for text in TEXTS] == GOLDEN["cleaned"][rule]


def test_clip_pads_with_zero_in_open_clip_and_with_the_end_of_the_text_in_transformers() -> None:
    """The trap: the same vocabulary pads in two ways, and a model that looks for the end of the text is misled."""
    ours, hub = (
        Tokenizer(tokenizer_json(FOLDER / "clip", "clip"), 8),
        Tokenizer(tokenizer_json(clip_files(), "clip"), 8),
    )
    end = ours.largest_id
    assert (ours.pad_id, hub.pad_id, hub.largest_id) == (0, end, end)
    rows = [padded([tokenizer("effusion", "text 0")], 8, tokenizer.pad_id)[0][0] for tokenizer in (ours, hub)]
    at = [int(row.argmax()) for row in rows]
    assert at[0] == at[1] and rows[0][-1] == 0 and rows[1][-1] == end


def test_special_tokens_in_a_text_are_taken_whole_as_in_the_originals() -> None:
    tokenizer = Tokenizer(tokenizer_json(bert_files(True), "wordpiece"), 16)
    assert tokenizer("a [SEP] b [MASK]", "text 0").ids == [101, 1037, 102, 1038, 103, 102]


def test_small_letters_are_the_choice_of_the_config_then_of_bert() -> None:
    config = bert_files(False)
    without = {"vocab.txt": config["vocab.txt"]}
    made = [tokenizer_json(config, "wordpiece"), tokenizer_json(config, "wordpiece", lower_case=True)]
    made += [tokenizer_json(without, "wordpiece"), tokenizer_json(without, "wordpiece", lower_case=False)]
    ids = [Tokenizer(content, 8)("Lung", "text 0").ids for content in made]
    assert ids == [[101, 100, 102], [101, 11192, 102], [101, 11192, 102], [101, 100, 102]]
    assert made[1] == made[2] and made[0] == made[3]


def test_rules_are_the_names_that_a_manifest_may_choose() -> None:
    from typing import get_args

    from osler.encoders.clean import Clean

    assert set(RULES) == set(get_args(Clean))
