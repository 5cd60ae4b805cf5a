"""A picture as several: the whole of it and grids of crops, so that what is small in it can be found.

Pure arithmetic on sizes; reads no pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Multiscale"]

Box = tuple[int, int, int, int]

_MOST_GRID = 64


@dataclass(frozen=True, slots=True)
class Multiscale:
    """Crops of a picture at several scales, each a part of its item.

    Parameters
    ----------
    grids : tuple of int
        Square crops along the picture's shorter side, for each scale; 1 is the whole picture. Crops of one scale are as
        large as each other and cover the picture to its edges, overlapping a little more where they must.
    overlap : float
        Least share of a crop's side that it has in common with its neighbour, 0 to 0.9.
    nested : bool
        Every place of the finest grid gives a crop at each scale around one centre, moved inside the picture where it
        would reach over the edge; without it, each scale has a grid of its own.
    least : int
        Sides in pixels below which crops are not made: a picture too small for a grid goes without it.

    Raises
    ------
    ValueError
        A value cannot be.

    Examples
    --------
    >>> from osler.sources import Multiscale
    >>> Multiscale(grids=(1, 2)).boxes(400, 600)
    [(0, 0, 600, 400), (0, 0, 200, 200), (200, 0, 400, 200), (400, 0, 600, 200), \
(0, 200, 200, 400), (200, 200, 400, 400), (400, 200, 600, 400)]
    """

    grids: tuple[int, ...] = (1, 2)
    overlap: float = 0.0
    nested: bool = False
    least: int = 32

    def __post_init__(self) -> None:
        right = isinstance(self.grids, tuple) and self.grids
        if not right or any(type(one) is not int or not 1 <= one <= _MOST_GRID for one in self.grids):
            raise ValueError(f"grids is {self.grids!r:.40}; give whole numbers from 1 to {_MOST_GRID}, as in (1, 2, 4)")
        if type(self.overlap) not in (int, float) or not 0 <= self.overlap <= 0.9:
            raise ValueError(f"overlap is {self.overlap!r:.40}; give a share from 0 to 0.9")
        if type(self.least) is not int or self.least < 1:
            raise ValueError(f"least is {self.least!r:.40}; give a number of pixels of at least 1")

    @property
    def recipe(self) -> str:
        """What makes the crops of a picture, as a text."""
        return f"multiscale/1 {self.grids} {float(self.overlap)} {self.nested} {self.least}"

    def boxes(self, height: int, width: int) -> list[Box]:
        """Return left, top, right and bottom of each crop, scale by scale or, where nested, place by place.

        Parameters
        ----------
        height, width : int
            Of the picture.

        Returns
        -------
        list of tuple of int
            At least the whole picture, where no crop is large enough.
        """
        short = min(height, width)
        sides = {grid: math.ceil(short / grid) for grid in self.grids}
        grids = [grid for grid in dict.fromkeys(self.grids) if grid == 1 or sides[grid] >= self.least]
        if not grids:
            return [(0, 0, width, height)]
        if not self.nested:
            return [box for grid in grids for box in self._grid(grid, sides[grid], height, width)]
        finest = max(grids)
        found = []
        for left, top, right, bottom in self._grid(finest, sides[finest], height, width):
            for grid in grids:
                found.append(_around((left + right) / 2, (top + bottom) / 2, sides[grid], height, width))
        return list(dict.fromkeys(found))

    def _grid(self, grid: int, side: int, height: int, width: int) -> list[Box]:
        if grid == 1 and not self.nested:
            return [(0, 0, width, height)]
        return [
            (left, top, left + side, top + side)
            for top in _starts(height, side, self.overlap)
            for left in _starts(width, side, self.overlap)
        ]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where crops begin along one axis, spread evenly from edge to edge."""
    free = length - side
    count = 1 + math.ceil(free / (side * (1 - overlap)) - 1e-9)
    return [round(at * free / max(1, count - 1)) for at in range(count)]


def _around(x: float, y: float, side: int, height: int, width: int) -> Box:
    left = min(max(0, round(x - side / 2)), width - side)
    top = min(max(0, round(y - side / 2)), height - side)
    return left, top, left + side, top + side
