"""A slide finds its own copy, tiled elsewhere, before all other slides: with a real encoder, under every score for it.

The slides are drawn from one real tile of tissue, each stained and magnified otherwise, as tests/slide_files.py says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
import tifffile
from osler.sources import Tiles
from PIL import Image
from slide_files import GLASS, draw_slide, write_slide

COUNT = 6
TILES = Tiles(size=224, mpp=0.5, stride=112, tissue=0.4)


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(COUNT):
        picture = draw_slide(900, 1_300, 20 + number)[0]
        write_slide(folder / f"{number}.svs", picture, kind="svs", compression="jpeg")
        # The same glass under another scanner: moved by less than a tile, with pixels of half the size.
        moved = np.full((980, 1_390, 3), GLASS, np.uint8)
        moved[73:973, 89:1_389] = picture
        again = np.asarray(Image.fromarray(moved).resize((2_780, 1_960), Image.Resampling.LANCZOS))
        write_slide(folder / f"again {number}.tif", again, mpp=0.25, compression="jpeg", factors=(1, 4, 16))
    return folder


@pytest.fixture(scope="module")
def cases(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[osler.Collection]:
    path = tmp_path_factory.mktemp("made") / "cases.osler"
    with osler.Collection.create(path, encoder="efficientnet-lite0") as made:
        report = made.add(slides, tiles=TILES, progress=False)
        assert (report.added, report.failures) == (2 * COUNT, ())
        yield made


@pytest.mark.parametrize("score", ["max", "maxsim", "median_min"])
def test_first_among_distractors(cases: osler.Collection, score: Any) -> None:
    for number in range(COUNT):
        there = cases.search(like=f"{number}.svs", k=2 * COUNT, score=score, recall=1.0)
        back = cases.search(like=f"again {number}.tif", k=3, score=score, recall=1.0)
        assert there[0].key == f"again {number}.tif" and back[0].key == f"{number}.svs"
        assert len(there) == 2 * COUNT - 1 and there[0].score > there[1].score


def test_a_file_asks_with_tiles_like_those_of_the_collection(cases: osler.Collection, slides: Path) -> None:
    hits = cases.search(image=slides / "2.svs", k=2, score="median_min")
    assert [hit.key for hit in hits] == ["2.svs", "again 2.tif"]
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)
    picture = np.asarray(tifffile.imread(slides / "3.svs", key=0))[300:524, 500:724]
    assert cases.search(image=picture, k=1)[0].key in ("3.svs", "again 3.tif")


def test_hits_say_where_and_what(cases: osler.Collection) -> None:
    hit = cases.search(like="4.svs", k=1)[0]
    assert hit.metadata["format"] == "tiff" and hit.metadata["mpp"] == 0.25
    assert (hit.metadata["tile_size"], hit.metadata["tile_mpp"]) == (224, 0.5)
    left, top, right, bottom = hit.part.locator.box or (0, 0, 0, 0)
    assert 0 <= left < right <= 2_780 and 0 <= top < bottom <= 1_960 and max(right - left, bottom - top) == 448
    assert cases.count("format = 'svs'") == COUNT and cases.count("tiles > 3") == 2 * COUNT


def test_the_sheet_shows_the_tile(cases: osler.Collection, slides: Path, tmp_path: Path) -> None:
    import base64
    import io
    import re

    hits = cases.search(image=slides / "2.svs", k=2)
    hits.to_html(tmp_path / "hits.html")
    page = (tmp_path / "hits.html").read_text()
    shown = [Image.open(io.BytesIO(base64.b64decode(one))) for one in re.findall(r"base64,([^\"]+)\"", page)]
    assert len(shown) == 3
    left, top, right, bottom = hits[0].part.locator.box or (0, 0, 0, 0)
    expected = tifffile.imread(slides / "2.svs", key=0)[top:bottom, left:right]
    assert shown[0].width == 320 and shown[1].size == (right - left, bottom - top)
    assert np.abs(np.asarray(shown[1].convert("RGB")).astype(int) - expected).mean() < 12


def test_the_same_slides_again_are_duplicates_and_other_tiles_are_not(slides: Path, tmp_path: Path) -> None:
    one = slides / "0.svs"
    with osler.Collection.create(tmp_path / "one.osler", encoder="efficientnet-lite0") as cases:
        assert cases.add(one, tiles="224@0.5", progress=False).added == 1
        assert cases.add(one, tiles="224@20x", progress=False).duplicates == 1
        report = cases.add(one, tiles="224@1.0", progress=False)
        assert (report.added, report.failures[0].code) == (0, "key_taken")
        before = len(cases.part_vectors().vectors)
        assert cases.add(one, tiles="224@1.0", on_duplicate="replace", progress=False).added == 1
        assert len(cases) == 1 and len(cases.part_vectors().vectors) < before
        assert cases["0.svs"].metadata["tile_mpp"] == 1.0


def test_tiles_that_were_lost_are_left_out_and_counted(slides: Path, tmp_path: Path) -> None:
    one = tmp_path / "a.svs"
    data = bytearray((slides / "1.svs").read_bytes())
    with tifffile.TiffFile(slides / "1.svs") as tiff:
        # The lower right corner, cut by the slide's edge.
        offset, count = tiff.pages[0].dataoffsets[23], tiff.pages[0].databytecounts[23]
    data[offset : offset + count] = bytes(count)
    one.write_bytes(data)
    with osler.Collection.create(tmp_path / "a.osler", encoder="efficientnet-lite0") as cases:
        report = cases.add(one, tiles="64@0.5,tissue=0", progress=False)
        assert report.added == 1
        about = cases["a.svs"].metadata
        vectors = cases.part_vectors()
        assert 1 <= about["tiles_unreadable"] <= 6
        assert about["tiles"] + about["tiles_unreadable"] == about["tiles_found"] == 15 * 21
        assert len(vectors.vectors) == about["tiles"] and np.isfinite(vectors.vectors).all()
