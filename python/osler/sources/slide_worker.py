"""The program of a process that reads one slide for another: boxes in, pixels out.

Started by `osler.sources.slide_process` and by nothing else. It gets the slide's files open, and is contained as
`osler.sources.worker` is; only OpenSlide, which opens files itself, is given a path and keeps the right to do so.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from numpy.typing import NDArray

from osler.errors import SourceError
from osler.sources.slide_open import open_slide
from osler.sources.slides import MOST_SIDE, Slide
from osler.sources.worker import _Worker, serve

__all__ = ["PROGRAM", "main"]

# What a caller runs: its number, a kind, and descriptors or a path.
PROGRAM = "from osler.sources.slide_worker import main; main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])"


def main(parent: int, kind: str, sources: Sequence[str]) -> None:
    """Answer requests until there are no more.

    Parameters
    ----------
    parent : int
        Process that asks; when it ends, so does this one.
    kind : {"tiff", "dicom", "openslide"}
    sources : sequence of str
        Numbers of the descriptors that the slide's files are open at, or under OpenSlide its path.
    """
    serve(parent, lambda: _load(kind), lambda requests, replies: _SlideWorker(requests, replies, kind, sources))


def _load(kind: str) -> None:
    # All that a tile may need, as no file can be opened once this process is contained.
    import PIL.Image
    import PIL.JpegImagePlugin

    _ = PIL.Image.new("RGB", (4, 4)).resize((2, 2)), PIL.JpegImagePlugin
    if kind == "dicom":
        from osler.sources.slide_dicom import load_dicom_decoders

        load_dicom_decoders()
    elif kind == "tiff":
        from osler.sources.slide_tiff import load_tiff_decoders

        load_tiff_decoders()
    else:
        with suppress(ImportError, OSError):
            import openslide

            _ = openslide


class _SlideWorker(_Worker):
    def __init__(self, requests: int, replies: int, kind: str, sources: Sequence[str]) -> None:
        super().__init__(requests, replies)
        self._kind, self._sources = kind, sources
        self._slide: Slide | None = None
        # What it keeps of the slide is bounded, so that it is not ended for having grown.
        self._open = ()

    def contain(self) -> bool:
        """Give up what reading the slide does not need."""
        if self._kind != "openslide":
            return super().contain()
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            resource.setrlimit(kind, (0, 0))
        return False

    def _done(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], Sequence[NDArray[Any]]]:
        if self._slide is None:
            self._slide = self._opened()
        if request["op"] == "open":
            info = self._slide.info
            about = {"format": info.format, "mpp": info.mpp, "levels": info.levels}
            return about | {"columns": info.columns, "identifiers": info.identifiers}, ()
        width, height = request["width"], request["height"]
        if not (0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE):
            raise SourceError("the region has no size that can be", code="too_large")
        return {}, (self._slide.region(tuple(request["box"]), width, height),)

    def _opened(self) -> Slide:
        if self._kind == "openslide":
            from osler.sources.slide_openslide import openslide_slide

            return openslide_slide(self._sources[0])
        return open_slide([os.fdopen(int(number), "rb") for number in self._sources], self._kind)
