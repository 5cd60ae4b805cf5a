"""One file's bytes to what an item is made of, by code that runs in this process or in another.

Decodes the bytes that it is given; reads no path. `Decoder` is what a source asks, `Here` the one that needs nothing,
and `osler.sources.workers` has the one that a hostile file cannot reach out of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from osler.decode import format_of, read_pixels

__all__ = ["HEAD_BYTES", "PICTURE_COLUMNS", "Decoded", "Decoder", "Here", "SliceHeader"]

# What of a file is looked at for the place of its slice: headers before pixels are far shorter.
HEAD_BYTES = 16 << 20
PICTURE_COLUMNS = ("format", "rows", "columns", "frames")


@dataclass(frozen=True, slots=True, repr=False)
class Decoded:
    """What a file holds.

    Attributes
    ----------
    format : str
        One of `osler.decode.FORMATS`.
    frames : sequence of ndarray
        As `osler.decode.Pixels` has them.
    columns : dict of str to value
        Columns that may be stored as they are.
    identifiers : dict of str to str
        Raw identifiers, to be stored as pseudonyms only.
    """

    format: str
    frames: Sequence[NDArray[Any]]
    columns: dict[str, Any]
    identifiers: dict[str, str]


class SliceHeader(NamedTuple):
    """The series that a DICOM file is of, its orientation, its position along the normal, and its number there."""

    series: str
    orientation: tuple[float, ...]
    position: float | None
    number: float


class Decoder(Protocol):
    """Turns the bytes of files into what they hold; any number of threads may ask at once.

    Attributes
    ----------
    threads : int
        How many of them it keeps busy.
    """

    threads: int

    def decode(self, data: bytes, keep: Sequence[str] = ()) -> Decoded:
        """Decode a whole file, or raise a `SourceError` whose code is its outcome."""

    def header(self, head: bytes) -> SliceHeader | None:
        """Read the beginning of a file; None where it is no DICOM file of a series."""

    def close(self) -> None:
        """Stop, and leave nothing running."""


class Here:
    """Decodes in this process: nothing to start, and a fault of a decoder is a fault of the program.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> from osler.sources.decoder import Here
    >>> found = Here().decode(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    >>> found.format, found.columns["modality"], found.frames[0].shape
    ('dicom', 'CT', (128, 128))
    """

    threads = 2

    def decode(self, data: bytes, keep: Sequence[str] = ()) -> Decoded:
        """Decode a whole file; see `Decoder`."""
        if format_of(data) == "dicom":
            from osler.sources.dicom import read_dicom

            return Decoded("dicom", *read_dicom(data, keep))
        pixels = read_pixels(data)
        rows, columns = pixels.frames[0].shape[:2]
        values = (pixels.format, rows, columns, len(pixels.frames))
        return Decoded(pixels.format, pixels.frames, dict(zip(PICTURE_COLUMNS, values, strict=True)), {})

    def header(self, head: bytes) -> SliceHeader | None:
        """Read the beginning of a file; see `Decoder`."""
        from osler.decode.dicom import DicomFile

        file = DicomFile.header(head)
        series = str(file.value("SeriesInstanceUID") or "").strip() if file else ""
        if file is None or not series:
            return None
        number = _number(file.value("InstanceNumber"))
        try:
            orientation = tuple(round(float(x), 3) for x in file.value("ImageOrientationPatient"))
            position = np.array([float(x) for x in file.value("ImagePositionPatient")])
            normal = np.cross(orientation[:3], orientation[3:])
            return SliceHeader(series, orientation, float(normal @ position), number)
        except (TypeError, ValueError):
            return SliceHeader(series, (), None, number)

    def close(self) -> None:
        """Do nothing: there is nothing to stop."""


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("inf")
