"""A file is what its bytes say, whatever its name is; what is not read is named."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_files import build, path_of
from osler.decode import FORMATS, format_of, read_bytes, read_pixels
from osler.errors import SourceError
from PIL import Image


def _image(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_the_name_of_a_file_does_not_matter(kind: str, tmp_path: Path) -> None:
    for name in ("picture.dcm", "picture.txt", "picture"):
        path = tmp_path / name
        path.write_bytes(_image(kind))
        assert read_pixels(path).format == kind.lower() and kind.lower() in FORMATS


def test_dicom_without_preamble_is_told() -> None:
    for name in ("OT-PAL-8-face.dcm", "rtstruct.dcm", "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm"):
        assert format_of(path_of(name).read_bytes()) == "dicom"
    bare = build(np.zeros((4, 4), np.uint8))[132:]
    assert read_pixels(bare).kind == "dicom"


def test_other_files_are_named() -> None:
    archive = io.BytesIO()
    zipfile.ZipFile(archive, "w").close()
    archive_of_one = io.BytesIO()
    with zipfile.ZipFile(archive_of_one, "w") as stream:
        stream.writestr("a", "b")
    for data, code, words in (
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "not_an_image", "PDF"),
        (archive_of_one.getvalue(), "not_an_image", "ZIP"),
        (gzip.compress(b"volume"), "not_an_image", "gzip"),
        (json.dumps({"a": 1}).encode(), "not_an_image", "text"),
        ("Bericht: unauffällig".encode(), "not_an_image", "text"),
        (_image("GIF"), "unsupported_format", "GIF"),
        (_image("WEBP"), "unsupported_format", "WebP"),
        (_image("JPEG2000"), "unsupported_format", "JPEG 2000"),
        (bytes(2000), "unknown_format", "no format"),
        (path_of("DICOMDIR-empty.dcm").read_bytes(), "not_an_image", "DICOMDIR"),
        (path_of("waveform_ecg.dcm").read_bytes(), "no_pixels", "ECG"),
        (path_of("test-SR.dcm").read_bytes(), "no_pixels", "Comprehensive SR"),
    ):
        with pytest.raises(SourceError, match=words) as caught:
            read_pixels(data)
        assert caught.value.code == code


def test_reading_takes_the_memory_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "small"
    file.write_bytes(bytes(range(200)) * 10)
    for most in (None, 1 << 30):
        tracemalloc.start()
        assert read_bytes(file, most=most) == bytes(range(200)) * 10
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20
    assert read_bytes(file, most=3) == bytes(range(3))
