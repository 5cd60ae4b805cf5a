"""Recipes and steps against the original libraries on pictures of chance: not one value differs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders.references import operations, pipelines
from osler.encoders import opencv, resample
from osler.encoders.preprocess import apply_recipe
from osler.encoders.recipe import Step
from PIL import Image
from pydantic import TypeAdapter

RECIPES: dict[str, Any] = json.loads((Path(__file__).parents[2] / "models/recipes.json").read_text())
STEPS = TypeAdapter(tuple[Step, ...])
# TensorFlow is no part of the environment; where it is there, its recipe is compared too, and the goldens have it
NAMES = [name for name in sorted(pipelines.PIPELINES) if name != "medsiglip-448" or find_spec("tensorflow")]
PICTURES = 20
CASES = 300


def sizes(generator: np.random.Generator, most: int) -> tuple[int, int]:
    """Return a height and a width: any, one of them 1, or one much longer than the other."""
    height, width = (int(side) for side in generator.integers(1, most, 2))
    kind = generator.integers(0, 8)
    if kind == 0:
        return (1, width) if generator.integers(0, 2) else (height, 1)
    return (height % 30 + 1, width * 4) if kind == 1 else (height, width)


def picture(generator: np.random.Generator, size: tuple[int, int], channels: int, kind: str = "uint8") -> np.ndarray:
    """Return noise, or noise on a slope, with black and white in it where there is room."""
    shape = size if channels == 1 else (*size, channels)
    top = np.iinfo(kind).max if kind != "float32" else 1
    values = generator.random(shape)
    if generator.integers(0, 2):
        values = (values + np.linspace(0, 3, size[1]).reshape((1, -1) + (1,) * (len(shape) - 2))) / 4
    values = values * top
    values.reshape(-1)[0], values.reshape(-1)[-1] = 0, top
    return values.astype(kind)


def greatest(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    return float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())


def slack() -> float:
    """Return how far float tensors of PyTorch may be off: its builds for processors without AVX2 round otherwise."""
    from torch.backends.cpu import get_cpu_capability

    return 0.0 if get_cpu_capability() in ("AVX2", "AVX512") else 5e-6


@pytest.mark.parametrize("name", NAMES)
def test_recipes(name: str) -> None:
    generator = np.random.default_rng(sum(name.encode()))
    recipe = STEPS.validate_json(json.dumps(RECIPES[name]))
    worst, compared = 0.0, 0
    while compared < PICTURES:
        deep = name in pipelines.DEEP and compared % 3 == 0
        size = (1000, 1000) if name == "kimianet-1000" else sizes(generator, 900)
        channels = 1 if deep else int(generator.choice([1, 3]))
        values = picture(generator, size, channels, "uint16" if deep else "uint8")
        if pipelines.fails_there(name, *size) or (values.min() == values.max()):
            continue
        wanted = pipelines.PIPELINES[name](values if deep else Image.fromarray(values))
        worst = max(worst, greatest(apply_recipe(recipe, values), wanted))
        compared += 1
    assert worst <= (slack() if name == "flair-512" else 0)


@pytest.mark.parametrize("like", ["opencv", "torch", "torch_uint8", "pillow"])
def test_resizing(like: str) -> None:
    generator = np.random.default_rng(7)
    filters = {
        "opencv": ("area", "bilinear", "bicubic", "nearest"),
        "torch": ("bilinear", "bicubic"),
        "torch_uint8": ("bilinear", "bicubic"),
        "pillow": ("nearest", "box", "bilinear", "bicubic", "lanczos"),
    }[like]
    for case in range(CASES):
        size = sizes(generator, 250)
        height, width = (int(side) for side in generator.integers(1, 200, 2))
        if case % 4 == 0:
            height, width = max(1, size[0] // 2), max(1, size[1] // 3)
        step: dict[str, Any] = {"op": "resize", "mode": "squash", "height": height, "width": width}
        if like == "torch":  # of a column PyTorch 2.15 repeats the first pixel, see pipelines.fails_there
            size, step["width"] = (size[0], max(2, size[1])), max(2, width)
        step |= {"filter": filters[case % len(filters)], "like": like, "antialias": like != "opencv"}
        values = picture(generator, size, int(generator.choice([1, 3])))
        found = apply_recipe(STEPS.validate_python((step,)), values)
        wanted = operations.reference(step, values)
        assert greatest(found, wanted.reshape(found.shape)) == 0, (step, values.shape)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_float_tensors(kernel: str) -> None:
    generator = np.random.default_rng(8)
    for _ in range(CASES):
        height, width = (int(side) for side in generator.integers(1, 200, 2))
        # of a column PyTorch 2.15 repeats the first pixel, see pipelines.fails_there
        size, width = tuple(max(2, side) for side in sizes(generator, 250)), max(2, width)
        values = picture(generator, size, 3, "float32")
        step = {"like": "torch", "op": "resize", "height": height, "width": width, "filter": kernel}
        found = resample.torch(values, height, width, kernel, antialias=True)
        assert greatest(found, operations.reference(step, values)) <= slack()


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_float_tensors_without_antialias(kernel: str) -> None:
    import torch

    generator = np.random.default_rng(9)
    for _ in range(CASES):
        size = sizes(generator, 250)
        height, width = (int(side) for side in generator.integers(1, 200, 2))
        values = picture(generator, size, 3, "float32")
        tensor = torch.from_numpy(values.transpose(2, 0, 1)[None].copy())
        wanted = torch.nn.functional.interpolate(tensor, (height, width), mode=kernel, align_corners=False)[0].numpy()
        found = resample.torch(values, height, width, kernel, antialias=False)
        assert greatest(found, np.ascontiguousarray(wanted.transpose(1, 2, 0))) <= 1e-4


def test_opencv_floats() -> None:
    generator = np.random.default_rng(10)
    for case in range(CASES):
        kernel = ("area", "bilinear", "bicubic", "nearest")[case % 4]
        values = picture(generator, sizes(generator, 250), int(generator.choice([1, 3])), "float32")
        height, width = (int(side) for side in generator.integers(1, 200, 2))
        step = {"like": "opencv", "op": "resize", "height": height, "width": width, "filter": kernel}
        assert greatest(opencv.resize(values, height, width, kernel), operations.reference(step, values)) <= 1e-6


def test_equalisation_and_grey() -> None:
    import cv2

    generator = np.random.default_rng(11)
    for _ in range(CASES):
        size = sizes(generator, 150)
        rows, columns = (int(count) for count in generator.integers(1, 10, 2))
        limit = float(generator.choice([0.5, 1.0, 2.0, 4.0, 40.0]))
        step = {"op": "clahe", "limit": limit, "rows": rows, "columns": columns}
        values = picture(generator, size, 1)
        assert greatest(opencv.clahe(values, limit, rows, columns), operations.reference(step, values)) == 0
        colour = picture(generator, size, 3)
        for like in ("pillow", "opencv"):
            found = apply_recipe(STEPS.validate_python(({"op": "grey", "like": like},)), colour)[:, :, 0]
            assert greatest(found, operations.reference({"op": "grey", "like": like}, colour)) == 0
        for kind in ("uint8", "uint16"):
            deep = (picture(generator, size, 1, kind) // int(generator.integers(1, 60))).astype(kind)
            deep[0, 0] |= 1
            wanted = cv2.convertScaleAbs(deep, alpha=255.0 / deep.max())
            assert greatest(opencv.scaled_by_max(deep), wanted) == 0
