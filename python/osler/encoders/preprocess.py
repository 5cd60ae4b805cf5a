"""Pictures to the array a model takes: reads whatever a user passes, then runs the manifest's recipe step by step.

Opens picture files through `osler.decode` only. 8-bit pictures stay 8-bit until a step needs more, as the original
preprocessings of the encoders do; all others are 8-bit or float32 on the scale 0..255 from the window step on.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from osler.decode.lookup import look_up, look_up_planes
from osler.encoders import opencv, resample
from osler.encoders.recipe import (
    Clahe,
    Crop,
    Exact,
    Grey,
    Normalise,
    Pad,
    Quantise,
    Resize,
    Rgb,
    Step,
    Window,
)
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

    Notes
    -----
    A path, a PIL image and the array that `osler.decode` gives are one picture: turned as EXIF states, palettes and
    CMYK as colours, alpha composited on black, one bit as black and white, MONOCHROME1 inverted and DICOM shown by its
    window. The original pipelines open files with Pillow alone, which leaves the rotation and drops or whitens alpha.

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
        raise IsADirectoryError(
            f"{place} is a folder; pass its files, or add it to a Collection, or use encode_volumes for a DICOM series"
        )
    try:
        frames = read_pixels(path, name=place).frames
        count = len(frames)
        if count == 1:
            return np.asarray(frames[0])
    except Error:
        raise
    raise ValueError(
        f"{place} has {count} frames; pass the frames you want as arrays, or add the file to a Collection, or use "
        "encode_volumes if they are the slices of a volume"
    )


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
        (H, W, C), float32 after a normalise step; of any order in memory, and perhaps a view that is not to be written.

    Raises
    ------
    ValueError
        Input that is not 8-bit meets a recipe without a window step, or the encoder takes another size only.
    EncoderError
        A step cannot be done on this picture.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.preprocess import apply_recipe
    >>> from osler.encoders.recipe import Normalise, Rgb
    >>> recipe = [Rgb(op="rgb"), Normalise(op="normalise", mean=(127.0,), std=(128.0,))]
    >>> apply_recipe(recipe, np.full((2, 2), 255, dtype=np.uint8))[0, 0].tolist()
    [1.0, 1.0, 1.0]
    """
    windowed = picture.dtype == np.uint8
    repeated = False
    for step in recipe:
        windowed = windowed or isinstance(step, Window)
        if not windowed:
            raise ValueError(f"{place} is {picture.dtype}, and this encoder's recipe takes 8-bit pictures only")
        if isinstance(step, Rgb) and _channels(picture) == 1:
            repeated = True  # equal channels stay equal, so the other two are made as late as possible
            continue
        if repeated and not isinstance(step, _CHANNELWISE):
            picture, repeated = _three(picture), False
        picture = _STEPS[type(step)](step, picture, place)
    picture = picture if picture.ndim == 3 else picture[:, :, None]
    if repeated and picture.shape[2] == 1:
        return np.broadcast_to(picture, (*picture.shape[:2], 3))
    return picture


def _channels(picture: np.ndarray) -> int:
    return 1 if picture.ndim == 2 else picture.shape[2]


def _three(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture if picture.ndim == 3 else picture[:, :, None], 3, axis=2)


def _window(step: Window, picture: np.ndarray, place: str) -> np.ndarray:
    if picture.dtype == np.uint8 and step.eight_bit == "keep":
        return picture
    if picture.dtype.kind == "f" or (step.depth == "float32" and step.rule != "max"):
        return _mapped(step, picture, *_ends(step, picture))  # few operations, which a table only delays
    return look_up(picture, _table(step, picture.dtype.char, *_ends(step, picture)))


# that of a full range is the same for every picture of 16 bits, and takes as long to make as to use
@functools.lru_cache(maxsize=4)
def _table(step: Window, kind: str, low: float, high: float) -> np.ndarray:
    table = _mapped(step, np.arange(np.iinfo(kind).max + 1, dtype=kind), low, high)
    table.setflags(write=False)
    return table


def _ends(step: Window, picture: np.ndarray) -> tuple[float, float]:
    """Return the values that become black and white; equal where there is nothing to see."""
    least, most = float(picture.min()), float(picture.max())
    if step.rule == "max":
        return 0.0, max(most, -least, 0.0)
    low, high = 0.0, {"u1": 255.0, "u2": 65535.0}.get(picture.dtype.str[1:], 1.0)
    if step.rule == "percentile":
        low, high = (float(bound) for bound in np.percentile(picture, (step.low, step.high)))
    # a few bright pixels may leave no room between the percentiles; floats beyond 0..1 have no range of their own
    if step.rule == "minmax" or low >= high or (step.rule == "full" and (least < low or most > high)):
        low, high = least, most
    return low, high


def _mapped(step: Window, values: np.ndarray, low: float, high: float) -> np.ndarray:
    if low >= high:
        return np.zeros(values.shape, dtype=step.depth)
    if step.rule == "max":
        scaled = np.minimum(np.abs(values.astype(np.float32) * np.float32(255.0 / high)), 255)
    elif step.depth == "float32":
        shown = values.astype(np.float32)
        shown -= np.float32(low)
        shown *= np.float32(255.0 / (high - low))
        return np.clip(shown, 0, 255, out=shown)
    else:
        scaled = (np.clip(values.astype(np.float64), low, high) - low) / (high - low) * 255
    return scaled if step.depth == "float32" else _eight_bit(scaled, step.rounding)


def _eight_bit(values: np.ndarray, rounding: str) -> np.ndarray:
    whole = np.rint(values) if rounding == "half_even" else np.trunc(values)
    return np.asarray(np.clip(whole, 0, 255), dtype=np.uint8)


def _rgb(step: Rgb, picture: np.ndarray, place: str) -> np.ndarray:
    return picture


def _grey(step: Grey, picture: np.ndarray, place: str) -> np.ndarray:
    if picture.ndim == 2:
        return picture
    if picture.dtype != np.uint8:
        return np.asarray(picture.astype(np.float32, copy=False) @ _LUMA)
    if step.like == "opencv":
        return opencv.grey(picture)
    from PIL import Image

    return np.asarray(Image.fromarray(picture).convert("L"))


def _clahe(step: Clahe, picture: np.ndarray, place: str) -> np.ndarray:
    if picture.ndim != 2 or picture.dtype != np.uint8:
        raise EncoderError(
            "the recipe equalises a picture that is not one channel of 8 bits by then; put window (depth uint8) and "
            "grey before clahe in manifest.json"
        )
    return opencv.clahe(picture, step.limit, step.rows, step.columns)


def _resize(step: Resize, picture: np.ndarray, place: str) -> np.ndarray:
    height, width = resample.target_size(step, *picture.shape[:2])
    if (height, width) == picture.shape[:2]:
        return picture
    if step.like == "opencv":
        return opencv.resize(picture, height, width, step.filter)
    if step.like == "tensorflow":
        return resample.tensorflow(picture, height, width)
    if step.like == "torch_uint8":
        return resample.torch_uint8(picture, height, width, step.filter)
    if step.like == "torch":
        return resample.torch(picture, height, width, step.filter, step.antialias)
    if not step.antialias:
        return resample.torch(picture.astype(np.float32, copy=False), height, width, step.filter, antialias=False)
    return resample.pillow(picture, height, width, step.filter)


def _crop(step: Crop, picture: np.ndarray, place: str) -> np.ndarray:
    height, width = picture.shape[:2]
    if height < step.height or width < step.width:
        raise EncoderError(
            f"the recipe crops {step.height} x {step.width} from a picture that is {height} x {width} by then; "
            "correct the recipe in manifest.json"
        )
    turn: Callable[[float], int] = round if step.offset == "half_even" else int
    top, left = turn((height - step.height) / 2), turn((width - step.width) / 2)
    return picture[top : top + step.height, left : left + step.width]


def _exact(step: Exact, picture: np.ndarray, place: str) -> np.ndarray:
    if picture.shape[:2] != (step.height, step.width):
        height, width = picture.shape[:2]
        raise ValueError(
            f"{place} is {height} x {width}, and this encoder takes patches of {step.height} x {step.width} pixels "
            "only; cut the picture into tiles of that size"
        )
    return picture


def _pad(step: Pad, picture: np.ndarray, place: str) -> np.ndarray:
    height, width = picture.shape[:2]
    square = max(height, width, step.least)
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


def _quantise(step: Quantise, picture: np.ndarray, place: str) -> np.ndarray:
    return picture if picture.dtype == np.uint8 else _eight_bit(picture, step.rounding)


def _normalise(step: Normalise, picture: np.ndarray, place: str) -> np.ndarray:
    channels = picture if picture.ndim == 3 else picture[:, :, None]
    wide = max(channels.shape[2], len(step.mean), len(step.std))
    if picture.dtype == np.uint8:
        # plane by plane in memory, as most models take it, whatever the order of the axes
        return look_up_planes(channels, _normal_tables(step, wide)).transpose(1, 2, 0)
    planes = channels.transpose(2, 0, 1)
    return _normal(step, planes if len(planes) == wide else np.repeat(planes, wide, axis=0)).transpose(1, 2, 0)


@functools.lru_cache(maxsize=16)
def _normal_tables(step: Normalise, wide: int) -> np.ndarray:
    """Return what each of 256 greys becomes in each channel, (wide, 256)."""
    greys = np.broadcast_to(np.arange(256, dtype=np.uint8), (wide, 1, 256))
    tables = _normal(step, greys)[:, 0]
    tables.setflags(write=False)
    return tables


def _normal(step: Normalise, planes: np.ndarray) -> np.ndarray:
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (step.mean, step.std))
    values = np.empty(planes.shape, dtype=np.float32)
    if step.divisor is None:
        np.multiply(planes, np.float32(step.scale), out=values, dtype=np.float32)
    else:
        np.divide(planes, np.float32(step.divisor), out=values, dtype=np.float32)
    if (mean != 0).any() or (std != 1).any():
        np.subtract(values, mean, out=values)
        np.divide(values, std, out=values)
    return values


_CHANNELWISE = (Rgb, Resize, Crop, Exact, Pad, Quantise, Normalise)
_STEPS: dict[type[Any], Callable[[Any, np.ndarray, str], np.ndarray]] = {
    Window: _window,
    Rgb: _rgb,
    Grey: _grey,
    Clahe: _clahe,
    Resize: _resize,
    Crop: _crop,
    Exact: _exact,
    Pad: _pad,
    Quantise: _quantise,
    Normalise: _normalise,
}
