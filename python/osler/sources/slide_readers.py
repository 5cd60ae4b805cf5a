"""Slides that are closed while nobody asks and opened again when somebody does, a few at a time.

Opens the files of slides for reading; what is in them is read here by `osler.sources.slides`, or by another process.
"""

from __future__ import annotations

import io
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from osler.errors import SourceError
from osler.sources.slide_open import open_slide
from osler.sources.slides import Box, Slide, SlideInfo

__all__ = ["OpenSlides", "Reopened", "SlideHere", "open_files"]


class Reopened(ABC):
    """A `SlideReader` that can be closed at any time: the next region opens it again.

    Parameters
    ----------
    paths : sequence of Path
        The files of the slide.
    kind : {"tiff", "dicom", "openslide"}
    slides : OpenSlides
        Those that are open with it.

    Attributes
    ----------
    info : SlideInfo

    Raises
    ------
    SourceError
        As `osler.sources.slides.open_slide`; ``changed`` where the files are others when they are opened again.
    """

    info: SlideInfo

    def __init__(self, paths: Sequence[Path], kind: str, slides: OpenSlides) -> None:
        self.paths, self.kind = tuple(paths), kind
        self._slides = slides
        self._lock = threading.Lock()
        self._stamps: list[tuple[int, ...]] | None = None

    def region(self, box: Box, width: int, height: int) -> NDArray[Any]:
        """Return a box of the slide at a size; see `osler.sources.slides.Slide.region`."""
        with self._lock:
            found = self._region(box, width, height)
        self._slides.note(self)
        return found

    def close(self) -> None:
        """Let go of the files; the next region opens them again."""
        with self._lock:
            self._shut()

    def close_if_idle(self) -> None:
        """Let go of the files unless a region is being read."""
        if self._lock.acquire(blocking=False):
            try:
                self._shut()
            finally:
                self._lock.release()

    def check_same(self, files: Sequence[int]) -> None:
        """Refuse files that are others than those that were opened first."""
        stamps: list[tuple[int, ...]] = [
            (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns) for state in map(os.fstat, files)
        ]
        if self._stamps is None:
            self._stamps = stamps
        elif self._stamps != stamps:
            raise SourceError("the slide was changed while it was read; add it again", code="changed")

    @abstractmethod
    def _region(self, box: Box, width: int, height: int) -> NDArray[Any]:
        """Open the slide if it is not, and read."""

    @abstractmethod
    def _shut(self) -> None:
        """Close it if it is open."""


class OpenSlides:
    """The slides of a decoder that are open: no more than so many, the last that were asked.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._open: list[Reopened] = []

    def note(self, slide: Reopened) -> None:
        """Take note that a slide is open, and close those that were not asked for longest."""
        with self._lock:
            self._open = [*(one for one in self._open if one is not slide), slide]
            left, self._open = self._open[: -self._most], self._open[-self._most :]
        for one in left:
            one.close_if_idle()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            left, self._open = self._open, []
        for one in left:
            one.close()


class SlideHere(Reopened):
    """A slide that is read in this process."""

    def __init__(self, paths: Sequence[Path], kind: str, slides: OpenSlides) -> None:
        super().__init__(paths, kind, slides)
        self._slide: Slide | None = self._opened()
        self.info = self._slide.info
        slides.note(self)

    def _region(self, box: Box, width: int, height: int) -> NDArray[Any]:
        if self._slide is None:
            self._slide = self._opened()
        return self._slide.region(box, width, height)

    def _opened(self) -> Slide:
        if self.kind == "openslide":
            from osler.sources.slide_openslide import openslide_slide

            return openslide_slide(os.fspath(self.paths[0]))
        files = open_files(self.paths)
        found = [io.BufferedReader(_File(number)) for number in files]
        self.check_same(files)
        return open_slide(found, self.kind)

    def _shut(self) -> None:
        slide, self._slide = self._slide, None
        if slide is not None:
            slide.close()


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
    >>> from osler.sources.slide_readers import open_files
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
