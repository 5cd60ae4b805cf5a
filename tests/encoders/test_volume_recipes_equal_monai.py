"""The 3-D recipes give what the authors' pipelines give: MONAI's transforms, PyTorch's area pooling, SciPy's zoom.

What they gave lies in tests/fixtures/volumes/monai.npz, made by make.py beside it. Whole numbers are compared bit by
bit; MONAI's float64 resampling and PyTorch's float32 sums may differ in the last digit, and by no more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from osler.decode.nifti import nifti_volume
from osler.encoders.entry import recipe as recipe_of
from osler.encoders.volume_recipe import AnyStep
from osler.encoders.volume_steps import _STEPS, apply_volume_recipe
from osler.errors import EncoderError, SourceError
from osler.items import Volume
from pydantic import TypeAdapter, ValidationError

GOLDEN = np.load(Path(__file__).parents[1] / "fixtures" / "volumes" / "monai.npz")
SHAPE = tuple(int(side) for side in GOLDEN["shape"])
CASES = sorted({name.partition("/")[0] for name in GOLDEN.files if "/" in name})
STEPS: TypeAdapter[tuple[AnyStep, ...]] = TypeAdapter(tuple[AnyStep, ...])


def steps(*described: dict[str, Any]) -> tuple[AnyStep, ...]:
    return STEPS.validate_json(json.dumps(described))


RECIPES: dict[str, tuple[AnyStep, ...]] = {
    "orient RAS": steps({"op": "orient", "codes": "RAS"}),
    "orient PIL": steps({"op": "orient", "codes": "PIL"}),
    "respace": steps({"op": "respace", "spacing": [1.5, 1.5, 3.0]}),
    "respace fine": steps({"op": "orient"}, {"op": "respace", "spacing": [1.0, 1.0, 1.0]}),
    "intensity": steps({"op": "intensity", "low": -175.0, "high": 250.0}),
    "pad and crop": steps({"op": "pad_volume", "shape": [12, 13, 10]}, {"op": "crop_volume", "shape": [12, 13, 10]}),
}


def small(name: str) -> tuple[AnyStep, ...]:
    """The recipe of the registry, at the size of the fixture."""
    return tuple(
        step.model_copy(update={"shape": SHAPE}) if hasattr(step, "shape") else step for step in recipe_of(name)
    )


def volume_of(case: str) -> Volume:
    return nifti_volume(GOLDEN[f"{case}/file"].tobytes())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [*RECIPES, "merlin", "voco", "astra-chest"])
def test_each_pipeline_on_each_geometry(name: str, case: str) -> None:
    volume, wanted = volume_of(case), GOLDEN[f"{case}/{name}"]
    found = apply_volume_recipe(RECIPES.get(name) or small(name), volume)
    assert found.shape == wanted.shape and found.dtype == np.float32
    if volume.array.dtype == np.int16 and not (name == "respace fine" and case == "same"):
        np.testing.assert_array_equal(found, wanted)
    # Of the range of the values; the greatest that was measured is 1.2e-7.
    assert np.abs(found - wanted).max() <= 2e-7 * max(np.ptp(wanted), 1.0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [*RECIPES, "merlin", "voco"])
def test_the_affine_goes_along(name: str, case: str) -> None:
    """What a step leaves says where its voxels lie, or a later step would resample to the wrong size."""
    volume = volume_of(case)
    state = (volume.array.astype(np.float32), volume.affine)
    for step in RECIPES.get(name) or small(name):
        state = _STEPS[type(step)](step, *state)
    np.testing.assert_allclose(state[1], GOLDEN[f"{case}/{name}/affine"], atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_medicalnet(case: str) -> None:
    """Its authors' formula; where they draw noise for voxels of 0, the mean of that noise."""
    volume = volume_of(case)
    volume = Volume(np.maximum(volume.array, 0), volume.affine)
    recipe = small("medicalnet")
    assert [step.op for step in recipe] == ["axes", "resize_volume", "standardise"]
    assert recipe[0].order == (2, 1, 0), "their files were transposed from width, height, depth"
    wanted, noise = GOLDEN[f"{case}/medicalnet"], GOLDEN[f"{case}/medicalnet/noise"]
    found = apply_volume_recipe(recipe[1:], volume)[0]
    assert noise.any() and not found[noise].any()
    kept = apply_volume_recipe([recipe[1], recipe[2].model_copy(update={"background": "keep"})], volume)[0]
    for one, mask in ((found, ~noise), (kept, np.ones_like(noise))):
        # float32 volumes are standardised from float32 here, and from float64 there.
        np.testing.assert_allclose(one[mask], wanted[mask], rtol=0, atol=0 if volume.array.dtype == np.int16 else 5e-7)
    turned = apply_volume_recipe(recipe[:1], volume)[0]
    np.testing.assert_array_equal(turned, volume.array.transpose(2, 1, 0).astype(np.float32))


def test_recipes_of_the_registry_are_those_of_the_papers() -> None:
    merlin, voco, astra, medicalnet = (recipe_of(name) for name in ("merlin", "voco", "astra-chest", "medicalnet"))
    assert merlin[1].spacing == (1.5, 1.5, 3.0) and (merlin[2].low, merlin[2].high) == (-1000.0, 1000.0)
    assert merlin[-1].shape == astra[2].shape == (224, 224, 160)
    assert voco[1].spacing == (1.5, 1.5, 1.5) and (voco[2].low, voco[2].high) == (-175.0, 250.0)
    assert voco[-1].shape == (96, 96, 96) and astra[1].above == -1000.0 and astra[3].high == 200.0
    assert medicalnet[1].shape == (56, 448, 448)


def test_area_is_the_mean_of_what_each_voxel_covers() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(5, 7, 4)).astype(np.float32)
    (step,) = steps({"op": "resize_volume", "shape": [3, 7, 9], "rule": "area"})
    found = apply_volume_recipe([step], Volume(values, np.eye(4)))[0]
    for place in np.ndindex(3, 7, 9):
        box = tuple(
            slice(i * n // m, -(-(i + 1) * n // m)) for i, n, m in zip(place, values.shape, (3, 7, 9), strict=True)
        )
        assert found[place] == pytest.approx(values[box].mean(), abs=1e-6)


def test_a_corner_keeps_its_place_through_every_step() -> None:
    """A blob is found where it was, in millimetres, after the axes were turned, padded, cropped and resized."""
    values = np.zeros((20, 24, 16), np.float32)
    values[5:9, 10:14, 4:8] = 100.0
    affine = np.diag([-1.5, -1.5, 3.0, 1.0])
    affine[:3, 3] = (30.0, 12.0, -7.0)
    centre = affine @ [6.5, 11.5, 5.5, 1.0]
    recipe = steps(
        {"op": "orient", "codes": "SPL"},
        {"op": "foreground", "above": 50.0},
        {"op": "pad_volume", "shape": [15, 16, 17]},
        {"op": "resize_volume", "shape": [30, 32, 34], "rule": "area"},
        {"op": "crop_volume", "shape": [21, 22, 23]},
        {"op": "axes", "order": [2, 0, 1]},
    )
    state = (values, affine)
    for step in recipe:
        state = _STEPS[type(step)](step, *state)
    weights = state[0] / state[0].sum()
    places = np.stack(np.meshgrid(*(np.arange(side) for side in weights.shape), indexing="ij"), axis=-1)
    found = state[1][:3, :3] @ (places * weights[..., None]).sum(axis=(0, 1, 2)) + state[1][:3, 3]
    np.testing.assert_allclose(found, centre[:3], atol=0.05)


def test_channels_are_copies() -> None:
    recipe = steps({"op": "intensity", "low": 0.0, "high": 10.0}, {"op": "channels", "count": 3})
    found = apply_volume_recipe(recipe, Volume(np.full((2, 3, 4), 5, np.int16), np.eye(4)))
    assert found.shape == (3, 2, 3, 4) and (found == 0.5).all() and found.flags.c_contiguous


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ([{"op": "orient", "codes": "RAX"}], "pattern"),
        ([{"op": "orient", "codes": "RLS"}], "needs one of R and L"),
        ([{"op": "respace", "spacing": [1.0, 1.0]}], "spacing"),
        ([{"op": "respace", "spacing": [1.0, 1.0, 0.0]}], "greater than or equal"),
        ([{"op": "intensity", "low": 3.0, "high": 3.0}], "low must be below high"),
        ([{"op": "axes", "order": [0, 0, 1]}], "each of 0, 1 and 2 once"),
        ([{"op": "crop_volume", "shape": [0, 1, 1]}], "greater than or equal"),
        ([{"op": "standardise", "over": "nonzero"}], "positive"),
        ([{"op": "channels", "count": 1, "axis": 0}], "Extra inputs"),
    ],
)
def test_wrong_steps_are_refused(described: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        steps(*described)


def test_nothing_to_standardise_by_says_so() -> None:
    (step,) = steps({"op": "standardise"})
    for values in (np.zeros((2, 2, 2)), np.full((2, 2, 2), 7.0)):
        with pytest.raises(SourceError, match=r"^image 3 has no spread of values"):
            apply_volume_recipe([step], Volume(values, np.eye(4)), "image 3")


def test_no_foreground_keeps_the_whole() -> None:
    (step,) = steps({"op": "foreground", "above": 50.0})
    assert apply_volume_recipe([step], Volume(np.zeros((2, 3, 4)), np.eye(4))).shape == (1, 2, 3, 4)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "scipy", None)
    (step,) = steps({"op": "resize_volume", "shape": [2, 2, 2], "rule": "zoom"})
    with pytest.raises(EncoderError, match=r'pip install "osler\[volumes\]"') as caught:
        apply_volume_recipe([step], Volume(np.zeros((3, 3, 3)), np.eye(4)))
    assert caught.value.code == "missing_decoder"


def test_steps_do_not_write_into_the_volume() -> None:
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    volume = Volume(values, np.diag([2.0, 2.0, 2.0, 1.0]))
    for name in ("merlin", "voco", "astra-chest", "medicalnet"):
        apply_volume_recipe(small(name), volume)
    np.testing.assert_array_equal(values, np.arange(60, dtype=np.float32).reshape(3, 4, 5))
