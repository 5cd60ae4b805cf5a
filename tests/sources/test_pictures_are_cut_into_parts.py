"""Pictures as several parts: crops at several scales that cover them, and regions of boxes and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from dicom_files import build
from hypothesis import given
from hypothesis import strategies as st
from osler.errors import SourceError
from osler.items import Item
from osler.sources import Multiscale, Regions, open_source
from osler.sources.regions import box_of, crop_region, grow_box
from PIL import Image
from slide_files import draw_slide, real_tissue, write_slide


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(1, 255, (90, 140, 3), np.uint8)


def read(picture: np.ndarray, folder: Path, parts: Any) -> Item:
    Image.fromarray(picture).save(folder / "a.png")
    source = open_source(folder, parts=parts)
    return source.read(source.entries[0])


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.booleans(),
)
def test_each_scale_covers_the_picture(
    height: int, width: int, grids: tuple[int, ...], overlap: float, nested: bool
) -> None:
    made = Multiscale(grids, overlap, nested, least=1)
    boxes = made.boxes(height, width)
    assert boxes and (len(set(boxes)) == len(boxes) or not nested)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
    for grid in set(grids):
        side = -(-min(height, width) // grid)
        seen = np.zeros((height, width), bool)
        for left, top, right, bottom in boxes:
            if (right - left, bottom - top) == (side, side) or (
                grid == 1 and (right - left, bottom - top) == (width, height)
            ):
                seen[top:bottom, left:right] = True
        finest = grid == max(grids)
        assert seen.all() or (nested and not finest)


def test_crops_of_one_scale_are_alike_and_overlap_as_asked() -> None:
    boxes = Multiscale((2,), overlap=0.5).boxes(100, 200)
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes} == {(50, 50)}
    assert sorted({left for left, *_ in boxes}) == [0, 25, 50, 75, 100, 125, 150]
    nested = Multiscale((1, 2, 4), nested=True).boxes(400, 400)
    assert nested[:3] == [(0, 0, 400, 400), (0, 0, 200, 200), (0, 0, 100, 100)]
    assert (150, 150, 350, 350) in nested or (50, 50, 250, 250) in nested
    # Too small for the finer grid: the whole is left.
    assert Multiscale((1, 4)).boxes(60, 80) == [(0, 0, 80, 60)] == Multiscale((4,)).boxes(60, 80)


def test_parts_are_the_pixels_that_their_boxes_say(picture: np.ndarray, tmp_path: Path) -> None:
    item = read(picture, tmp_path, "multiscale")
    assert len(item.parts) == len(item.values) == 1 + 2 * 4
    assert item.parts[0].locator.box is None and np.array_equal(item.values[0], picture)
    for part, value in list(zip(item.parts, item.values, strict=True))[1:]:
        left, top, right, bottom = part.locator.box or (0, 0, 0, 0)
        assert np.array_equal(value, picture[top:bottom, left:right]) and not value.flags.writeable
    assert [part.position for part in item.parts] == list(range(9))
    assert item.metadata["rows"] == 90 and item.metadata["columns"] == 140
    assert item.content != read(picture, tmp_path, None).content
    assert len(item.values[2:4]) == 2


def test_frames_are_cut_each(tmp_path: Path, rng: np.random.Generator) -> None:
    stack = rng.integers(0, 255, (3, 80, 80), np.uint8)
    (tmp_path / "a.dcm").write_bytes(build(stack, NumberOfFrames=3))
    source = open_source(tmp_path, parts=Multiscale((1, 2)))
    item = source.read(source.entries[0])
    assert [part.locator.frame for part in item.parts] == [0] * 5 + [1] * 5 + [2] * 5
    assert item.parts[5].locator.box is None and item.parts[6].locator.box == (0, 0, 40, 40)
    assert np.array_equal(item.values[6], item.values[5][:40, :40])
    # Its key is made of its content, which is what it was.
    assert item.key is None and item.content == (tmp_path / "a.dcm").read_bytes()


def test_regions_of_boxes_and_masks(picture: np.ndarray, tmp_path: Path) -> None:
    mask = np.zeros((90, 140), np.uint8)
    mask[10:30, 20:60], mask[50:70, 80:90] = 3, 7
    regions = Regions(
        boxes={"a.png": [(5, 6, 25, 16)]}, masks={"a.png": mask}, margin=0.1, background="zero", whole=True
    )
    item = read(picture, tmp_path, regions)
    assert [part.locator.box for part in item.parts] == [None, (3, 5, 27, 17), (16, 8, 64, 32), (79, 48, 91, 72)]
    whole, box, first, second = item.values
    assert np.array_equal(whole, picture)
    assert np.array_equal(box[1:11, 2:22], picture[6:16, 5:25]) and not box[0].any() and not box[:, :2].any()
    assert np.array_equal(first[2:22, 4:44], picture[10:30, 20:60]) and not first[:2].any() and not first[:, 44:].any()
    assert np.array_equal(second[2:22, 1:11], picture[50:70, 80:90])
    kept = read(picture, tmp_path, Regions(masks={"a.png": mask == 3}, margin=0.5))
    assert kept.parts[0].locator.box == (0, 0, 80, 40) and np.array_equal(kept.values[0], picture[:40, :80])
    several = read(picture, tmp_path, Regions(masks={"a.png": np.stack([mask == 3, mask == 7])}))
    assert [part.locator.box for part in several.parts] == [(20, 10, 60, 30), (80, 50, 90, 70)]


def test_pictures_without_regions_stay_whole(picture: np.ndarray, tmp_path: Path) -> None:
    item = read(picture, tmp_path, Regions(boxes={"b.png": [(0, 0, 2, 2)]}))
    assert len(item.parts) == 1 and item.parts[0].locator.box is None


def test_a_change_of_a_region_is_another_content(picture: np.ndarray, tmp_path: Path) -> None:
    mask = np.zeros((90, 140), bool)
    mask[4:9, 5:9] = True
    made = [
        Regions(boxes={"a.png": [(0, 0, 9, 9)]}),
        Regions(boxes={"a.png": [(0, 0, 9, 8)]}),
        Regions(masks={"a.png": mask}),
        Regions(masks={"a.png": mask | (np.arange(140) == 3)}),
        Regions(masks={"a.png": mask}, background="zero"),
        Regions(masks={"a.png": mask}, margin=1),
    ]
    contents = [read(picture, tmp_path, one).content for one in made]
    assert len(set(contents)) == len(made)
    assert read(picture, tmp_path, made[2]).content == contents[2]


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        (
            {"boxes": {"a.png": [(0, 0, 9, 9), (10, 10, 5, 20)]}},
            r"box 2 of the picture is \(10, 10, 5, 20\), and the picture 140 x 90",
        ),
        ({"boxes": {"a.png": [(0, 0, 141, 9)]}}, "give left, top, right, bottom inside it"),
        ({"boxes": {"a.png": [(0, 0, 9)]}}, "box 1 of the picture is not four numbers"),
        ({"masks": {"a.png": np.zeros((90, 140), bool), "b": 0}}, None),
        ({"masks": {"a.png": np.zeros((3, 90, 140), bool)}}, "a mask of the picture is empty"),
        (
            {"masks": {"a.png": np.zeros((9, 14), bool)}},
            r"a mask has shape \(9, 14\) and type bool, and its picture is \(90, 140\)",
        ),
        ({"masks": {"a.png": np.zeros((90, 140))}}, "of bool or of whole numbers"),
    ],
)
def test_wrong_regions_are_one_sentence(
    picture: np.ndarray, tmp_path: Path, regions: dict[str, Any], said: str | None
) -> None:
    if said is None:
        # A mask of no value marks nothing: the picture stays whole.
        assert len(read(picture, tmp_path, Regions(**regions)).parts) == 1
        return
    with pytest.raises(SourceError, match=said) as caught:
        read(picture, tmp_path, Regions(**regions))
    assert caught.value.code == "bad_region"


def test_values_that_cannot_be_are_refused() -> None:
    for make, said in (
        (lambda: Multiscale(grids=()), "give whole numbers from 1 to 64"),
        (lambda: Multiscale(grids=(0,)), "give whole numbers"),
        (lambda: Multiscale(overlap=1.0), "a share from 0 to 0.9"),
        (lambda: Multiscale(least=0), "number of pixels"),
        (lambda: Regions(margin=-1), "a share of the box"),
        (lambda: Regions(background="white"), "choose keep or zero"),  # type: ignore[arg-type]
        (lambda: open_source("/", parts="crops"), "give 'whole', 'multiscale'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=said):
            make()


def test_pure_crops() -> None:
    grey = np.arange(1, 26, dtype=np.uint16).reshape(5, 5)
    assert crop_region(grey, (1, 1, 3, 3)).tolist() == [[7, 8], [12, 13]]
    assert crop_region(grey, (1, 1, 3, 3)).base is not None
    mask = grey % 2 == 1
    assert crop_region(grey, (0, 0, 2, 2), mask=mask, background="zero").tolist() == [[1, 0], [0, 7]]
    assert grow_box((0, 0, 10, 10), 0.25, 11, 40) == (0, 0, 12, 11)
    assert box_of(mask) == (0, 0, 5, 5)


def test_what_is_small_in_a_picture_is_found_by_its_crop(tmp_path: Path) -> None:
    """A patch of tissue in the corner of a large bare picture is nearer to its crop than the whole picture is."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    patch = real_tissue()[:120, :120]
    large = np.full((960, 960, 3), 240, np.uint8)
    large[700:820, 130:250] = patch
    Image.fromarray(large).save(folder / "large.png")
    scores = {}
    for name, parts in (("whole", "whole"), ("crops", Multiscale((1, 4, 8), overlap=0.25))):
        with osler.Collection.create(tmp_path / f"{name}.osler", encoder="efficientnet-lite0") as cases:
            assert cases.add(folder, parts=parts, progress=False).added == 1
            hit = cases.search(image=patch, k=1)[0]
            scores[name] = hit.score
            if name == "crops":
                left, top, right, bottom = hit.part.locator.box or (0, 0, 0, 0)
                assert left <= 190 <= right and top <= 760 <= bottom
                assert cases.add(folder, parts=parts, progress=False).duplicates == 1
    assert scores["crops"] > scores["whole"] + 0.2


def test_slides_are_tiled_all_the_same(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.svs", draw_slide(600, 700, 1)[0], kind="svs", compression="jpeg")
    plain, cut = (open_source(tmp_path, parts=parts) for parts in (None, "multiscale"))
    assert cut.read(cut.entries[0]).parts == plain.read(plain.entries[0]).parts
