"""Texts to token ids by a tokenizer.json; a text that does not fit is cut and reported, never in silence.

Works in memory on the bytes of the tokenizer. One text at a time, so that the library starts no threads of its own,
which would not survive a fork.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from osler.config import LIMITS
from osler.errors import EncoderError

__all__ = ["Tokenizer", "Tokens", "TruncatedTextWarning"]


class TruncatedTextWarning(UserWarning):
    """Texts were longer than the encoder takes, and only their beginning is in the vector."""


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

    Raises
    ------
    EncoderError
        The package tokenizers is missing (code ``package_missing``), or the file is not a tokenizer.
    """

    def __init__(self, content: bytes, max_length: int) -> None:
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
        self.pad_id = int((self._tokenizer.padding or {}).get("pad_id", 0))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

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
        encoding = self._tokenizer.encode(text)
        return Tokens(list(encoding.ids), list(encoding.type_ids), bool(encoding.overflowing))
