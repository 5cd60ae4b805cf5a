"""Pictures to the array a model takes: reads whatever a user passes, then runs the manifest's recipe step by step.

Opens picture files through `osler.decode` only. 8-bit pictures stay 8-bit until a step needs more, as the original
preprocessings of the encoders do; all others are float32 on the scale 0..255 from the window step on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from osler.encoders.recipe import Crop, Grey, Normalise, Pad, Resize, Rgb, Step, Window
from osler.errors import EncoderError, Error

__all__ = ["apply_recipe", "read_picture"]

_LUMA = np.array([299, 587, 114], dtype=np.float32) / np.float32(1000)


def read_picture(value: Any, place: str) -> np.ndarray:
    """Return what the user passed as one array.

    Parameters
    ----------
    value : str, Path, PIL image or array
        A file of one frame (DICOM, PNG, JPEG, TIFF), or (H, W) or (H, W, 3) of uint8, uint16 or float.
    place : str
        How messages call it, as "image 3"; a path is never named, since it may identify a patient.

    Returns
    -------
    ndarray
        (H, W) or (H, W, 3), uint8, uint16 or float32.

    Raises
    ------
    FileNotFoundError, SourceError
        The file is missing or cannot be read as a picture.
    ValueError, TypeError
        Several frames, wrong shape or type, no pixels, NaN or infinity.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.preprocess import read_picture
    >>> read_picture(np.zeros((4, 5), dtype=np.float64), "image 0").dtype
    dtype('float32')
    """
    if isinstance(value, (str, os.PathLike)):
        return _read_file(Path(value), place)
    if hasattr(value, "getexif") and hasattr(value, "mode"):
        from osler.decode.pictures import image_array

        value = image_array(value, name=place)
    if not hasattr(value, "__array__") and not isinstance(value, np.ndarray):
        raise TypeError(
            f"{place} is a {type(value).__name__}; pass a path, a PIL image or an array (H, W) or (H, W, 3)"
        )
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"{place} has shape {array.shape}; it must be (H, W) or (H, W, 3)")
    if array.size == 0:
        raise ValueError(f"{place} has shape {array.shape}, which holds no pixel")
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise ValueError(f"{place} holds NaN or infinity; replace them before encoding")
    elif array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{place} has dtype {array.dtype}; convert it to uint8, uint16 or float32")
    return array


def _read_file(path: Path, place: str) -> np.ndarray:
    from osler.decode import read_pixels

    if not path.exists():
        raise FileNotFoundError(f"{place} does not exist; check the path that was passed")
    if path.is_dir():
        raise IsADirectoryError(f"{place} is a folder; pass its files, or add the folder to a Collection")
    try:
        frames = read_pixels(path, name=place).frames
        count = len(frames)
        if count == 1:
            return np.asarray(frames[0])
    except Error:
        raise
    raise ValueError(f"{place} has {count} frames; pass the frames you want as arrays, or add the file to a Collection")


def apply_recipe(recipe: Iterable[Step], picture: np.ndarray, place: str = "the picture") -> np.ndarray:
    """Run the steps of a recipe in order.

    Parameters
    ----------
    recipe : iterable of steps
    picture : ndarray
        (H, W) or (H, W, 3), uint8, uint16 or float32.
    place : str
        How messages call it.

    Returns
    -------
    ndarray
        (H, W, C), float32 after a normalise step.

    Raises
    ------
    ValueError
        Input that is not 8-bit meets a recipe without a window step.
    EncoderError
        A step cannot be done on this picture.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.recipe import Normalise, Rgb
    >>> from osler.encoders.preprocess import apply_recipe
    >>> recipe = [Rgb(op="rgb"), Normalise(op="normalise", mean=(127.0,), std=(128.0,))]
    >>> apply_recipe(recipe, np.full((2, 2), 255, dtype=np.uint8))[0, 0].tolist()
    [1.0, 1.0, 1.0]
    """
    windowed = picture.dtype == np.uint8
    for step in recipe:
        windowed = windowed or isinstance(step, Window)
        if not windowed:
            raise ValueError(f"{place} is {picture.dtype}, and this encoder's recipe takes 8-bit pictures only")
        picture = _STEPS[type(step)](step, picture)
    return picture if picture.ndim == 3 else picture[:, :, None]


def _window(step: Window, picture: np.ndarray) -> np.ndarray:
    if picture.dtype == np.uint8:
        return picture
    low, high = 0.0, 65535.0 if picture.dtype == np.uint16 else 1.0
    values = picture.astype(np.float32)
    if step.rule == "percentile":
        low, high = (float(bound) for bound in np.percentile(values, (step.low, step.high)))
    least, most = float(values.min()), float(values.max())
    # a few bright pixels may leave no room between the percentiles; floats beyond 0..1 have no range of their own
    if step.rule == "minmax" or low >= high or (step.rule == "full" and (least < low or most > high)):
        low, high = least, most
    if low >= high:
        return np.zeros_like(values)
    return np.asarray(np.clip((values - np.float32(low)) * np.float32(255.0 / (high - low)), 0, 255))


def _rgb(step: Rgb, picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)


def _grey(step: Grey, picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 2:
        return picture
    luma = picture.astype(np.float32) @ _LUMA
    return np.rint(luma).astype(np.uint8) if picture.dtype == np.uint8 else luma


def _target(step: Resize, height: int, width: int) -> tuple[int, int]:
    if step.mode == "squash":
        return step.height, step.width
    kept = min(height, width) if step.mode == "shortest" else max(height, width)

    def scaled(side: int) -> int:
        exact = side * step.height / kept
        return step.height if side == kept else max(1, int(exact) if step.rounding == "truncate" else round(exact))

    return scaled(height), scaled(width)


def _resize(step: Resize, picture: np.ndarray) -> np.ndarray:
    height, width = _target(step, *picture.shape[:2])
    if (height, width) == picture.shape[:2]:
        return picture
    if not step.antialias:
        rows = _sampling(picture.shape[0], height, step.filter)
        columns = _sampling(picture.shape[1], width, step.filter)
        return np.asarray(np.einsum("oi,ij...,pj->op...", rows, picture.astype(np.float32), columns, optimize=True))
    from PIL import Image

    kernel = Image.Resampling[step.filter.upper()]
    if picture.dtype == np.uint8:
        return np.asarray(Image.fromarray(picture).resize((width, height), kernel))
    planes = picture[:, :, None] if picture.ndim == 2 else picture
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(planes[:, :, c])).resize((width, height), kernel))
        for c in range(planes.shape[2])
    ]
    # kernels with negative lobes overshoot, and the same picture in 8 bits is cut there
    stacked = np.clip(np.stack(resized, axis=2), 0, 255)
    return np.asarray(stacked[:, :, 0] if picture.ndim == 2 else stacked)


def _sampling(source: int, target: int, kernel: str) -> np.ndarray:
    """Return the (target, source) weights of sampling without antialias, half-pixel centres, edges repeated."""
    weights = np.zeros((target, source), dtype=np.float32)
    if kernel == "nearest":
        weights[np.arange(target), np.arange(target) * source // target] = 1
        return weights
    centre = (np.arange(target) + 0.5) * source / target - 0.5
    if kernel == "bilinear":
        centre = np.maximum(centre, 0)
    first = np.floor(centre).astype(int)
    for tap in (0, 1) if kernel == "bilinear" else (-1, 0, 1, 2):
        distance = np.abs(centre - (first + tap))
        share = 1 - distance if kernel == "bilinear" else _cubic(distance)
        np.add.at(weights, (np.arange(target), np.clip(first + tap, 0, source - 1)), share.astype(np.float32))
    return weights


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with the coefficient that PyTorch and OpenCV use."""
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.asarray(np.where(distance <= 1, near, far))


def _crop(step: Crop, picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    if height < step.height or width < step.width:
        raise EncoderError(
            f"the recipe crops {step.height} x {step.width} from a picture that is {height} x {width} by then; "
            "correct the recipe in manifest.json"
        )
    top, left = round((height - step.height) / 2), round((width - step.width) / 2)
    return picture[top : top + step.height, left : left + step.width]


def _pad(step: Pad, picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    square = max(height, width)
    target = (step.height or max(square, step.width), step.width or max(square, step.height))
    if height > target[0] or width > target[1]:
        raise EncoderError(
            f"the recipe pads to {target[0]} x {target[1]} a picture that is {height} x {width} by then; correct the "
            "recipe in manifest.json"
        )
    canvas = np.full((*target, *picture.shape[2:]), step.value, dtype=picture.dtype)
    top, left = ((target[0] - height) // 2, (target[1] - width) // 2) if step.anchor == "centre" else (0, 0)
    canvas[top : top + height, left : left + width] = picture
    return canvas


def _normalise(step: Normalise, picture: np.ndarray) -> np.ndarray:
    channels = picture if picture.ndim == 3 else picture[:, :, None]
    mean, std = (np.array(values, dtype=np.float32) for values in (step.mean, step.std))
    return np.asarray((channels.astype(np.float32) * np.float32(step.scale) - mean) / std)


_STEPS: dict[type[Any], Callable[[Any, np.ndarray], np.ndarray]] = {
    Window: _window,
    Rgb: _rgb,
    Grey: _grey,
    Resize: _resize,
    Crop: _crop,
    Pad: _pad,
    Normalise: _normalise,
}
