"""Tokens under a mask: exact areas, the geometry of a recipe as the recipe itself does it, and regions as vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.encoders.geometry import geometry_of
from osler.encoders.patch_tokens import Geometry, pool_under_mask, token_shares
from osler.encoders.preprocess import apply_recipe
from osler.encoders.recipe import Crop, Pad, Resize, Rgb
from osler.items import MaskedPicture, Volume
from osler.sources import Regions
from PIL import Image
from tiny_encoder import TinyEncoder, token_model

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


@pytest.fixture(params=["map", "in a row"])
def dense(request: pytest.FixtureRequest, tiny: TinyEncoder, rng: np.random.Generator) -> TinyEncoder:
    """The tiny encoder with a token for each quarter of a picture; its weights are those of the convolution."""
    kernel = rng.standard_normal((5, 3, 2, 2)).astype(np.float32)
    row = request.param == "in a row"
    (tiny.folder / "image.onnx").write_bytes(token_model(kernel, in_a_row=row).SerializeToString())
    tiny.manifest["image"]["file"] = tiny.enter("image.onnx")
    given = {"output": "states", "grid": [2, 2], "skip": 1} if row else {"output": "map"}
    tiny.manifest["image"]["tokens"] = given
    tiny.image_weights = kernel
    tiny.save()
    return tiny


def quarters(dense: TinyEncoder, picture: np.ndarray) -> np.ndarray:
    """(2, 2, 5): what the tokens of a grey picture of 4 x 4 are."""
    seen = np.stack([(picture / 255.0 - 0.5) / 0.25] * 3)
    kernel = dense.image_weights
    return np.array([[(kernel * seen[:, y : y + 2, x : x + 2]).sum((1, 2, 3)) for x in (0, 2)] for y in (0, 2)])


def unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.linalg.norm(vector))


def test_a_region_is_the_mean_of_its_tokens(dense: TinyEncoder, rng: np.random.Generator) -> None:
    encoder = osler.load_encoder(dense.folder)
    assert encoder.gives_tokens
    one, other = (rng.integers(0, 256, (4, 4), dtype=np.uint8) for _ in range(2))
    mask = np.zeros((4, 4), np.uint8)
    mask[:2, :] = 7
    mask[2:, :1] = 7  # half of a quarter
    expected = quarters(dense, one)
    found = encoder.encode_images(
        [
            one,
            MaskedPicture(one, mask),
            other,
            MaskedPicture(other, mask > 0),
            MaskedPicture(one, np.ones((4, 4), bool)),
        ]
    )
    weights = np.array([[1, 1], [0.5, 0]])[:, :, None]
    np.testing.assert_allclose(found[0], unit(expected.mean((0, 1))), atol=1e-5)
    np.testing.assert_allclose(found[1], unit((expected * weights).sum((0, 1))), atol=1e-5)
    np.testing.assert_allclose(found[3], unit((quarters(dense, other) * weights).sum((0, 1))), atol=1e-5)
    # where a tower pools by the mean, the whole picture is a region like any other
    np.testing.assert_allclose(found[4], found[0], atol=1e-6)
    np.testing.assert_array_equal(found[[0, 2]], encoder.encode_images([one, other]))


def test_regions_of_one_picture_run_it_once(
    dense: TinyEncoder, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSLER_THREADS", "1")
    encoder = osler.load_encoder(dense.folder)
    picture = rng.integers(0, 256, (4, 4), dtype=np.uint8)
    picture.setflags(write=False)
    masks = [np.arange(16).reshape(4, 4) % n == 0 for n in (1, 2, 3, 5)]
    encoder.encode_images([picture])
    tower = encoder._tower("image")
    rows: list[int] = []
    run_all = tower.session.run_all

    def counted(feeds: Any, outputs: Any) -> Any:
        rows.append(len(feeds["pixels"]))
        return run_all(feeds, outputs)

    monkeypatch.setattr(tower.session, "run_all", counted)
    found = encoder.encode_images([MaskedPicture(picture, mask) for mask in masks])
    assert sum(rows) == 1
    writeable = picture.copy()
    np.testing.assert_array_equal(encoder.encode_images([MaskedPicture(writeable, masks[1])])[0], found[1])
    writeable[:] = 255 - writeable  # what may change is never taken for what it was
    assert not np.allclose(encoder.encode_images([MaskedPicture(writeable, masks[1])])[0], found[1])


def test_a_view_that_changes_between_calls_is_looked_at_again(dense: TinyEncoder, rng: np.random.Generator) -> None:
    encoder = osler.load_encoder(dense.folder)
    below = rng.integers(0, 256, (4, 4), dtype=np.uint8)
    view, mask = below.view(), np.eye(4, dtype=bool)
    view.setflags(write=False)
    first = encoder.encode_images([MaskedPicture(view, mask)] * 2)
    below[:] = 255 - below
    again = encoder.encode_images([MaskedPicture(view, mask)] * 2)
    np.testing.assert_array_equal(again, encoder.encode_images([MaskedPicture(below.copy(), mask)] * 2))
    assert not np.allclose(first, again)


def test_a_mask_of_a_box_is_that_mask_in_the_picture(dense: TinyEncoder, rng: np.random.Generator) -> None:
    encoder = osler.load_encoder(dense.folder)
    picture = rng.integers(0, 256, (9, 11), dtype=np.uint8)
    mask = np.zeros((9, 11), bool)
    mask[2:7, 3:10] = rng.random((5, 7)) < 0.5
    whole, part = encoder.encode_images(
        [MaskedPicture(picture, mask), MaskedPicture(picture, mask[2:7, 3:10], (3, 2, 10, 7))]
    )
    np.testing.assert_allclose(whole, part, atol=1e-6)
    for box in ((3, 2, 12, 7), (3, 2, 9, 7), (-1, 2, 6, 7)):
        with pytest.raises(ValueError, match="or of a box inside it"):
            encoder.encode_images([MaskedPicture(picture, mask[2:7, 3:10], box)])


def test_what_a_collection_cannot_make_of_regions_is_said_where_it_is_known(
    dense: TinyEncoder, tmp_path: Path, rng: np.random.Generator
) -> None:
    picture = tmp_path / "a.png"
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(picture)
    regions = Regions(boxes={"a.png": [(0, 0, 4, 4)]}, vectors="tokens")
    recipe = dense.manifest["image"]["recipe"]
    recipe[2:3] = [
        {"op": "resize", "mode": "squash", "height": 8, "width": 8, "filter": "bilinear"},
        {"op": "crop", "height": 4, "width": 4},
    ]
    cases = osler.Collection.create(tmp_path / "cases.osler", encoder=dense.save())
    outside = Regions(boxes={"a.png": [(0, 0, 2, 8)]}, vectors="tokens")
    (failure,) = cases.add(picture, parts=outside, progress=False).failures
    assert failure.code == "bad_region" and "has nothing in what the model saw of it" in failure.message
    assert cases.add(picture, parts=regions, progress=False).added == 1
    del dense.manifest["image"]["tokens"]
    plain = osler.Collection.create(tmp_path / "plain.osler", encoder=dense.save())
    with pytest.raises(ValueError, match="the encoder tiny gives no patch tokens; use vectors='crop'"):
        plain.add(picture, parts=regions, progress=False)


def test_regions_of_a_collection(dense: TinyEncoder, rng: np.random.Generator, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    one, other = (rng.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(2))
    for name, picture in (("a.png", one), ("b.png", other)):
        Image.fromarray(picture).save(pictures / name)
    mask = np.zeros((8, 8), np.uint8)
    mask[1:4, 2:7], mask[5:, :3] = 1, 2
    regions = Regions(boxes={"a.png": [(0, 0, 4, 4)]}, masks={"a.png": mask}, whole=True, vectors="tokens")
    cases = osler.Collection.create(tmp_path / "cases.osler", encoder=dense.folder)
    assert cases.add(pictures, parts=regions, progress=False).added == 2
    encoder = osler.load_encoder(dense.folder)
    box = np.zeros((8, 8), bool)
    box[:4, :4] = True
    expected = encoder.encode_images(
        [one, MaskedPicture(one, box), MaskedPicture(one, mask == 1), MaskedPicture(one, mask == 2)]
    )
    np.testing.assert_allclose(cases.part_vectors(["a.png"]).vectors, expected, atol=1e-3)
    hit = cases.search(image=MaskedPicture(one, mask == 1), k=1)[0]
    assert (hit.key, hit.part.position, hit.part.locator.box) == ("a.png", 2, (2, 1, 7, 4))
    assert regions.recipe("a.png") != Regions(boxes=regions.boxes, masks=regions.masks, whole=True).recipe("a.png")


def test_what_has_no_tokens_or_a_wrong_mask_is_one_sentence(tiny: TinyEncoder, dense: TinyEncoder) -> None:
    encoder = osler.load_encoder(dense.folder)
    picture, mask = np.zeros((6, 9), np.uint8), np.ones((6, 9), bool)
    with pytest.raises(ValueError, match=r"mask of image 0 has shape \(9, 6\) and type bool.*one of its size"):
        encoder.encode_images([MaskedPicture(picture, mask.T)])
    with pytest.raises(ValueError, match="type float64"):
        encoder.encode_images([MaskedPicture(picture, mask * 0.5)])
    with pytest.raises(ValueError, match="the mask of image 1 has nothing in what the model saw"):
        encoder.encode_images([picture, MaskedPicture(picture, mask & False)])
    with pytest.raises(ValueError, match="margin and background are of crops"):
        Regions(vectors="tokens", margin=0.1)
    with pytest.raises(ValueError, match="choose crop or tokens"):
        Regions(vectors="mean")
    if "grid" in dense.manifest["image"]["tokens"]:
        dense.manifest["image"]["tokens"]["grid"] = [2, 3]
        with pytest.raises(osler.EncoderError, match=r"gives 5 tokens, and tokens of manifest\.json has 1 and 2 x 3"):
            osler.load_encoder(dense.save()).encode_images([MaskedPicture(picture, mask)])
    dense.manifest["image"]["tokens"] = {"output": "nothing"}
    with pytest.raises(osler.EncoderError, match="the model has no output 'nothing'"):
        osler.load_encoder(dense.save()).encode_images([picture])
    dense.manifest["image"]["tokens"] = {"output": "map", "skip": 1}
    with pytest.raises(osler.EncoderError, match="skip belongs to tokens in a row"):
        osler.load_encoder(dense.save())
    del dense.manifest["image"]["tokens"]
    plain = osler.load_encoder(dense.save())
    assert not plain.gives_tokens
    with pytest.raises(
        ValueError, match="image 0 is a region under a mask, and the encoder tiny gives no patch tokens"
    ):
        plain.encode_images([MaskedPicture(picture, mask)])


def test_tokens_are_of_pictures(tmp_path: Path, rng: np.random.Generator) -> None:
    from tiny_encoder import tiny_volume_encoder

    tiny = tiny_volume_encoder(tmp_path / "tiny-3d", rng)
    scan = Volume(np.zeros((6, 5, 4), np.int16), np.eye(4))
    encoder = osler.load_encoder(tiny.save())
    with pytest.raises(TypeError, match="MaskedPicture"):
        encoder.encode_images([MaskedPicture(scan.array[:, :, 0], np.ones((6, 5), bool))])
    tiny.manifest["image"]["tokens"] = {"output": "vector"}
    with pytest.raises(osler.EncoderError, match="tokens are of pictures"):
        osler.load_encoder(tiny.save())


def test_the_shipped_encoder_gives_tokens(rng: np.random.Generator) -> None:
    encoder = osler.load_encoder("efficientnet-lite0")
    picture = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    whole, region = encoder.encode_images([picture, MaskedPicture(picture, np.ones((60, 80), bool))])
    assert float(whole @ region) > 0.999999
