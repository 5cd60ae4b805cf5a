"""Texts to token ids by a cleaning rule and a tokenizer.json; a text that does not fit is marked, never cut in silence.

Works in memory. One text at a time, so that the library starts no threads of its own, which would not survive a fork.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from osler.config import LIMITS
from osler.encoders.clean import Clean, clean
from osler.errors import EncoderError

__all__ = ["Tokenizer", "Tokens", "check_text", "padded"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as ids, special tokens included.

    Attributes
    ----------
    ids, types : list of int
    cut : bool
        The text was longer than the encoder takes.
    """

    ids: list[int]
    types: list[int]
    cut: bool


class Tokenizer:
    """A tokenizer.json with a length limit.

    Parameters
    ----------
    content : bytes
    max_length : int
        In tokens, special ones included.
    rule : str
        What a text goes through first; see `clean.clean`.
    pad_id : int or None
        None takes that of the file, or 0 where it states none.

    Attributes
    ----------
    max_length : int
    pad_id : int
    special : int
        Tokens that every text gets, as [CLS] and [SEP].
    largest_id : int
        Of the vocabulary.

    Raises
    ------
    EncoderError
        The package tokenizers is missing (code ``package_missing``), or the file is not a tokenizer, or pads on the
        left.

    Examples
    --------
    >>> from osler.encoders.registry import shipped
    >>> from osler.encoders.tokenize import Tokenizer
    >>> tokenizer = Tokenizer((shipped()["minilm"] / "tokenizer.json").read_bytes(), 77)
    >>> tokenizer("pleural effusion", "text 0").ids, tokenizer.count("pleural effusion")
    ([101, 20228, 11236, 2389, 1041, 4246, 14499, 102], 8)
    """

    def __init__(self, content: bytes, max_length: int, rule: Clean = "none", pad_id: int | None = None) -> None:
        try:
            import tokenizers
        except ImportError:
            raise EncoderError(
                'encoding texts needs the package tokenizers; pip install "osler[cpu]" or "osler[gpu]"',
                code="package_missing",
            ) from None
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content.decode())
        except Exception:  # the library raises plain Exception, quoting the file
            raise EncoderError(
                "the tokenizer file is not a tokenizer.json that this release of tokenizers reads"
            ) from None
        padding: dict[str, Any] = self._tokenizer.padding or {}
        if padding.get("direction", "right") != "right":
            raise EncoderError(
                "the tokenizer pads on the left, and a text tower on the right; export it with the padding of the "
                "model's training"
            )
        self.max_length = max_length
        self.pad_id = int(padding.get("pad_id", 0)) if pad_id is None else pad_id
        self.largest_id = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        self._rule: Clean = rule
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.special = int(self._tokenizer.num_special_tokens_to_add(is_pair=False))

    def __call__(self, text: Any, place: str) -> Tokens:
        """Return the ids of one text.

        Parameters
        ----------
        text : str
        place : str
            How messages call it, as "text 3".

        Raises
        ------
        TypeError, ValueError
            It is not a str, holds only white space, is larger than the limit, is not valid Unicode, or nothing of it
            is left by the cleaning rule.
        """
        check_text(text, place)
        cleaned = clean(text, self._rule)
        if not cleaned.strip() and self._rule != "none":
            raise ValueError(f"nothing of {place} is left by the cleaning rule {self._rule!r}; write it in letters")
        encoding = self._tokenizer.encode(cleaned, add_special_tokens=False)
        cut = len(encoding) + self.special > self.max_length
        if cut:
            encoding.truncate(max(self.max_length - self.special, 0))
        encoding = self._tokenizer.post_process(encoding)
        return Tokens(list(encoding.ids), list(encoding.type_ids), cut)

    def count(self, text: str) -> int:
        """Return how many tokens a text has, special ones included, however long it is."""
        return len(self._tokenizer.encode(clean(text, self._rule), add_special_tokens=False)) + self.special


def padded(
    tokens: Sequence[Tokens], width: int, pad_id: int, rows: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return texts as the arrays that a model takes, padded on the right.

    Parameters
    ----------
    tokens : sequence of Tokens
        Of `width` tokens at most.
    width : int
    pad_id : int
    rows : int, optional
        More rows than there are texts, where a model takes batches of one size only. A row without a text counts one
        token, so that no model divides by zero.

    Returns
    -------
    ids, mask, types : ndarray
        (rows, width) int64; the mask is 1 where there is a token.

    Examples
    --------
    >>> from osler.encoders.tokenize import Tokens, padded
    >>> ids, mask, types = padded([Tokens([49406, 5, 49407], [0, 0, 0], False)], 5, 0)
    >>> ids.tolist(), mask.tolist()
    ([[49406, 5, 49407, 0, 0]], [[1, 1, 1, 0, 0]])
    """
    shape = (len(tokens) if rows is None else rows, width)
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    mask[len(tokens) :, 0] = 1
    for row, one in enumerate(tokens):
        ids[row, : len(one.ids)] = one.ids
        mask[row, : len(one.ids)] = 1
        types[row, : len(one.ids)] = one.types
    return ids, mask, types


def check_text(text: Any, place: str) -> None:
    """Raise unless a value is a text that can be encoded.

    Parameters
    ----------
    text : str
    place : str
        How messages call it, as "text 3".

    Raises
    ------
    TypeError, ValueError
        It is not a str, holds only white space, is larger than the limit, or is not valid Unicode.
    """
    if not isinstance(text, str):
        raise TypeError(f"{place} is a {type(text).__name__}; pass texts as str")
    if not text.strip():
        raise ValueError(f"{place} is empty; leave it out")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{place} holds half a surrogate pair, which is no text; decode it again") from None
    if size > LIMITS.text_bytes:
        raise ValueError(f"{place} has {size} bytes, the limit is {LIMITS.text_bytes}; split it into passages")
