"""Without a decoder the error names the transfer syntax, the package and the command that installs it."""

from __future__ import annotations

import sys

import pytest
from dicom_files import path_of
from osler.decode import read_pixels
from osler.errors import SourceError


@pytest.mark.parametrize(
    ("module", "name", "syntax", "package"),
    [
        ("imagecodecs", "MR_small_jp2klossless.dcm", "JPEG 2000 Lossless", "imagecodecs"),
        ("imagecodecs", "MR_small_RLE.dcm", "RLE Lossless", "imagecodecs"),
        ("imagecodecs", "MR_small_jpeg_ls_lossless.dcm", "JPEG-LS Lossless", "imagecodecs"),
        ("imagecodecs", "JPEG-LL.dcm", "JPEG Lossless SV1", "imagecodecs"),
        ("imagecodecs", "JPGExtended.dcm", "JPEG Extended 12-bit", "imagecodecs"),
        ("pydicom", "CT_small.dcm", "reading DICOM", "pydicom"),
    ],
)
def test_the_missing_package_is_named(
    module: str, name: str, syntax: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_of(name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceError) as caught:
        read_pixels(path)
    message = str(caught.value)
    assert caught.value.code == "missing_decoder"
    assert syntax in message and package in message and 'pip install "osler[dicom]"' in message


def test_baseline_jpeg_and_plain_pixels_need_no_more_than_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("imagecodecs", "gdcm", "jpeg_ls"):
        monkeypatch.setitem(sys.modules, module, None)
    assert read_pixels(path_of("rtdose.dcm")).frames[0].shape == (10, 10)
    assert read_pixels(path_of("examples_ybr_color.dcm")).frames[0].shape == (240, 320, 3)
