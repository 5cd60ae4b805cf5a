"""Tokens under a mask: exact areas, and the geometry of a recipe as the recipe itself does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.encoders.geometry import geometry_of
from osler.encoders.patch_tokens import Geometry, pool_under_mask, token_shares
from osler.encoders.preprocess import apply_recipe
from osler.encoders.recipe import Crop, Pad, Resize, Rgb

RGB = Rgb(op="rgb")


def resize(mode: str, height: int, width: int, **more: Any) -> Resize:
    return Resize(op="resize", mode=mode, height=height, width=width, filter="bilinear", **more)  # type: ignore[arg-type]


RECIPES = {
    "squash": [RGB, resize("squash", 224, 224)],
    "shortest and crop": [RGB, resize("shortest", 256, 256), Crop(op="crop", height=224, width=224)],
    "the whole, padded": [RGB, resize("longest", 224, 224), Pad(op="pad", height=224, width=224, anchor="centre")],
    "padded at the corner": [RGB, resize("longest", 192, 192), Pad(op="pad", height=224, width=224, anchor="top_left")],
    "square, then resized": [RGB, Pad(op="pad", height=0, width=0, anchor="centre"), resize("squash", 224, 224)],
    "cropped twice": [
        RGB,
        resize("shortest", 300, 300),
        Crop(op="crop", height=280, width=290, offset="floor"),
        resize("squash", 230, 260),
        Crop(op="crop", height=224, width=224),
    ],
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [(480, 640), (641, 479), (300, 300), (233, 1_111)], ids=str)
def test_shares_are_what_the_recipe_makes_of_the_mask(name: str, size: tuple[int, int]) -> None:
    """The mask goes through the recipe as a picture, and is counted there."""
    recipe = RECIPES[name]
    rng = np.random.default_rng(1)
    mask = np.zeros(size, np.uint8)
    top, left = rng.integers(0, [size[0] // 2, size[1] // 2])
    mask[top : top + size[0] // 2, left : left + size[1] // 2] = 255
    seen = apply_recipe(recipe, mask)[:, :, 0].astype(np.float64) / 255
    expected = seen.reshape(14, 16, 14, 16).mean(axis=(1, 3))
    geometry = geometry_of(recipe, *size)
    assert (geometry.height, geometry.width) == (224, 224)
    found = token_shares(mask > 0, geometry, 14, 14)
    assert np.abs(found - expected).max() < 0.08
    assert np.abs(found.sum() - expected.sum()) < 0.3


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 5),
    st.floats(0.3, 4.0),
    st.floats(0.3, 4.0),
    st.floats(-6, 6),
    st.floats(-6, 6),
    st.integers(0, 2**16),
)
def test_shares_are_exact_areas(
    height: int, width: int, rows: int, columns: int, sy: float, sx: float, top: float, left: float, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    geometry = Geometry(20, 24, sy, sx, top, left)
    found = token_shares(mask, geometry, rows, columns)
    for row in range(rows):
        for column in range(columns):
            y0, y1 = (20 * at / rows for at in (row, row + 1))
            x0, x1 = (24 * at / columns for at in (column, column + 1))
            area = sum(
                max(0.0, min(y1, (y + 1) * sy + top) - max(y0, y * sy + top))
                * max(0.0, min(x1, (x + 1) * sx + left) - max(x0, x * sx + left))
                for y, x in np.argwhere(mask)
            )
            assert found[row, column] == pytest.approx(area / ((y1 - y0) * (x1 - x0)), abs=1e-9)


def test_the_mean_is_that_of_the_tokens_under_the_mask(rng: np.random.Generator) -> None:
    tokens = rng.normal(size=(3, 14, 14, 8)).astype(np.float32)
    geometry = Geometry.of(448, 448).resized(224, 224)
    mask = np.zeros((448, 448), bool)
    mask[64:128, 96:224] = True
    found = pool_under_mask(tokens, mask, geometry)
    np.testing.assert_allclose(found, tokens[:, 2:4, 3:7].mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    # A quarter of one patch more moves the mean by a quarter of its weight.
    mask[128:144, 96:112] = True
    moved = pool_under_mask(tokens, mask, geometry)
    expected = (tokens[:, 2:4, 3:7].sum(axis=(1, 2)) + tokens[:, 4, 3] / 4) / 8.25
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pool_under_mask(tokens, mask, geometry, least=0.5), found, rtol=1e-5, atol=1e-6)
    small = np.zeros((448, 448), bool)
    small[0:8, 0:8] = True
    np.testing.assert_allclose(pool_under_mask(tokens, small, geometry, least=0.5), tokens[:, 0, 0], rtol=1e-5)
    whole = pool_under_mask(tokens, np.ones((448, 448), bool), geometry)
    np.testing.assert_allclose(whole, tokens.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)
    each = np.stack([mask, small, np.ones_like(mask)])
    np.testing.assert_allclose(pool_under_mask(tokens, each, geometry)[1], tokens[1, 0, 0], rtol=1e-5)
    assert found.dtype == np.float32


def test_what_cannot_be_is_one_sentence() -> None:
    tokens, mask = np.zeros((2, 14, 14, 8)), np.zeros((100, 300), bool)
    crop = geometry_of(RECIPES["shortest and crop"], 100, 300)
    with pytest.raises(ValueError, match="the mask of picture 0 has nothing in what the model saw of it"):
        pool_under_mask(tokens, mask, crop)
    mask[:, :20] = True
    with pytest.raises(ValueError, match="or cropped away"):
        pool_under_mask(tokens, mask, crop)
    with pytest.raises(ValueError, match=r"tokens has shape \(2, 196, 8\); give one of \(n, h, w, d\)"):
        pool_under_mask(tokens.reshape(2, 196, 8), mask, crop)
    with pytest.raises(ValueError, match=r"masks has shape \(3, 100, 300\), and there are 2 pictures"):
        pool_under_mask(tokens, np.stack([mask] * 3), crop)
    with pytest.raises(ValueError, match=r"the mask has shape \(4,\)"):
        token_shares(np.ones(4, bool), crop, 2, 2)
