"""A slide that is read in a process of its own, so that a fault of a decoder costs a tile and not the program.

Opens the slide's files for reading and hands them to the process, which can open nothing else; what that answers is
checked here as `osler.sources.workers` checks what it is told.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from osler.errors import SourceError
from osler.sources.slides import MOST_SIDE, Box, SlideInfo, SlideReader, open_slide

if TYPE_CHECKING:
    from osler.sources.workers import _Process

__all__ = ["SlideProcess", "open_files", "slide_here"]

_MOST_LEVELS = 64
_FORMAT_LENGTH = 40


class SlideProcess:
    """A slide in a process of its own: a `SlideReader`.

    Parameters
    ----------
    paths : sequence of Path
        The files of the slide.
    kind : {"tiff", "dicom", "openslide"}
    start : callable
        Starts a process that reads the slide: given the arguments of its program and the descriptors to hand over.
    end : callable
        Ends it.
    told : callable
        Makes what is wrong with a process the outcome of its file, while one asks.

    Attributes
    ----------
    info : SlideInfo

    Raises
    ------
    SourceError
        As `osler.sources.slides.open_slide`; ``crashed``, ``too_slow``, ``too_large`` where its process comes to grief.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        kind: str,
        *,
        start: Callable[[list[str], Sequence[int]], _Process],
        end: Callable[[_Process], None],
        told: Callable[[_Process], AbstractContextManager[None]],
    ) -> None:
        self._paths, self._kind = tuple(paths), kind
        self._start, self._end, self._told = start, end, told
        self._process: _Process | None = None
        self._lock = threading.Lock()
        reply, _ = self._ask({"op": "open"})
        self.info = _info(reply, kind)

    def region(self, box: Box, width: int, height: int) -> NDArray[Any]:
        """Return a box of the slide at a size; see `osler.sources.slides.Slide.region`."""
        request = {"op": "region", "box": [int(side) for side in box], "width": width, "height": height}
        _, arrays = self._ask(request)
        if [(array.shape, array.dtype.str) for array in arrays] != [((height, width, 3), "|u1")]:
            self.close()
            raise _wrong()
        return arrays[0]

    @property
    def is_open(self) -> bool:
        """Whether its process is there."""
        return self._process is not None

    def close(self) -> None:
        """End the process; the next region starts another."""
        with self._lock:
            self._ended()

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        with self._lock:
            if self._process is None:
                self._process = self._started()
            process = self._process
            try:
                with self._told(process):
                    return process.ask(request | {"fresh": True}, b"", 0)
            finally:
                if not process.rests:
                    self._ended()

    def _started(self) -> _Process:
        if self._kind == "openslide":
            return self._start([self._kind, os.fspath(self._paths[0].absolute())], ())
        files = open_files(self._paths)
        try:
            return self._start([self._kind, *map(str, files)], files)
        finally:
            for file in files:
                os.close(file)

    def _ended(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._end(process)


def slide_here(paths: Sequence[Path], kind: str) -> SlideReader:
    """Open a slide in this process.

    Raises
    ------
    SourceError
        As `osler.sources.slides.open_slide`.
    """
    if kind == "openslide":
        from osler.sources.slide_openslide import openslide_slide

        return openslide_slide(os.fspath(paths[0]))
    return open_slide([io.BufferedReader(_File(number)) for number in open_files(paths)], kind)


class _File(io.RawIOBase):
    """A file that is closed with the last who holds it, as whoever leaves a slide half read may be."""

    # Libraries ask for one.
    name = ""

    def __init__(self, number: int) -> None:
        self._number, self._at = number, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._at, os.fstat(self._number).st_size)[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        found = os.pread(self._number, len(buffer), self._at)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._number)


def open_files(paths: Sequence[Path]) -> list[int]:
    """Open files for reading and return their descriptors.

    Raises
    ------
    SourceError
        ``missing``, ``no_permission`` or ``unreadable``.

    Examples
    --------
    >>> from pathlib import Path
    >>> from osler.sources.slide_process import open_files
    >>> open_files([Path("no such file")])
    Traceback (most recent call last):
    osler.errors.SourceError: the file is not there; check the path
    """
    opened: list[int] = []
    try:
        for path in paths:
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)))
        return opened
    except OSError as error:
        for file in opened:
            with suppress(OSError):
                os.close(file)
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise SourceError("the file is not there; check the path", code="missing") from None
        if isinstance(error, PermissionError):
            message = "the file may not be read by this user; change its permissions"
            raise SourceError(message, code="no_permission") from None
        raise SourceError("the file cannot be opened; check that it is there", code="unreadable") from None


def _info(reply: dict[str, Any], kind: str) -> SlideInfo:
    """Return what a process says of a slide, if it is what may be said of one."""
    try:
        name, mpp, levels = reply["format"], reply["mpp"], [tuple(level) for level in reply["levels"]]
        columns, identifiers = reply["columns"], reply["identifiers"]
        right = (
            isinstance(name, str)
            and 0 < len(name) <= _FORMAT_LENGTH
            and name.isprintable()
            and 0 < len(levels) <= _MOST_LEVELS
            and all(type(side) is int and 0 < side <= MOST_SIDE for level in levels for side in level)
            and all(len(level) == 2 for level in levels)
            and (mpp is None or (len(mpp) == 2 and all(type(one) is float and 1e-3 < one < 1e3 for one in mpp)))
        )
    except (KeyError, TypeError):
        raise _wrong() from None
    if not right or not _plain(columns, identifiers, kind):
        raise _wrong()
    sizes = tuple((width, height) for width, height in levels)
    stated = None if mpp is None else (mpp[0], mpp[1])
    return SlideInfo(name, sizes[0][0], sizes[0][1], stated, sizes, columns, identifiers)


def _plain(columns: Any, identifiers: Any, kind: str) -> bool:
    """Say whether columns and identifiers are those that a DICOM slide may have; of others there are none."""
    if not isinstance(columns, dict) or not isinstance(identifiers, dict):
        return False
    allowed: set[str] = set()
    known: set[str] = set()
    if kind == "dicom":
        from osler.sources.dicom import COLUMNS, IDENTIFIERS

        allowed, known = set(COLUMNS), set(IDENTIFIERS)
    return (
        columns.keys() <= allowed
        and identifiers.keys() <= known
        and all(type(value) in (str, int, float) for value in columns.values())
        and all(isinstance(value, str) for value in identifiers.values())
    )


def _wrong() -> SourceError:
    return SourceError(
        "the process that reads the slide gave no right answer; a decoder has a fault that the file reaches",
        code="crashed",
    )
