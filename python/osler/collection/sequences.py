"""Values of several items as one sequence, of which none is read before it is asked for.

Holds the sequences that it is given; reads nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Joined", "Picked", "Stopped", "Until", "unreadable"]


class Joined(Sequence[Any]):
    """Several sequences as one.

    Examples
    --------
    >>> from osler.collection.sequences import Joined
    >>> list(Joined([(1, 2), (), (3,)]))
    [1, 2, 3]
    """

    def __init__(self, sequences: Sequence[Sequence[Any]]) -> None:
        self._sequences = sequences
        self._ends = np.cumsum([len(one) for one in sequences], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, at: Any) -> Any:
        if not 0 <= at < len(self):
            raise IndexError(at)
        owner = int(np.searchsorted(self._ends, at, "right"))
        return self._sequences[owner][at - (int(self._ends[owner - 1]) if owner else 0)]


class Stopped(Exception):
    """What `Until` raises."""


class Until(Sequence[Any]):
    """A sequence whose values can be had until something says stop.

    Examples
    --------
    >>> from osler.collection.sequences import Until
    >>> list(Until("ab", lambda: False)), len(Until("ab", lambda: True))
    (['a', 'b'], 2)
    """

    def __init__(self, values: Sequence[Any], stopped: Callable[[], bool]) -> None:
        self._values, self._stopped = values, stopped

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, at: Any) -> Any:
        if self._stopped():
            raise Stopped
        return self._values[at]


class Picked(Sequence[Any]):
    """Some values of a sequence.

    Examples
    --------
    >>> from osler.collection.sequences import Picked
    >>> list(Picked("abc", [2, 0]))
    ['c', 'a']
    """

    def __init__(self, values: Sequence[Any], rows: Sequence[int]) -> None:
        self._values, self._rows = values, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        return self._values[self._rows[at]]


def unreadable(values: Sequence[Any]) -> Mapping[int, str]:
    """Return which values of an item were found unreadable as they were read, and why; others stand in for them.

    Examples
    --------
    >>> from osler.collection.sequences import unreadable
    >>> unreadable([1, 2])
    {}
    """
    found: Mapping[int, str] = getattr(values, "unreadable", {})
    return found
