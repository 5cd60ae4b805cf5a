"""What encoders use of OpenCV, in NumPy: resize, the grey of a colour picture, and contrast-limited equalisation.

Arrays in, arrays out; imports nothing else. On 8 bits bit by bit what OpenCV gives (its own code: a build with Intel's
IPP has another bicubic). The steps are those of OpenCV's documentation and of its results, in its fixed point.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.encoders.resample import Taps, weighted_rows

__all__ = ["clahe", "grey", "resize", "scaled_by_max"]

_BITS = 11  # of a weight in 8-bit resizing
_LANES = 8  # columns that OpenCV's vector code takes at a time in the bicubic of 8 bits
_GREY_LEVELS = 256


def resize(picture: NDArray[Any], height: int, width: int, kernel: str) -> NDArray[Any]:
    """Return what ``cv2.resize`` gives for ``INTER_AREA``, ``INTER_LINEAR``, ``INTER_CUBIC`` or ``INTER_NEAREST``.

    Parameters
    ----------
    picture : ndarray
        (H, W) or (H, W, C), uint8 or float32.
    height, width : int
        In pixels.
    kernel : {"area", "bilinear", "bicubic", "nearest"}

    Returns
    -------
    ndarray
        Of the same dtype. Floats are those of OpenCV but for rounding in the last place.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.opencv import resize
    >>> resize(np.array([[0, 100, 200]], dtype=np.uint8), 1, 2, "area").tolist()
    [[33, 167]]
    """
    if (height, width) == picture.shape[:2]:
        return picture
    down, across = _scale(picture.shape[0], height), _scale(picture.shape[1], width)
    if kernel == "nearest":
        rows, columns = (
            np.minimum(np.floor(np.arange(n) * s).astype(np.int64), side - 1)
            for n, s, side in ((height, down, picture.shape[0]), (width, across, picture.shape[1]))
        )
        return np.asarray(picture[rows][:, columns])
    if kernel == "area" and down >= 1 and across >= 1:
        return _shrunk(picture, height, width, down, across)
    planes = picture if picture.ndim == 3 else picture[:, :, None]
    if kernel == "bicubic":
        resized = _cubic(planes, height, width)
    else:
        resized = _linear(planes, height, width, area=kernel == "area")
    return resized if picture.ndim == 3 else resized[:, :, 0]


def grey(picture: NDArray[Any]) -> NDArray[Any]:
    """Return the grey of an RGB picture of 8 bits, (H, W, 3), as ``cvtColor`` does.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.opencv import grey
    >>> grey(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)).tolist()
    [[76, 150, 29]]
    """
    red, green, blue = (picture[:, :, c].astype(np.int32) for c in range(3))
    return ((red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15).astype(np.uint8)


def scaled_by_max(picture: NDArray[Any]) -> NDArray[Any]:
    """Return a picture of at least 0 multiplied by 255 over its greatest value, in 8 bits, as ``convertScaleAbs`` does.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.opencv import scaled_by_max
    >>> scaled_by_max(np.array([[0, 100, 4000]], dtype=np.uint16)).tolist()
    [[0, 6, 255]]
    """
    greatest = float(np.abs(picture).max())
    if greatest == 0:
        return np.zeros(picture.shape, dtype=np.uint8)
    scaled = np.abs(picture.astype(np.float32) * np.float32(255.0 / greatest))
    return _eight_bit(scaled)


def clahe(picture: NDArray[Any], limit: float, rows: int, columns: int) -> NDArray[Any]:
    """Return what ``cv2.createCLAHE(limit, (columns, rows)).apply`` gives.

    Contrast-limited adaptive histogram equalisation, K. Zuiderveld, Graphics Gems IV, 1994.

    Parameters
    ----------
    picture : ndarray
        (H, W), uint8.
    limit : float
        Greatest height of a histogram over its mean.
    rows, columns : int
        Tiles.

    Returns
    -------
    ndarray
        (H, W), uint8.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.opencv import clahe
    >>> clahe(np.arange(64, dtype=np.uint8).reshape(8, 8), 4.0, 1, 1)[0, :4].tolist()
    [4, 8, 12, 16]
    """
    height, width = picture.shape
    padded = picture
    if height % rows or width % columns:
        # both sides grow, one that is a multiple already by a whole tile count
        padded = _reflected(picture, height + rows - height % rows, width + columns - width % columns)
    tables = _tables(padded, limit, rows, columns)
    above, below, down = _tiles(height, padded.shape[0] // rows, rows)
    left, right, across = _tiles(width, padded.shape[1] // columns, columns)
    single = np.float32
    shown = np.empty_like(picture)
    for y in range(height):
        values, here, next_ = picture[y], tables[above[y]], tables[below[y]]
        top = here[left, values] * (single(1) - across) + here[right, values] * across
        bottom = next_[left, values] * (single(1) - across) + next_[right, values] * across
        shown[y] = np.rint(top * (single(1) - down[y]) + bottom * down[y])
    return shown


def _reflected(picture: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Extend to the right and below by reflection without the edge; a side of one pixel repeats it."""
    index = []
    for side, target in zip(picture.shape, (height, width), strict=True):
        period = max(1, 2 * (side - 1))
        at = np.arange(target) % period
        index.append(np.minimum(at, period - at) if side > 1 else np.zeros(target, dtype=np.int64))
    return np.asarray(picture[np.ix_(*index)])


def _tables(padded: NDArray[Any], limit: float, rows: int, columns: int) -> NDArray[Any]:
    """Return the grey that each tile gives to each grey, (rows, columns, 256), as float32."""
    height, width = padded.shape[0] // rows, padded.shape[1] // columns
    area = height * width
    highest = max(int(limit * area / _GREY_LEVELS), 1)
    scale = np.float32(_GREY_LEVELS - 1) / np.float32(area)
    tables = np.empty((rows, columns, _GREY_LEVELS), dtype=np.float32)
    for y in range(rows):
        for x in range(columns):
            tile = padded[y * height : (y + 1) * height, x * width : (x + 1) * width]
            counts = np.bincount(tile.ravel(), minlength=_GREY_LEVELS)
            excess = int(np.maximum(counts - highest, 0).sum())
            share, rest = divmod(excess, _GREY_LEVELS)
            counts = np.minimum(counts, highest) + share
            if rest:
                counts[:: max(_GREY_LEVELS // rest, 1)][:rest] += 1
            tables[y, x] = np.minimum(np.rint(np.cumsum(counts).astype(np.float32) * scale), 255)
    return tables


def _tiles(side: int, tile: int, count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return for every pixel of a side the tiles before and after it, and how near it is to the second."""
    at = np.arange(side, dtype=np.float32) * (np.float32(1) / np.float32(tile)) - np.float32(0.5)
    before = np.floor(at)
    first = before.astype(np.int64)
    return np.maximum(first, 0), np.minimum(first + 1, count - 1), at - before


def _scale(source: int, target: int) -> float:
    """As OpenCV has it: the inverse of an inverse, which is not always the quotient."""
    return 1.0 / (target / source)


def _shrunk(picture: NDArray[Any], height: int, width: int, down: float, across: float) -> NDArray[Any]:
    cell_height, cell_width = round(down), round(across)
    tiny = np.finfo(np.float64).eps
    if abs(down - cell_height) < tiny and abs(across - cell_width) < tiny:
        return _block_means(picture, height, width, cell_height, cell_width)
    values = np.ascontiguousarray(np.swapaxes(picture, 0, 1))
    values = weighted_rows(values, _area_taps(picture.shape[1], width, across))
    values = np.ascontiguousarray(np.swapaxes(values, 0, 1))
    values = weighted_rows(values, _area_taps(picture.shape[0], height, down))
    return _eight_bit(values) if picture.dtype == np.uint8 else values


def _block_means(picture: NDArray[Any], height: int, width: int, rows: int, columns: int) -> NDArray[Any]:
    kind = np.int32 if picture.dtype == np.uint8 else np.float32
    total = np.zeros((height, width, *picture.shape[2:]), dtype=kind)
    for y in range(rows):
        for x in range(columns):
            total += picture[y : y + (height - 1) * rows + 1 : rows, x : x + (width - 1) * columns + 1 : columns]
    if picture.dtype != np.uint8:
        return np.asarray(total * np.float32(1 / (rows * columns)), dtype=np.float32)
    if (rows, columns) == (2, 2):
        return ((total + 2) >> 2).astype(np.uint8)
    return _eight_bit(total.astype(np.float32) * np.float32(1 / (rows * columns)))


def _area_taps(source: int, target: int, scale: float) -> Taps:
    """The share of every input pixel in an output pixel; parts below a thousandth of a pixel are left out."""
    taps: Taps = []
    for i in range(target):
        start = i * scale
        end = start + scale
        cell = min(scale, source - start)
        last = min(int(np.floor(end)), source - 1)
        first = min(int(np.ceil(start)), last)
        indices, weights = list(range(first, last)), [1.0 / cell] * (last - first)
        if first - start > 1e-3:
            indices.insert(0, first - 1)
            weights.insert(0, (first - start) / cell)
        if end - last > 1e-3:
            indices.append(last)
            weights.append(min(end - last, 1.0, cell) / cell)
        taps.append((indices, np.array(weights, dtype=np.float32)))
    return taps


def _linear(planes: NDArray[Any], height: int, width: int, area: bool) -> NDArray[Any]:
    """Linear between two pixels; `area` places them as ``INTER_AREA`` does where it enlarges."""
    top, down = _positions(planes.shape[0], height, area)
    left, across = _positions(planes.shape[1], width, area)
    last = planes.shape[1] - 1
    # only along the width are the pixels beyond an edge taken out of the sum, rather than repeated
    across = np.where((left < 0) | (left >= last), np.float32(0), across)
    left = np.clip(left, 0, last)
    right = np.minimum(left + 1, last)
    above, below = (np.clip(top + k, 0, planes.shape[0] - 1) for k in (0, 1))
    if planes.dtype != np.uint8:
        lines = planes[:, left] * (1 - across)[None, :, None] + planes[:, right] * across[None, :, None]
        between = lines[above] * (1 - down)[:, None, None] + lines[below] * down[:, None, None]
        return np.asarray(between, dtype=np.float32)
    weight, other = _fixed(1 - across)[None, :, None], _fixed(across)[None, :, None]
    lines = (planes[:, left] * weight + planes[:, right] * other) >> 4
    first, second = _fixed(1 - down)[:, None, None], _fixed(down)[:, None, None]
    mixed = ((lines[above] * first) >> 16) + ((lines[below] * second) >> 16)
    return np.asarray((mixed + 2) >> 2, dtype=np.uint8)


def _cubic(planes: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    top, down = _positions(planes.shape[0], height, area=False)
    left, across = _positions(planes.shape[1], width, area=False)
    columns = [np.clip(left + k, 0, planes.shape[1] - 1) for k in range(-1, 3)]
    rows = [np.clip(top + k, 0, planes.shape[0] - 1) for k in range(-1, 3)]
    if planes.dtype != np.uint8:
        weights = [w[None, :, None] for w in _cubic_weights(across)]
        lines = sum(planes[:, at] * w for at, w in zip(columns, weights, strict=True))
        weights = [w[:, None, None] for w in _cubic_weights(down)]
        return np.asarray(sum(lines[at] * w for at, w in zip(rows, weights, strict=True)), dtype=np.float32)
    weights = [_fixed(w)[None, :, None] for w in _cubic_weights(across)]
    lines = sum(planes[:, at] * w for at, w in zip(columns, weights, strict=True))
    weights = [_fixed(w)[:, None, None] for w in _cubic_weights(down)]
    # whole vectors are added in float32 from the last row to the first, and what is left over in integers
    scale = np.float32(1 / (1 << (2 * _BITS)))
    total = lines[rows[3]].astype(np.float32) * (weights[3].astype(np.float32) * scale)
    for k in (2, 1, 0):
        total += lines[rows[k]].astype(np.float32) * (weights[k].astype(np.float32) * scale)
    shown = _eight_bit(total).reshape(height, -1)
    tail = slice(shown.shape[1] // _LANES * _LANES, None)
    flat = lines.reshape(len(lines), -1)[:, tail]
    whole = sum(flat[at].astype(np.int64) * w[:, :, 0] for at, w in zip(rows, weights, strict=True))
    shown[:, tail] = np.clip((whole + (1 << (2 * _BITS - 1))) >> (2 * _BITS), 0, 255)
    return shown.reshape(height, width, -1)


def _positions(source: int, target: int, area: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the pixel before every output pixel and how far behind it that lies, 0 to 1, as float32."""
    scale, steps = _scale(source, target), np.arange(target)
    if area:
        first = np.floor(steps * scale).astype(np.int64)
        beyond = ((steps + 1) - (first + 1) * (target / source)).astype(np.float32)
        return first, np.where(beyond <= 0, np.float32(0), beyond - np.floor(beyond))
    at = ((steps + 0.5) * scale - 0.5).astype(np.float32)
    first = np.floor(at)
    return first.astype(np.int64), at - first


def _cubic_weights(x: NDArray[Any]) -> list[NDArray[Any]]:
    """Keys' kernel with a = -0.75 in float32, the last weight being what is left of 1."""
    a, one = np.float32(-0.75), np.float32(1)
    before = ((a * (x + one) - 5 * a) * (x + one) + 8 * a) * (x + one) - 4 * a
    here, after = (((a + 2) * d - (a + 3)) * d * d + one for d in (x, one - x))
    return [before, here, after, one - before - here - after]


def _fixed(weights: NDArray[Any]) -> NDArray[Any]:
    return np.rint(weights * np.float32(1 << _BITS)).astype(np.int32)


def _eight_bit(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)
