"""Which tiles of a slide are wanted, and where they lie: size, micrometres per pixel, stride, least share of tissue.

Pure arithmetic on sizes and a mask; reads no pixel. Magnification is told as its resolution by the convention that
20x is 0.5 micrometres per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS
from osler.errors import SourceError

__all__ = ["Grid", "Tiles", "mpp_of", "place_tiles"]

# Micrometres per pixel times magnification.
_MPP_TIMES_MAGNIFICATION = 10.0
_MOST_MPP, _LEAST_MPP = 100.0, 0.01
_MOST_SIZE = 8_192
# A slide at 0.2533 serves tiles at 0.25: scanners of one magnification differ by some percent.
_ENLARGED = 1.1
# Places that a grid may have before tissue is asked for.
_MOST_PLACES = 20_000_000


def mpp_of(magnification: float) -> float:
    """Return the micrometres per pixel of a magnification: 20x is 0.5, 40x is 0.25.

    Examples
    --------
    >>> from osler.sources.tiles import mpp_of
    >>> mpp_of(20), mpp_of(40)
    (0.5, 0.25)
    """
    return _MPP_TIMES_MAGNIFICATION / magnification


@dataclass(frozen=True, slots=True)
class Tiles:
    """How slides are cut into tiles, each a part of its slide's item.

    Parameters
    ----------
    size : int
        Rows and columns of a tile in pixels, as the encoder was trained: 224 for most, 448 for CONCH, 1000 for
        KimiaNet.
    mpp : float or tuple of float
        Micrometres per pixel of the tiles; 0.5 is 20x. Of several, the grid is that of the first, and each of its
        places gives a tile at each resolution around one centre.
    stride : int, optional
        Pixels from one tile to the next; by default `size`, so that tiles do not overlap.
    tissue : float
        Share of a tile, 0 to 1, that must be tissue; 0 takes all tiles and looks for no tissue.
    border : {"pad", "drop"}
        Tiles that reach over the right and lower edge: with white where there is no slide, or left out. A slide that is
        smaller than a tile gives one under "pad" and none under "drop".
    slide_mpp : float, optional
        Micrometres per pixel of the slides at their finest, for those that do not state it or state it wrongly; a
        column slide_mpp of a table or of the metadata says it slide by slide.
    most : int, optional
        Tiles of one slide at most, spread evenly over those with tissue; by default all of them, and a slide that has
        more than the limit `OSLER_LIMIT_TILES` is refused.
    reader : {"auto", "own", "openslide"}
        What reads the slides: "auto" takes OpenSlide, where it is installed, for formats that Osler's own reader does
        not take.

    Raises
    ------
    ValueError
        A value cannot be.

    Examples
    --------
    >>> from osler.sources import Tiles
    >>> Tiles(size=448, mpp=0.5, tissue=0.25).describe()
    '448 x 448 pixels at 0.5 micrometres per pixel (20x), tissue 0.25'
    """

    size: int = 224
    mpp: float | tuple[float, ...] = 0.5
    stride: int | None = None
    tissue: float = 0.5
    border: Literal["pad", "drop"] = "pad"
    slide_mpp: float | None = None
    most: int | None = None
    reader: Literal["auto", "own", "openslide"] = "auto"

    def __post_init__(self) -> None:
        for name, most in (("size", _MOST_SIZE), ("stride", _MOST_SIZE), ("most", LIMITS.tiles)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 1 <= value <= most):
                raise ValueError(f"{name} of tiles is {value!r:.40}; give a whole number from 1 to {most}")
        for value in (*self.resolutions, *([] if self.slide_mpp is None else [self.slide_mpp])):
            if not _is_number(value) or not _LEAST_MPP <= value <= _MOST_MPP:
                raise ValueError(f"mpp is {value!r:.40}; give micrometres per pixel, such as 0.5 for 20x")
        if not self.resolutions:
            raise ValueError("mpp of tiles is empty; give micrometres per pixel, such as 0.5 for 20x")
        if not _is_number(self.tissue) or not 0 <= self.tissue <= 1:
            raise ValueError(f"tissue of tiles is {self.tissue!r:.40}; give a share from 0 to 1")
        for name, allowed in (("border", ("pad", "drop")), ("reader", ("auto", "own", "openslide"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} of tiles is {getattr(self, name)!r:.40}; choose {' or '.join(allowed)}")

    @classmethod
    def parse(cls, text: str) -> Tiles:
        """Return what a text such as ``224@0.5``, ``1000@20x`` or ``224@0.5,stride=112,tissue=0.25`` asks for.

        Several resolutions are parted by a plus sign: ``224@0.5+1.0``.

        Raises
        ------
        ValueError
            It is no such text.

        Examples
        --------
        >>> from osler.sources import Tiles
        >>> Tiles.parse("1000@20x,tissue=0.7")
        Tiles(size=1000, mpp=0.5, stride=None, tissue=0.7, border='pad', slide_mpp=None, most=None, reader='auto')
        """
        head, *rest = text.replace(" ", "").split(",")
        size, _, resolutions = head.partition("@")
        try:
            found = tuple(mpp_of(float(one[:-1])) if one[-1:] in "xX" else float(one) for one in resolutions.split("+"))
            given: dict[str, Any] = {"size": int(size), "mpp": found if len(found) > 1 else found[0]}
            for pair in rest:
                name, _, value = pair.partition("=")
                given[name] = _OPTIONS[name](value)
            return cls(**given)
        except (KeyError, ZeroDivisionError):
            raise ValueError(_not_parsed(text)) from None
        except ValueError as error:
            if str(error).startswith(("could not convert", "invalid literal")):
                raise ValueError(_not_parsed(text)) from None
            raise

    @classmethod
    def of(cls, given: Tiles | str | None) -> Tiles | None:
        """Return tiles that were given as such, as a text for `parse`, or not at all.

        Examples
        --------
        >>> from osler.sources import Tiles
        >>> Tiles.of("224@20x") == Tiles(), Tiles.of(None)
        (True, None)
        """
        if given is None or isinstance(given, Tiles):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        raise TypeError(f"tiles is a {type(given).__name__}; give osler.sources.Tiles or a text such as '224@0.5'")

    @property
    def resolutions(self) -> tuple[float, ...]:
        """Micrometres per pixel, the one of the grid first."""
        return tuple(self.mpp) if isinstance(self.mpp, tuple | list) else (self.mpp,)

    @property
    def recipe(self) -> str:
        """What makes the tiles of a slide, as a text: equal texts give equal tiles of equal slides."""
        pairs = [f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.name != "mpp"]
        return f"tiles/1 mpp={tuple(map(float, self.resolutions))} {' '.join(pairs)}"

    def describe(self) -> str:
        """Return the size, the resolutions and the least share of tissue in words."""
        each = " and ".join(f"{one:g}" for one in self.resolutions)
        magnification = _MPP_TIMES_MAGNIFICATION / self.resolutions[0]
        overlap = "" if self.stride in (None, self.size) else f", stride {self.stride}"
        return (
            f"{self.size} x {self.size} pixels at {each} micrometres per pixel ({magnification:g}x){overlap}, "
            f"tissue {self.tissue:g}"
        )

    def with_slide_mpp(self, cells: Mapping[str, Any]) -> Tiles:
        """Return these tiles with what a table says of one slide in a column slide_mpp.

        Examples
        --------
        >>> from osler.sources import Tiles
        >>> Tiles().with_slide_mpp({"slide_mpp": "0.25"}).slide_mpp
        0.25
        """
        value = cells.get("slide_mpp")
        if value is None or value == "":
            return self
        try:
            return Tiles(
                **{field.name: getattr(self, field.name) for field in fields(self)} | {"slide_mpp": float(value)}
            )
        except (TypeError, ValueError):
            raise SourceError(
                "the column slide_mpp holds no micrometres per pixel for the slide; give a number such as 0.25",
                code="no_mpp",
            ) from None


_OPTIONS: dict[str, Any] = {
    "stride": int,
    "tissue": float,
    "border": str,
    "slide_mpp": float,
    "most": int,
    "reader": str,
}


class Grid(NamedTuple):
    """Where the tiles of one slide lie.

    Attributes
    ----------
    boxes : ndarray (n, 4)
        int64: left, top, right, bottom in pixels of the slide at its finest. Boxes may reach over the slide's edges.
    found : int
        Tiles with enough tissue, before `Tiles.most` chose among them.
    """

    boxes: NDArray[np.int64]
    found: int


def place_tiles(
    tiles: Tiles, width: int, height: int, mpp: tuple[float, float], mask: NDArray[np.bool_] | None
) -> Grid:
    """Return where tiles lie on a slide: a grid from its upper left corner, those with enough tissue, row by row.

    A tile's box is rounded to whole pixels of the slide, and is all that the tile is made of. Its share of tissue is
    the exact area of the mask in the box; what lies over the slide's edge counts as none.

    Parameters
    ----------
    tiles : Tiles
    width, height : int
        Of the slide at its finest.
    mpp : tuple of float
        Micrometres per pixel of the slide at its finest, across and down.
    mask : ndarray (h, w) or None
        bool: where there is tissue; it spans the whole slide. None takes every tile.

    Returns
    -------
    Grid

    Raises
    ------
    SourceError
        ``no_level``: the tiles would have to be enlarged; ``no_tissue``; ``too_large``: there are more than the limit.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.sources import Tiles
    >>> from osler.sources.tiles import place_tiles
    >>> mask = np.zeros((4, 8), bool)
    >>> mask[:2, 4:6] = True
    >>> place_tiles(Tiles(size=100, mpp=1.0), 800, 400, (0.5, 0.5), mask).boxes.tolist()
    [[400, 0, 600, 200]]
    """
    finest = max(mpp)
    if min(tiles.resolutions) * _ENLARGED < finest:
        raise SourceError(
            f"the slide has {finest:.4g} micrometres per pixel at its finest, and tiles at {min(tiles.resolutions):g} "
            "would be enlarged; ask for tiles at that resolution or coarser",
            code="no_level",
        )
    sides = tuple(tiles.size * tiles.resolutions[0] / one for one in mpp)
    steps = tuple((tiles.stride or tiles.size) * tiles.resolutions[0] / one for one in mpp)
    lefts, rights = _places(width, sides[0], steps[0], tiles.border)
    tops, bottoms = _places(height, sides[1], steps[1], tiles.border)
    if len(lefts) * len(tops) > _MOST_PLACES:
        raise SourceError(
            f"the slide has places for more than {_MOST_PLACES} tiles; take larger tiles, a larger stride or a coarser "
            "resolution",
            code="too_large",
        )
    if not len(lefts) or not len(tops):
        raise SourceError("the slide is smaller than a tile; take smaller tiles, or border='pad'", code="no_tiles")
    rows, columns = _chosen(tiles, (tops, bottoms), (lefts, rights), width, height, mask)
    found = len(rows)
    each = len(tiles.resolutions)
    most = max(1, (tiles.most or LIMITS.tiles) // each)
    if tiles.most is None and found > most:
        raise SourceError(
            f"the slide has {found * each} tiles, the limit is {LIMITS.tiles}; take a larger stride, a coarser "
            "resolution or a number with most=, or set OSLER_LIMIT_TILES",
            code="too_large",
        )
    if found > most:
        spread = np.arange(most) * found // most
        rows, columns = rows[spread], columns[spread]
    boxes = np.stack((lefts[columns], tops[rows], rights[columns], bottoms[rows]), axis=1)
    return Grid(_at_each(boxes, tiles, mpp), found)


def _places(length: int, side: float, step: float, border: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where tiles begin and end along one axis."""
    free = length - side
    # A tile that reaches over the edge by less than half a pixel is inside.
    whole = math.floor((free + 0.5) / step) + 1 if free >= -0.5 else 0
    count = whole if border == "drop" else max(1, math.ceil((free - 0.5) / step) + 1)
    starts = np.arange(min(count, _MOST_PLACES + 1)) * step
    return np.rint(starts).astype(np.int64), np.maximum(np.rint(starts + side), np.rint(starts) + 1).astype(np.int64)


def _chosen(
    tiles: Tiles,
    down: tuple[NDArray[np.int64], NDArray[np.int64]],
    across: tuple[NDArray[np.int64], NDArray[np.int64]],
    width: int,
    height: int,
    mask: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows and columns of the grid whose tiles have enough tissue."""
    if mask is None or tiles.tissue == 0:
        grid = np.ones((len(down[0]), len(across[0])), bool)
    else:
        # The area of a mask of pixels is linear between their edges, so this is exact.
        area = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
        area[1:, 1:] = mask.cumsum(0).cumsum(1)
        area = _at(area, down[1] * (mask.shape[0] / height)) - _at(area, down[0] * (mask.shape[0] / height))
        area = area.T
        area = _at(area, across[1] * (mask.shape[1] / width)) - _at(area, across[0] * (mask.shape[1] / width))
        sizes = np.outer(across[1] - across[0], down[1] - down[0]) * (mask.size / (width * height))
        # Sums of many numbers are a little off; a tile that is all tissue has a share of 1.
        grid = (area / sizes >= tiles.tissue - 1e-9).T
    rows, columns = np.nonzero(grid)
    if not len(rows):
        raise SourceError(
            f"no tile of the slide is tissue to {tiles.tissue:g} or more; check its staining, or take all tiles with "
            "tissue=0",
            code="no_tissue",
        )
    return rows, columns


def _at(area: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows of a summed area at places between rows; beyond the last row nothing is added."""
    places = np.minimum(places, area.shape[0] - 1)
    low = np.minimum(places.astype(np.int64), area.shape[0] - 2)
    share = (places - low)[:, None]
    found: NDArray[np.float64] = area[low] * (1 - share) + area[low + 1] * share
    return found


def _at_each(boxes: NDArray[np.int64], tiles: Tiles, mpp: tuple[float, float]) -> NDArray[np.int64]:
    """Return for each box one at each resolution, around its centre."""
    if len(tiles.resolutions) == 1:
        return boxes
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    each = [boxes]
    for resolution in tiles.resolutions[1:]:
        half = np.array([tiles.size * resolution / one / 2 for one in mpp])
        starts = np.rint(centres - half).astype(np.int64)
        each.append(np.concatenate((starts, starts + np.maximum(1, np.rint(2 * half)).astype(np.int64)), axis=1))
    return np.stack(each, axis=1).reshape(-1, 4)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _not_parsed(text: str) -> str:
    return (
        f"tiles is {text[:60]!r}; give SIZE@MPP or SIZE@MAGNIFICATIONx, such as 224@0.5 or 1000@20x, and after commas "
        f"any of {', '.join(_OPTIONS)}, as in 224@0.5,stride=112"
    )
