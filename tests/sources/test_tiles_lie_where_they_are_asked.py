"""Tiles lie on a grid of whole pixels, have the tissue that was asked for, and are told in words that say it all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.config import LIMITS
from osler.errors import SourceError
from osler.sources import Tiles, tiles
from osler.sources.tiles import mpp_of, place_tiles


def test_texts_say_what_tiles_are_wanted() -> None:
    assert Tiles.parse("224@0.5") == Tiles() == Tiles.parse("224@20x")
    assert Tiles.parse("1000@20X") == Tiles(size=1000, mpp=0.5)
    assert Tiles.parse(" 448@40x, stride=224, tissue=0.25, border=drop, slide_mpp=0.26, most=900, reader=own") == Tiles(
        448, 0.25, 224, 0.25, "drop", 0.26, 900, "own"
    )
    assert Tiles.parse("224@0.5+1+2").resolutions == (0.5, 1.0, 2.0)
    assert (mpp_of(20), mpp_of(40), mpp_of(5)) == (0.5, 0.25, 2.0)


@pytest.mark.parametrize(
    "text", ["224", "@0.5", "224@", "a@b", "224@0x", "224@0.5,size=3", "224@0.5,stride=x", "224@0.5;1", ""]
)
def test_other_texts_are_refused_with_one_that_serves(text: str) -> None:
    with pytest.raises(ValueError, match=r"give SIZE@MPP or SIZE@MAGNIFICATIONx, such as 224@0\.5 or 1000@20x"):
        Tiles.parse(text)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 0}, "size of tiles is 0"),
        ({"size": 2.5}, "whole number"),
        ({"size": True}, "size of tiles is True"),
        ({"mpp": -1.0}, "such as 0.5 for 20x"),
        ({"mpp": float("nan")}, "such as 0.5 for 20x"),
        ({"mpp": ()}, "mpp of tiles is empty"),
        ({"mpp": (0.5, "a")}, "mpp is 'a'"),
        ({"stride": 0}, "stride of tiles is 0"),
        ({"tissue": 1.5}, "a share from 0 to 1"),
        ({"border": "white"}, "choose pad or drop"),
        ({"reader": "x"}, "choose auto or own or openslide"),
        ({"slide_mpp": 0}, "micrometres per pixel"),
        ({"most": 10**9}, "most of tiles is 1000000000"),
    ],
)
def test_values_that_cannot_be_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Tiles(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tiles is a int"):
        Tiles.of(7)  # type: ignore[arg-type]


def test_equal_tiles_have_equal_recipes_and_others_have_not() -> None:
    assert Tiles(mpp=1).recipe == Tiles(mpp=1.0).recipe == Tiles(mpp=(1.0,)).recipe
    others = [
        Tiles(),
        Tiles(size=225),
        Tiles(mpp=0.6),
        Tiles(stride=9),
        Tiles(tissue=0.4),
        Tiles(border="drop"),
        Tiles(most=4),
    ]
    assert len({one.recipe for one in others}) == len(others)


@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([0.25, 0.3, 0.5, 1.0]),
    st.sampled_from([0.25, 0.2517]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from(["pad", "drop"]),
    st.integers(0, 2**16),
)
def test_places_and_shares_are_those_of_a_plain_loop(
    width: int, height: int, size: int, stride: int, mpp: float, own: float, tissue: float, border: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 12), rng.integers(1, 12))) < 0.6
    wanted = Tiles(size, mpp, stride, tissue, border)  # type: ignore[arg-type]
    expected = [
        (left, top, right, bottom)
        for top, bottom in spans(height, size * mpp / own, stride * mpp / own, border)
        for left, right in spans(width, size * mpp / own, stride * mpp / own, border)
        if tissue == 0 or share(mask, left, top, right, bottom, width, height) >= tissue - 1e-9
    ]
    try:
        found = place_tiles(wanted, width, height, (own, own), mask)
    except SourceError as error:
        assert error.code in ("no_tissue", "no_tiles") and not expected
        return
    assert list(map(tuple, found.boxes.tolist())) == expected and found.found == len(expected)


def spans(length: int, side: float, step: float, border: str) -> list[tuple[int, int]]:
    found, at = [], 0
    while True:
        start, end = round(at * step), round(at * step + side)
        inside = at * step + side <= length + 0.5
        if not inside and (border == "drop" or (found and (at - 1) * step + side >= length - 0.5)):
            return found
        found.append((start, max(end, start + 1)))
        at += 1


def share(mask: np.ndarray, left: int, top: int, right: int, bottom: int, width: int, height: int) -> float:
    """The mask's area in a box, pixel by pixel of the mask."""
    total = 0.0
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            x0, x1 = column * width / mask.shape[1], (column + 1) * width / mask.shape[1]
            y0, y1 = row * height / mask.shape[0], (row + 1) * height / mask.shape[0]
            across, down = max(0, min(x1, right) - max(x0, left)), max(0, min(y1, bottom) - max(y0, top))
            total += float(mask[row, column]) * across * down
    return total / ((right - left) * (bottom - top))


def test_each_centre_has_a_tile_at_each_resolution() -> None:
    boxes = place_tiles(Tiles(size=100, mpp=(0.5, 2.0), tissue=0), 1_000, 800, (0.25, 0.25), None).boxes
    assert len(boxes) == 2 * 5 * 4
    fine, coarse = boxes[::2], boxes[1::2]
    assert ((fine[:, 2:] - fine[:, :2]) == 200).all() and ((coarse[:, 2:] - coarse[:, :2]) == 800).all()
    assert np.array_equal(fine[:, :2] + fine[:, 2:], coarse[:, :2] + coarse[:, 2:])


def test_pixels_that_are_not_square_are_heard() -> None:
    boxes = place_tiles(Tiles(size=100, mpp=1.0, tissue=0), 1_000, 1_000, (0.5, 0.25), None).boxes
    assert boxes[0].tolist() == [0, 0, 200, 400] and len(boxes) == 5 * 3


def test_most_takes_some_of_all_and_says_how_many_there_were() -> None:
    all_of_them = place_tiles(Tiles(size=10, mpp=1.0, tissue=0), 1_000, 1_000, (1.0, 1.0), None)
    some = place_tiles(Tiles(size=10, mpp=1.0, tissue=0, most=100), 1_000, 1_000, (1.0, 1.0), None)
    assert (all_of_them.found, some.found, len(some.boxes)) == (10_000, 10_000, 100)
    assert np.array_equal(some.boxes, all_of_them.boxes[::100])
    # Tiles at several resolutions count each.
    twice = place_tiles(Tiles(size=10, mpp=(1.0, 2.0), tissue=0, most=100), 1_000, 1_000, (1.0, 1.0), None)
    assert (twice.found, len(twice.boxes)) == (10_000, 100)


def test_a_slide_of_too_many_tiles_is_refused_and_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "LIMITS", dataclasses.replace(LIMITS, tiles=99))
    assert len(place_tiles(Tiles(size=10, mpp=1.0, tissue=0), 110, 90, (1.0, 1.0), None).boxes) == 99
    with pytest.raises(
        SourceError, match=r"has 100 tiles, the limit is 99; take a larger stride.*OSLER_LIMIT_TILES"
    ) as caught:
        place_tiles(Tiles(size=10, mpp=1.0, tissue=0), 100, 100, (1.0, 1.0), None)
    assert caught.value.code == "too_large"
    with pytest.raises(SourceError, match="has places for more than 20000000 tiles"):
        place_tiles(Tiles(size=1, mpp=1.0), 1 << 24, 1 << 24, (1.0, 1.0), np.ones((4, 4), bool))


def test_what_cannot_be_placed_is_one_sentence() -> None:
    for wanted, mask, code, said in (
        (
            Tiles(mpp=0.2),
            None,
            "no_level",
            "has 0.25 micrometres per pixel at its finest, and tiles at 0.2 would be enlarged",
        ),
        (Tiles(mpp=0.25), np.zeros((9, 9), bool), "no_tissue", "no tile of the slide is tissue to 0.5 or more"),
        (
            Tiles(size=5_000, mpp=0.25, border="drop"),
            None,
            "no_tiles",
            "smaller than a tile; take smaller tiles, or border='pad'",
        ),
    ):
        with pytest.raises(SourceError, match=said) as caught:
            place_tiles(wanted, 900, 900, (0.25, 0.25), mask)
        assert caught.value.code == code
    # Scanners of one magnification differ by some percent.
    assert len(place_tiles(Tiles(mpp=0.25, tissue=0), 900, 900, (0.2617, 0.2617), None).boxes)
