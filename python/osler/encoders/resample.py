"""Changes the size of a picture with the arithmetic of Pillow, PyTorch or TensorFlow; OpenCV's is in `opencv`.

Arrays in, arrays out. All are weighted sums in the order in which the library adds them, because floats keep that order
in their last bit. The engine takes those of Pillow (bilinear and bicubic; other filters are Pillow's own) and of
8-bit tensors, NumPy the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler import _native
from osler.encoders.recipe import Resize

__all__ = ["Taps", "pillow", "target_size", "tensorflow", "torch", "torch_uint8", "weighted_rows"]

Taps = list[tuple[Sequence[int], NDArray[Any]]]
"""For every output row: the input rows in the order of the sum, and their weights."""

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
# PyTorch's loop over the taps adds four at a time; what is left over is fused multiply-add on every x86 with AVX2.
_UNFUSED = 4
# Of its sums of 8 bits (PRECISION_BITS of its Resample.c), and the release that first chooses an axis to begin with.
_PILLOW_BITS = 22
_PILLOW_CHOOSES = 13
_LONGEST_KEPT = 1 << 14


def target_size(step: Resize, height: int, width: int) -> tuple[int, int]:
    """Return height and width after a resize step.

    Parameters
    ----------
    step : Resize
    height, width : int
        Of the picture, in pixels.

    Returns
    -------
    tuple of int
        Both at least 1, also where the reference would end with an empty picture.

    Examples
    --------
    >>> from osler.encoders.recipe import Resize
    >>> from osler.encoders.resample import target_size
    >>> step = Resize(op="resize", mode="shortest", height=224, width=224, filter="bicubic")
    >>> target_size(step, 3000, 2500)
    (268, 224)
    """
    if step.mode == "squash":
        return step.height, step.width
    turn: Callable[[float], int] = int if step.rounding == "truncate" else round
    choose = min if step.mode == "shortest" else max
    if step.scale == "divide":
        ratio = choose(height / step.height, width / step.width)
        return max(1, turn(height / ratio)), max(1, turn(width / ratio))
    kept = choose(height, width)

    def scaled(side: int) -> int:
        if side == kept:
            return step.height
        exact = side * step.height / kept if step.scale == "exact" else side * (step.height / kept)
        return max(1, turn(exact))

    return scaled(height), scaled(width)


def pillow(picture: NDArray[Any], height: int, width: int, kernel: str) -> NDArray[Any]:
    """Resize as the installed Pillow does: 8 bits rounded after each axis, float32 in its float mode, cut to 0..255.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.resample import pillow
    >>> pillow(np.array([[0, 100, 200]], dtype=np.uint8), 1, 2, "bilinear").tolist()
    [[38, 163]]
    """
    if kernel in _SUPPORT:
        eight = picture.dtype == np.uint8
        given = picture if eight else picture.astype(np.float32, copy=False)
        first = _height_first(picture.shape, height, width)
        made = _summed(given, height, width, kernel, _PILLOW_BITS if eight else 0, first)
    else:
        from PIL import Image

        planes = picture[:, :, None] if picture.ndim == 2 else picture
        method = Image.Resampling[kernel.upper()]
        resized = [
            Image.fromarray(np.ascontiguousarray(planes[:, :, c])).resize((width, height), method)
            for c in range(planes.shape[2])
        ]
        made = np.dstack([np.asarray(plane) for plane in resized]).reshape(height, width, *picture.shape[2:])
    # kernels with negative lobes overshoot in floats, and the same picture in 8 bits is cut there
    return made if made.dtype == np.uint8 else np.clip(made, 0, 255, out=made)


def _height_first(shape: tuple[int, ...], height: int, width: int) -> bool:
    """Whether Pillow begins with the height: release 13 does where that throws away more."""
    rows, columns = shape[:2]
    return height < rows and rows - height > 2 * (columns - width) and _pillow_release() >= _PILLOW_CHOOSES


@cache
def _pillow_release() -> int:
    from PIL import __version__

    return int(__version__.split(".")[0])


def _summed(
    picture: NDArray[Any], height: int, width: int, kernel: str, bits: int | None, height_first: bool
) -> NDArray[Any]:
    sides = ((1, picture.shape[1], width), (0, picture.shape[0], height))
    passes = [
        # weights of very long sides are not kept, for their memory
        (axis, *(_even_taps if max(source, target) <= _LONGEST_KEPT else _made_taps)(source, target, kernel, bits))
        for axis, source, target in (reversed(sides) if height_first else sides)
        if source != target
    ]
    made = _native.resample(picture if picture.ndim == 3 else picture[:, :, None], passes)
    return made[:, :, 0] if picture.ndim == 2 else made


def torch(picture: NDArray[Any], height: int, width: int, kernel: str, antialias: bool) -> NDArray[Any]:
    """Resize a float32 tensor as PyTorch's ``interpolate`` does; 8 bits are cast, rounded to even and cut.

    With antialias bit by bit what PyTorch 2 gives on x86 with AVX2; its other builds differ from each other in the
    last bits. Without antialias the weights are PyTorch's and the order of the sum is not.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.resample import torch
    >>> torch(np.array([[0, 100, 200]], dtype=np.float32), 1, 2, "bilinear", True).round(3).tolist()
    [[37.5, 162.5]]
    """
    values = picture.astype(np.float32, copy=False)
    for axis, target in ((1, width), (0, height)):
        source = values.shape[axis]
        if target == source:
            continue
        taps = _float_taps(source, target, kernel) if antialias else _plain_taps(source, target, kernel)
        values = _along(values, axis, _fused_rows, taps)
    if picture.dtype == np.uint8:
        return np.asarray(np.rint(np.clip(values, 0, 255)), dtype=np.uint8)
    return values


def torch_uint8(picture: NDArray[Any], height: int, width: int, kernel: str) -> NDArray[Any]:
    """Resize as PyTorch does 8-bit tensors with antialias: int16 weights, each axis rounded to 8 bits.

    Floats are resized by `torch`, and cut to 0..255 as 8 bits would be.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.resample import torch_uint8
    >>> torch_uint8(np.array([[0, 100, 200]], dtype=np.uint8), 1, 2, "bilinear").tolist()
    [[38, 163]]
    """
    if picture.dtype != np.uint8:
        return np.asarray(np.clip(torch(picture, height, width, kernel, True), 0, 255))
    return _summed(picture, height, width, kernel, None, height_first=False)


def tensorflow(picture: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize as ``tf.image.resize(method="bilinear", antialias=False)`` does; float32.

    Two linear steps, first along the width, with half-pixel centres and repeated edges.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.resample import tensorflow
    >>> tensorflow(np.array([[0, 100, 200]], dtype=np.uint8), 1, 2).tolist()
    [[25.0, 175.0]]
    """
    top, bottom, down = _neighbours(picture.shape[0], height)
    left, right, across = _neighbours(picture.shape[1], width)
    tail = (1,) * (picture.ndim - 2)

    def line(rows: NDArray[Any]) -> NDArray[Any]:
        kept = picture[rows].astype(np.float32, copy=False)
        start = kept[:, left]
        mixed: NDArray[Any] = start + (kept[:, right] - start) * across.reshape(1, -1, *tail)
        return mixed

    above = line(top)
    resized: NDArray[Any] = above + (line(bottom) - above) * down.reshape(-1, 1, *tail)
    return resized


def _neighbours(source: int, target: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    scale = np.float32(source) / np.float32(target)
    at = (np.arange(target).astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(at)
    lower = np.maximum(floor.astype(np.int64), 0)
    upper = np.minimum(np.ceil(at).astype(np.int64), source - 1)
    return lower, upper, at - floor


def weighted_rows(rows: NDArray[Any], taps: Taps) -> NDArray[Any]:
    """Return weighted sums of rows in float32, each product and each sum rounded, from the first tap to the last.

    Parameters
    ----------
    rows : ndarray
        (n, ...), any type that float32 holds.
    taps : list
        One entry an output row.

    Returns
    -------
    ndarray
        (len(taps), ...), float32.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.resample import weighted_rows
    >>> half = np.array([0.5, 0.5], dtype=np.float32)
    >>> weighted_rows(np.array([[1.0], [2.0], [4.0]], dtype=np.float32), [((0, 1), half), ((1, 2), half)]).tolist()
    [[1.5], [3.0]]
    """
    out = np.empty((len(taps), *rows.shape[1:]), dtype=np.float32)
    product = np.empty(rows.shape[1:], dtype=np.float32)
    for total, (indices, weights) in zip(out, taps, strict=True):
        np.multiply(rows[indices[0]], weights[0], out=total)
        for i in range(1, len(indices)):
            np.multiply(rows[indices[i]], weights[i], out=product)
            np.add(total, product, out=total)
    return out


def _along(values: NDArray[Any], axis: int, work: Callable[..., NDArray[Any]], *arguments: Any) -> NDArray[Any]:
    """Run a function of rows along an axis; rows are made contiguous, which is what makes it fast."""
    if axis == 0:
        return work(values, *arguments)
    lines = work(np.ascontiguousarray(np.swapaxes(values, 0, 1)), *arguments)
    return np.ascontiguousarray(np.swapaxes(lines, 0, 1))


def _fused_rows(rows: NDArray[Any], taps: Taps) -> NDArray[Any]:
    out = np.empty((len(taps), *rows.shape[1:]), dtype=np.float32)
    product = np.empty(rows.shape[1:], dtype=np.float32)
    wide = np.empty(rows.shape[1:], dtype=np.float64)
    for total, (indices, weights) in zip(out, taps, strict=True):
        np.multiply(rows[indices[0]], weights[0], out=total)
        fused_from = 1 + (len(weights) - 1) // _UNFUSED * _UNFUSED
        for i in range(1, len(indices)):
            if i < fused_from:
                np.multiply(rows[indices[i]], weights[i], out=product)
                np.add(total, product, out=total)
            else:
                # the product of two float32 is exact in float64, so that only the sum is rounded
                np.multiply(rows[indices[i]], weights[i], out=wide, dtype=np.float64)
                np.add(wide, total, out=wide)
                total[...] = wide
    return out


def _float_taps(source: int, target: int, kernel: str) -> Taps:
    """The weights of a float tensor with antialias, in float32 where PyTorch's are and in float64 where they are.

    The halves are double literals there, and so is what they are added to until it is rounded again.
    """
    single = np.float32
    scale = single(source) / single(target)
    wide = max(scale, single(1))
    support, inverse = single(_SUPPORT[kernel]) * wide, float(single(1) / wide)
    taps: Taps = []
    for i in range(target):
        centre = scale * (single(i) + single(0.5))
        first = max(int(float(centre - support) + 0.5), 0)
        count = min(int(float(centre + support) + 0.5), source) - first
        offset = (np.arange(first, first + count, dtype=single) - centre).astype(np.float64) + 0.5
        distance = np.abs(offset * inverse).astype(single)
        weights = np.maximum(single(1) - distance, 0) if kernel == "bilinear" else _cubic32(distance)
        taps.append((range(first, first + count), weights / _running_sum(weights)))
    return taps


def _running_sum(weights: NDArray[Any]) -> Any:
    """Add from the first to the last; NumPy's own sum goes by pairs."""
    return np.cumsum(weights, dtype=weights.dtype)[-1]


def _cubic32(x: NDArray[Any]) -> NDArray[Any]:
    """Keys' kernel with a = -0.5, in float32 with fused multiply-adds."""
    near = _fused(_fused(1.5, x, -2.5) * x, x, 1.0)
    far = _fused(_fused(_fused(-0.5, x, 2.5), x, -4.0), x, 2.0)
    return np.where(x < 1, near, np.where(x < 2, far, np.float32(0)))


def _made_taps(
    source: int, target: int, kernel: str, bits: int | None
) -> tuple[NDArray[np.uint32], NDArray[np.int32] | NDArray[np.float64], int]:
    """The first row and the weights of every sum, as many weights for each, and their bits behind the point.

    Weights are float64 where the bits are 0. None gives PyTorch's bits: as many as int16 leaves to the greatest weight.
    """
    first, weights = _double_taps(source, target, kernel)
    first.setflags(write=False)
    weights.setflags(write=False)
    if bits == 0:
        return first, weights, 0
    if bits is None:
        greatest = float(weights.max())
        bits = 0
        while bits < _PILLOW_BITS and int(0.5 + greatest * (1 << (bits + 1))) < 1 << 15:
            bits += 1
    whole = np.trunc(weights * (1 << bits) + np.copysign(0.5, weights)).astype(np.int32)
    whole.setflags(write=False)
    return first, whole, bits


_even_taps = lru_cache(maxsize=32)(_made_taps)


def _double_taps(source: int, target: int, kernel: str) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    scale = source / target
    wide = max(scale, 1.0)
    support, inverse = _SUPPORT[kernel] * wide, 1.0 / wide
    centre = scale * (np.arange(target) + 0.5)
    low = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    high = np.minimum((centre + support + 0.5).astype(np.int64), source)
    width = int((high - low).max())
    # at the far end sums begin earlier, with weights of 0, so that each has as many taps
    first = np.minimum(low, source - width)
    rows = first[:, None] + np.arange(width)
    x = np.abs((rows - centre[:, None] + 0.5) * inverse)
    if kernel == "bilinear":
        weights = np.maximum(1 - x, 0)
    else:
        near = (1.5 * x - 2.5) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * -0.5
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    weights = np.where((rows >= low[:, None]) & (rows < high[:, None]), weights, 0)
    # added from the first to the last; NumPy's own sum goes by pairs
    return first.astype(np.uint32), weights / np.cumsum(weights, axis=1)[:, -1:]


def _plain_taps(source: int, target: int, kernel: str) -> Taps:
    """The weights without antialias: half-pixel centres, edges repeated, Keys' kernel with a = -0.75."""
    single = np.float32
    scale = single(source) / single(target)
    taps: Taps = []
    for i in range(target):
        if kernel == "nearest":
            taps.append((range(min(int(i * scale), source - 1), source)[:1], np.ones(1, dtype=single)))
            continue
        if kernel == "bilinear":
            centre = max(scale * (single(i) + single(0.5)) - single(0.5), single(0))
        else:
            centre = single(float(scale) * (i + 0.5) - 0.5)
        floor = math.floor(centre)
        share = centre - single(floor)
        if kernel == "bilinear":
            weights = np.array([single(1) - share, share], dtype=single)
        else:
            weights = _keys32(np.array([share + single(1), share, single(1) - share, single(2) - share], dtype=single))
        first = floor - (kernel == "bicubic")
        taps.append(([min(max(first + j, 0), source - 1) for j in range(len(weights))], weights))
    return taps


def _keys32(x: NDArray[Any]) -> NDArray[Any]:
    near = _fused(_fused(1.25, x, -2.25) * x, x, 1.0)
    far = _fused(_fused(_fused(-0.75, x, 3.75), x, -6.0), x, 3.0)
    return np.array([far[0], near[1], near[2], far[3]])


def _fused(a: Any, b: Any, c: Any) -> NDArray[Any]:
    product = np.multiply(a, b, dtype=np.float64)
    return np.asarray(product + c, dtype=np.float32)
