"""What is read and held for a tile is bounded by the tile, whatever the size of the slide.

Counts bytes that are read and arrays that are alive; asserts on no clock.
"""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from osler.sources import open_source, slide_item
from osler.sources.slide_open import open_slide
from osler.sources.workers import Workers
from slide_files import draw_slide, write_slide

SIDE = 70_000


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.count += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self.count += count
        return count


@pytest.fixture(scope="module")
def vast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 70,000 pixels a side, 14.7 GB if it were decoded; most tiles are not stored, as scanners do."""
    path = tmp_path_factory.mktemp("vast") / "vast.tif"
    rng = np.random.default_rng(1)
    tissue = rng.integers(60, 200, (256, 256, 3), np.uint8)
    options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "dtype": np.uint8}

    def tiles(side: int) -> Iterator[np.ndarray | None]:
        across = -(-side // 256)
        for at in range(across * across):
            yield tissue if at % across < 4 and at // across < 4 else None

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for factor in (1, 16):
            side = SIDE // factor
            shape = (side, side, 3)
            resolution = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
            tiff.write(
                tiles(side), shape=shape, subfiletype=int(factor > 1), compression="zlib", **resolution, **options
            )
    return path


def test_a_tile_reads_its_own_bytes(tmp_path: Path) -> None:
    picture = draw_slide(3_000, 4_000, 2)[0]
    data = write_slide(tmp_path / "a.tif", picture, compression="zlib", factors=(1, 4)).read_bytes()
    file = Counted(data)
    slide = open_slide([file], "tiff")
    headers = file.count
    assert headers < 100_000 < len(data) // 50
    slide.region((1_024, 1_024, 1_280, 1_280), 256, 256)
    one = file.count - headers
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        assert one <= max(tiff.pages[0].databytecounts)
    # Four tiles meet here; those that were read are not read again.
    slide.region((1_150, 1_150, 1_400, 1_400), 250, 250)
    assert file.count - headers <= 4 * max(tiff.pages[0].databytecounts)
    before = file.count
    slide.region((1_160, 1_160, 1_390, 1_390), 230, 230)
    assert file.count == before


def test_tiles_that_are_kept_are_bounded(vast: Path) -> None:
    from osler.sources import slides

    with open(vast, "rb") as file:
        slide = open_slide([file], "tiff")
        for at in range(600):
            slide.region((at * 100, 0, at * 100 + 512, 512), 512, 512)
            assert slide._kept_bytes == sum(0 if tile is None else tile.nbytes for tile in slide._kept.values())
            assert slide._kept_bytes <= slides._KEPT_BYTES


def test_a_vast_slide_is_opened_and_its_tiles_read_in_little_memory(vast: Path) -> None:
    decoder = Workers(1)
    source = open_source(vast, tiles="224@0.25,tissue=0", decoder=decoder)
    item = source.read(source.entries[0])
    assert len(item.parts) == 313**2 == 97_969
    assert item.parts[-1].locator.box == (69_888, 69_888, SIDE, SIDE)
    for at in (*range(300), 50_000, 97_968):
        assert item.values[at].shape == (224, 224, 3)
    # The coarser level, of which 1,024 pixels a side are stored, says where there is tissue.
    tissue = open_source(vast, tiles="224@0.25", decoder=decoder).read(source.entries[0])
    assert len(tissue.parts) == (1_024 * 16 // 224) ** 2
    decoder.close()
    # The process that read it, of which the interpreter and its libraries are most.
    assert decoder.peak < 400 << 20


def test_few_tiles_are_alive_while_a_hundred_thousand_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: set[int] = set()
    most = 0

    class Tile(np.ndarray):
        pass

    class Reader:
        info: Any = None

        def region(self, box: Any, width: int, height: int) -> np.ndarray:
            nonlocal most
            tile = np.zeros((2, 2, 3), np.uint8).view(Tile)
            alive.add(id(tile))
            weakref.finalize(tile, alive.discard, id(tile))
            most = max(most, len(alive))
            return tile

        def close(self) -> None:
            pass

    tiles = slide_item.SlideTiles(Reader(), np.zeros((20_000, 4), np.int64), 2)
    for tile in tiles:
        del tile
    gc.collect()
    assert most <= slide_item._AHEAD_TILES + 4 and len(alive) == 0
