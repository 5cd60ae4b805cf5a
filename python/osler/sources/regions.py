"""Regions of pictures, from boxes and from masks: cropped with a margin, or as masks over the whole.

Pure functions of arrays, and the option that makes regions the parts of items; reads no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from osler.errors import SourceError

__all__ = ["Region", "Regions", "box_of", "crop_region", "grow_box"]

Box = tuple[int, int, int, int]
Background = Literal["keep", "zero"]
From = Literal["crop", "tokens"]


class Region(NamedTuple):
    """A region of a picture: its box, and where in the picture it is, if that is known."""

    box: Box
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Regions:
    """Boxes and masks of pictures, each a part of its picture's item.

    Parameters
    ----------
    boxes : mapping of str to sequence of boxes
        Left, top, right, bottom in pixels, right and bottom outside, under the picture's path below the source.
    masks : mapping of str to ndarray
        (H, W) of bool, one region, or of whole numbers, a region for each value but 0; (n, H, W) of bool, one each.
    margin : float
        Share of a box's width and height that is added on each side, as far as the picture goes.
    background : {"keep", "zero"}
        What is outside the mask, or outside the box before its margin where there is no mask: as it is, or 0.
    whole : bool
        The whole picture is a part as well, the first one.
    vectors : {"crop", "tokens"}
        What a region's vector is made of: the region cut out, or the patch tokens under it of a model that saw the
        whole picture, see `osler.items.MaskedPicture`; the latter has neither margin nor background.

    Raises
    ------
    ValueError
        `margin`, `background` or `vectors` cannot be.

    Examples
    --------
    >>> from osler.sources import Regions
    >>> Regions(boxes={"a.png": [(10, 10, 40, 40)]}, margin=0.1)
    <osler Regions of 1 pictures>
    >>> Regions(boxes={"a.png": [(10, 10, 40, 40)]}).of("a.png", height=50, width=50)[0].box
    (10, 10, 40, 40)
    >>> Regions().recipe("a.png")
    'regions/1 []  0.0 keep False'
    """

    boxes: Mapping[str, Sequence[Box]] = field(default_factory=lambda: MappingProxyType({}))
    masks: Mapping[str, NDArray[Any]] = field(default_factory=lambda: MappingProxyType({}))
    margin: float = 0.0
    background: Background = "keep"
    whole: bool = False
    vectors: From = "crop"

    def __post_init__(self) -> None:
        if type(self.margin) not in (int, float) or not 0 <= self.margin <= 10:
            raise ValueError(f"margin is {self.margin!r:.40}; give a share of the box from 0 to 10")
        if self.background not in ("keep", "zero"):
            raise ValueError(f"background is {self.background!r:.40}; choose keep or zero")
        if self.vectors not in ("crop", "tokens"):
            raise ValueError(f"vectors is {self.vectors!r:.40}; choose crop or tokens")
        if self.vectors == "tokens" and (self.margin or self.background != "keep"):
            raise ValueError("margin and background are of crops; leave them out, or choose vectors='crop'")

    def __repr__(self) -> str:
        return f"<osler Regions of {len({*self.boxes, *self.masks})} pictures>"

    def recipe(self, name: str) -> str:
        """Return what makes the regions of a picture, as a text."""
        boxes = [tuple(map(int, box)) for box in self.boxes.get(name, ())]
        mask = np.ascontiguousarray(self.masks[name]) if name in self.masks else None
        digest = "" if mask is None else hashlib.sha256(mask.tobytes() + str(mask.dtype).encode()).hexdigest()
        made = " tokens" if self.vectors == "tokens" else ""
        return f"regions/1 {boxes} {digest} {float(self.margin)} {self.background} {self.whole}{made}"

    def of(self, name: str, height: int, width: int) -> list[Region]:
        """Return the regions of a picture, boxes first.

        Raises
        ------
        SourceError
            ``bad_region``: one is not inside the picture, or a mask is not of its size or is empty.
        """
        found = [Region(_box(box, number, height, width)) for number, box in enumerate(self.boxes.get(name, ()), 1)]
        if name in self.masks:
            found.extend(Region(box_of(mask), mask) for mask in _masks(self.masks[name], height, width))
        return found


def box_of(mask: NDArray[Any]) -> Box:
    """Return the least box that holds all of a mask.

    Parameters
    ----------
    mask : ndarray (H, W)

    Raises
    ------
    SourceError
        ``bad_region``: it is empty.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.sources.regions import box_of
    >>> mask = np.zeros((10, 10), bool)
    >>> mask[2:5, 3:9] = True
    >>> box_of(mask)
    (3, 2, 9, 5)
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise SourceError("a mask of the picture is empty; leave it out", code="bad_region")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def grow_box(box: Box, margin: float, height: int, width: int) -> Box:
    """Return a box with a share of its width and height added on each side, as far as the picture goes.

    Examples
    --------
    >>> from osler.sources.regions import grow_box
    >>> grow_box((10, 10, 30, 20), 0.5, height=100, width=100)
    (0, 5, 40, 25)
    """
    left, top, right, bottom = box
    across, down = round((right - left) * margin), round((bottom - top) * margin)
    return max(0, left - across), max(0, top - down), min(width, right + across), min(height, bottom + down)


def crop_region(
    picture: NDArray[Any],
    box: Box,
    *,
    mask: NDArray[Any] | None = None,
    margin: float = 0.0,
    background: Background = "keep",
) -> NDArray[Any]:
    """Return a region of a picture.

    Parameters
    ----------
    picture : ndarray (H, W) or (H, W, 3)
    box : tuple of int
        Left, top, right, bottom, inside the picture.
    mask : ndarray (H, W), optional
        Where in the picture the region is.
    margin : float
        Share of the box's width and height that is added on each side, as far as the picture goes.
    background : {"keep", "zero"}
        What is outside the mask, or without one outside `box`: as it is, or 0.

    Returns
    -------
    ndarray (h, w) or (h, w, 3)
        A view where the background is kept, else a copy.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.sources.regions import crop_region
    >>> crop_region(np.full((9, 9), 7, np.uint8), (3, 3, 5, 5), margin=0.5, background="zero").tolist()
    [[0, 0, 0, 0], [0, 7, 7, 0], [0, 7, 7, 0], [0, 0, 0, 0]]
    """
    left, top, right, bottom = grow_box(box, margin, *picture.shape[:2])
    found: NDArray[Any] = picture[top:bottom, left:right]
    if background == "keep":
        return found
    if mask is not None:
        inside = np.asarray(mask, bool)[top:bottom, left:right]
    else:
        inside = np.zeros(found.shape[:2], bool)
        inside[box[1] - top : box[3] - top, box[0] - left : box[2] - left] = True
    return np.where(inside if found.ndim == 2 else inside[:, :, None], found, np.zeros((), found.dtype))


def _box(given: Any, number: int, height: int, width: int) -> Box:
    try:
        left, top, right, bottom = (int(side) for side in given)
    except (TypeError, ValueError):
        raise SourceError(
            f"box {number} of the picture is not four numbers; give left, top, right, bottom", code="bad_region"
        ) from None
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise SourceError(
            f"box {number} of the picture is ({left}, {top}, {right}, {bottom}), and the picture {width} x {height}; "
            "give left, top, right, bottom inside it",
            code="bad_region",
        )
    return left, top, right, bottom


def _masks(given: Any, height: int, width: int) -> list[NDArray[np.bool_]]:
    masks = np.asarray(given)
    if masks.ndim not in (2, 3) or masks.shape[-2:] != (height, width) or masks.dtype.kind not in "bui":
        raise SourceError(
            f"a mask has shape {masks.shape} and type {masks.dtype}, and its picture is ({height}, {width}); give one "
            "of its size, of bool or of whole numbers",
            code="bad_region",
        )
    if masks.ndim == 3:
        return [one != 0 for one in masks]
    return [masks == value for value in np.unique(masks) if value]
