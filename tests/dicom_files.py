"""DICOM files for tests: every file that pydicom and pydicom-data ship, and files built from an array.

Reads the installed packages and downloads nothing.
"""

from __future__ import annotations

import importlib.metadata
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

__all__ = ["build", "package_files", "path_of", "sequence"]

_FOLDERS = ("test_files", "charset_files", "data_store")


@cache
def package_files() -> tuple[Path, ...]:
    """Return the data files of pydicom and pydicom-data: DICOM, and a few that are not."""
    found = []
    for name in ("pydicom", "pydicom-data"):
        for file in importlib.metadata.distribution(name).files or ():
            if set(file.parts) & set(_FOLDERS) and file.suffix not in (".py", ".pyc", ".pyi"):
                found.append(Path(str(file.locate())))
    assert len(found) > 250
    return tuple(sorted(found))


def path_of(name: str) -> Path:
    """Return the file of a name."""
    found = [file for file in package_files() if file.name == name]
    assert len(found) == 1, f"{len(found)} files are called {name}"
    return found[0]


def sequence(**elements: Any) -> Sequence:
    """Return a sequence of one item."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return Sequence([item])


def build(
    pixels: Any = None, *, syntax: str = ExplicitVRLittleEndian, frames: list[bytes] | None = None, **elements: Any
) -> bytes:
    """Write a DICOM file.

    `pixels` is (H, W) or (H, W, 3), or (F, H, W) with `NumberOfFrames`; `frames` are encoded frames for an
    encapsulated transfer syntax, and `pixels` then gives the shape only. An element of None is left out.
    """
    dataset = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7",
        "SOPInstanceUID": generate_uid(entropy_srcs=["osler"]),
        "Modality": "OT",
    }
    if pixels is not None:
        array = np.asarray(pixels)
        colour = array.ndim >= 3 and array.shape[-1] == 3 and "NumberOfFrames" not in elements
        bits = 8 * array.dtype.itemsize
        values |= {
            "Rows": array.shape[0 if colour else -2],
            "Columns": array.shape[1 if colour else -1],
            "SamplesPerPixel": 3 if colour else 1,
            "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
            "BitsAllocated": bits,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelRepresentation": int(array.dtype.kind == "i"),
        }
        if colour:
            values["PlanarConfiguration"] = 0
        plain = array.tobytes()
        values["PixelData"] = encapsulate(frames) if frames else plain + b"\0" * (len(plain) % 2)
    for keyword, value in (values | elements).items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if frames or dataset.BitsAllocated <= 8 else "OW"
        dataset["PixelData"].is_undefined_length = frames is not None
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    # pydicom writes no syntax that it does not know: such a file is written under another of the same length.
    known = UID(syntax).is_transfer_syntax
    written = syntax if known else "1.2.840.10008.1.2.4.201" if len(syntax) == 23 else "1.2.840.10008.1.2.4.90"
    dataset.file_meta.TransferSyntaxUID = written
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue().replace(written.encode(), syntax.encode().ljust(len(written), b"\0"), 1)
