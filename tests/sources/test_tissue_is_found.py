"""Tissue is told from glass, ink, borders and specks: on drawn slides whose truth is known, and on real tissue."""

from __future__ import annotations

import numpy as np
import pytest
from osler.errors import SourceError
from osler.sources.tissue import otsu, tissue_mask
from PIL import Image, ImageDraw
from slide_files import GLASS, draw_slide, real_tissue, shrunk

UM = 8.0
STAINS = {"eosin": (222, 150, 190), "pale": (232, 214, 226), "haematoxylin": (110, 80, 150), "dab": (150, 95, 50)}


def glass(height: int = 220, width: int = 300, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (GLASS + rng.integers(-3, 4, (height, width, 1)) + rng.integers(-1, 2, (height, width, 3))).astype(np.uint8)


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("stain", STAINS)
def test_a_drawn_piece_is_found(stain: str) -> None:
    picture = glass()
    truth = np.zeros(picture.shape[:2], bool)
    truth[60:160, 80:220] = True
    rng = np.random.default_rng(2)
    picture[truth] = np.clip(np.array(STAINS[stain]) + rng.normal(0, 6, (int(truth.sum()), 3)), 0, 255)
    assert overlap(tissue_mask(picture, UM), truth) > 0.96


def test_a_pale_stain_beside_a_strong_one_is_tissue_too() -> None:
    picture = glass()
    picture[40:100, 40:140], picture[100:160, 40:140] = STAINS["dab"], STAINS["pale"]
    found = tissue_mask(picture, UM)
    assert found[45:95, 45:135].mean() == 1 and found[105:155, 45:135].mean() > 0.98
    assert found[:, 160:].sum() == 0


def test_real_tissue_on_glass() -> None:
    """The truth is where the tissue was put; the real tile has gaps of bare glass of its own."""
    picture, truth = draw_slide(3_200, 4_800, 4)
    small, where = shrunk(picture, 16), np.asarray(Image.fromarray(truth.astype(np.uint8) * 255).reduce(16)) > 127
    found = tissue_mask(small, UM)
    assert overlap(found, where) > 0.93
    grown = np.asarray(Image.fromarray(where.astype(np.uint8) * 255).filter(_dilate(5))) > 0
    assert not (found & ~grown).any()


def test_real_tissue_without_any_glass_is_taken_whole() -> None:
    whole = shrunk(np.tile(real_tissue()[:, :140], (6, 9, 1)), 16)
    assert tissue_mask(whole, UM).mean() > 0.97


@pytest.mark.parametrize(
    "ink",
    [(20, 130, 60), (25, 75, 190), (30, 30, 34), (0, 0, 0), (215, 20, 35)],
    ids=["green", "blue", "grey", "black", "red"],
)
def test_pen_marks_are_no_tissue(ink: tuple[int, int, int]) -> None:
    picture, truth = draw_slide(1_760, 2_400, 6, (0.45, 0.25, 0.9, 0.8))
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    draw.line([(150, 200), (600, 900), (200, 1_500)], fill=ink, width=70)
    draw.ellipse([400, 150, 900, 600], outline=ink, width=50)
    marks = np.asarray(image) != picture
    found = tissue_mask(shrunk(np.asarray(image), 8), 4.0)
    drawn = np.asarray(Image.fromarray((marks.any(axis=2) * 255).astype(np.uint8)).reduce(8)) > 0
    assert not (found & drawn).any()
    kept = np.asarray(Image.fromarray((truth & ~marks.any(axis=2)).astype(np.uint8) * 255).reduce(8)) > 127
    assert found[kept].mean() > 0.9


def test_black_borders_are_no_tissue() -> None:
    picture = glass()
    picture[:14], picture[:, :9], picture[-30:, -60:] = (6, 2, 3), (0, 0, 0), (25, 12, 30)
    picture[80:150, 100:200] = STAINS["eosin"]
    truth = np.zeros(picture.shape[:2], bool)
    truth[80:150, 100:200] = True
    assert overlap(tissue_mask(picture, UM), truth) > 0.96


def test_specks_are_dropped_and_small_holes_filled() -> None:
    picture = glass()
    picture[60:160, 80:220] = STAINS["eosin"]
    # 40 and 200 micrometres across, in the tissue and beside it.
    picture[100:105, 100:105] = picture[100:125, 150:175] = (GLASS, GLASS, GLASS)
    picture[20:25, 20:25] = picture[180:205, 20:45] = STAINS["eosin"]
    found = tissue_mask(picture, UM)
    assert found[100:105, 100:105].all() and not found[105:120, 155:170].any()
    assert not found[20:25, 20:25].any() and found[185:200, 25:40].all()


def test_glass_alone_and_grey_pictures_have_none() -> None:
    assert not tissue_mask(glass(), UM).any()
    assert not tissue_mask(np.full((50, 60, 3), 120, np.uint8), UM).any()
    assert not tissue_mask(np.zeros((50, 60, 3), np.uint8), UM).any()


def test_the_same_picture_gives_the_same_mask() -> None:
    small = shrunk(draw_slide(1_600, 1_600, 9)[0], 8)
    before = small.copy()
    first = tissue_mask(small, 4.0)
    assert np.array_equal(first, tissue_mask(small, 4.0)) and np.array_equal(small, before)
    assert np.array_equal(first[::-1], tissue_mask(small[::-1], 4.0))


def test_otsu_is_the_threshold_of_most_variance() -> None:
    """Against the definition, written out."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        values = np.concatenate(
            [rng.normal(m, s, 400) for m, s in ((rng.uniform(10, 90), 8), (rng.uniform(100, 240), 20))]
        )
        values = np.clip(values, 0, 255).astype(np.uint8)

        def between(threshold: int, values: np.ndarray = values) -> float:
            low, high = values[values <= threshold], values[values > threshold]
            return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else -1.0

        assert between(otsu(values)) == pytest.approx(max(map(between, range(256))))


def test_without_scipy_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(
        SourceError, match=r'finding tissue needs the package scipy.*pip install "osler\[slides\]"'
    ) as caught:
        tissue_mask(glass(), UM)
    assert caught.value.code == "missing_decoder"


def _dilate(size: int) -> object:
    from PIL import ImageFilter

    return ImageFilter.MaxFilter(size)
