"""tokenizer.json is made from a folder or from bytes; what is missing, damaged or hostile ends in one clear error."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from osler import EncoderError
from osler.encoders.tokenize import Tokenizer
from osler.encoders.tokenizer_files import tokenizer_json

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "tokenizers"
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lung", "##s", "é", "e"]


def bert(*lines: str, **config: Any) -> dict[str, bytes]:
    files = {"vocab.txt": "".join(f"{line}\n" for line in lines or BERT).encode()}
    return files | ({"tokenizer_config.json": json.dumps(config).encode()} if config else {})


def ids(content: bytes, text: str) -> list[int]:
    return Tokenizer(content, 64)(text, "text 0").ids


def test_a_folder_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    files = bert(do_lower_case=False)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert tokenizer_json(tmp_path, "wordpiece") == tokenizer_json(str(tmp_path), "wordpiece")
    assert tokenizer_json(tmp_path, "wordpiece") == tokenizer_json(files, "wordpiece")


def test_what_is_made_is_read_again_and_pads_as_it_says() -> None:
    made = tokenizer_json(bert(), "wordpiece")
    again = tokenizer_json({"tokenizer.json": made}, "tokenizer.json")
    assert json.loads(again) == json.loads(made) and json.loads(made)["padding"]["pad_id"] == 0
    assert ids(made, "Lungs é") == [2, 5, 6, 8, 3]


def test_flags_and_special_tokens_are_those_of_the_config() -> None:
    assert ids(tokenizer_json(bert(do_lower_case=False), "wordpiece"), "lungs é") == [2, 5, 6, 7, 3]
    assert ids(tokenizer_json(bert(strip_accents=False), "wordpiece"), "Lungs É") == [2, 5, 6, 7, 3]
    other = ["<pad>", "[UNK]", "<s>", "</s>", "lung"]
    named = {"cls_token": "<s>", "sep_token": {"content": "</s>", "lstrip": False}, "pad_token": "<pad>"}
    made = tokenizer_json(bert(*other, **named), "wordpiece")
    assert ids(made, "lung <s>") == [2, 4, 2, 3]
    through_map = bert(*other) | {"special_tokens_map.json": json.dumps(named).encode()}
    assert tokenizer_json(through_map, "wordpiece") == made


def test_lines_of_a_vocabulary_end_as_windows_ends_them() -> None:
    windows = {"vocab.txt": "\r\n".join(BERT).encode()}
    assert tokenizer_json(windows, "wordpiece") == tokenizer_json(bert(), "wordpiece")
    odd = [*BERT, "a\u2028b", "c\x85"]  # no line ends there
    assert json.loads(tokenizer_json(bert(*odd), "wordpiece"))["model"]["vocab"]["c\x85"] == 10


def test_clip_of_a_hub_pads_with_what_its_config_says() -> None:
    model = json.loads(tokenizer_json(FIXTURES / "clip", "clip"))["model"]
    files = {
        "vocab.json": json.dumps(model["vocab"]).encode(),
        "merges.txt": "\n".join(" ".join(pair) for pair in model["merges"]).encode(),
    }
    named = {"bos_token": "<start_of_text>", "eos_token": "<end_of_text>"}
    for pad, pad_id in ((None, 2013), ("!", 0), ("<start_of_text>", 2012)):
        config = named | ({} if pad is None else {"pad_token": pad})
        made = tokenizer_json(files | {"tokenizer_config.json": json.dumps(config).encode()}, "clip")
        assert Tokenizer(made, 77).pad_id == pad_id
    both = files | {"bpe_simple_vocab_16e6.txt.gz": (FIXTURES / "clip" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()}
    assert tokenizer_json(both, "clip") == tokenizer_json(FIXTURES / "clip", "clip")


def test_the_mask_of_roberta_takes_the_space_before_it() -> None:
    made = tokenizer_json(FIXTURES / "byte-bpe", "byte-bpe")
    space, mask = json.loads(made)["model"]["vocab"]["\u0120"], 4
    found = ids(made, "a <mask> b")
    assert mask in found and found[found.index(mask) - 1] != space


SPIECE = lzma.decompress((FIXTURES / "siglip" / "spiece.model.xz").read_bytes())


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.model", "tokenizer.model"])
def test_sentencepiece_has_three_names(name: str) -> None:
    assert ids(tokenizer_json({name: SPIECE}, "sentencepiece"), "index")[-1] == 1


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ({}, "wordpiece", r"^the tokenizer needs the file vocab\.txt, which is missing$"),
        ({}, "clip", r"^the tokenizer needs the file bpe_simple_vocab_16e6\.txt\.gz, which is missing$"),
        ({"vocab.json": b"{}"}, "clip", r"^the tokenizer needs the file merges\.txt, which is missing$"),
        ({}, "sentencepiece", r"needs the file spiece\.model or sentencepiece\.model or tokenizer\.model, which"),
        ({}, "tokenizer.json", r"needs the file tokenizer\.json, which is missing"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json", "do not make one of kind 'tokenizer.json'; get them again"),
        ({"vocab.txt": b"\xff\xfe"}, "wordpiece", "do not make one of kind 'wordpiece'"),
        ({"vocab.txt": b"lung\n"}, "wordpiece", "the vocabulary does not hold the special token '\\[CLS\\]'"),
        ({"vocab.json": b"[]", "merges.txt": b""}, "byte-bpe", "do not make one of kind 'byte-bpe'"),
        ({"vocab.json": b'{"a": "b"}', "merges.txt": b""}, "byte-bpe", "do not make one of kind 'byte-bpe'"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"a b c"}, "byte-bpe", "do not make one of kind 'byte-bpe'"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"a b"}, "byte-bpe", "do not make one of kind 'byte-bpe'"),
        ({"bpe_simple_vocab_16e6.txt.gz": b"no gzip"}, "clip", "do not make one of kind 'clip'"),
        ({"bpe_simple_vocab_16e6.txt.gz": gzip.compress(b"head\na b c")}, "clip", "do not make one of kind 'clip'"),
        ({"spiece.model": b""}, "sentencepiece", "do not make one of kind 'sentencepiece'"),
        ({"spiece.model": SPIECE[: len(SPIECE) // 2]}, "sentencepiece", "do not make one of kind 'sentencepiece'"),
        ({"spiece.model": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"}, "sentencepiece", "do not make one of kind"),
        (
            {"vocab.txt": b"a", "tokenizer_config.json": b"[]"},
            "wordpiece",
            r"^tokenizer_config\.json is not a JSON obj",
        ),
        (
            {"vocab.txt": b"a", "tokenizer_config.json": b"[" * 100_000},
            "wordpiece",
            r"^tokenizer_config\.json is not a JSON obj",
        ),
        ({"vocab.txt": b"a" * ((64 << 20) + 1)}, "wordpiece", r"^vocab\.txt is larger than 64 MiB"),
    ],
)
def test_bad_files_are_named(files: dict[str, bytes], kind: Any, message: str) -> None:
    with pytest.raises(EncoderError, match=message) as caught:
        tokenizer_json(files, kind)
    assert "\n" not in str(caught.value)


def test_a_bpe_of_sentencepiece_is_refused_with_the_way_out() -> None:
    trainer = b"\x18\x02"  # model_type: BPE
    content = SPIECE + b"\x12" + bytes([len(trainer)]) + trainer
    with pytest.raises(EncoderError, match=r"not of the unigram kind; use kind 'tokenizer\.json' with that file"):
        tokenizer_json({"spiece.model": content}, "sentencepiece")


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_damaged_sentencepiece_file_never_crashes(cut: int) -> None:
    content = bytearray(SPIECE)
    content[cut] ^= 0xFF
    try:
        Tokenizer(tokenizer_json({"spiece.model": bytes(content)}, "sentencepiece"), 32)
    except EncoderError as error:
        assert "\n" not in str(error)


def test_a_gzip_that_unfolds_without_end_is_read_to_the_limit_only() -> None:
    bomb = gzip.compress(b"head\n" + b"a" * (80 << 20))
    with pytest.raises(EncoderError, match="do not make one of kind 'clip'"):
        tokenizer_json({"bpe_simple_vocab_16e6.txt.gz": bomb}, "clip")


def test_wrong_choices_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^kind is 'bert'; it must be one of 'tokenizer\.json', 'wordpiece'"):
        tokenizer_json(tmp_path, "bert")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^lower_case belongs to kind 'wordpiece', and kind is 'clip'$"):
        tokenizer_json(tmp_path, "clip", lower_case=True)
