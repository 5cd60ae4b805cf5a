"""One file's bytes to what an item is made of, by code that runs in this process or in another.

Decodes the bytes that it is given; reads no path. `Decoder` is what a source asks, `Here` the one that needs nothing,
and `osler.sources.workers` has the one that a hostile file cannot reach out of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS
from osler.decode import format_of, read_pixels
from osler.decode.frames import KEPT_BYTES, Frames
from osler.decode.nifti import nifti_volume
from osler.decode.planes import Plane
from osler.decode.quiet import quiet
from osler.decode.volumes import Slices
from osler.errors import SourceError
from osler.items import Volume
from osler.sources.slide_readers import OpenSlides, SlideHere
from osler.sources.slides import SlideReader

__all__ = ["HEAD_BYTES", "PICTURE_COLUMNS", "VOLUME_COLUMNS", "Decoded", "Decoder", "Here", "SliceHeader", "Voxels"]

# What of a file is looked at for the place of its slice: headers before pixels are far shorter.
HEAD_BYTES = 16 << 20
PICTURE_COLUMNS = ("format", "rows", "columns", "frames")
# Of a NIfTI file, as its axial slices; spacing and slice_spacing in millimetres. Its free text is never read.
VOLUME_COLUMNS = (*PICTURE_COLUMNS, "spacing", "slice_spacing", "volume_findings")


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
    planes : tuple of Plane
        Of a DICOM file, where each frame lies; else empty.
    """

    format: str
    frames: Sequence[NDArray[Any]]
    columns: dict[str, Any]
    identifiers: dict[str, str]
    planes: tuple[Plane, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Voxels:
    """The values of a file, in the units of its modality, and where they lie.

    Attributes
    ----------
    format : {"dicom", "nifti"}
    array : ndarray
        Of DICOM (frames, rows, columns), of NIfTI (I, J, K) as it is stored.
    columns, identifiers
        As `Decoded` has them.
    planes : tuple of Plane
        Of DICOM, one a frame; else empty.
    affine : tuple of tuple of float
        Of NIfTI, (4, 4) RAS+ millimetres; else empty.
    unit : str
        "HU" or empty.
    findings : dict of str to str
        See `osler.items.Volume`.
    """

    format: str
    array: NDArray[Any]
    columns: dict[str, Any]
    identifiers: dict[str, str]
    planes: tuple[Plane, ...] = ()
    affine: tuple[tuple[float, ...], ...] = ()
    unit: str = ""
    findings: dict[str, str] = field(default_factory=dict)


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

    def voxels(self, data: bytes, keep: Sequence[str] = ()) -> Voxels:
        """Decode the values of a NIfTI or DICOM file, or raise a `SourceError` whose code is its outcome."""

    def slide(self, paths: Sequence[Path], kind: str) -> SlideReader:
        """Open the files of a slide of a kind that `osler.sources.slide_kind` tells; the caller closes it."""

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

    def __init__(self) -> None:
        self._slides = OpenSlides(self.threads)

    # Once for a file, and not for each of its elements.
    @quiet()
    def decode(self, data: bytes, keep: Sequence[str] = ()) -> Decoded:
        """Decode a whole file; see `Decoder`."""
        kind = format_of(data)
        if kind == "dicom":
            from osler.sources.dicom import read_dicom

            return Decoded("dicom", *read_dicom(data, keep))
        if kind == "nifti":
            return _sliced(data)
        pixels = read_pixels(data)
        rows, columns = pixels.frames[0].shape[:2]
        values = (pixels.format, rows, columns, len(pixels.frames))
        return Decoded(pixels.format, pixels.frames, dict(zip(PICTURE_COLUMNS, values, strict=True)), {})

    @quiet()
    def voxels(self, data: bytes, keep: Sequence[str] = ()) -> Voxels:
        """Decode the values of a file; see `Decoder`."""
        kind = format_of(data)
        if kind == "dicom":
            from osler.sources.dicom import read_values

            array, planes, unit, columns, identifiers = read_values(data, keep)
            return Voxels(kind, array, columns, identifiers, planes, unit=unit)
        if kind != "nifti":
            raise SourceError(
                f"the file is a picture ({kind}), and this encoder takes volumes: NIfTI files and DICOM series",
                code="not_a_volume",
            )
        volume = nifti_volume(data)
        affine = tuple(tuple(row) for row in volume.affine.tolist())
        columns = _volume_columns(Slices(volume, window=(0.0, 1.0)), volume)
        return Voxels(kind, volume.array, columns, {}, (), affine, volume.units, dict(volume.findings))

    def slide(self, paths: Sequence[Path], kind: str) -> SlideReader:
        """Open the files of a slide in this process; see `Decoder`."""
        return SlideHere(paths, kind, self._slides)

    @quiet()
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
        """Close the slides that are open: there is nothing else to stop."""
        self._slides.close()


def _sliced(data: bytes) -> Decoded:
    volume = nifti_volume(data)
    slices = Slices(volume)
    if len(slices) > LIMITS.frames:
        raise SourceError(
            f"the file has {len(slices)} axial slices, the limit is {LIMITS.frames} frames", code="too_large"
        )
    lazy = Frames(len(slices), slices.__getitem__)
    rows, columns = slices.shape
    # All values were read by now: what is too large to be kept needs no look at each frame.
    kept = len(slices) * rows * columns * 2 <= KEPT_BYTES
    return Decoded("nifti", lazy.kept() if kept else lazy, _volume_columns(slices, volume), {})


def _volume_columns(slices: Slices, volume: Volume) -> dict[str, Any]:
    rows, columns = slices.shape
    values = ("nifti", rows, columns, len(slices), slices.spacing[0], slices.distance)
    found = dict(zip(VOLUME_COLUMNS, values, strict=False))
    return found | ({"volume_findings": ", ".join(sorted(volume.findings))} if volume.findings else {})


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("inf")
