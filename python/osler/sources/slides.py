"""A whole slide: its levels, and any region of it at any size, read tile by tile in bounded memory.

`open_slide` takes the reader of a kind; readers give `Level`s and nothing else, and this file does the rest. Reads the
files that it is given, and never a level as a whole.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from osler.decode.quiet import cause, quiet
from osler.errors import SourceError

__all__ = ["MOST_SIDE", "Level", "Slide", "SlideInfo", "SlideReader"]

Box = tuple[int, int, int, int]

# Longest side of a slide and of a region that is asked for; a real slide has 200,000 pixels at most.
MOST_SIDE = 2**24
_MOST_LEVELS = 64
_MOST_TILE_PIXELS = 64 << 20
# Decoded tiles that are kept: a row of tiles across a slide of 100,000 pixels does not fit, neighbours do.
_KEPT_BYTES = 96 << 20
# A region is read at once up to so many pixels, and in bands above.
_BAND_PIXELS = 16 << 20
_MOST_REGION_PIXELS = 4_000_000_000
# Coarser levels stand in for a resolution up to this factor.
_MOST_SHRINK = 8.0
_SAME = 1.01
_WHITE = 255


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What is known of a slide without its pixels.

    Attributes
    ----------
    format : str
        ``svs``, ``tiff``, ``ome-tiff``, ``dicom``, or what OpenSlide calls it, as in ``openslide mirax``.
    width, height : int
        In pixels at its finest.
    mpp : tuple of float or None
        Micrometres per pixel at its finest, across and down, as the file states it.
    levels : tuple of (int, int)
        Width and height of each level, the finest first.
    columns : dict of str to value
        Of a DICOM slide, what may be stored of its header.
    identifiers : dict of str to str
        Raw identifiers, to be stored as pseudonyms only.
    """

    format: str
    width: int
    height: int
    mpp: tuple[float, float] | None
    levels: tuple[tuple[int, int], ...]
    columns: dict[str, Any] = field(default_factory=dict)
    identifiers: dict[str, str] = field(default_factory=dict)

    def check_level(self, mpp: tuple[float, float], wanted: float) -> None:
        """Refuse a resolution that no level is near: it would read far more pixels than it gives.

        Raises
        ------
        SourceError
            ``no_level``.

        Examples
        --------
        >>> from osler.sources.slides import SlideInfo
        >>> SlideInfo("tiff", 4096, 4096, (0.25, 0.25), ((4096, 4096),)).check_level((0.25, 0.25), 1.0)
        """
        shrink = wanted / min(mpp)
        nearest = max(d for d in (_downsample(self, level) for level in self.levels) if d <= max(shrink, 1.0) * _SAME)
        if shrink / nearest > _MOST_SHRINK:
            raise SourceError(
                f"the slide has no level near {wanted:g} micrometres per pixel, the nearest finer one has "
                f"{nearest * min(mpp):.4g}; ask for tiles at {_MOST_SHRINK * nearest * min(mpp):.3g} or finer, or add "
                "levels to the file",
                code="no_level",
            )


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a slide: a picture made of tiles.

    Attributes
    ----------
    width, height : int
    tile_width, tile_height : int
    read : callable
        Returns the tile of a row and a column as uint8 (h, w, 3), which at the lower and right edge may be cut; None
        where the file holds no pixels of it.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    read: Callable[[int, int], NDArray[Any] | None]


class SlideReader(Protocol):
    """What gives regions of a slide: in this process or in another."""

    info: SlideInfo

    def region(self, box: Box, width: int, height: int) -> NDArray[Any]:
        """Return a box of the slide at a size; see `Slide.region`."""

    def close(self) -> None:
        """Let go of the files, until the next region."""


class Slide:
    """A slide that is read in this process.

    Parameters
    ----------
    format : str
    levels : sequence of Level
        The finest first.
    mpp : tuple of float, optional
    columns, identifiers : dict
        As in `SlideInfo`.
    close : callable
        Lets go of the files.

    Raises
    ------
    SourceError
        ``bad_header``, ``too_large``: the levels are not those of a slide.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.sources.slides import Level, Slide
    >>> pixels = np.full((64, 64, 3), 90, np.uint8)
    >>> slide = Slide("tiff", [Level(64, 64, 64, 64, lambda row, column: pixels)], (0.5, 0.5))
    >>> slide.region((32, 0, 96, 64), 32, 32)[0, [0, 31], 0].tolist()
    [90, 255]
    """

    def __init__(
        self,
        format: str,
        levels: Sequence[Level],
        mpp: tuple[float, float] | None = None,
        *,
        columns: dict[str, Any] | None = None,
        identifiers: dict[str, str] | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        _check(levels)
        self._levels = tuple(levels)
        self._close = close
        self._kept: OrderedDict[tuple[int, int, int], NDArray[Any] | None] = OrderedDict()
        self._kept_bytes = 0
        sizes = tuple((level.width, level.height) for level in levels)
        self.info = SlideInfo(format, *sizes[0], mpp, sizes, columns or {}, identifiers or {})
        self._downsamples = [_downsample(self.info, size) for size in sizes]

    def region(self, box: Box, width: int, height: int) -> NDArray[Any]:
        """Return a box of the slide at a size, from the nearest level that is as fine or finer.

        Where that level has just these pixels they are returned as they are; else they are resampled with an
        antialiased cubic filter that sees nothing outside the box. Where the box reaches over the slide's edges, and
        where the file holds no pixels, it is white.

        Parameters
        ----------
        box : tuple of int
            Left, top, right, bottom in pixels of the slide at its finest.
        width, height : int
            Of the array that is returned.

        Returns
        -------
        ndarray (height, width, 3)
            uint8.

        Raises
        ------
        SourceError
            ``decode_failed``, ``truncated``, ``too_large``.
        """
        left, top, right, bottom = box
        scale = min((right - left) / width, (bottom - top) / height)
        at = max(i for i, d in enumerate(self._downsamples) if i == 0 or d <= scale * _SAME)
        level = self._levels[at]
        across, down = self.info.width / level.width, self.info.height / level.height
        if max(abs(across - self._downsamples[at]), abs(down - self._downsamples[at])) < 0.02 * across:
            across = down = self._downsamples[at]
        exact = (left / across, top / down, right / across, bottom / down)
        with quiet():
            return self._resampled(at, exact, width, height)

    def close(self) -> None:
        """Let go of the files and of the tiles that are kept."""
        self._kept.clear()
        self._close()

    def _resampled(self, at: int, exact: tuple[float, float, float, float], width: int, height: int) -> NDArray[Any]:
        from PIL import Image

        x0, y0, x1, y1 = (*map(math.floor, exact[:2]), *map(math.ceil, exact[2:]))
        factor = max(1, int(min((x1 - x0) / width, (y1 - y0) / height) / 2))
        whole = exact == (x0, y0, x1, y1) and (x1 - x0, y1 - y0) == (width, height)
        if (x1 - x0) * (y1 - y0) > _MOST_REGION_PIXELS:
            raise SourceError(
                "the slide has no level that is coarse enough for so large a region; add levels to the file",
                code="no_level",
            )
        if whole:
            return self._pixels(at, x0, y0, x1, y1)
        if (x1 - x0) * (y1 - y0) <= _BAND_PIXELS:
            shrunk, factor = Image.fromarray(self._pixels(at, x0, y0, x1, y1)), 1
        else:
            shrunk = self._reduced(at, (x0, y0, x1, y1), factor)
        inner = (exact[0] - x0, exact[1] - y0, exact[2] - x0, exact[3] - y0)
        inner = (
            inner[0] / factor,
            inner[1] / factor,
            min(inner[2] / factor, shrunk.width),
            min(inner[3] / factor, shrunk.height),
        )
        return np.array(shrunk.resize((width, height), Image.Resampling.BICUBIC, box=inner))

    def _reduced(self, at: int, box: Box, factor: int) -> Any:
        """Return a box of a level as means of squares of pixels, read in bands."""
        from PIL import Image

        x0, y0, x1, y1 = box
        rows = max(factor, _BAND_PIXELS // (x1 - x0) // factor * factor)
        bands = []
        for top in range(y0, y1, rows):
            band = Image.fromarray(self._pixels(at, x0, top, x1, min(top + rows, y1)))
            bands.append(np.asarray(band.reduce(factor)))
        return Image.fromarray(np.concatenate(bands))

    def _pixels(self, at: int, x0: int, y0: int, x1: int, y1: int) -> NDArray[Any]:
        """Return whole pixels of a level, white outside it."""
        level = self._levels[at]
        found = np.full((y1 - y0, x1 - x0, 3), _WHITE, np.uint8)
        inside = max(x0, 0), max(y0, 0), min(x1, level.width), min(y1, level.height)
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            return found
        for row in range(inside[1] // level.tile_height, (inside[3] - 1) // level.tile_height + 1):
            for column in range(inside[0] // level.tile_width, (inside[2] - 1) // level.tile_width + 1):
                tile = self._tile(at, row, column)
                if tile is None:
                    continue
                top, left = row * level.tile_height, column * level.tile_width
                upper, lower = max(inside[1], top), min(inside[3], top + tile.shape[0])
                begin, end = max(inside[0], left), min(inside[2], left + tile.shape[1])
                if upper < lower and begin < end:
                    piece = tile[upper - top : lower - top, begin - left : end - left]
                    found[upper - y0 : lower - y0, begin - x0 : end - x0] = piece
        return found

    def _tile(self, at: int, row: int, column: int) -> NDArray[Any] | None:
        """Return a tile of a level, from those that are kept or from the file."""
        place = (at, row, column)
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        try:
            tile = self._levels[at].read(row, column)
        except (SourceError, MemoryError):
            raise
        except Exception as error:
            raise SourceError(
                "a tile of the slide cannot be decoded; get a whole copy of the file", code="decode_failed"
            ) from cause(error)
        self._kept[place] = tile
        self._kept_bytes += 0 if tile is None else tile.nbytes
        while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= 0 if oldest is None else oldest.nbytes
        return tile


def _downsample(info: SlideInfo, level: tuple[int, int]) -> float:
    """Return how many pixels of the finest level one of a level stands for.

    Writers cut what does not fill a pixel, so a whole number is meant where it is off by less than one.
    """
    ratio = info.width / level[0], info.height / level[1]
    whole = round(min(ratio))
    off = max(abs(info.width / whole - level[0]), abs(info.height / whole - level[1]))
    return float(whole) if off <= 1.0 else sum(ratio) / 2


def _check(levels: Sequence[Level]) -> None:
    if not levels or len(levels) > _MOST_LEVELS:
        raise SourceError(
            f"the slide has {len(levels)} levels, 1 to {_MOST_LEVELS} can be; get a whole copy of the file",
            code="bad_header",
        )
    for level in levels:
        if not (0 < level.width <= MOST_SIDE and 0 < level.height <= MOST_SIDE):
            raise SourceError(
                f"the slide has a level of {level.width} x {level.height} pixels, sides of 1 to {MOST_SIDE} can be",
                code="too_large" if level.width > 0 and level.height > 0 else "bad_header",
            )
        if level.tile_width < 1 or level.tile_height < 1:
            raise SourceError("the slide states tiles without pixels; get a whole copy of the file", code="bad_header")
        if level.tile_width * level.tile_height > _MOST_TILE_PIXELS:
            raise SourceError(
                f"the slide is not stored in tiles, or in tiles of {level.tile_width} x {level.tile_height} pixels, "
                f"above {_MOST_TILE_PIXELS}; write it again in tiles of 256 x 256",
                code="too_large",
            )
