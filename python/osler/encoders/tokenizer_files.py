"""Makes the tokenizer.json of an encoder's folder from the files that checkpoints come with.

Reads the named files of a folder, or takes their bytes. The formats are those of BERT, CLIP, GPT-2 and RoBERTa, and
SentencePiece; what each default is follows transformers, and open_clip for the vocabulary that comes with it.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from osler.encoders.protobuf import varint
from osler.errors import EncoderError

__all__ = ["TokenizerKind", "tokenizer_json"]

TokenizerKind = Literal["tokenizer.json", "wordpiece", "clip", "byte-bpe", "sentencepiece"]

_BIGGEST = 64 << 20
_OPEN_CLIP = "bpe_simple_vocab_16e6.txt.gz"
_OPEN_CLIP_MERGES = 49152 - 256 - 2  # the file holds more than the vocabulary of 49,408 has room for
_CLIP_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_UNIGRAM = 1
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4


def tokenizer_json(
    files: str | PathLike[str] | Mapping[str, bytes], kind: TokenizerKind, *, lower_case: bool | None = None
) -> bytes:
    """Return the content of a tokenizer.json that gives the ids of the original tokenizer.

    Parameters
    ----------
    files : path or mapping of str to bytes
        The checkpoint's folder, or its files by name.
    kind : {"tokenizer.json", "wordpiece", "clip", "byte-bpe", "sentencepiece"}
        ``tokenizer.json``
            That file, once it was read and found whole.
        ``wordpiece``
            ``vocab.txt`` of BERT.
        ``clip``
            ``bpe_simple_vocab_16e6.txt.gz`` as open_clip reads it (its texts must go through the rule
            ``open_clip_lower`` first, and padding is 0), or ``vocab.json`` and ``merges.txt`` as transformers does.
        ``byte-bpe``
            ``vocab.json`` and ``merges.txt`` of RoBERTa and Longformer.
        ``sentencepiece``
            ``spiece.model``, ``sentencepiece.model`` or ``tokenizer.model`` of the unigram kind: SigLIP, T5.

        Where there is a ``tokenizer_config.json``, its special tokens and flags hold.
    lower_case : bool, optional
        For ``wordpiece``: whether it makes letters small and takes their accents off. By default what
        ``tokenizer_config.json`` says, and true where it says nothing, as in transformers.

    Returns
    -------
    bytes

    Raises
    ------
    EncoderError
        A file is missing, too big or damaged, or the package tokenizers is not installed.
    ValueError
        The kind is none of these, or `lower_case` is given for another kind than ``wordpiece``.

    Examples
    --------
    >>> from osler.encoders.tokenize import Tokenizer
    >>> from osler.encoders.tokenizer_files import tokenizer_json
    >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lung", "##s"]
    >>> content = tokenizer_json({"vocab.txt": "\\n".join(words).encode()}, "wordpiece")
    >>> Tokenizer(content, 16)("Lungs", "text 0").ids
    [2, 5, 6, 3]
    """
    if kind not in get_args(TokenizerKind):
        raise ValueError(f"kind is {kind!r:.40}; it must be one of {', '.join(map(repr, get_args(TokenizerKind)))}")
    if lower_case is not None and kind != "wordpiece":
        raise ValueError(f"lower_case belongs to kind 'wordpiece', and kind is {kind!r}")
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise EncoderError(
            'making a tokenizer.json needs the package tokenizers; pip install "osler[cpu]" or "osler[gpu]"',
            code="package_missing",
        ) from None
    given = _Files(files)
    try:
        made = _MAKERS[kind](given, lower_case)
        content: str = made.to_str()
    except EncoderError:
        raise
    except Exception:  # the library raises plain Exception, quoting the file
        raise EncoderError(f"the files of the tokenizer do not make one of kind {kind!r}; get them again") from None
    return content.encode()


class _Files:
    """A folder, or files in memory, read by name; and what tokenizer_config.json says."""

    def __init__(self, files: str | PathLike[str] | Mapping[str, bytes]) -> None:
        self._files = files if isinstance(files, Mapping) else Path(files)
        self.config = self._object("tokenizer_config.json")
        self._map = self._object("special_tokens_map.json")

    def first(self, *names: str) -> str | None:
        """Return the first of these names that there is."""
        there = (
            self._files if isinstance(self._files, Mapping) else {n: 0 for n in names if (self._files / n).is_file()}
        )
        return next((name for name in names if name in there), None)

    def read(self, *names: str) -> bytes:
        """Return the content of the first of these files."""
        name = self.first(*names)
        if name is None:
            raise EncoderError(
                f"the tokenizer needs the file {' or '.join(names)}, which is missing", code="file_missing"
            )
        if isinstance(self._files, Mapping):
            content = self._files[name]
        else:
            try:
                with (self._files / name).open("rb") as stream:
                    content = stream.read(_BIGGEST + 1)
            except OSError as error:
                reason = (error.strerror or "input/output error").lower()
                raise EncoderError(f"{name} cannot be read: {reason}; check its permissions") from None
        if len(content) > _BIGGEST:
            raise EncoderError(f"{name} is larger than {_BIGGEST >> 20} MiB; it is no file of a tokenizer")
        return content

    def lines(self, *names: str) -> list[str]:
        """Return the lines of a text file; of the line breaks of Unicode only those of ASCII count."""
        return [line.rstrip("\n") for line in io.StringIO(self.read(*names).decode(), newline=None)]

    def vocabulary(self) -> dict[str, int]:
        found = json.loads(self.read("vocab.json"))
        if not isinstance(found, dict) or not all(type(value) is int for value in found.values()):
            raise ValueError
        return found

    def merges(self) -> list[tuple[str, str]]:
        pairs = [line.split(" ") for line in self.lines("merges.txt") if line and not line.startswith("#version")]
        return [(left, right) for left, right in pairs]

    def special(self, name: str, default: str) -> str:
        """Return a special token by its name in transformers, as "pad_token"."""
        value = self.config.get(name, self._map.get(name, default))
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else default

    def _object(self, name: str) -> dict[str, Any]:
        if self.first(name) is None:
            return {}
        try:
            found = json.loads(self.read(name))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise EncoderError(f"{name} is not a JSON object; get it again")
        return found


def _ready(files: _Files, lower_case: bool | None) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(files.read("tokenizer.json").decode())


def _wordpiece(files: _Files, lower_case: bool | None) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate(files.lines("vocab.txt"))}
    defaults = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special = {name: files.special(f"{name}_token", token) for name, token in defaults.items()}
    lower = files.config.get("do_lower_case", True) if lower_case is None else lower_case
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk"]))
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=files.config.get("tokenize_chinese_chars", True),
        strip_accents=files.config.get("strip_accents"),
        lowercase=lower,
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _finished(made, vocabulary, special["cls"], special["sep"], special["pad"], list(special.values()))


def _clip(files: _Files, lower_case: bool | None) -> Any:
    if files.first(_OPEN_CLIP) is not None or files.first("vocab.json", "merges.txt") is None:
        return _open_clip(files)
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = files.vocabulary()
    start, end = files.special("bos_token", "<|startoftext|>"), files.special("eos_token", "<|endoftext|>")
    unknown, pad = files.special("unk_token", end), files.special("pad_token", end)
    made = Tokenizer(models.BPE(vocabulary, files.merges(), end_of_word_suffix="</w>", unk_token=unknown))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(words, behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return _finished(made, vocabulary, start, end, pad, [start, end, unknown, pad])


def _open_clip(files: _Files) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    with gzip.GzipFile(fileobj=io.BytesIO(files.read(_OPEN_CLIP))) as stream:
        content = stream.read(_BIGGEST)
    # the first line says where the file is from
    lines = content.decode().split("\n")[1 : _OPEN_CLIP_MERGES + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines if line)]
    letters = _bytes_as_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    start, end = "<start_of_text>", "<end_of_text>"
    vocabulary = {token: i for i, token in enumerate([*tokens, start, end])}
    made = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    split = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return _finished(made, vocabulary, start, end, tokens[0], [start, end])


def _bytes_as_letters() -> list[str]:
    """Return the letters that stand for the 256 bytes in the order of OpenAI's vocabularies: those one sees first."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in seen] + [chr(0x100 + i) for i in range(0x100 - len(seen))]


def _byte_bpe(files: _Files, lower_case: bool | None) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = files.vocabulary()
    defaults = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    special = {name: files.special(f"{name}_token", token) for name, token in defaults.items()}
    made = Tokenizer(models.BPE(vocabulary, files.merges()))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=files.config.get("add_prefix_space", False))
    return _finished(
        made, vocabulary, special["cls"], special["sep"], special["pad"], list(special.values()), special["mask"]
    )


def _sentencepiece(files: _Files, lower_case: bool | None) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    model = _Pieces.parse(files.read("spiece.model", "sentencepiece.model", "tokenizer.model"))
    if model.kind != _UNIGRAM:
        raise EncoderError(
            "the SentencePiece file is not of the unigram kind; use kind 'tokenizer.json' with that file of the same "
            "model"
        )
    vocabulary = {piece: i for i, (piece, _, _) in enumerate(model.pieces)}
    made = Tokenizer(models.Unigram([(piece, score) for piece, score, _ in model.pieces], model.unknown))
    steps: list[Any] = [normalizers.Precompiled(model.characters)] if model.characters else []
    if model.strips:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always" if model.prefixes else "never", split=False)
    end = files.special("eos_token", "</s>")
    pad = files.special("pad_token", "<pad>" if "<pad>" in vocabulary else end)
    control = [piece for piece, _, kind in model.pieces if kind in (_UNKNOWN, _CONTROL)]
    return _finished(made, vocabulary, None, end, pad, [*control, end, pad])


def _finished(
    made: Any,
    vocabulary: Mapping[str, int],
    start: str | None,
    end: str,
    pad: str,
    special: list[str],
    mask: str | None = None,
) -> Any:
    """Add the tokens that are found whole in a text, those that begin and end every text, and the one that pads."""
    from tokenizers import AddedToken, processors

    around = [token for token in (start, end) if token is not None]
    missing = [token for token in (*around, pad) if token not in vocabulary]
    if missing:
        raise EncoderError(f"the vocabulary does not hold the special token {missing[0]!r:.40}; get the files again")
    found = [token for token in dict.fromkeys(special) if token in vocabulary]
    made.add_special_tokens([AddedToken(t, lstrip=t == mask, normalized=False, special=True) for t in found])
    template = " ".join(("$A" if token is None else token) for token in ((start, None, end) if start else (None, end)))
    made.post_processor = processors.TemplateProcessing(
        single=template.split(" "), pair=None, special_tokens=[(token, vocabulary[token]) for token in around]
    )
    made.enable_padding(pad_id=vocabulary[pad], pad_token=pad)
    return made


@dataclass(frozen=True)
class _Pieces:
    """What counts of a SentencePiece model: its pieces with score and type, and how it normalises."""

    pieces: list[tuple[str, float, int]]
    kind: int
    unknown: int
    characters: bytes
    prefixes: bool
    strips: bool

    @classmethod
    def parse(cls, content: bytes) -> _Pieces:
        """Read the protocol buffer; the numbers of fields are those of sentencepiece_model.proto."""
        pieces: list[tuple[str, float, int]] = []
        trainer: dict[int, Any] = {}
        normaliser: dict[int, Any] = {}
        for number, value in _fields(content):
            if number == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0]
                pieces.append((piece[1].decode(), score, piece.get(3, 1)))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normaliser = dict(_fields(value))
        if not pieces:
            raise ValueError
        flags = bool(normaliser.get(3, 1)), bool(normaliser.get(4, 1))
        return cls(pieces, trainer.get(3, _UNIGRAM), trainer.get(40, 0), normaliser.get(2, b""), *flags)


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message: an int for a varint, bytes for all else."""
    at = 0
    while at < len(content):
        tag, at = varint(content, at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(content, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = varint(content, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError
        if size > len(content) - at:
            raise ValueError
        yield tag >> 3, content[at : at + size]
        at += size


_MAKERS: Mapping[str, Callable[[_Files, bool | None], Any]] = MappingProxyType(
    {
        "tokenizer.json": _ready,
        "wordpiece": _wordpiece,
        "clip": _clip,
        "byte-bpe": _byte_bpe,
        "sentencepiece": _sentencepiece,
    }
)
