"""Slides that OpenSlide reads, where it is installed: MRXS, NDPI, SCN, BIF and what else its version knows.

Calls the package openslide-python (LGPL-2.1, as the library that it loads), which opens files by their path itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.decode.quiet import cause
from osler.errors import SourceError
from osler.sources.slides import Level, Slide

__all__ = ["has_openslide", "openslide_slide"]

_TILE = 512
_LEAST_MPP, _MOST_MPP = 0.02, 20.0


def has_openslide() -> bool:
    """Tell whether OpenSlide can be loaded.

    Examples
    --------
    >>> from osler.sources.slide_openslide import has_openslide
    >>> has_openslide() in (True, False)
    True
    """
    try:
        import openslide
    except (ImportError, OSError):
        return False
    return openslide is not None


def openslide_slide(path: str) -> Slide:
    """Open a slide with OpenSlide.

    Raises
    ------
    SourceError
        ``missing_decoder``, ``bad_header`` or ``unsupported_format``.
    """
    try:
        import openslide
    except (ImportError, OSError):
        raise SourceError(
            "the slide is of a format that OpenSlide reads, which is not installed; run pip install openslide-python "
            "openslide-bin",
            code="missing_decoder",
        ) from None
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SourceError(
            "the slide is of a format that OpenSlide does not read; convert it to a tiled pyramid in TIFF",
            code="unsupported_format",
        ) from cause(error)
    except Exception as error:
        raise SourceError(
            "the slide cannot be read, OpenSlide finds it damaged; get a whole copy of the file", code="bad_header"
        ) from cause(error)
    vendor = str(slide.properties.get("openslide.vendor", "slide"))
    levels = [_level(slide, number) for number in range(slide.level_count)]
    mpp = _mpp(slide.properties)
    return Slide(f"openslide {vendor}"[:40], levels, mpp, close=slide.close)


def _level(slide: Any, number: int) -> Level:
    width, height = slide.level_dimensions[number]
    downsample = slide.level_downsamples[number]

    def read(row: int, column: int) -> NDArray[Any]:
        left, top = column * _TILE, row * _TILE
        size = min(_TILE, width - left), min(_TILE, height - top)
        place = round(left * downsample), round(top * downsample)
        found = np.asarray(slide.read_region(place, number, size))
        # Where a scanner saw nothing there is no colour and no opacity: glass.
        alpha = found[:, :, 3:].astype(np.uint16)
        shown: NDArray[Any] = ((found[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        return shown

    return Level(int(width), int(height), _TILE, _TILE, read)


def _mpp(properties: Any) -> tuple[float, float] | None:
    try:
        found = float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"])
    except (KeyError, ValueError):
        return None
    return found if all(_LEAST_MPP <= one <= _MOST_MPP for one in found) else None
