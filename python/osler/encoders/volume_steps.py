"""Volumes to the array that a 3-D model takes: reads whatever a user passes, then runs the recipe step by step.

Opens files through `osler.decode` only. Directions are found by nibabel, and what is sheared or zoomed is resampled by
SciPy; both are loaded when the first step needs them. Values are float32 between steps, as in the authors' pipelines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from osler.decode import read_volume
from osler.decode.volumes import oriented
from osler.encoders.volume_recipe import (
    Axes,
    Channels,
    CropVolume,
    Foreground,
    Intensity,
    Orient,
    PadVolume,
    ResizeVolume,
    Respace,
    Standardise,
    VolumeStep,
)
from osler.errors import EncoderError, SourceError
from osler.items import Volume

__all__ = ["apply_volume_recipe", "read_volume_input"]

# Below this MONAI takes two affines for one.
_AFFINE_TOLERANCE = 1e-3
# Voxels by which the far end may be moved for axes to count as unturned, so that each is resampled by itself.
_STRAIGHT = 1e-9
_State = tuple[np.ndarray, np.ndarray]


class _Unfit(Exception):
    """A step cannot be done on a volume."""


def read_volume_input(value: Any, place: str) -> Volume:
    """Return what the user passed as a volume.

    Parameters
    ----------
    value : Volume, str, Path, or list of paths
        A volume; a NIfTI file or a multi-frame DICOM file; a folder with one DICOM series; or the files of one.
    place : str
        How messages call it, as "image 3"; a path is never named, since it may identify a patient.

    Returns
    -------
    Volume

    Raises
    ------
    FileNotFoundError, SourceError
        A file is missing or is no volume that can be read.
    TypeError
        It is something else: a picture, or an array, which does not say where its voxels lie.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.volume_steps import read_volume_input
    >>> from osler.items import Volume
    >>> read_volume_input(Volume(np.zeros((4, 5, 6), np.int16), np.eye(4)), "image 0")
    <osler Volume 4 x 5 x 6, int16>
    """
    if isinstance(value, Volume):
        return value
    if isinstance(value, str | os.PathLike):
        if not os.path.exists(value):
            raise FileNotFoundError(f"{place} does not exist; check the path that was passed")
        return read_volume(value, name=place)
    if isinstance(value, list | tuple) and value and all(isinstance(path, str | os.PathLike) for path in value):
        return read_volume(value, name=place)
    what = "an array" if hasattr(value, "__array__") and not hasattr(value, "getexif") else f"a {type(value).__name__}"
    raise TypeError(
        f"{place} is {what} and no volume; pass a NIfTI file, the folder of a DICOM series, or "
        "osler.items.Volume(array, affine), which says where voxels lie"
    )


def apply_volume_recipe(recipe: Iterable[VolumeStep], volume: Volume, place: str = "the volume") -> np.ndarray:
    """Run the steps of a recipe in order.

    Parameters
    ----------
    recipe : iterable of steps
    volume : Volume
    place : str
        How messages call it.

    Returns
    -------
    ndarray
        (C, D, H, W) float32: one channel unless the recipe makes more, axes in the order in which the steps leave them.

    Raises
    ------
    EncoderError, SourceError
        SciPy or nibabel is missing.
    SourceError
        A step cannot be done on this volume: ``not_encoded``.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.volume_recipe import Intensity, Orient, Respace
    >>> from osler.encoders.volume_steps import apply_volume_recipe
    >>> from osler.items import Volume
    >>> recipe = [Orient(op="orient"), Respace(op="respace", spacing=(1.5, 1.5, 3.0)),
    ...           Intensity(op="intensity", low=-1000, high=1000)]
    >>> volume = Volume(np.zeros((20, 20, 9), np.int16), np.diag([-0.75, -0.75, 3.0, 1.0]), units="HU")
    >>> array = apply_volume_recipe(recipe, volume)
    >>> array.shape, array.dtype, float(array.max())
    ((1, 10, 10, 9), dtype('float32'), 0.5)
    """
    state: _State = (volume.array.astype(np.float32), volume.affine)
    channels = 1
    for step in recipe:
        if isinstance(step, Channels):
            channels = step.count
            continue
        try:
            state = _STEPS[type(step)](step, *state)
        except ImportError:
            raise EncoderError(
                "encoding volumes needs the packages nibabel and scipy, of which one is not installed; run "
                'pip install "osler[volumes]"',
                code="missing_decoder",
            ) from None
        except _Unfit as error:
            raise SourceError(f"{place} {error}", code="not_encoded") from None
    array = np.ascontiguousarray(state[0], dtype=np.float32)[None]
    return np.repeat(array, channels, axis=0) if channels > 1 else array


def _orient(step: Orient, array: np.ndarray, affine: np.ndarray) -> _State:
    return oriented(array, affine, step.codes)


def _respace(step: Respace, array: np.ndarray, affine: np.ndarray) -> _State:
    """Resample as MONAI's Spacing does: see its `zoom_affine` and `compute_shape_offset` for the affine and shape."""
    old, axes = affine[:3, :3], np.array(affine[:3, :3])
    # The upper triangle of axes = rotation @ upper, whose diagonal is positive: what is off it is shear.
    upper = np.linalg.cholesky(axes.T @ axes).T
    lengths, wanted = np.sqrt((axes**2).sum(axis=0)), np.array(step.spacing)
    wanted = np.where(np.abs(lengths - wanted) <= _AFFINE_TOLERANCE, lengths, wanted)
    new = np.eye(4)
    new[:3, :3] = axes @ np.linalg.inv(upper) @ np.diag(wanted)
    corners = np.array(np.meshgrid(*([0.0, side - 1.0] for side in array.shape), indexing="ij")).reshape(3, -1)
    reached = np.linalg.solve(new[:3, :3], old @ corners)
    shape = [int(side) for side in np.round(np.ptp(reached, axis=1) + 1.0)]
    new[:3, 3] = _first_corner(reached, corners, affine, new, np.array(array.shape), np.array(shape))
    across = np.linalg.solve(affine, new)
    if shape == list(array.shape) and (_near(affine, new) or _near(across, np.eye(4))):
        return array, affine
    matrix, offset, straight = across[:3, :3], across[:3, 3], np.diag(across)[:3]
    if np.abs(matrix - np.diag(straight)).max() * max(shape) < _STRAIGHT:
        resampled = array
        # What shrinks most first, so that the rest is less.
        for axis in sorted(range(3), key=lambda axis: shape[axis] / array.shape[axis]):
            resampled = _between(resampled, axis, offset[axis] + straight[axis] * np.arange(shape[axis]))
    else:
        from scipy import ndimage

        resampled = ndimage.affine_transform(
            array.astype(np.float64), matrix, offset, tuple(shape), order=1, mode="nearest"
        )
    return resampled.astype(np.float32), new


def _between(array: np.ndarray, axis: int, places: np.ndarray) -> np.ndarray:
    """Return float64 values at some places along one axis, linear between voxels; the border goes on outside."""
    last = array.shape[axis] - 1
    places = np.clip(places, 0.0, last)
    before = np.minimum(np.floor(places).astype(np.intp), max(last - 1, 0))
    share = (places - before).reshape([-1 if i == axis else 1 for i in range(3)])
    found = array.take(before, axis=axis).astype(np.float64)
    found *= 1.0 - share
    found += array.take(np.minimum(before + 1, last), axis=axis) * share
    return np.asarray(found)


def _first_corner(
    reached: np.ndarray, corners: np.ndarray, old: np.ndarray, new: np.ndarray, before: np.ndarray, after: np.ndarray
) -> np.ndarray:
    """Return where voxel (0, 0, 0) lies: at the corner from which all others are ahead, else centre upon centre."""
    for i in range(corners.shape[1]):
        if np.allclose((reached - reached[:, i : i + 1]).min(axis=1), 0.0, rtol=_AFFINE_TOLERANCE):
            return np.asarray(old[:3, :3] @ corners[:, i] + old[:3, 3])
    return np.asarray(old[:3, :3] @ (before / 2.0) + old[:3, 3] - new[:3, :3] @ (after / 2.0))


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.allclose(one, other, atol=_AFFINE_TOLERANCE))


def _intensity(step: Intensity, array: np.ndarray, affine: np.ndarray) -> _State:
    scaled = (array - np.float32(step.low)) / np.float32(step.high - step.low)
    scaled = scaled * np.float32(step.to_high - step.to_low) + np.float32(step.to_low)
    return np.clip(scaled, np.float32(step.to_low), np.float32(step.to_high)) if step.clip else scaled, affine


def _foreground(step: Foreground, array: np.ndarray, affine: np.ndarray) -> _State:
    inside = array > np.float32(step.above)
    ranges = []
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(found) == 0:
            return array, affine
        ranges.append((int(found[0]), int(found[-1]) + 1))
    cut = array[tuple(slice(*ends) for ends in ranges)]
    return cut, _shifted(affine, np.array([start for start, _ in ranges]))


def _resize_volume(step: ResizeVolume, array: np.ndarray, affine: np.ndarray) -> _State:
    before, after = np.array(array.shape), np.array(step.shape)
    if step.rule == "zoom":
        from scipy import ndimage

        resized = ndimage.zoom(array, after / before, order=0)
        # Corners lie on corners; a side of one voxel has no second corner.
        factors = np.where(after > 1, (before - 1) / np.maximum(after - 1, 1), before)
        first = np.zeros(3)
    else:
        resized = array.astype(np.float64)
        for axis, side in enumerate(step.shape):
            resized = _area(resized, axis, side)
        factors = before / after
        first = (factors - 1.0) / 2.0
    factors = np.where(factors > 0, factors, 1.0)
    return resized.astype(np.float32), _shifted(affine, first) @ np.diag([*factors, 1.0])


def _area(array: np.ndarray, axis: int, side: int) -> np.ndarray:
    """Return means over the voxels from floor(i * n / side) to ceil((i + 1) * n / side) along one axis."""
    length = array.shape[axis]
    if side == length:
        return array
    along = np.moveaxis(array, axis, 0)
    ranges = [(i * length // side, -(-(i + 1) * length // side)) for i in range(side)]
    return np.moveaxis(np.stack([along[start:end].mean(axis=0) for start, end in ranges]), 0, axis)


def _pad_volume(step: PadVolume, array: np.ndarray, affine: np.ndarray) -> _State:
    missing = [max(side - there, 0) for side, there in zip(step.shape, array.shape, strict=True)]
    before = [side // 2 for side in missing]
    width = [(first, side - first) for first, side in zip(before, missing, strict=True)]
    return np.pad(array, width, constant_values=np.float32(step.value)), _shifted(affine, -np.array(before))


def _crop_volume(step: CropVolume, array: np.ndarray, affine: np.ndarray) -> _State:
    starts = [max(there // 2 - side // 2, 0) for side, there in zip(step.shape, array.shape, strict=True)]
    cut = array[tuple(slice(start, start + side) for start, side in zip(starts, step.shape, strict=True))]
    return cut, _shifted(affine, np.array(starts))


def _standardise(step: Standardise, array: np.ndarray, affine: np.ndarray) -> _State:
    values = array.astype(np.float64)
    counted = values[values > 0] if step.over == "positive" else values
    if counted.size == 0 or counted.std() == 0:
        raise _Unfit("has no spread of values to standardise by; it is empty or all of one value")
    result = (values - counted.mean()) / counted.std()
    if step.background == "mean":
        result[values == 0] = 0.0
    return result.astype(np.float32), affine


def _axes(step: Axes, array: np.ndarray, affine: np.ndarray) -> _State:
    return array.transpose(step.order), affine[:, [*step.order, 3]]


def _shifted(affine: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    """Return the affine of an array whose first voxel was at some place of the one before."""
    moved = np.array(affine)
    moved[:3, 3] += affine[:3, :3] @ voxels
    return moved


_STEPS: dict[type[Any], Callable[[Any, np.ndarray, np.ndarray], _State]] = {
    Orient: _orient,
    Respace: _respace,
    Intensity: _intensity,
    Foreground: _foreground,
    ResizeVolume: _resize_volume,
    PadVolume: _pad_volume,
    CropVolume: _crop_volume,
    Standardise: _standardise,
    Axes: _axes,
}
