"""An encoder that costs nothing, folders of pictures, and collections of random vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from PIL import Image


class TinyEncoder:
    """A picture is its mean over a grid of 4 x 4; a text is the histogram of its letters."""

    name = "tiny"
    dim = 16
    fingerprint = "f" * 64
    modalities: tuple[str, ...] = ("image", "text")
    logit_scale = 10.0
    device = "cpu"

    def __init__(self) -> None:
        self.pictures = 0

    def encode_images(self, images: Any, batch_size: Any = None, progress: Any = False) -> np.ndarray:
        found = []
        for image in images:
            pixels = np.asarray(image, np.float64)
            if pixels.ndim == 3:
                pixels = pixels.mean(2)
            if pixels.shape[0] == 13:
                raise ValueError("this encoder takes no picture of 13 rows")
            if min(pixels.shape) < 4:
                pixels = np.repeat(np.repeat(pixels, 4, axis=0), 4, axis=1)
            rows = np.array_split(pixels, 4)
            found.append([block.mean() for row in rows for block in np.array_split(row, 4, axis=1)])
            self.pictures += 1
        vectors = np.array(found, np.float64).reshape(-1, 16) + 1.0
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def encode_texts(self, texts: Any, batch_size: Any = None, progress: Any = False) -> np.ndarray:
        vectors = np.array([np.bincount([ord(letter) % 16 for letter in text], minlength=16) + 0.1 for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def tiny() -> TinyEncoder:
    return TinyEncoder()


@pytest.fixture
def pictures(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Path]:
    """Make a folder of n pictures named 0.png, 1.png, ..., each of its own pixels."""

    def make(count: int, name: str = "pictures") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (12, 16), np.uint8)).save(folder / f"{number}.png")
        return folder

    return make


@pytest.fixture
def cases(tmp_path: Path) -> osler.Collection:
    return osler.Collection.create(tmp_path / "cases.osler", dim=8)
