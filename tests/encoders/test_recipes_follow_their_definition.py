"""Each step of a recipe equals its definition written out in loops or by Pillow, on pictures of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler import EncoderError
from osler.encoders.preprocess import apply_recipe
from osler.encoders.recipe import Clahe, Crop, Exact, Grey, Normalise, Pad, Quantise, Resize, Rgb, Window
from PIL import Image

sides = st.integers(1, 40)


def picture(height: int, width: int, channels: int, dtype: str, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    shape = (height, width) if channels == 1 else (height, width, 3)
    if dtype == "float32":
        return generator.random(shape, dtype=np.float32)
    return generator.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def resize(mode: str, height: int, width: int, kernel: str = "bicubic", **options) -> Resize:
    return Resize(op="resize", mode=mode, height=height, width=width, filter=kernel, **options)


def keys(x: float, a: float = -0.75) -> float:
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def sampled(values: np.ndarray, target: int, kernel: str) -> np.ndarray:
    """Resample the first axis by the definition, one output at a time."""
    source = len(values)
    out = []
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        if kernel == "nearest":
            out.append(values[i * source // target])
            continue
        if kernel == "bilinear":
            centre = max(centre, 0.0)
            taps = {j: max(0.0, 1 - abs(centre - j)) for j in range(int(np.floor(centre)), int(np.floor(centre)) + 2)}
        else:
            taps = {j: keys(centre - j) for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3)}
        out.append(sum(share * values[min(max(j, 0), source - 1)] for j, share in taps.items()))
    return np.array(out)


@given(sides, sides, sides, sides, st.sampled_from(["nearest", "bilinear", "bicubic"]), st.sampled_from([1, 3]))
def test_sampling_without_antialias(h: int, w: int, th: int, tw: int, kernel: str, channels: int) -> None:
    values = picture(h, w, channels, "uint8")
    found = apply_recipe([resize("squash", th, tw, kernel, antialias=False)], values)
    rows = sampled(values.astype(np.float64), th, kernel)
    expected = np.swapaxes(sampled(np.swapaxes(rows, 0, 1), tw, kernel), 0, 1)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=2e-3)


@given(sides, sides, sides, sides, st.sampled_from(["box", "bilinear", "bicubic", "lanczos", "nearest"]))
def test_eight_bit_resizing_is_pillows(h: int, w: int, th: int, tw: int, kernel: str) -> None:
    values = picture(h, w, 3, "uint8")
    found = apply_recipe([resize("squash", th, tw, kernel)], values)
    expected = Image.fromarray(values).resize((tw, th), Image.Resampling[kernel.upper()])
    np.testing.assert_array_equal(found, np.asarray(expected))


@given(sides, sides, sides, sides, st.sampled_from([1, 3]))
def test_other_depths_are_resized_in_float(h: int, w: int, th: int, tw: int, channels: int) -> None:
    values = picture(h, w, channels, "uint16")
    found = apply_recipe([Window(op="window", rule="full"), resize("squash", th, tw)], values)
    assert found.dtype == np.float32
    smooth = resize("squash", th, tw, "bilinear")
    eight = apply_recipe([smooth], np.rint(values / 257).astype(np.uint8))
    deep = apply_recipe([Window(op="window", rule="full"), smooth], values)
    assert np.abs(deep - eight).max() <= 2.0  # rounding to 8 bits before, between the axes and after
    planes = found.shape[2]
    for c in range(planes):
        plane = values if channels == 1 else values[:, :, c]
        alone = Image.fromarray(plane.astype(np.float32) / 257).resize((tw, th), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(found[:, :, c], np.clip(np.asarray(alone), 0, 255), atol=1e-2)


@given(
    sides, sides, st.integers(1, 30), st.sampled_from(["shortest", "longest"]), st.sampled_from(["round", "truncate"])
)
def test_kept_shapes(h: int, w: int, side: int, mode: str, rounding: str) -> None:
    found = apply_recipe([resize(mode, side, side, rounding=rounding)], picture(h, w, 1, "uint8"))
    kept = min(h, w) if mode == "shortest" else max(h, w)
    turn = int if rounding == "truncate" else round
    expected = [side if s == kept else max(1, turn(s * side / kept)) for s in (h, w)]
    assert list(found.shape[:2]) == expected


def test_the_recipes_of_the_medical_encoders_give_their_size() -> None:
    recipes = {
        "short side and centre crop": [resize("shortest", 16, 16), Crop(op="crop", height=16, width=16)],
        "squash": [resize("squash", 16, 16)],
        "canvas, content top left": [resize("longest", 16, 16), Pad(op="pad", height=16, width=16, anchor="top_left")],
        "canvas and crop": [
            resize("longest", 20, 20, "box"),
            Pad(op="pad", height=20, width=20, anchor="centre"),
            Crop(op="crop", height=16, width=16),
        ],
        "square, then resize": [Pad(op="pad", height=0, width=0, anchor="centre"), resize("squash", 16, 16)],
        "square of at least 224, then resize": [
            Pad(op="pad", height=0, width=224, anchor="centre"),
            resize("squash", 16, 16),
        ],
    }
    for name, recipe in recipes.items():
        for h, w in ((50, 30), (30, 50), (5, 9), (16, 16)):
            found = apply_recipe([Rgb(op="rgb"), *recipe], picture(h, w, 1, "uint8"))
            assert found.shape == (16, 16, 3), name


def test_crop_pad_grey_and_normalise_by_hand() -> None:
    values = np.arange(35, dtype=np.uint8).reshape(5, 7)
    np.testing.assert_array_equal(apply_recipe([Crop(op="crop", height=2, width=3)], values)[:, :, 0], values[2:4, 2:5])
    padded = apply_recipe([Pad(op="pad", height=8, width=8, anchor="centre", value=9)], values)[:, :, 0]
    np.testing.assert_array_equal(padded[1:6, 0:7], values)
    assert (np.delete(padded[:, :7], range(1, 6), axis=0) == 9).all() and (padded[:, 7] == 9).all()
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    np.testing.assert_array_equal(apply_recipe([Grey(op="grey")], colour)[0, :, 0], [76, 150, 29])
    step = Normalise(op="normalise", scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 1.0))
    np.testing.assert_allclose(apply_recipe([step], colour)[0, 0], [2, -0.8, -0.3], rtol=1e-6)


@given(st.sampled_from(["uint16", "float32"]), st.sampled_from(["minmax", "percentile", "full"]), st.integers(0, 99))
def test_windows_stay_in_range_and_keep_order(dtype: str, rule: str, seed: int) -> None:
    values = picture(12, 9, 1, dtype, seed)
    step = Window(op="window", rule=rule, low=5, high=95) if rule == "percentile" else Window(op="window", rule=rule)
    found = apply_recipe([step], values)[:, :, 0]
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 255
    order = np.argsort(values, axis=None, kind="stable")
    assert (np.diff(found.ravel()[order]) >= 0).all()
    if rule == "minmax":
        assert found.min() == 0 and found.max() == pytest.approx(255)
    if rule == "full":
        np.testing.assert_allclose(
            found, values.astype(np.float64) * (255 / (65535 if dtype == "uint16" else 1)), rtol=1e-5
        )


def test_windows_at_the_edges() -> None:
    full = [Window(op="window", rule="full")]
    assert (apply_recipe(full, np.full((3, 3), 7.0, dtype=np.float32)) == 0).all()
    spread = apply_recipe(full, np.array([[-1000, 0, 1000]], dtype=np.float32))[0, :, 0]
    np.testing.assert_allclose(spread, [0, 127.5, 255])
    one_bright = np.zeros((20, 20), dtype=np.uint16)
    one_bright[3, 3] = 900
    shown = apply_recipe([Window(op="window", rule="percentile", low=1, high=99)], one_bright)
    assert shown.max() == 255
    assert apply_recipe(full, np.full((2, 2), 9, dtype=np.uint8)).dtype == np.uint8


@given(st.sampled_from(["uint8", "uint16", "float32"]), st.sampled_from(["minmax", "percentile"]), st.integers(0, 99))
def test_windows_to_eight_bits_are_computed_in_float64(dtype: str, rule: str, seed: int) -> None:
    values = picture(12, 9, 1, dtype, seed)
    ends = {"low": 5.0, "high": 95.0} if rule == "percentile" else {}
    step = Window(op="window", rule=rule, eight_bit="map", depth="uint8", **ends)
    low, high = np.percentile(values, (5, 95)) if ends else (float(values.min()), float(values.max()))
    exact = (np.clip(values.astype(np.float64), low, high) - low) / (high - low) * 255
    found = apply_recipe([step], values)[:, :, 0]
    np.testing.assert_array_equal(found, exact.astype(np.uint8))
    rounded = apply_recipe([step.model_copy(update={"rounding": "half_even"})], values)[:, :, 0]
    np.testing.assert_array_equal(rounded, np.rint(exact).astype(np.uint8))


def test_scaling_by_the_greatest() -> None:
    step = Window(op="window", rule="max", depth="uint8", rounding="half_even")
    deep = np.array([[0, 1000, 4095]], dtype=np.uint16)
    assert apply_recipe([step], deep)[0, :, 0].tolist() == [0, 62, 255]
    assert apply_recipe([step], np.array([[0, 50, 100]], dtype=np.uint8))[0, :, 0].tolist() == [0, 50, 100]
    mapped = step.model_copy(update={"eight_bit": "map"})
    assert apply_recipe([mapped], np.array([[0, 50, 100]], dtype=np.uint8))[0, :, 0].tolist() == [0, 128, 255]
    assert not apply_recipe([mapped], np.zeros((2, 2), dtype=np.uint8)).any()
    floats = apply_recipe([Window(op="window", rule="max")], np.array([[0, 1, 4]], dtype=np.float32))
    assert floats[0, :, 0].tolist() == [0, 63.75, 255]


@given(sides, sides, sides, sides, st.sampled_from([1, 3]))
def test_resizing_like_tensorflow_is_two_linear_steps(h: int, w: int, th: int, tw: int, channels: int) -> None:
    values = picture(h, w, channels, "uint8")
    found = apply_recipe([resize("squash", th, tw, "bilinear", antialias=False, like="tensorflow")], values)
    rows = sampled(values.astype(np.float64), th, "bilinear")
    expected = np.swapaxes(sampled(np.swapaxes(rows, 0, 1), tw, "bilinear"), 0, 1)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=2e-3)


@pytest.mark.parametrize(("like", "slack"), [("torch", 1), ("torch_uint8", 1), ("pillow", 0)])
def test_libraries_differ_by_a_grey_at_most(like: str, slack: int) -> None:
    values = picture(90, 120, 3, "uint8", 5)
    found = apply_recipe([resize("squash", 33, 41, "bicubic", like=like)], values).astype(int)
    expected = np.asarray(Image.fromarray(values).resize((41, 33), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(found - expected).max() <= slack


def test_the_last_pixel_of_a_kept_shape_is_that_of_its_formula() -> None:
    tall = picture(1000, 31, 1, "uint8")
    sizes = {
        scale: apply_recipe([resize("longest", 511, 511, "bilinear", scale=scale)], tall).shape[:2]
        for scale in ("exact", "divide", "multiply")
    }
    assert sizes == {
        scale: (int(1000 / (1000 / 511)) if scale == "divide" else 511, width)
        for scale, width in (("exact", 31 * 511 // 1000), ("divide", int(31 / (1000 / 511))), ("multiply", 15))
    }
    wide = apply_recipe([resize("shortest", 20, 30, "bilinear", scale="divide", rounding="round")], tall)
    assert wide.shape[:2] == (round(1000 / (31 / 30)), 30)


def test_squares_patches_and_whole_numbers() -> None:
    square = apply_recipe([Pad(op="pad", height=0, width=0, anchor="centre", least=12)], picture(5, 7, 1, "uint8"))
    assert square.shape == (12, 12, 1)
    larger = apply_recipe([Pad(op="pad", height=0, width=0, anchor="centre", least=12)], picture(50, 7, 3, "uint8"))
    assert larger.shape == (50, 50, 3)
    patch = picture(6, 6, 3, "uint8")
    np.testing.assert_array_equal(apply_recipe([Exact(op="exact", height=6, width=6)], patch), patch)
    spread = Normalise(op="normalise", scale=1.5, mean=(3.0,))  # gives -3, 1.5, 3 and 297
    for rounding, expected in (("truncate", [0, 1, 3, 255]), ("half_even", [0, 2, 3, 255])):
        step = Quantise(op="quantise", rounding=rounding)
        found = apply_recipe([spread, step], np.array([[0, 3, 4, 200]], dtype=np.uint8))
        assert found.dtype == np.uint8 and found[0, :, 0].tolist() == expected


def test_crops_with_half_a_pixel_over() -> None:
    values = np.arange(49, dtype=np.uint8).reshape(7, 7)
    for size, even, floor in ((4, 2, 1), (2, 2, 2), (6, 0, 0)):
        for offset, start in (("half_even", even), ("floor", floor)):
            found = apply_recipe([Crop(op="crop", height=size, width=size, offset=offset)], values)[:, :, 0]
            np.testing.assert_array_equal(found, values[start : start + size, start : start + size])


@given(sides, sides, st.sampled_from(["uint8", "uint16"]))
def test_three_channels_made_late_are_those_made_early(h: int, w: int, dtype: str) -> None:
    values = picture(h, w, 1, dtype)
    tail = [
        resize("squash", 9, 11),
        Pad(op="pad", height=12, width=13, anchor="centre", value=3.0),
        Crop(op="crop", height=8, width=8),
        Normalise(op="normalise", divisor=255.0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
    ]
    window = [Window(op="window", rule="full")]
    early = apply_recipe([*window, Rgb(op="rgb"), *tail], values)
    colour = apply_recipe([*window, *tail], np.stack([values] * 3, axis=2))
    np.testing.assert_array_equal(early, colour)
    shown = apply_recipe([Rgb(op="rgb"), Grey(op="grey")], picture(h, w, 1, "uint8"))
    np.testing.assert_array_equal(shown[:, :, 0], picture(h, w, 1, "uint8"))


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(EncoderError, match="crops 9 x 9 from a picture that is 5 x 7"):
        apply_recipe([Crop(op="crop", height=9, width=9)], picture(5, 7, 1, "uint8"))
    with pytest.raises(EncoderError, match="pads to 4 x 9 a picture that is 5 x 7"):
        apply_recipe([Pad(op="pad", height=4, width=9, anchor="centre")], picture(5, 7, 1, "uint8"))
    with pytest.raises(ValueError, match="image 4 is uint16, and this encoder's recipe takes 8-bit pictures only"):
        apply_recipe([Rgb(op="rgb")], picture(5, 7, 1, "uint16"), "image 4")
    with pytest.raises(ValueError, match="image 2 is 5 x 7, and this encoder takes patches of 9 x 9 pixels only; cut"):
        apply_recipe([Exact(op="exact", height=9, width=9)], picture(5, 7, 3, "uint8"), "image 2")
    for channels, dtype in ((3, "uint8"), (1, "uint16")):
        with pytest.raises(EncoderError, match="not one channel of 8 bits by then; put window"):
            apply_recipe(
                [Window(op="window", rule="full"), Clahe(op="clahe", limit=4.0)], picture(5, 7, channels, dtype)
            )
