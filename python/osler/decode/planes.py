"""Where the frames of a DICOM file lie in the patient, and their values in the units of the modality.

Reads a parsed file in memory; a value of the header that is absent or malformed counts as absent. DICOM PS3.3,
C.7.6.2 (image plane), C.7.6.16.2 (functional groups) and C.11.1 (modality rescale).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS
from osler.decode.dicom import DicomFile
from osler.decode.header import listed, number_of, rule_of, value_of
from osler.decode.quiet import quiet
from osler.errors import SourceError

__all__ = ["Plane", "planes_of", "values_of"]


class Plane(NamedTuple):
    """Where one frame lies.

    Attributes
    ----------
    orientation : tuple of float
        Direction cosines of a row and of a column (LPS); empty where the header has none that are sound.
    position : tuple of float
        Millimetres (LPS) of the centre of the first pixel; empty where the header has none.
    spacing : tuple of float
        Millimetres between rows and between columns; empty where the header has none.
    thickness : float
        Of the slice in millimetres, 0 where the header has none.
    localizer : bool
        A scout from which slices were planned.
    order : tuple of float
        Acquisition, time or echo, and instance or frame: the order of frames that share one place.
    """

    orientation: tuple[float, ...]
    position: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float
    localizer: bool
    order: tuple[float, ...]


def planes_of(file: DicomFile, frames: int) -> tuple[Plane, ...]:
    """Return the plane of each frame of a file.

    Frames of a file without functional groups of its frames have no position, unless there is one frame only.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> from osler.decode.dicom import DicomFile
    >>> from osler.decode.planes import planes_of
    >>> file = DicomFile(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    >>> planes_of(file, 1)[0].spacing
    (0.661468, 0.661468)
    """
    with quiet():
        kinds = [str(part).strip().upper() for part in listed(value_of(file.dataset, "ImageType"))]
        return tuple(_plane(file, i, frames, "LOCALIZER" in kinds) for i in range(frames))


def _plane(file: DicomFile, i: int, frames: int, localizer: bool) -> Plane:
    shared, own = file.groups(i)

    def macro(sequence: str) -> Any:
        for group in (own, shared):
            items = listed(value_of(group, sequence)) if group is not None else ()
            if items:
                return items[0]
        return file.dataset

    measures = macro("PixelMeasuresSequence")
    place = macro("PlanePositionSequence")
    content = macro("FrameContentSequence")
    alone = frames == 1 or place is not file.dataset
    orientation = _numbers(macro("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    spacing = _numbers(measures, "PixelSpacing", 2)
    order = (
        number_of(file.dataset, "AcquisitionNumber"),
        number_of(content, "TemporalPositionIndex") or number_of(file.dataset, "TemporalPositionIdentifier"),
        number_of(file.dataset, "EchoNumbers"),
        number_of(file.dataset, "InstanceNumber"),
    )
    return Plane(
        orientation if _is_frame(orientation) else (),
        _numbers(place, "ImagePositionPatient", 3) if alone else (),
        spacing if all(0 < side < 1e6 for side in spacing) else (),
        abs(number_of(measures, "SliceThickness") or 0.0),
        localizer,
        (*(-1.0 if number is None else number for number in order), float(i)),
    )


def _numbers(holder: Any, keyword: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in listed(value_of(holder, keyword)))
    except (TypeError, ValueError):
        return ()
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else ()


def _is_frame(orientation: Sequence[float]) -> bool:
    """Tell whether two directions have length 1 and a right angle between them, as far as decimals allow."""
    if len(orientation) != 6:
        return False
    axes = np.array(orientation).reshape(2, 3)
    return bool(np.abs(axes @ axes.T - np.eye(2)).max() < 0.01)


def values_of(file: DicomFile, *, name: str = "the file") -> tuple[NDArray[Any], str]:
    """Return all frames in the units of the modality, and that unit.

    Parameters
    ----------
    file : DicomFile
    name : str
        How messages call the file.

    Returns
    -------
    values : ndarray
        (frames, rows, columns), int16 where every value is whole and fits, else float32. The rescale or look-up table
        of each frame is applied. MONOCHROME1 of a modality without a unit is inverted over the range of its stored
        values, so that more is brighter in every volume.
    unit : str
        "HU" for CT, unless its header names another; else empty.

    Raises
    ------
    SourceError
        As `DicomFile.frames`; ``not_a_volume`` for pixels in colour, ``too_large`` for more voxels than the limit.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> from osler.decode.dicom import DicomFile
    >>> from osler.decode.planes import values_of
    >>> file = DicomFile(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    >>> values, unit = values_of(file)
    >>> values.shape, values.dtype, int(values.min()), unit
    ((1, 128, 128), dtype('int16'), -896, 'HU')
    """
    layout, samples = file.stored()
    if layout.samples != 1 or not layout.photometric.startswith("MONOCHROME"):
        raise SourceError(
            f"{name} has pixels in colour, and a volume has one value a voxel; use an encoder of pictures",
            code="not_a_volume",
        )
    if layout.frames * layout.rows * layout.columns > LIMITS.voxels:
        raise SourceError(
            f"{name} states {layout.frames} frames of {layout.rows} x {layout.columns} voxels, the limit is "
            f"{LIMITS.voxels}; set OSLER_LIMIT_VOXELS to raise it",
            code="too_large",
        )
    unit = _unit(file)
    inverted = layout.photometric == "MONOCHROME1" and not unit
    mirror = -1 if layout.signed else (1 << layout.bits_stored) - 1
    frames: list[NDArray[Any]] = []
    tables: dict[Any, Any] = {}
    for i in range(layout.frames):
        shared, own = file.groups(i)
        with quiet():
            rule = rule_of(file.dataset, shared, own, layout, tables)
        stored = samples(i)
        frames.append(_compact(rule.values(mirror - stored.astype(np.float64) if inverted else stored)))
    return np.stack(frames), unit


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    """Return values as int16 where that keeps them exactly, else as float32."""
    if values.min() >= -(1 << 15) and values.max() < 1 << 15:
        whole = values.astype(np.int16)
        if (whole == values).all():
            return whole
    return values.astype(np.float32)


def _unit(file: DicomFile) -> str:
    if str(file.value("Modality") or "").strip().upper() != "CT":
        return ""
    shared, own = file.groups(0)
    with quiet():
        for group in (own, shared):
            rescale = listed(value_of(group, "PixelValueTransformationSequence")) if group is not None else ()
            if rescale:
                named = value_of(rescale[0], "RescaleType")
                break
        else:
            named = value_of(file.dataset, "RescaleType")
    return "HU" if str(named or "HU").strip().upper() in ("HU", "US") else ""
