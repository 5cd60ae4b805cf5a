"""Made sets are unit rows, the same every time, prefixes of each other, and texts lie across a gap from images."""

from __future__ import annotations

from pathlib import Path

import clip_like
import numpy as np
import pytest

SHAPE = clip_like.Shape(clusters=50, dim=64, atoms=40, own=10)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_like, "BLOCK", 500)
    monkeypatch.setattr(clip_like, "IMAGE_QUERIES", 100)
    monkeypatch.setattr(clip_like, "TEXT_QUERIES", 200)


@pytest.mark.usefixtures("small_blocks")
def test_a_smaller_set_is_a_prefix_of_a_larger_one(tmp_path: Path) -> None:
    small = np.load(clip_like.load(500, SHAPE, tmp_path / "small")["rows"])
    large = np.load(clip_like.load(1_700, SHAPE, tmp_path / "large")["rows"])
    assert small.shape == (500, 64)
    assert large.shape == (2_000, 64)
    assert np.array_equal(small, large[:500])
    assert not np.array_equal(large[:500], large[500:1_000])


@pytest.mark.usefixtures("small_blocks")
def test_a_larger_file_serves_a_smaller_wish(tmp_path: Path) -> None:
    large = clip_like.load(1_000, SHAPE, tmp_path)["rows"]
    assert clip_like.load(500, SHAPE, tmp_path)["rows"] == large
    larger = clip_like.load(1_500, SHAPE, tmp_path)["rows"]
    assert larger != large
    assert not large.exists()


@pytest.mark.usefixtures("small_blocks")
def test_rows_are_unit_and_texts_lie_across_the_gap(tmp_path: Path) -> None:
    paths = clip_like.load(1_000, SHAPE, tmp_path)
    rows, images, texts, practice = (np.load(paths[name]) for name in ("rows", "images", "texts", "practice"))
    for vectors in (rows, images, texts, practice):
        assert vectors.dtype == np.float32
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    within, texts_within, across = ((a @ b.T).mean() for a, b in ((images, rows), (texts, practice), (texts, rows)))
    assert within > 0.3
    assert texts_within > 0.3
    assert across < within - 0.3
    assert not np.array_equal(texts, practice)


def test_another_shape_has_another_name() -> None:
    assert clip_like.mark(SHAPE) != clip_like.mark(clip_like.Shape())
