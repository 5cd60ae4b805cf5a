"""A slide as an item: its tissue found, its tiles placed, and each tile read when it is asked for.

Reads the slide through a decoder. Memory is bounded by a small picture of the slide and a few tiles that are read
ahead; a tile that cannot be read is told and left out, and costs the slide only where there are many of them.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from osler.errors import SourceError
from osler.items import Item, Locator, Part
from osler.sources.images import Entry
from osler.sources.slide_kind import SlideKind, companions
from osler.sources.slides import SlideInfo, SlideReader
from osler.sources.tiles import Tiles, place_tiles

if TYPE_CHECKING:
    from osler.sources.decoder import Decoder

__all__ = ["SlideTiles", "slide_content", "slide_item"]

_PIECE_BYTES = 4 << 20
# Micrometres that a pixel of the picture shows on which tissue is looked for, and the most pixels of it.
_TISSUE_UM, _TISSUE_PIXELS = 8.0, 4_000_000
# A tile's share of tissue is told from this many pixels across it at least.
_PIXELS_OF_A_TILE = 16
_AHEAD_TILES, _AHEAD_BYTES = 16, 64 << 20
# Of a slide's tiles, the share that may be unreadable.
_UNREADABLE = 0.05
_OF_A_TILE = ("decode_failed", "crashed", "too_slow", "too_large", "truncated")


def slide_content(entry: Entry, tiles: Tiles) -> bytes:
    """Return a digest of the files of a slide and of how it is tiled, by which an item of it is known again.

    Raises
    ------
    SourceError
        ``unreadable``.
    """
    digest = hashlib.sha256()
    paths = list(entry.members or (entry.path,))
    for folder in companions(paths):
        paths.extend(sorted(path for path in folder.rglob("*") if path.is_file()))
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:
                digest.update(os.fstat(file.fileno()).st_size.to_bytes(8, "little"))
                while piece := file.read(_PIECE_BYTES):
                    digest.update(piece)
        except OSError:
            raise SourceError(
                "a file of the slide cannot be read; check that it is there and may be read", code="unreadable"
            ) from None
    return b"slide/1 " + digest.digest() + tiles.recipe.encode()


def slide_item(
    entry: Entry,
    kind: SlideKind,
    tiles: Tiles,
    decoder: Decoder,
    *,
    key: str | None = None,
    content: bytes | None = None,
) -> Item:
    """Return a slide as one item whose parts are its tiles of tissue, row by row.

    Its columns are format, rows, columns and frames as of a picture, mpp (micrometres per pixel at its finest, across),
    tissue (share of the slide), tile_size, tile_mpp, tiles (parts), tiles_found (before `Tiles.most` chose) and
    tiles_unreadable.

    Parameters
    ----------
    entry : Entry
    kind : {"tiff", "dicom", "openslide"}
    tiles : Tiles
    decoder : Decoder
    key : str, optional
    content : bytes, optional
        What `slide_content` returned, if that was asked before.

    Raises
    ------
    SourceError
        As the reader; ``no_mpp``, ``no_level``, ``no_tissue``, ``no_tiles``, ``too_large``.
    """
    paths = entry.members or (entry.path,)
    content = slide_content(entry, tiles) if content is None else content
    kind, reader = _opened(paths, kind, tiles, decoder)
    try:
        info = reader.info
        mpp = _mpp(info, tiles)
        for resolution in tiles.resolutions:
            info.check_level(mpp, resolution)
        mask = None if tiles.tissue == 0 else _tissue(reader, tiles, mpp)
        grid = place_tiles(tiles, info.width, info.height, mpp, mask)
    except BaseException:
        reader.close()
        raise
    values = SlideTiles(reader, grid.boxes, tiles.size)
    columns: dict[str, Any] = {
        **info.columns,
        "format": info.format,
        "rows": info.height,
        "columns": info.width,
        "frames": 1,
        "mpp": float(mpp[0]),
        "tile_size": tiles.size,
        "tile_mpp": float(tiles.resolutions[0]),
        "tiles": len(grid.boxes),
        "tiles_found": grid.found * len(tiles.resolutions),
        "tiles_unreadable": 0,
    }
    if mask is not None:
        columns["tissue"] = round(float(mask.mean()), 4)
    return Item(
        key=entry.locator if key is None and kind != "dicom" else key,
        locator=entry.locator,
        content=content,
        values=values,
        parts=_parts(grid.boxes, info),
        metadata=MappingProxyType(columns),
        identifiers=MappingProxyType(info.identifiers),
    )


class SlideTiles(Sequence[NDArray[Any]]):
    """The tiles of a slide, each read when it is asked for; those that follow are read ahead while they are in order.

    Parameters
    ----------
    reader : SlideReader
        It is closed after the last tile.
    boxes : ndarray (n, 4)
        int64: left, top, right, bottom in pixels of the slide at its finest.
    size : int
        Rows and columns of a tile.

    Attributes
    ----------
    unreadable : dict of int to str
        Positions of tiles that could not be read, and why; white arrays stand in for them, which are to be left out.
    """

    def __init__(self, reader: SlideReader, boxes: NDArray[np.int64], size: int) -> None:
        self._reader, self._boxes, self._size = reader, boxes, size
        self._window = max(1, min(_AHEAD_TILES, _AHEAD_BYTES // (3 * size * size)))
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: OrderedDict[int, Future[NDArray[Any]]] = OrderedDict()
        self._last = -1
        self.unreadable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._boxes)

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[NDArray[Any], ...]: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | tuple[NDArray[Any], ...]:
        count = len(self._boxes)
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(count)))
        if not -count <= index < count:
            raise IndexError(f"tile {index} of {count}")
        at = index % count
        with self._lock:
            waiting = self._ahead.pop(at, None)
            in_order = waiting is not None or at == self._last + 1
            self._last = at
            self._read_ahead(at if in_order else None)
        tile = self._tile(at) if waiting is None else waiting.result()
        if at == count - 1:
            self.close()
        return tile

    def close(self) -> None:
        """Close the slide, and forget what was read ahead; the next tile that is asked for opens it again."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._ahead.clear()
            self._last = -1
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def __repr__(self) -> str:
        return f"<{len(self._boxes)} tiles>"

    def _read_ahead(self, at: int | None) -> None:
        """Keep the tiles after this one under way, or forget them where tiles are not asked for in order."""
        if at is None:
            for future in self._ahead.values():
                future.cancel()
            self._ahead.clear()
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="osler-tiles")
        for following in range(at + 1, min(at + 1 + self._window, len(self._boxes))):
            if following not in self._ahead:
                self._ahead[following] = self._pool.submit(self._tile, following)
        # Threads that ask out of turn leave some behind.
        while len(self._ahead) > 2 * self._window:
            self._ahead.popitem(last=False)[1].cancel()

    def _tile(self, at: int) -> NDArray[Any]:
        left, top, right, bottom = (int(side) for side in self._boxes[at])
        try:
            tile = self._reader.region((left, top, right, bottom), self._size, self._size)
        except SourceError as error:
            tile = self._in_place_of(at, error)
        tile.setflags(write=False)
        return tile

    def _in_place_of(self, at: int, error: SourceError) -> NDArray[Any]:
        """Note a tile that cannot be read; of many, or of a slide that is no longer there, raise."""
        if error.code not in _OF_A_TILE:
            raise error
        self.unreadable[at] = error.code
        count, most = len(self.unreadable), max(1, int(_UNREADABLE * len(self._boxes)))
        if count == len(self._boxes) or count > most:
            raise SourceError(
                f"{count} of the slide's {len(self._boxes)} tiles cannot be read, and more were not tried; get a whole "
                "copy of the file",
                code=error.code,
            ) from None
        return np.full((self._size, self._size, 3), 255, np.uint8)


def _opened(paths: Sequence[Path], kind: SlideKind, tiles: Tiles, decoder: Decoder) -> tuple[SlideKind, SlideReader]:
    """Open a slide with the reader that is asked for, or that takes it."""
    if tiles.reader == "openslide":
        return "openslide", decoder.slide(paths, "openslide")
    if kind == "openslide" and tiles.reader == "own":
        raise SourceError(
            "the slide is of a format that only OpenSlide reads; leave reader='own' out", code="unsupported_format"
        )
    try:
        return kind, decoder.slide(paths, kind)
    except SourceError as error:
        from osler.sources.slide_openslide import has_openslide

        if error.code != "unsupported_format" or kind == "openslide" or tiles.reader == "own" or not has_openslide():
            raise
        return "openslide", decoder.slide(paths, "openslide")


def _mpp(info: SlideInfo, tiles: Tiles) -> tuple[float, float]:
    if tiles.slide_mpp is not None:
        return float(tiles.slide_mpp), float(tiles.slide_mpp)
    if info.mpp is None:
        raise SourceError(
            "the slide does not state its micrometres per pixel; give them as slide_mpp, as in --tiles "
            f"{tiles.size}@{tiles.resolutions[0]:g},slide_mpp=0.25, or in a column slide_mpp of the metadata",
            code="no_mpp",
        )
    return info.mpp


def _tissue(reader: SlideReader, tiles: Tiles, mpp: tuple[float, float]) -> NDArray[np.bool_]:
    """Return where there is tissue, on a small picture of the whole slide."""
    from osler.sources.tissue import tissue_mask

    info = reader.info
    across, down = info.width * mpp[0], info.height * mpp[1]
    um = min(_TISSUE_UM, tiles.size * tiles.resolutions[0] / _PIXELS_OF_A_TILE)
    um = max(um, (across * down / _TISSUE_PIXELS) ** 0.5, *mpp)
    width, height = max(1, round(across / um)), max(1, round(down / um))
    return tissue_mask(reader.region((0, 0, info.width, info.height), width, height), um)


def _parts(boxes: NDArray[np.int64], info: SlideInfo) -> tuple[Part, ...]:
    """Return a part for each tile; its box is what of the slide it shows."""
    inside = np.clip(boxes, 0, (info.width, info.height, info.width, info.height)).tolist()
    return tuple(
        Part(position=at, locator=Locator(box=(left, top, right, bottom)))
        for at, (left, top, right, bottom) in enumerate(inside)
    )
