"""A slide that is read in a process of its own, so that a fault of a decoder costs a tile and not the program.

Opens the slide's files for reading and hands them to the process, which can open nothing else; what that answers is
checked here as `osler.sources.workers` checks what it is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from osler.errors import SourceError
from osler.sources.process import Process
from osler.sources.slide_readers import OpenSlides, Reopened, open_files
from osler.sources.slides import MOST_SIDE, Box, SlideInfo

__all__ = ["SlideProcess"]

_MOST_LEVELS = 64
_FORMAT_LENGTH = 40


class SlideProcess(Reopened):
    """A slide in a process of its own.

    Parameters
    ----------
    paths, kind, slides
        As of `Reopened`.
    start : callable
        Starts a process that reads the slide: given the arguments of its program and the descriptors to hand over.
    end : callable
        Ends it.
    told : callable
        Makes what is wrong with a process the outcome of its file, while one asks.

    Raises
    ------
    SourceError
        As `osler.sources.slides.open_slide`; ``crashed``, ``too_slow``, ``too_large`` where its process comes to grief.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        kind: str,
        slides: OpenSlides,
        *,
        start: Callable[[list[str], Sequence[int]], Process],
        end: Callable[[Process], None],
        told: Callable[[Process], AbstractContextManager[None]],
    ) -> None:
        super().__init__(paths, kind, slides)
        self._start, self._end, self._told = start, end, told
        self._process: Process | None = None
        try:
            self.info = _info(self._ask({"op": "open"})[0], kind)
        except BaseException:
            self.close()
            raise
        slides.note(self)

    def _region(self, box: Box, width: int, height: int) -> NDArray[Any]:
        request = {"op": "region", "box": [int(side) for side in box], "width": width, "height": height}
        _, arrays = self._ask(request)
        if [(array.shape, array.dtype.str) for array in arrays] != [((height, width, 3), "|u1")]:
            self._shut()
            raise _wrong()
        return arrays[0]

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        process = self._process = self._process or self._started()
        try:
            with self._told(process):
                return process.ask(request | {"fresh": True}, b"", 0)
        finally:
            if not process.rests:
                self._shut()

    def _started(self) -> Process:
        if self.kind == "openslide":
            return self._start([self.kind, os.fspath(self.paths[0].absolute())], ())
        files = open_files(self.paths)
        try:
            self.check_same(files)
            return self._start([self.kind, *map(str, files)], files)
        finally:
            for file in files:
                os.close(file)

    def _shut(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._end(process)


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
