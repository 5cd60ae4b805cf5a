"""Pictures into parts: crops at several scales, or regions cut out or under masks, each read when it is asked for.

Holds the frames that it is given; reads no file itself.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np

from osler.config import LIMITS
from osler.errors import SourceError
from osler.items import Item, Locator, MaskedPicture, Part
from osler.sources.multiscale import Multiscale
from osler.sources.regions import Region, Regions, crop_region, grow_box

__all__ = ["Parting", "cropped", "parting_of"]

Parting = Multiscale | Regions


def parting_of(given: Parting | str | None) -> Parting | None:
    """Return how pictures are made into parts: as it is given, by name, or not at all.

    Examples
    --------
    >>> from osler.sources.crops import parting_of
    >>> parting_of("multiscale").grids, parting_of("whole")
    ((1, 2), None)
    """
    if given is None or isinstance(given, Multiscale | Regions):
        return given
    if given == "multiscale":
        return Multiscale()
    if given == "whole":
        return None
    raise ValueError(f"parts is {given!r:.40}; give 'whole', 'multiscale', or osler.sources.Multiscale or Regions")


def cropped(item: Item, parting: Parting) -> Item:
    """Return an item of pictures with crops of them as its parts; one without any is returned as it is.

    Raises
    ------
    SourceError
        ``bad_region``; ``too_large`` where an item would have more parts than the limit of frames.
    """
    places: list[tuple[int, Region]] = []
    named: str | None = None
    if isinstance(parting, Regions):
        named = item.locator if item.locator in {*parting.boxes, *parting.masks} else item.key
        if named not in {*parting.boxes, *parting.masks}:
            return item
        if len(item.values) != 1:
            raise SourceError("regions are of pictures of one frame, and the file has more", code="bad_region")
        height, width = np.shape(item.values[0])[:2]
        regions = parting.of(str(named), height, width)
        places = [(0, Region((0, 0, width, height)))] if parting.whole or not regions else []
        places += [(0, region) for region in regions]
        margin, background = parting.margin, parting.background
    else:
        for frame, part in enumerate(item.parts):
            if part.kind != "image":
                return item
            # Frames of one file are alike, and asking each for its size may decode it.
            if frame == 0:
                height, width = np.shape(item.values[0])[:2]
            places += [(frame, Region(box)) for box in parting.boxes(height, width)]
        margin, background = 0.0, "keep"
    if len(places) > LIMITS.tiles:
        raise SourceError(
            f"the file would have {len(places)} parts, the limit is {LIMITS.tiles}; take fewer crops, or set "
            "OSLER_LIMIT_TILES",
            code="too_large",
        )
    parts = tuple(
        Part(
            position=at, locator=_locator(item.parts[frame], grow_box(region.box, margin, height, width), height, width)
        )
        for at, (frame, region) in enumerate(places)
    )
    # The key of a DICOM file is made of its content.
    recipe = parting.recipe(str(named)) if isinstance(parting, Regions) else parting.recipe
    content = item.content if item.key is None else item.content + b"\0" + recipe.encode()
    masked = isinstance(parting, Regions) and parting.vectors == "tokens"
    values = _Crops(item.values, places, margin, background, masked)
    return replace(item, values=values, parts=parts, content=content)


class _Crops(Sequence[Any]):
    """Regions of frames, cut out or under masks; the last frame that was asked for is kept."""

    def __init__(
        self,
        frames: Sequence[Any],
        places: Sequence[tuple[int, Region]],
        margin: float,
        background: Any,
        masked: bool = False,
    ) -> None:
        self._frames, self._places = frames, places
        self._margin, self._background, self.masked = margin, background, masked
        self._lock = threading.Lock()
        self._last: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Bytes of the frames that are in memory."""
        return sum(frame.nbytes for frame in self._frames) if isinstance(self._frames, tuple) else 0

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        frame, region = self._places[index]
        with self._lock:
            if self._last is None or self._last[0] != frame:
                self._last = (frame, self._frames[frame])
            picture = self._last[1]
        height, width = np.shape(picture)[:2]
        if height < region.box[3] or width < region.box[2]:
            raise SourceError("the frames of the file differ in size; add it without parts", code="bad_region")
        if self.masked and (region.mask is not None or region.box != (0, 0, width, height)):
            left, top, right, bottom = region.box
            everywhere = np.broadcast_to(np.True_, (bottom - top, right - left))
            mask = everywhere if region.mask is None else region.mask[top:bottom, left:right]
            return MaskedPicture(picture, mask, region.box)
        found = crop_region(picture, region.box, mask=region.mask, margin=self._margin, background=self._background)
        found.setflags(write=False)
        return found


def _locator(part: Part, box: tuple[int, int, int, int], height: int, width: int) -> Locator:
    """Return where a crop lies; the whole of a frame has no box."""
    return Locator(frame=part.locator.frame, box=None if box == (0, 0, width, height) else box)
