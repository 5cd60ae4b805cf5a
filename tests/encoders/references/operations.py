"""Single steps against the function that they stand for; the second half needs torch, torchvision and cv2 to run."""

from __future__ import annotations

from typing import Any

import numpy as np
from encoders.references.pictures import pattern

SHAPES = (((37, 53), (16, 24)), ((13, 7), (31, 40)), ((251, 347), (64, 100)), ((1, 40), (3, 17)), ((96, 60), (48, 20)))
SHAPES += (((90, 80), (45, 40)), ((40, 61), (40, 30)), ((300, 17), (20, 17)))


def steps() -> dict[str, tuple[dict[str, Any], tuple[int, int], str]]:
    """Return name -> (step, shape of the picture, its dtype)."""
    found: dict[str, tuple[dict[str, Any], tuple[int, int], str]] = {}
    for shape, (height, width) in SHAPES:
        at = f"{shape[0]} x {shape[1]} to {height} x {width}"
        base = {"op": "resize", "mode": "squash", "height": height, "width": width}
        for kernel in ("area", "bilinear", "bicubic", "nearest"):
            step = base | {"filter": kernel, "like": "opencv", "antialias": False}
            found[f"opencv {kernel}, {at}"] = (step, shape, "uint8")
        for kernel in ("bilinear", "bicubic"):
            for kind in ("uint8", "float32"):
                found[f"torch {kernel}, {kind}, {at}"] = (base | {"filter": kernel, "like": "torch"}, shape, kind)
            found[f"torch_uint8 {kernel}, {at}"] = (base | {"filter": kernel, "like": "torch_uint8"}, shape, "uint8")
        for kernel in ("box", "bilinear", "bicubic", "lanczos", "nearest"):
            found[f"pillow {kernel}, {at}"] = (base | {"filter": kernel}, shape, "uint8")
    for shape in ((64, 64), (61, 83), (8, 8), (1, 30), (200, 96)):
        for limit, rows, columns in ((4.0, 8, 8), (2.0, 3, 5), (0.5, 1, 1)):
            step = {"op": "clahe", "limit": limit, "rows": rows, "columns": columns}
            found[f"clahe {limit} in {rows} x {columns}, {shape[0]} x {shape[1]}"] = (step, shape, "uint8")
    for like in ("pillow", "opencv"):
        found[f"grey like {like}"] = ({"op": "grey", "like": like}, (61, 83), "uint8")
    return found


def picture(step: dict[str, Any], shape: tuple[int, int], kind: str) -> np.ndarray:
    """Return the picture that goes into a step: colour where the step takes it."""
    values = pattern(*shape, 0 if step["op"] == "clahe" else 3)
    return values.astype(np.uint8) if kind == "uint8" else values.astype(np.float32) / np.float32(255)


def reference(step: dict[str, Any], picture: np.ndarray) -> np.ndarray:
    """Run the function that a step stands for; (H, W) or (H, W, C) in, the same out."""
    import cv2
    from PIL import Image

    if step["op"] == "clahe":
        return cv2.createCLAHE(step["limit"], (step["columns"], step["rows"])).apply(picture)
    if step["op"] == "grey":
        if step["like"] == "opencv":
            return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        return np.asarray(Image.fromarray(picture).convert("L"))
    size = (step["height"], step["width"])
    like = step.get("like", "pillow")
    if like == "opencv":
        cv2.ipp.setUseIPP(False)
        names = {"area": "AREA", "bilinear": "LINEAR", "bicubic": "CUBIC", "nearest": "NEAREST"}
        return cv2.resize(picture, size[::-1], interpolation=getattr(cv2, f"INTER_{names[step['filter']]}"))
    if like == "pillow":
        kernel = Image.Resampling[step["filter"].upper()]
        return np.asarray(Image.fromarray(picture).resize(size[::-1], kernel))
    return _tensor(step, picture, size)


def _tensor(step: dict[str, Any], picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as first
    from torchvision.transforms.v2 import functional as second

    planes = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
    resize = second.resize if step["like"] == "torch_uint8" else first.resize
    kernel = InterpolationMode(step["filter"])
    resized = resize(torch.from_numpy(np.ascontiguousarray(planes)), size, interpolation=kernel, antialias=True).numpy()
    return resized[0] if picture.ndim == 2 else resized.transpose(1, 2, 0)
