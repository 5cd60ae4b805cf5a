"""What becomes of texts that are longer than an encoder takes: split and averaged, cut, or refused; always said.

Holds counts of one call of `Encoder.encode_texts`; runs no model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from osler.encoders.passages import split_text
from osler.encoders.pooling import unit
from osler.encoders.tokenize import Tokenizer, Tokens

__all__ = ["Long", "LongTexts", "SplitTextWarning", "TruncatedTextWarning"]

Long = Literal["split", "cut", "error"]


class SplitTextWarning(UserWarning):
    """Texts were longer than the encoder takes, and their vector is the mean of those of their passages."""


class TruncatedTextWarning(UserWarning):
    """Texts were longer than the encoder takes, and only their beginning is in the vector, as was asked."""


class LongTexts:
    """One call: texts become tokens, passage by passage, and the vectors of passages those of texts.

    The vector of a text that was split is the mean of the unit vectors of its passages, at length 1 again. It is the
    unit vector with the greatest mean cosine to them, and orders texts by the mean cosine of a query with their
    passages, up to the text's own factor. Each passage counts the same, so that a short impression is not drowned by
    long findings.
    """

    def __init__(self, tokenizer: Tokenizer, long: Long) -> None:
        self._tokenizer = tokenizer
        self._long = long
        self._long_texts: list[int] = []
        self._owners: list[int] = []
        self._size = 1

    def batches(self, texts: Sequence[Any], size: int) -> Iterator[list[Tokens]]:
        """Yield passages in batches of `size`, or less after `shrink`; `owners` says later whose they are.

        Raises
        ------
        TypeError, ValueError
            A text is none that can be encoded; or it is too long, and that was to be an error.
        """
        waiting: list[Tokens] = []
        self._size = size
        for position in range(len(texts)):
            passages = self._tokens(texts[position], position)
            self._owners += [position] * len(passages)
            waiting += passages
            while len(waiting) >= self._size:
                batch, waiting = waiting[: self._size], waiting[self._size :]
                yield batch
        if waiting:
            yield waiting

    def shrink(self, size: int) -> None:
        """Make the next batches no larger."""
        self._size = min(self._size, size)

    def owners(self, start: int, stop: int) -> np.ndarray:
        """Return the position of the text that each of the passages from `start` to `stop` is of."""
        return np.asarray(self._owners[start:stop])

    def join(self, sums: np.ndarray) -> np.ndarray:
        """Return the vectors of the texts; `sums` are those of their passages, added."""
        if self._long == "split" and self._long_texts:
            sums[self._long_texts] = unit(sums[self._long_texts])
        return sums

    def warn(self, total: int, stacklevel: int) -> None:
        """Say how many texts were too long, and what was done."""
        if not self._long_texts:
            return
        count, limit = len(self._long_texts), self._tokenizer.max_length
        said = f"{count} of {total} texts are longer than {limit} tokens and were"
        first = f"the first is text {self._long_texts[0]}"
        if self._long == "split":
            passages = len(self._owners) - total + count
            said += f" split into {passages} passages, whose mean is their vector; {first}; split_text gives passages"
            warnings.warn(said, SplitTextWarning, stacklevel=stacklevel + 1)
        else:
            said += f" cut, so only their beginning is in the vector; {first}; split long texts into passages"
            warnings.warn(said, TruncatedTextWarning, stacklevel=stacklevel + 1)

    def _tokens(self, text: Any, position: int) -> list[Tokens]:
        place = f"text {position}"
        tokens = self._tokenizer(text, place)
        if not tokens.cut:
            return [tokens]
        if self._long == "error":
            raise ValueError(
                f"{place} has {self._tokenizer.count(text)} tokens, the encoder takes {self._tokenizer.max_length}; "
                "split it with osler.encoders.split_text, or pass long='split' or long='cut'"
            )
        self._long_texts.append(position)
        if self._long == "cut":
            return [tokens]
        # of punctuation alone a cleaning rule may leave nothing
        passages = [one for one in split_text(text, self._tokenizer) if one.tokens > self._tokenizer.special]
        return [self._tokenizer(passage.text, place) for passage in passages]
