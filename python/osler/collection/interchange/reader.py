"""Reads a foreign binary file in order, without trusting it.

Touches one file, for reading. Nothing is allocated before the bytes that fill it are known to be there, so memory is
bounded by the size of the file; what does not fit is a `CorruptIndexError` with the place.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import Any

import numpy as np

from osler.collection.interchange.files import existing
from osler.collection.rows import Array
from osler.errors import CorruptIndexError

__all__ = ["Reader", "reading"]


class Reader:
    """A place in a file and the bytes left after it; numbers are little-endian, and `what` names them in messages."""

    def __init__(self, stream: BufferedReader, name: str) -> None:
        self._stream = stream
        self.name = name
        self.size = os.fstat(stream.fileno()).st_size
        self.left = self.size

    def damage(self, what: str, problem: str) -> CorruptIndexError:
        """Return the error for a value that cannot be, read just before."""
        offset = self.size - self.left
        return CorruptIndexError(
            f"{self.name} is damaged in its {what}, before byte {offset}: {problem}; get a whole copy",
            findings=[{"file": self.name, "section": what, "offset": offset, "problem": problem}],
        )

    def need(self, size: int, what: str) -> None:
        """Raise unless so many bytes are left."""
        if size > self.left:
            raise self.damage(what, f"{size} bytes should follow and {self.left} do")

    def values(self, codes: str, what: str) -> tuple[Any, ...]:
        """Read numbers by the codes of `struct`."""
        form = struct.Struct("<" + codes)
        self.need(form.size, what)
        return form.unpack(self._taken(form.size, what))

    def array(self, dtype: Any, count: int, what: str) -> Array:
        """Read an array of `count` elements."""
        kind = np.dtype(dtype)
        self.need(count * kind.itemsize, what)
        found = np.empty(count, kind)
        self.fill(found, what)
        return found

    def fill(self, target: Array, what: str) -> None:
        """Read as many bytes as a contiguous array has into it."""
        self.need(target.nbytes, what)
        if target.nbytes:
            view = target.reshape(-1).view(np.uint8).data
            if self._stream.readinto(view) != len(view):
                raise self.damage(what, "the file ended while it was read")
            self.left -= len(view)

    def skip(self, size: int, what: str) -> None:
        """Pass over bytes that must be there."""
        self.need(size, what)
        self._stream.seek(size, os.SEEK_CUR)
        self.left -= size

    def end(self) -> None:
        """Raise unless the file ends here."""
        if self.left:
            raise self.damage("end", f"{self.left} bytes follow that belong to nothing")

    def _taken(self, size: int, what: str) -> bytes:
        found = self._stream.read(size)
        if len(found) != size:
            raise self.damage(what, "the file ended while it was read")
        self.left -= size
        return found


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[Reader]:
    """Open a file for a `Reader`."""
    file = existing(path)
    with open(file, "rb") as stream:
        yield Reader(stream, file.name)
