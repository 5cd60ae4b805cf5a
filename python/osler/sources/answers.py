"""What a process that decodes may answer: everything that it says is checked here before it is believed.

Works on parsed JSON and on arrays; starts nothing and reads nothing. See `workers` and `worker`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from osler.config import LIMITS
from osler.decode.planes import Plane
from osler.sources.decoder import PICTURE_COLUMNS, VOLUME_COLUMNS, SliceHeader, Voxels

__all__ = ["Broken", "checked", "checked_voxels", "frame_shape", "slice_header", "voxel_shape", "wrong"]

_TYPES = ("|u1", "<u2", "<f4")
_VOXEL_TYPES = (*_TYPES, "|i1", "<i2")
# Columns that hold numbers; all others that are stored without being named hold text.
_WHOLE = ("rows", "columns", "frames", "year", "age")
_FRACTIONS = ("spacing", "slice_thickness", "slice_spacing")
_SENTENCE = 1_000


class Broken(Exception):
    """A process ended, was too slow, or said what it must not; `code` is the file's outcome."""

    def __init__(self, message: str, code: str = "crashed") -> None:
        super().__init__(message)
        self.code = code


def wrong() -> Broken:
    """Return the error for an answer that no sound process gives."""
    return Broken("the process that decoded the file gave no right answer; a decoder has a fault that the file reaches")


def frame_shape(described: Any) -> tuple[str, tuple[int, ...]]:
    """Return the type and shape of an array, if they are those of a frame within the limits; else ValueError.

    Examples
    --------
    >>> from osler.sources.answers import frame_shape
    >>> frame_shape(["|u1", [4, 5, 3]])
    ('|u1', (4, 5, 3))
    """
    kind, shape = described
    if kind not in _TYPES or not all(type(side) is int and side > 0 for side in shape) or len(shape) not in (2, 3):
        raise ValueError
    if shape[2:] not in ([], [3]) or shape[0] * shape[1] > LIMITS.pixels_per_frame:
        raise ValueError
    return kind, tuple(shape)


def voxel_shape(described: Any) -> tuple[str, tuple[int, ...]]:
    """Return the type and shape of an array, if they are those of a volume within the limits; else ValueError.

    Examples
    --------
    >>> from osler.sources.answers import voxel_shape
    >>> voxel_shape(["<i2", [4, 5, 30]])
    ('<i2', (4, 5, 30))
    """
    kind, shape = described
    if kind not in _VOXEL_TYPES or not all(type(side) is int and side > 0 for side in shape) or len(shape) != 3:
        raise ValueError
    if math.prod(shape) > LIMITS.voxels:
        raise ValueError
    return kind, tuple(shape)


def checked(
    reply: dict[str, Any], frames: Sequence[NDArray[Any]], kind: str, keep: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str], int, tuple[Plane, ...]]:
    """Return the columns, identifiers, number of frames and planes of an answer, if they are what they may be.

    Raises
    ------
    Broken
        They are not.
    """
    columns, identifiers, count = reply.get("columns"), reply.get("identifiers"), reply.get("count")
    allowed: set[str] = set(VOLUME_COLUMNS if kind == "nifti" else PICTURE_COLUMNS)
    known: set[str] = set()
    if kind == "dicom":
        from osler.sources.dicom import COLUMNS, IDENTIFIERS

        allowed, known = {*COLUMNS, *keep}, set(IDENTIFIERS)
    right = (
        isinstance(columns, dict)
        and isinstance(identifiers, dict)
        and reply.get("format") == kind
        and allowed >= columns.keys() >= {"rows", "columns", "frames"}
        and known >= identifiers.keys()
        and all(_fits(name, value) for name, value in columns.items())
        and all((columns["rows"], columns["columns"]) == frame.shape[:2] for frame in frames[:1])
        and all(isinstance(value, str) for value in identifiers.values())
        and type(count) is int
        and 0 < count <= LIMITS.frames
        and len(frames) in (0, count)
    )
    if not right:
        raise wrong()
    return reply["columns"], reply["identifiers"], reply["count"], _planes(reply, kind, reply["count"])


def checked_voxels(reply: dict[str, Any], arrays: Sequence[NDArray[Any]], kind: str, keep: Sequence[str]) -> Voxels:
    """Return the answer to a question for voxels, if it is what it may be.

    Raises
    ------
    Broken
        It is not.
    """
    if len(arrays) != 1 or kind not in ("dicom", "nifti") or not isinstance(reply.get("columns"), dict):
        raise wrong()
    dicom, array = kind == "dicom", arrays[0]
    # Of a NIfTI file the columns tell of slices, whose axes are others than those of the array.
    reply["count"] = len(array) if dicom else 1
    columns, identifiers, _, planes = checked(reply, [], kind, keep)
    try:
        affine = tuple(tuple(float(number) for number in row) for row in reply["affine"])
        findings = {str(code): str(words)[:_SENTENCE] for code, words in reply["findings"].items()}
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        raise wrong() from None
    if (
        [len(row) for row in affine] != ([] if dicom else [4] * 4)
        or reply.get("unit") not in ("", "HU")
        or (dicom and (columns["rows"], columns["columns"]) != array.shape[1:])
        or not all(code.isidentifier() and code.islower() and words.isprintable() for code, words in findings.items())
    ):
        raise wrong()
    return Voxels(kind, array, columns, identifiers, planes, affine, reply["unit"], findings)


def slice_header(found: Any) -> SliceHeader | None:
    """Return what an answer says of the place of a slice.

    Raises
    ------
    Broken
        It is not of that form.
    """
    if found is None:
        return None
    try:
        series, orientation, position, number = found
        place = None if position is None else float(position)
        return SliceHeader(str(series), tuple(map(float, orientation)), place, float(number))
    except (TypeError, ValueError, OverflowError):
        raise wrong() from None


def _planes(reply: dict[str, Any], kind: str, count: int) -> tuple[Plane, ...]:
    """Return where the frames of an answer lie: of DICOM each of them, of anything else none."""
    try:
        planes = tuple(
            Plane(
                _numbers(orientation),
                _numbers(position),
                _numbers(spacing),
                _numbers((thickness,))[0],
                scout is True,
                _numbers(order),
            )
            for orientation, position, spacing, thickness, scout, order in reply["planes"]
        )
    except (TypeError, ValueError, KeyError, OverflowError):
        raise wrong() from None
    right = len(planes) == (count if kind == "dicom" else 0) and all(
        len(plane.orientation) in (0, 6)
        and len(plane.position) in (0, 3)
        and len(plane.spacing) in (0, 2)
        and all(side > 0 for side in plane.spacing)
        for plane in planes
    )
    if not right:
        raise wrong()
    return planes


def _numbers(values: Any) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(map(math.isfinite, numbers)):
        raise ValueError
    return numbers


def _fits(name: str, value: Any) -> bool:
    """Say whether a column may hold a value; of tags that are kept any plain one."""
    if name in _WHOLE:
        return type(value) is int and 0 <= value < 2**31
    if name in _FRACTIONS:
        return type(value) in (int, float) and math.isfinite(value)
    if name in VOLUME_COLUMNS or name.islower():
        return type(value) is str
    return type(value) in (str, int, float) and (type(value) is not float or math.isfinite(value))
