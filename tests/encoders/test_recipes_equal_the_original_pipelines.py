"""Every 2-D recipe gives bit by bit the tensor of its original pipeline, and every step that of its function.

The goldens were made by the original libraries (references/make.py); tests/export compares with them live.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from encoders.references import operations, pictures
from encoders.references.digest import digest
from osler.encoders import resample
from osler.encoders.preprocess import apply_recipe, read_picture
from osler.encoders.recipe import Step
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[2]
RECIPES: dict[str, Any] = json.loads((ROOT / "models/recipes.json").read_text())
GOLDENS: dict[str, Any] = json.loads((Path(__file__).parent / "references/goldens.json").read_text())
STEPS = TypeAdapter(tuple[Step, ...])
VOLUMES = {"merlin", "astra-chest", "voco", "medicalnet"}


def prepared(name: str, picture: np.ndarray) -> np.ndarray:
    return apply_recipe(STEPS.validate_json(json.dumps(RECIPES[name])), picture)


def expected(golden: dict[str, Any]) -> dict[str, Any]:
    """Return what the original gives with the installed Pillow: release 13 takes some shapes in another order."""
    older = golden.get("before_pillow_13", golden)
    chosen = older if int(PIL.__version__.split(".")[0]) < 13 else golden
    return {key: value for key, value in chosen.items() if key != "before_pillow_13"}


def differences(name: str, found: dict[str, np.ndarray], golden: dict[str, Any]) -> list[str]:
    assert set(golden) <= set(found)
    return [
        f"{name} on {key}: {digest(found[key])['values']} for {wanted['values']}"
        for key, wanted in golden.items()
        if digest(found[key]) != expected(wanted)
    ]


@pytest.fixture(scope="module")
def opened() -> dict[str, np.ndarray]:
    from osler.decode import read_pixels

    return {name: read_pixels(content).frames[0] for name, (_, content) in pictures.files().items()}


def test_every_recipe_of_the_registry_has_a_reference() -> None:
    assert set(RECIPES) - VOLUMES == set(GOLDENS["recipes"])


@pytest.mark.parametrize("name", sorted(GOLDENS["recipes"]))
def test_eight_bit_pictures(name: str) -> None:
    inputs = pictures.patches() if name == "kimianet-1000" else pictures.eight_bit()
    golden = GOLDENS["recipes"][name]["eight_bit"]
    assert len(golden) >= (2 if name == "kimianet-1000" else 17)
    found = {key: prepared(name, inputs[key]) for key in golden}
    assert not differences(name, found, golden)


@pytest.mark.parametrize("name", sorted(name for name, golden in GOLDENS["recipes"].items() if golden["deep"]))
def test_deep_pictures(name: str) -> None:
    found = {key: prepared(name, picture) for key, picture in pictures.deep().items()}
    assert not differences(name, found, GOLDENS["recipes"][name]["deep"])


@pytest.mark.parametrize("name", sorted(set(GOLDENS["recipes"]) - {"kimianet-1000"}))
def test_files_of_every_mode(name: str, opened: dict[str, np.ndarray]) -> None:
    found = {key: prepared(name, picture) for key, picture in opened.items()}
    assert not differences(name, found, GOLDENS["recipes"][name]["files"])


def test_sizes_where_the_original_fails_give_the_right_shape() -> None:
    for name, golden in GOLDENS["recipes"].items():
        shape = next(iter(golden["eight_bit"].values()))["shape"]
        for key in set(pictures.eight_bit()) - set(golden["eight_bit"]) if name != "kimianet-1000" else ():
            tensor = prepared(name, pictures.eight_bit()[key])
            assert list(tensor.shape) == shape and np.isfinite(tensor).all(), (name, key)


@pytest.mark.parametrize("like", ["opencv", "torch", "torch_uint8", "pillow", "clahe", "grey"])
def test_single_steps(like: str) -> None:
    cases = {key: case for key, case in operations.steps().items() if key.split()[0] == like}
    found = {}
    for key, (step, shape, kind) in cases.items():
        before = ({"op": "normalise", "divisor": 255.0},) if kind == "float32" else ()
        made = apply_recipe(STEPS.validate_python((*before, step)), operations.picture(step, shape, "uint8"))
        found[key] = made[:, :, 0] if step["op"] in ("clahe", "grey") else made
    assert not differences(like, found, {key: GOLDENS["steps"][key] for key in cases})


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_pictures_of_any_shape_are_resized_as_the_installed_pillow_does(kernel: str) -> None:
    from PIL import Image

    random = np.random.default_rng(7)
    shapes = [(1, 1, 5, 7), (1, 90, 3, 2), (700, 3, 20, 3), (40, 40, 40, 41), (512, 512, 224, 224), (224, 300, 512, 64)]
    shapes += [tuple(int(side) for side in random.integers(1, 130, 4)) for _ in range(150)]
    for number, (rows, columns, height, width) in enumerate(shapes):
        picture = random.integers(0, 256, (rows, columns, 3)[: 2 + number % 2], dtype=np.uint8)
        if number % 3 == 0:  # full contrast, where kernels with negative lobes overshoot
            picture = np.where(picture < 128, 0, 255).astype(np.uint8)
        wanted = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling[kernel.upper()]))
        for given in (picture, np.asfortranarray(picture)):
            np.testing.assert_array_equal(resample.pillow(given, height, width, kernel), wanted, str(picture.shape))
        floats = random.random((rows, columns)).astype(np.float32) * 300 - 20
        exact = np.asarray(Image.fromarray(floats).resize((width, height), Image.Resampling[kernel.upper()]))
        np.testing.assert_array_equal(resample.pillow(floats, height, width, kernel), exact.clip(0, 255))
        colour = np.dstack([floats, floats * 0, floats / 2])
        made = resample.pillow(colour, height, width, kernel)
        np.testing.assert_array_equal(made[:, :, 0], exact.clip(0, 255))
        assert not made[:, :, 1].any()
        assert abs(made[:, :, 2] - (exact / 2).clip(0, 255)).max() < 1e-3


@pytest.mark.parametrize("kernel", ["nearest", "box", "lanczos"])
def test_other_filters_take_floats_plane_by_plane(kernel: str) -> None:
    from PIL import Image

    floats = np.random.default_rng(3).random((40, 30, 3)).astype(np.float32) * 255
    made = resample.pillow(floats, 12, 50, kernel)
    for c in range(3):
        plane = np.ascontiguousarray(floats[:, :, c])
        wanted = np.asarray(Image.fromarray(plane).resize((50, 12), Image.Resampling[kernel.upper()])).clip(0, 255)
        np.testing.assert_array_equal(made[:, :, c], wanted)
        np.testing.assert_array_equal(resample.pillow(plane, 12, 50, kernel), wanted)


def test_a_grey_picture_takes_one_mean_and_three_deviations() -> None:
    recipe = [{"op": "rgb"}, {"op": "normalise", "mean": (0.0,), "std": (1.0, 2.0, 4.0)}]
    assert apply_recipe(STEPS.validate_python(recipe), np.full((2, 2), 255, np.uint8))[0, 0].size == 3


@pytest.mark.parametrize("release", [12, 13])
def test_eight_bits_follow_the_order_of_either_side_of_pillow_13(release: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "_pillow_release", lambda: release)
    checked = 0
    for name, golden in GOLDENS["recipes"].items():
        for key, both in golden["eight_bit"].items():
            if "before_pillow_13" in both:
                wanted = both["before_pillow_13"] if release < 13 else both
                found = digest(prepared(name, pictures.eight_bit()[key]))
                assert found["values"] == wanted["values"] and found["sha256"] == wanted["sha256"], (name, key)
                checked += 1
    assert checked >= 40


def test_what_the_originals_make_of_files_that_they_open_themselves() -> None:
    """What models/README.md says of modes: where Osler's picture is not the one that the original would have seen."""
    differ: dict[str, set[str]] = {}
    for name, golden in GOLDENS["recipes"].items():
        for key, alone in golden["as_they_are"].items():
            if alone != golden["files"][key]["sha256"]:
                differ.setdefault(key, set()).add(name)
    for key in ("grey", "colour", "opaque"):
        assert key not in differ
    everywhere = set(GOLDENS["recipes"]) - {"kimianet-1000"}
    for key in ("turned", "turned jpeg", "translucent", "grey translucent", "transparent colour"):
        assert differ[key] == everywhere, key
    late = {"conch-448", "conceptclip-384", "pmc-clip-short-224", *(n for n in everywhere if n.startswith("open_clip"))}
    by_value = {"mgca-224", "biovil-480", "biovil-t-448"}
    for key in ("palette", "cmyk", "one bit"):
        assert late <= differ[key] <= late | by_value, key


def test_a_path_a_pil_image_and_an_array_give_one_tensor(tmp_path: Path, opened: dict[str, np.ndarray]) -> None:
    from PIL import Image

    for key, (suffix, content) in pictures.files().items():
        path = tmp_path / f"{key}.{suffix}"
        path.write_bytes(content)
        for name in ("open_clip-224", "mgca-224", "biovil-480", "flair-512"):
            wanted = prepared(name, opened[key])
            with Image.open(path) as image:
                for form in (path, str(path), image, opened[key], np.asfortranarray(opened[key])):
                    np.testing.assert_array_equal(prepared(name, read_picture(form, "image 0")), wanted)
