"""Every file that pydicom and pydicom-data ship decodes, or ends in one clear error that quotes nothing."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pydicom
import pytest
from dicom_files import package_files, path_of
from osler.decode import read_pixels
from osler.errors import SourceError

BROKEN = {
    "JPEG2000-embedded-sequence-delimiter.dcm": ("bad_header", "code stream"),
    "MR_truncated.dcm": ("truncated", "8130 of 8192 bytes"),
    "badVR.dcm": ("bad_header", "Number of Frames is not a whole number"),
    "emri_small_jpeg_2k_lossless_too_short.dcm": ("truncated", "no whole data set"),
    "meta_missing_tsyntax.dcm": ("bad_header", "Bits Allocated is missing"),
    "nested_priv_SQ.dcm": ("bad_header", "Bits Allocated is missing"),
    "no_meta.dcm": ("unknown_format", "no format that is known"),
    "rtplan_truncated.dcm": ("no_pixels", "RT Plan"),
}
CODES = {"no_pixels", "not_an_image", "truncated", "bad_header", "unknown_format"}


def test_every_file_decodes_or_names_what_is_wrong(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    outcomes: dict[str, list[str]] = {}
    for path in package_files():
        try:
            pixels = read_pixels(path)
        except SourceError as error:
            outcomes.setdefault(error.code, []).append(path.name)
            message = str(error)
            assert message.startswith("the file ") and "\n" not in message and not message.endswith(".")
            code, words = BROKEN.get(path.name, (error.code, ""))
            assert error.code == code and words in message, (path.name, message)
            continue
        outcomes.setdefault("decoded", []).append(path.name)
        for frame in pixels.frames:
            assert frame.dtype in (np.uint8, np.uint16) and frame.ndim in (2, 3)
            assert frame.ndim == 2 or frame.shape[2] == 3
    assert set(outcomes) == CODES | {"decoded"}
    assert not set(BROKEN) & set(outcomes["decoded"])
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""
    assert caplog.records == []
    assert _names_with_pixels() - set(BROKEN) == set(outcomes["decoded"])
    assert len(outcomes["decoded"]) == 169


def _names_with_pixels() -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {path.name for path in package_files() if "PixelData" in pydicom.dcmread(path, force=True)}


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG-lossy.dcm"])
def test_twelve_bit_jpeg_is_read(name: str) -> None:
    frame = read_pixels(path_of(name)).frames[0]
    assert frame.shape == (1024, 256) and frame.dtype == np.uint16 and len(np.unique(frame)) > 100


def test_a_file_without_transfer_syntax_is_read_when_its_pixels_are_plain() -> None:
    frame = read_pixels(path_of("OT-PAL-8-face.dcm")).frames[0]
    dataset = pydicom.dcmread(path_of("OT-PAL-8-face.dcm"), force=True)
    tables = [getattr(dataset, f"{colour}PaletteColorLookupTableData") for colour in ("Red", "Green", "Blue")]
    palette = np.stack([np.frombuffer(table, "<u2") >> 8 for table in tables], axis=-1)
    stored = np.frombuffer(dataset.PixelData, np.uint8).reshape(480, 640)
    np.testing.assert_array_equal(frame, palette[stored])
