"""Files to volumes, and volumes to the slices that a person is shown.

Reads the files that it is given, or those of one folder, through `nifti` and `stack`, within the limits of
`osler.config.LIMITS`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS
from osler.decode.dicom import DicomFile
from osler.decode.formats import format_of, read_bytes
from osler.decode.nifti import nifti_volume, require_nibabel
from osler.decode.planes import Plane, planes_of, values_of
from osler.decode.stack import GAPS, Gaps, stack_of, volume_of
from osler.errors import SourceError
from osler.items import Volume

__all__ = ["AXES", "RECIPE", "Axis", "Slices", "assembled", "oriented", "read_volume", "volume_from_bytes"]

RECIPE = "volume-display/1"
Axis = Literal["axial", "coronal", "sagittal"]
# How a slice is looked at: the direction of its columns, of its rows (downwards), and the order of slices.
AXES: dict[str, str] = {"axial": "LPS", "coronal": "LIA", "sagittal": "PIL"}

_Path = str | os.PathLike[str]
# Percentiles of all voxels that are shown black and white, as for DICOM files without a window.
_DARK, _BRIGHT = 0.5, 99.5


def read_volume(
    source: _Path | Sequence[_Path], *, time: int | None = None, gaps: Gaps = "refuse", name: str = "the volume"
) -> Volume:
    """Read a NIfTI file, a DICOM series or a multi-frame DICOM file.

    Parameters
    ----------
    source : path or sequence of paths
        A file; a folder whose files are one DICOM series (files of other kinds are passed over); or the files of one.
    time : int, optional
        Which of several volumes that the source holds: time points, echoes, directions.
    gaps : {"refuse", "fill"}
        What becomes of a series with missing or unevenly spaced slices: an error, or values between neighbours.
    name : str
        How messages call it.

    Returns
    -------
    Volume
        Of DICOM (columns, rows, slices), slices in the direction of their normal, in Hounsfield units for CT; of NIfTI
        as it is stored. ``Volume.findings`` says what was left out or looked odd.

    Raises
    ------
    SourceError
        A code of `osler.decode.read_bytes`, of `osler.decode.nifti.nifti_volume`, of
        `osler.decode.stack.stack_of`, or ``not_a_volume``, ``several_series``, ``no_series``.
    ValueError
        `gaps` is neither.

    Examples
    --------
    >>> import nibabel, numpy as np, tempfile
    >>> from osler.decode import read_volume
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.diag([-1.0, 1.0, 2.5, 1.0]))
    ...     nibabel.save(image, folder + "/scan.nii.gz")
    ...     read_volume(folder + "/scan.nii.gz")
    <osler Volume 4 x 5 x 6, int16>
    """
    if gaps not in GAPS:
        raise ValueError(f"gaps is {gaps!r:.40}; use 'refuse' or 'fill'")
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_dir():
            return volume_from_bytes(read_bytes(path, name=name), time=time, gaps=gaps, name=name)
        files = sorted(file for file in path.iterdir() if file.is_file())
    else:
        files = [Path(file) for file in source]
    return _series(files, time, gaps, name)


def volume_from_bytes(data: bytes, *, time: int | None = None, gaps: Gaps = "refuse", name: str = "the file") -> Volume:
    """Read one file that is a volume by itself; see `read_volume`.

    Examples
    --------
    >>> from osler.decode.volumes import volume_from_bytes
    >>> volume_from_bytes(b"%PDF-1.7", name="it")
    Traceback (most recent call last):
    osler.errors.SourceError: it is a PDF document, not an image; Osler reads PNG, JPEG, TIFF, BMP, DICOM and NIfTI
    """
    kind = format_of(data, name=name)
    if kind == "nifti":
        return nifti_volume(data, time=time, name=name)
    if kind != "dicom":
        raise SourceError(
            f"{name} is a picture ({kind}), and this takes volumes: NIfTI files and DICOM series", code="not_a_volume"
        )
    values, unit = values_of(file := DicomFile(data, name=name), name=name)
    if len(values) == 1:
        raise SourceError(
            f"{name} is one slice of a DICOM series; give all of its files, or the folder that they are in",
            code="one_slice",
        )
    return assembled(planes_of(file, len(values)), list(values), unit, time=time, gaps=gaps)


def assembled(
    planes: Sequence[Plane],
    frames: Sequence[NDArray[Any]],
    unit: str,
    *,
    time: int | None = None,
    gaps: Gaps = "refuse",
) -> Volume:
    """Make the one volume of some frames; see `osler.decode.stack`.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.planes import Plane
    >>> from osler.decode.volumes import assembled
    >>> planes = [Plane((1, 0, 0, 0, 1, 0), (0, 0, z), (0.5, 0.5), 2.0, False, ()) for z in (2.0, 0.0)]
    >>> assembled(planes, [np.zeros((4, 6), np.int16)] * 2, "HU")
    <osler Volume 6 x 4 x 2, int16, HU>
    """

    def same(one: int, other: int) -> bool:
        return np.array_equal(frames[one], frames[other])

    shapes = [(frame.shape[0], frame.shape[1]) for frame in frames]
    return volume_of(stack_of(planes, shapes, gaps=gaps, time=time, same=same), frames, unit=unit)


def _series(files: Sequence[Path], time: int | None, gaps: Gaps, name: str) -> Volume:
    found: dict[str, list[tuple[Plane, NDArray[Any], str]]] = {}
    others: list[Path] = []
    held = 0
    for number, path in enumerate(files, start=1):
        data = read_bytes(path, name=f"file {number} of {name}")
        try:
            if format_of(data) != "dicom":
                others.append(path)
                continue
        except SourceError:
            others.append(path)
            continue
        file = DicomFile(data, name=f"file {number} of {name}")
        if "PixelData" not in file.dataset:
            others.append(path)
            continue
        values, unit = values_of(file, name=f"file {number} of {name}")
        held += values.size
        if held > LIMITS.voxels:
            raise SourceError(
                f"{name} has more than {LIMITS.voxels} voxels; set OSLER_LIMIT_VOXELS to raise the limit",
                code="too_large",
            )
        planes = planes_of(file, len(values))
        series = str(file.value("SeriesInstanceUID") or "").strip()
        found.setdefault(series, []).extend((plane, frame, unit) for plane, frame in zip(planes, values, strict=True))
    if len(found) > 1:
        raise SourceError(
            f"{name} holds {len(found)} DICOM series; give the files of one, or add the folder to a Collection",
            code="several_series",
        )
    if not found:
        if len(others) == 1:
            return volume_from_bytes(read_bytes(others[0], name=name), time=time, gaps=gaps, name=name)
        raise SourceError(f"{name} holds no DICOM series; give a NIfTI file or the files of a series", code="no_series")
    (frames,) = found.values()
    return assembled(
        [plane for plane, _, _ in frames], [frame for _, frame, _ in frames], frames[0][2], time=time, gaps=gaps
    )


def oriented(array: NDArray[Any], affine: NDArray[np.float64], codes: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Turn and flip axes so that they point, as nearly as they can, in the directions of some codes; no value changes.

    Parameters
    ----------
    array : ndarray
        (I, J, K).
    affine : ndarray
        (4, 4) RAS+.
    codes : str
        Three of R or L, A or P, S or I, as in "RAS".

    Returns
    -------
    array : ndarray
        A view.
    affine : ndarray
        Of the view.

    Raises
    ------
    SourceError
        ``missing_decoder`` (nibabel).

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.volumes import oriented
    >>> view, affine = oriented(np.zeros((2, 3, 4)), np.diag([-1.0, 1.0, 2.0, 1.0]), "SRA")
    >>> view.shape, affine[:3, 3].tolist()
    ((4, 2, 3), [-1.0, 0.0, 0.0])
    """
    require_nibabel()
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    view: NDArray[Any] = apply_orientation(array, turn)
    return view, np.asarray(affine @ inv_ornt_aff(turn, array.shape))


class Slices(Sequence[NDArray[Any]]):
    """The slices of a volume, as a person is shown them.

    Axial slices go from the feet to the head, coronal ones from back to front, sagittal ones from right to left. In an
    axial or coronal slice the patient's right is at the left edge; rows go down from the front, or from the head.
    The axes of the volume that are nearest to these directions are taken; nothing is resampled.

    Parameters
    ----------
    volume : Volume
    axis : {"axial", "coronal", "sagittal"}
    window : tuple of float, optional
        Values that are shown black and white; by default the 0.5th and the 99.5th percentile of the volume, or its
        extremes where these are equal.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns of a slice.
    spacing : tuple of float
        Millimetres between its rows and between its columns.
    distance : float
        Millimetres from one slice to the next.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.volumes import Slices
    >>> from osler.items import Volume
    >>> slices = Slices(Volume(np.arange(24).reshape(2, 3, 4), np.eye(4)), window=(0, 23))
    >>> len(slices), slices[0].shape, slices[0].dtype, int(slices[3].max())
    (4, (3, 2), dtype('uint16'), 65535)
    """

    def __init__(self, volume: Volume, axis: Axis = "axial", window: tuple[float, float] | None = None) -> None:
        if axis not in AXES:
            raise ValueError(f"axis is {axis!r:.40}; use 'axial', 'coronal' or 'sagittal'")
        turned, affine = oriented(volume.array, volume.affine, AXES[axis])
        self._slices = turned.transpose(2, 1, 0)
        self._low, self._high = _window(volume.array) if window is None else (float(window[0]), float(window[1]))
        if not self._low <= self._high:
            raise ValueError("window is not two numbers of which the first is the lower; give black and white")
        columns, rows, self.distance = (float(side) for side in np.sqrt((affine[:3, :3] ** 2).sum(axis=0)))
        self.shape = (self._slices.shape[1], self._slices.shape[2])
        self.spacing = (rows, columns)

    def __len__(self) -> int:
        return len(self._slices)

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[NDArray[Any], ...]: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | tuple[NDArray[Any], ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        values = self._slices[index].astype(np.float64)
        if self._low == self._high:
            shown = values > self._low
        else:
            shown = np.clip((values - self._low) / (self._high - self._low), 0.0, 1.0)
        frame: NDArray[Any] = np.rint(shown * 65535.0).astype(np.uint16)
        frame.setflags(write=False)
        return frame

    def __repr__(self) -> str:
        return f"<{len(self)} slices>"


def _window(values: NDArray[Any]) -> tuple[float, float]:
    low, high = _percentiles(values, (_DARK, _BRIGHT))
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def _percentiles(values: NDArray[Any], shares: tuple[float, float]) -> tuple[float, ...]:
    """Return what `np.percentile` does; whole numbers, of which there are few, are counted instead of sorted."""
    if values.dtype.kind not in "iu":
        return tuple(float(value) for value in np.percentile(values, shares))
    least = int(np.iinfo(values.dtype).min)
    counts = np.zeros(1 << 8 * values.dtype.itemsize, np.int64)
    for plane in values:
        counts += np.bincount(plane.ravel().astype(np.int64) - least, minlength=len(counts))
    reached = np.cumsum(counts)
    found = []
    for share in shares:
        place = share / 100 * (values.size - 1)
        before = int(place)
        one, other = (int(np.searchsorted(reached, at, "right")) + least for at in (before, before + 1))
        found.append(one + (other - one) * (place - before) if before + 1 < values.size else float(one))
    return tuple(found)
