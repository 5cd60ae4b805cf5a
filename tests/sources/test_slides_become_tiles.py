"""A slide in a folder is one item of its tissue tiles; what cannot be tiled is refused in one sentence that helps."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from osler.errors import SourceError
from osler.items import Item
from osler.sources import Tiles, open_source, slide_item
from osler.sources.slide_kind import slide_kind
from osler.sources.workers import Workers
from PIL import Image
from slide_files import GLASS, draw_slide, real_tissue, tissue_picture, write_dicom_slide, write_slide


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return draw_slide(1_500, 2_100, 3)


def read(source: Any, tiles: Any = None, **options: Any) -> Item:
    opened = open_source(source, tiles=tiles, **options)
    assert len(opened.entries) == 1
    return opened.read(opened.entries[0])


def refused(source: Any, tiles: Any = None, **options: Any) -> tuple[str, str]:
    with pytest.raises(SourceError) as caught:
        read(source, tiles, **options)
    assert str(caught.value)[0].islower() and str(caught.value)[-1] != "."
    assert "Doe" not in str(caught.value) and "/" not in str(caught.value).replace("osler[slides]", "")
    return caught.value.code, str(caught.value)


def test_a_slide_is_one_item_of_tissue_tiles(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    picture, truth = drawn
    (tmp_path / "ward").mkdir()
    write_slide(tmp_path / "ward" / "7.svs", picture, kind="svs", compression=33005)
    item = read(tmp_path)
    about = dict(item.metadata)
    share = about.pop("tissue")
    assert item.key == "ward/7.svs"
    assert about == {
        "format": "svs",
        "rows": 1_500,
        "columns": 2_100,
        "frames": 1,
        "mpp": 0.5,
        "tile_size": 224,
        "tile_mpp": 0.5,
        "tiles": len(item.parts),
        "tiles_found": len(item.parts),
        "tiles_unreadable": 0,
    }
    assert abs(share - truth.mean()) < 0.02
    expected = []
    for top in range(0, 1_500, 224):
        for left in range(0, 2_100, 224):
            cut = truth[top : top + 224, left : left + 224]
            covered = cut.sum() / 224**2
            # Near the least share, the small picture may say otherwise.
            if covered > 0.56:
                expected.append((left, top))
            elif covered > 0.44:
                expected.append(None)
    boxes = [part.locator.box for part in item.parts]
    assert {place for place in expected if place} <= {box[:2] for box in boxes if box}
    assert len(boxes) <= len(expected)
    for part, tile in zip(item.parts, item.values, strict=True):
        assert part.locator.box is not None
        left, top, right, bottom = part.locator.box
        assert tile.shape == (224, 224, 3) and not tile.flags.writeable
        assert np.array_equal(tile[: bottom - top, : right - left], picture[top:bottom, left:right])


def test_tiles_have_the_resolution_that_is_asked_for(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """A slide at 0.25 gives at 0.5 what the same scene at 0.5 is, and locators in its own pixels."""
    fine = np.asarray(Image.fromarray(drawn[0]).resize((4_200, 3_000), Image.Resampling.BICUBIC))
    path = write_slide(tmp_path / "fine.tif", fine, mpp=0.25, compression="zlib", factors=(1, 8))
    plain = write_slide(tmp_path / "plain.tif", drawn[0], mpp=0.5, compression="zlib")
    for wanted, side in (("224@0.5", 448), ("224@20x", 448), ("112@1.0", 448), ("448@40x", 448), ("100@0.3", 120)):
        item = read(path, wanted)
        box = item.parts[0].locator.box
        assert box is not None and box[2] - box[0] == side == box[3] - box[1]
        assert item.values[0].shape[0] == int(wanted.partition("@")[0])
    at_half, own = read(path, "224@0.5,tissue=0"), read(plain, "224@0.5,tissue=0")
    assert len(at_half.parts) == len(own.parts)
    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(at_half.values, own.values, strict=True)]
    assert max(differences) < 6


def test_tiles_on_the_border_are_padded_with_white_or_dropped(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", tissue_picture(500, 600, 1), compression="zlib", factors=(1, 2))
    padded, dropped = read(path, "224@0.5,tissue=0.01"), read(path, "224@0.5,tissue=0.01,border=drop")
    assert (len(padded.parts), len(dropped.parts)) == (9, 4)
    last = padded.parts[-1].locator.box
    assert last == (448, 448, 600, 500)
    assert (padded.values[-1][52:] == 255).all() and (padded.values[-1][:, 152:] == 255).all()
    assert padded.values[-1][:52, :152].std() > 10
    overlapping = read(path, Tiles(stride=112, tissue=0.01, border="drop"))
    assert [part.locator.box[0] for part in overlapping.parts if part.locator.box and part.locator.box[1] == 0] == [
        0,
        112,
        224,
        336,
    ]


def test_several_resolutions_share_their_centres(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", drawn[0], compression="zlib")
    item, single = read(path, "224@0.5+2.0"), read(path, "224@0.5")
    assert len(item.parts) == 2 * len(single.parts) == item.metadata["tiles"]
    for at, tile in enumerate(single.values):
        assert np.array_equal(item.values[2 * at], tile)
        middle = item.values[2 * at + 1][84:140, 84:140]
        small = np.asarray(Image.fromarray(tile).resize((56, 56), Image.Resampling.BOX))
        assert np.abs(middle.astype(int) - small).mean() < 12


def test_equal_slides_tiled_alike_have_equal_content(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", drawn[0], compression="zlib")
    other = tmp_path / "b.tif"
    other.write_bytes(path.read_bytes())
    same, again = (open_source(one, tiles="224@0.5") for one in (path, other))
    assert same.content(same.entries[0]) == again.content(again.entries[0]) == read(path, "224@0.5").content
    assert read(path, "224@0.5,stride=100").content != read(path, "224@0.5").content


def test_without_tiles_pictures_stay_pictures_and_slides_are_tiled(
    drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    small = drawn[0][:400, :500]
    write_slide(
        tmp_path / "pyramid, 72 dpi.tif", small, mpp=None, compression="zlib", resolution=(72, 72), resolutionunit=2
    )
    write_slide(tmp_path / "tiled, no levels.tif", small, compression="zlib", factors=(1,))
    tifffile.imwrite(tmp_path / "plain.tif", small)
    Image.fromarray(small).save(tmp_path / "a.png")
    write_slide(tmp_path / "slide.svs", drawn[0], kind="svs", compression="jpeg")
    write_slide(tmp_path / "slide.tif", drawn[0], compression="jpeg")
    write_slide(tmp_path / "slide.ome.tif", drawn[0], kind="ome", compression="jpeg")
    source = open_source(tmp_path)
    parts = {entry.locator: len(source.read(entry).parts) for entry in source.entries}
    slides = {"slide.svs", "slide.tif", "slide.ome.tif"}
    assert {name for name, count in parts.items() if count > 1} == slides and len(parts) == 7
    asked = open_source(tmp_path, tiles=Tiles(tissue=0.2))
    kinds = {entry.locator: slide_kind(entry.path, wanted=True) for entry in asked.entries}
    assert {name for name, kind in kinds.items() if kind is None} == {"plain.tif", "a.png"}


def test_a_table_says_the_resolution_of_each_slide(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_slide(tmp_path / f"{name}.svs", drawn[0], kind="svs", mpp=None, compression="jpeg")
    (tmp_path / "slides.csv").write_text("path,slide_mpp,stain\na.svs,0.25,he\nb.svs,0.5,ihc\n")
    source = open_source(tmp_path / "slides.csv", tiles="224@0.5")
    first, second = (source.read(entry) for entry in source.entries)
    assert (first.metadata["mpp"], second.metadata["mpp"]) == (0.25, 0.5)
    assert first.metadata["stain"] == "he" and len(first.parts) < len(second.parts)
    assert (
        read(tmp_path / "a.svs", "224@0.5,slide_mpp=0.5").content
        == read(tmp_path / "b.svs", "224@0.5,slide_mpp=0.5").content
    )
    wrong = open_source(tmp_path / "a.svs", metadata=[{"file": "a.svs", "slide_mpp": "unknown"}])
    with pytest.raises(SourceError, match="column slide_mpp holds no micrometres per pixel"):
        wrong.read(wrong.entries[0])


def test_dicom_slides_are_one_item_a_series(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    write_dicom_slide(tmp_path / "one", drawn[0])
    write_dicom_slide(tmp_path / "two", drawn[0][:, ::-1], label=False, sparse=True)
    source = open_source(tmp_path, tiles="224@0.5")
    assert [len(entry.members) for entry in source.entries] == [3, 2]
    for entry in source.entries:
        item = source.read(entry)
        assert item.key is None and len(item.parts) > 5
        assert item.metadata["format"] == "dicom" and item.metadata["modality"] == "SM"
        assert dict(item.identifiers)["patient_id"] == "4711"
        assert not {"4711", "Doe^Jane"} & {str(value) for value in item.metadata.values()}
        assert item.values[0].shape == (224, 224, 3)
        assert source.place(entry)[1] == [f"{entry.path.parent.name}/{path.name}" for path in entry.members]
    # Without tiles they are what they were: a file a level.
    assert len(open_source(tmp_path).entries) == 5


def test_folders_of_slides_of_several_files_are_no_items(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "a").mkdir()
    for name in ("Slidedat.ini", "Data0000.dat"):
        (tmp_path / "a" / name).write_text("x")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "b.png")
    source = open_source(tmp_path)
    assert [entry.locator for entry in source.entries] == ["a.mrxs", "b.png"]
    code, said = refused([tmp_path / "a.mrxs"])
    assert code in ("bad_header", "unsupported_format") and "OpenSlide" in said
    content = source.content(source.entries[0])
    (tmp_path / "a" / "Data0000.dat").write_text("y")
    assert source.content(source.entries[0]) != content


def test_every_refusal_is_one_sentence(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.svs", drawn[0], kind="svs", compression="jpeg")
    data = slide.read_bytes()
    (tmp_path / "cut.svs").write_bytes(data[: len(data) * 2 // 3])
    code, said = refused(tmp_path / "cut.svs", "224@0.5")
    assert code in ("truncated", "bad_header", "not_an_image") and "get a whole copy" in said
    without = write_slide(tmp_path / "without.svs", drawn[0], kind="svs", mpp=None, compression="jpeg")
    assert refused(without) == (
        "no_mpp",
        "the slide does not state its micrometres per pixel; give them as slide_mpp, as in --tiles "
        "224@0.5,slide_mpp=0.25, or in a column slide_mpp of the metadata",
    )
    assert refused(slide, "224@40x")[0] == "no_level" and "would be enlarged" in refused(slide, "224@40x")[1]
    flat = write_slide(tmp_path / "flat.tif", drawn[0], compression="jpeg", factors=(1,))
    code, said = refused(flat, "24@8.0")
    assert code == "no_level" and "no level near 8 micrometres per pixel, the nearest finer one has 0.5" in said
    assert len(
        read(write_slide(tmp_path / "deep.tif", drawn[0], compression="jpeg", factors=(1, 4)), "24@8.0,tissue=0").parts
    )
    glass = np.full((900, 900, 3), GLASS, np.uint8)
    code, said = refused(write_slide(tmp_path / "glass.tif", glass, compression="jpeg"))
    assert code == "no_tissue" and "tissue=0" in said
    assert len(read(tmp_path / "glass.tif", "224@0.5,tissue=0").parts) == 25
    code, said = refused(tmp_path / "glass.tif", "2000@0.5,tissue=0,border=drop")
    assert code == "no_tiles" and "border='pad'" in said


def test_a_missing_package_is_named(
    drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_slide(tmp_path / "a.svs", drawn[0], kind="svs", compression="jpeg")
    for missing in ("tifffile", "imagecodecs"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            code, said = refused(slide)
            assert code == "missing_decoder"
            assert said.startswith(
                f"reading slides needs the package {missing}, which is not installed; run pip install"
            )
            assert said.endswith('"osler[slides]"')
    monkeypatch.setitem(sys.modules, "openslide", None)
    hamamatsu = tmp_path / "a.ndpi"
    tifffile.imwrite(hamamatsu, drawn[0][:64, :64], photometric="rgb", extratags=[(65420, "I", 1, 1, True)])
    code, said = refused(hamamatsu)
    assert code == "missing_decoder" and "run pip install openslide-python openslide-bin" in said
    assert refused(hamamatsu, "224@0.5,reader=own")[0] == "unsupported_format"


def test_openslide_takes_what_the_own_reader_does_not(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "a.svs", drawn[0], kind="svs", compression="jpeg")
    own, other = read(slide, "224@0.5"), read(slide, "224@0.5,reader=openslide")
    assert other.metadata["format"] == "openslide aperio"
    assert len(own.parts) == len(other.parts)
    assert all(np.array_equal(a, b) for a, b in zip(own.values, other.values, strict=True))


@pytest.fixture
def workers() -> Iterator[Workers]:
    found = Workers(1)
    yield found
    found.close()


def test_a_damaged_tile_costs_itself_and_many_cost_the_slide(tmp_path: Path, workers: Workers) -> None:
    picture = np.tile(real_tissue()[:, :140], (10, 16, 1))[:2_048, :2_048]
    path = write_slide(tmp_path / "a.tif", picture, compression="jpeg", factors=(1, 8), tile=256)
    with tifffile.TiffFile(path) as tiff:
        spans = list(zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True))
    data = bytearray(path.read_bytes())
    damage(data, spans[9:11])
    path.write_bytes(data)
    for decoder in (None, workers):
        values = read(path, "256@0.5,tissue=0", decoder=decoder).values
        tiles = list(values)
        assert sorted(values.unreadable) == [9, 10] and set(values.unreadable.values()) == {"decode_failed"}  # type: ignore[attr-defined]
        assert (tiles[9] == 255).all() and np.abs(tiles[11].astype(int) - picture[256:512, 768:1_024]).mean() < 12
    damage(data, spans[20:24])
    path.write_bytes(data)
    with pytest.raises(SourceError, match="of the slide's 64 tiles cannot be read, and more were not tried") as caught:
        list(read(path, "256@0.5,tissue=0", decoder=workers).values)
    assert caught.value.code == "decode_failed"


def damage(data: bytearray, spans: list[tuple[int, int]]) -> None:
    for offset, count in spans:
        data[offset : offset + count] = bytes(count)


def test_tiles_are_read_ahead_a_few_at_a_time_and_each_once(
    drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """Of 1,000 tiles, no more than the window is ever under way, whoever asks and in whatever order."""
    asked: list[tuple[int, ...]] = []
    opened: list[str] = []

    class Reader:
        info: Any = None

        def region(self, box: tuple[int, ...], width: int, height: int) -> np.ndarray:
            asked.append(box)
            return np.full((height, width, 3), box[0] % 251, np.uint8)

        def close(self) -> None:
            opened.append("closed")

    boxes = np.arange(1_000)[:, None] + np.array([0, 0, 8, 8])
    tiles = slide_item.SlideTiles(Reader(), boxes, 8)
    for at in range(1_000):
        assert tiles[at][0, 0, 0] == at % 251
        assert len(asked) <= at + 2 + slide_item._AHEAD_TILES
    assert len(asked) == 1_000 and opened == ["closed"]
    assert [tiles[at][0, 0, 0] for at in (500, 3, -1)] == [500 % 251, 3, 999 % 251]
    assert len(asked) <= 1_003 and opened[-1] == "closed"
    assert len(slide_item.SlideTiles(Reader(), boxes, 8)[10:20]) == 10
    with pytest.raises(IndexError):
        tiles[1_000]
    large = slide_item.SlideTiles(Reader(), boxes, 4_000)
    assert large._window == 1


def test_columns_are_plain(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.tif", drawn[0], compression="jpeg")
    json.dumps(dict(read(path).metadata), allow_nan=False)


def test_a_slide_that_changes_while_it_is_read_is_told(
    drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path, workers: Workers
) -> None:
    path = write_slide(tmp_path / "a.tif", drawn[0], compression="jpeg")
    for decoder in (None, workers):
        values = read(path, "224@0.5", decoder=decoder).values
        _ = values[0]
        values.close()  # type: ignore[attr-defined]
        _ = values[1]
        values.close()  # type: ignore[attr-defined]
        write_slide(path, drawn[0][:, ::-1], compression="jpeg")
        with pytest.raises(SourceError, match="the slide was changed while it was read; add it again") as caught:
            _ = values[2]
        assert caught.value.code == "changed"


def test_few_slides_are_open_at_once(drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path, workers: Workers) -> None:
    for name in "abcdef":
        write_slide(tmp_path / f"{name}.tif", drawn[0], compression="jpeg")
    source = open_source(tmp_path, tiles="224@0.5", decoder=workers)
    items = [source.read(entry) for entry in source.entries]
    assert len(workers._running) <= workers.threads + 1
    # Those that were closed are opened again when they are asked.
    tiles = [item.values[3] for item in items]
    assert all(np.array_equal(tile, tiles[0]) for tile in tiles) and len(workers._running) <= workers.threads + 1


def test_a_maker_named_in_a_plain_picture_makes_no_slide_of_it(
    drawn: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    small = drawn[0][:300, :300]
    tifffile.imwrite(tmp_path / "echo.tif", small, photometric="rgb", metadata=None, software="Philips DP v1.0")
    tifffile.imwrite(
        tmp_path / "slide.tif", small, tile=(128, 128), photometric="rgb", metadata=None, software="Philips DP v1.0"
    )
    assert slide_kind(tmp_path / "echo.tif") is None and slide_kind(tmp_path / "slide.tif") == "openslide"
