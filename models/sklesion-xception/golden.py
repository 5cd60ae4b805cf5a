"""Makes golden.npz with an Xception in plain numpy that shares nothing with the converter but h5py.

Run `python models/sklesion-xception/golden.py`, then models/seal.py. Reads the package sklesion. The network is written
down here from its paper (Chollet 2017); config.json is not read. Of the normalisations, which are numbered along the
network, that of a shortcut comes after those of the path beside it; `spread` tells whether this holds, since what a
normalisation was trained on leaves it with mean 0 and deviation 1.
"""

from __future__ import annotations

import importlib.metadata
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

PACKAGE = "sklesion"
FILE = "sklesion/model.keras"
SIDE = 254
EPSILON = 1e-3


class Weights:
    """The arrays of the trunk by kind, in the order of their numbers."""

    def __init__(self) -> None:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE)))
        with zipfile.ZipFile(path) as archive:
            stored = h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r")
        trunk = stored["layers/functional/layers"]
        self.convs = self._numbered(trunk, "conv2d")
        self.separables = self._numbered(trunk, "separable_conv2d")
        self.norms = self._numbered(trunk, "batch_normalization")
        self.mean, self.variance = (stored[f"layers/normalization/vars/{i}"][()].astype(np.float64) for i in (0, 1))

    @staticmethod
    def _numbered(trunk: h5py.Group, kind: str) -> list[list[np.ndarray]]:
        names = [name for name in trunk if name == kind or name.removeprefix(f"{kind}_").isdigit()]
        names.sort(key=lambda name: int(name.removeprefix(kind).removeprefix("_") or 0))
        return [[trunk[name][f"vars/{i}"][()] for i in range(len(trunk[name]["vars"]))] for name in names]


class Network:
    """Takes weights one after another; remembers how each normalisation leaves its input."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.convs: Iterator[list[np.ndarray]] = iter(weights.convs)
        self.separables: Iterator[list[np.ndarray]] = iter(weights.separables)
        self.norms: Iterator[list[np.ndarray]] = iter(weights.norms)
        self.spread: list[tuple[float, float]] = []

    def norm(self, x: np.ndarray) -> np.ndarray:
        """Normalise by the next four arrays, and note how far the result is from mean 0 and deviation 1."""
        scale, offset, mean, variance = (array.astype(np.float64) for array in next(self.norms))
        z = (x - mean) / np.sqrt(variance + EPSILON)
        self.spread.append((float(np.abs(z.mean(axis=(0, 1))).mean()), float(z.std(axis=(0, 1)).mean())))
        return z * scale + offset

    def conv(self, x: np.ndarray, stride: int = 1) -> np.ndarray:
        """Convolve by the next kernel, without padding."""
        (kernel,) = next(self.convs)
        if kernel.shape[:2] == (1, 1):
            return x[::stride, ::stride] @ kernel[0, 0]
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(0, 1))[::stride, ::stride]
        return np.einsum("yxcij,ijco->yxo", windows, kernel, optimize=True)

    def separable(self, x: np.ndarray) -> np.ndarray:
        """Convolve each channel for itself, 3 x 3, then all at each place, and normalise."""
        depthwise, pointwise = next(self.separables)
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        height, width = x.shape[:2]
        shifted = (padded[i : i + height, j : j + width] * depthwise[i, j, :, 0] for i in range(3) for j in range(3))
        return self.norm(sum(shifted) @ pointwise[0, 0])

    def shrink(self, x: np.ndarray, *, first: bool = False) -> np.ndarray:
        """Two separable convolutions and a pooling beside a convolution of stride 2."""
        inner = self.separable(x if first else np.maximum(x, 0))
        inner = self.separable(np.maximum(inner, 0))
        return pool(inner) + self.norm(self.conv(x, stride=2))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the pooled features (2048,) of one picture (254, 254, 3) on the scale 0..255."""
        x = (x - self.weights.mean) / np.sqrt(self.weights.variance)
        x = np.maximum(self.norm(self.conv(x, stride=2)), 0)
        x = np.maximum(self.norm(self.conv(x)), 0)
        x = self.shrink(self.shrink(self.shrink(x, first=True)))
        for _ in range(8):
            inner = x
            for _ in range(3):
                inner = self.separable(np.maximum(inner, 0))
            x = x + inner
        x = self.shrink(x)
        x = np.maximum(self.separable(x), 0)
        x = np.maximum(self.separable(x), 0)
        assert all(next(rest, None) is None for rest in (self.convs, self.separables, self.norms))
        return np.asarray(x.mean(axis=(0, 1)))


def pool(x: np.ndarray) -> np.ndarray:
    """Return the greatest of 3 x 3 at every second place; where a side is even, the window hangs over at its end."""
    before = [side % 2 for side in x.shape[:2]]
    pads = [(left, 1) for left in before]
    padded = np.pad(x, (*pads, (0, 0)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::2, ::2].max(axis=(3, 4))


def forward(x: np.ndarray, weights: Weights) -> np.ndarray:
    """Return the pooled features (2048,) of one prepared picture."""
    return Network(weights)(x)


def prepare(picture: np.ndarray) -> np.ndarray:
    """Return (254, 254, 3) on the scale 0..255: between the four nearest pixels, as TensorFlow resizes by default."""
    if picture.dtype == np.uint16:
        picture = picture / 257
    colour = np.stack([picture] * 3, axis=2) if picture.ndim == 2 else picture
    x = colour.astype(np.float64)
    for axis in (0, 1):
        side = x.shape[axis]
        place = np.clip((np.arange(SIDE) + 0.5) * side / SIDE - 0.5, 0, side - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape(-1, *[1] * (2 - axis))
        x = np.take(x, low, axis) * (1 - share) + np.take(x, np.minimum(low + 1, side - 1), axis) * share
    return x


def photograph(path: Path) -> np.ndarray:
    """Return a picture file as an array (H, W, 3)."""
    return np.asarray(Image.open(path).convert("RGB"))


def pictures() -> list[np.ndarray]:
    """Return made-up inputs: grey, colour and 16-bit, of shapes that make the recipe shrink, grow and squash."""
    y, x = np.mgrid[0:64, 0:96] / 64.0
    spot = np.exp(-8 * ((y - 0.5) ** 2 + (x - 0.8) ** 2 * (1 + 0.5 * np.sin(9 * y))))
    skin = np.stack([220 - 120 * spot, 170 - 120 * spot, 150 - 95 * spot], axis=2).astype(np.uint8)
    rings = (127.5 + 127.5 * np.cos(10 * np.hypot(y - 0.4, x - 0.7))).astype(np.uint8)
    blocks = np.random.default_rng(13).integers(0, 256, (7, 6, 3), dtype=np.uint8).repeat(60, axis=0).repeat(45, axis=1)
    ramp = ((y * x / (y * x).max()) ** 2 * 65535).astype(np.uint16)
    return [skin, rings, blocks, ramp]


def main() -> None:
    """Write golden.npz."""
    weights, inputs = Weights(), pictures()
    vectors = np.stack([forward(prepare(picture), weights) for picture in inputs])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    arrays = {f"image_{i}": picture for i, picture in enumerate(inputs)}
    path = Path(__file__).with_name("golden.npz")
    np.savez_compressed(path, image_vectors=vectors.astype(np.float32), **arrays)
    print(f"{path.name}: {len(inputs)} pictures")


if __name__ == "__main__":
    main()
