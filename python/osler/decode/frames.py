"""Frames of one file: decoded once and kept while they are small, else decoded again each time one is asked for.

Holds a function that decodes frame i; reads no file itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEPT_BYTES", "Frames", "full_range"]

KEPT_BYTES = 128 << 20


class Frames(Sequence[NDArray[Any]]):
    """A sequence of arrays, one a frame, each decoded when it is asked for.

    Parameters
    ----------
    count : int
    decode : callable
        Returns frame i as an array. Called by one thread at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.frames import Frames
    >>> frames = Frames(3, lambda i: np.full((2, 2), i, dtype=np.uint8))
    >>> len(frames), int(frames[-1].max())
    (3, 2)
    """

    def __init__(self, count: int, decode: Callable[[int], NDArray[Any]]) -> None:
        self._count = count
        self._decode = decode
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[NDArray[Any], ...]: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | tuple[NDArray[Any], ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._count)))
        if not -self._count <= index < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        with self._lock:
            frame = self._decode(index % self._count)
        frame.setflags(write=False)
        return frame

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[i] for i in range(self._count))

    def __repr__(self) -> str:
        return f"<{self._count} frames>"

    def kept(self) -> Sequence[NDArray[Any]]:
        """Decode every frame now, so that a bad one is known; return them, or this sequence where they are large."""
        frames: list[NDArray[Any]] = []
        for i in range(self._count):
            frame = self[i]
            if frame.nbytes * self._count <= KEPT_BYTES:
                frames.append(frame)
        return tuple(frames) if len(frames) == self._count else self


def full_range(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Scale unsigned samples of some bits to all of uint8 (up to 8 bits) or uint16.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.frames import full_range
    >>> full_range(np.array([0, 4095], dtype=np.uint16), 12)
    array([    0, 65535], dtype=uint16)
    """
    top = 255 if bits <= 8 else 65535
    kind = np.dtype(np.uint8 if bits <= 8 else np.uint16)
    if bits == 8 * kind.itemsize:
        return values.astype(kind)
    scaled: NDArray[Any] = np.rint(np.minimum(values, (1 << bits) - 1) * (top / ((1 << bits) - 1))).astype(kind)
    return scaled
