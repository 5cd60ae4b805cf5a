"""One file to pixel arrays that can be shown, whatever picture format or DICOM encoding it has.

Reads the one file that it is given, decided by its bytes and within the limits of `osler.config.LIMITS`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from osler.decode.formats import FORMATS, format_of, read_bytes
from osler.decode.frames import Frames
from osler.decode.nifti import nifti_volume
from osler.decode.quiet import quiet
from osler.decode.volumes import RECIPE, Slices, read_volume

__all__ = ["FORMATS", "Pixels", "format_of", "read_bytes", "read_pixels", "read_volume"]


@dataclass(frozen=True, slots=True)
class Pixels:
    """Decoded frames, and how they were made.

    Attributes
    ----------
    frames : sequence of ndarray
        Each (H, W) or (H, W, 3), read-only, for display: uint8 and uint16 over their full range, float32 in [0, 1].
        All of them have been decoded once; a file with many is decoded again as they are asked for.
    kind : {"picture", "dicom", "volume"}
    recipe : str
        Name and version of the steps between the file and the frames: ``picture-display/1``, ``dicom-display/1`` or
        ``volume-display/1``.
    format : str
        One of `FORMATS`.
    """

    frames: Sequence[NDArray[Any]]
    kind: Literal["picture", "dicom", "volume"]
    recipe: str
    format: str


@quiet()
def read_pixels(path_or_bytes: str | os.PathLike[str] | bytes, *, name: str | None = None) -> Pixels:
    """Read an image file: PNG, JPEG, TIFF, BMP, DICOM or NIfTI.

    Parameters
    ----------
    path_or_bytes : path or bytes
    name : str, optional
        How messages call the file; by default "the file".

    Returns
    -------
    Pixels

    Raises
    ------
    SourceError
        With a stable ``code``: ``missing``, ``no_permission``, ``not_a_file``, ``unreadable``, ``empty``,
        ``too_large``, ``not_an_image``, ``unsupported_format``, ``unknown_format``, ``no_pixels``, ``bad_header``,
        ``truncated``, ``unsupported_transfer_syntax``, ``unsupported_photometric``, ``missing_decoder`` or
        ``decode_failed``, and for NIfTI those of `osler.decode.nifti.nifti_volume`. The message holds no value of the
        file.

    Notes
    -----
    The steps for pictures are those of `osler.decode.pictures.picture_frames`, the steps for DICOM those of
    `osler.decode.display.Greys` and of `osler.decode.colour`; frames of NIfTI are the axial slices of
    `osler.decode.volumes.Slices`. Overlays are not drawn.

    Examples
    --------
    >>> from pydicom.data import get_testdata_file
    >>> from osler.decode import read_pixels
    >>> pixels = read_pixels(get_testdata_file("CT_small.dcm", download=False))
    >>> pixels.kind, pixels.recipe, len(pixels.frames), pixels.frames[0].shape
    ('dicom', 'dicom-display/1', 1, (128, 128))
    """
    words = name or "the file"
    if isinstance(path_or_bytes, bytes | bytearray | memoryview):
        data = bytes(path_or_bytes)
    else:
        data = read_bytes(path_or_bytes, name=words)
    kind = format_of(data, name=words)
    if kind == "dicom":
        from osler.decode import dicom

        return Pixels(dicom.DicomFile(data, name=words).frames(), "dicom", dicom.RECIPE, kind)
    if kind == "nifti":
        slices = Slices(nifti_volume(data, name=words))
        return Pixels(Frames(len(slices), slices.__getitem__).kept(), "volume", RECIPE, kind)
    from osler.decode import pictures

    return Pixels(pictures.picture_frames(data, kind, name=words), "picture", pictures.RECIPE, kind)
