"""The same picture in another lossless transfer syntax gives the same array, bit for bit."""

from __future__ import annotations

import zlib
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import pytest
from dicom_files import build, path_of
from osler.decode import dicom, read_pixels
from osler.decode.transfer import decode_frame

GROUPS = {
    "RG1": ["RG1_UNCR.dcm", "RG1_J2KR.dcm"],
    "RG1 lossy": ["RG1_UNCI.dcm", "RG1_J2KI.dcm"],
    "RG3": ["RG3_UNCR.dcm", "RG3_J2KR.dcm"],
    "MR2": ["MR2_UNCR.dcm", "MR2_J2KR.dcm"],
    "US1": ["US1_UNCR.dcm", "US1_J2KR.dcm"],
    "693": ["693_UNCR.dcm", "693_J2KR.dcm"],
    "OBXXXX1A": ["OBXXXX1A.dcm", "OBXXXX1A_expb.dcm", "OBXXXX1A_rle.dcm"],
    "OBXXXX1A, 2 frames": ["OBXXXX1A_2frame.dcm", "OBXXXX1A_expb_2frame.dcm", "OBXXXX1A_rle_2frame.dcm"],
    "MR_small": [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
    ],
    "emri_small": [
        "emri_small.dcm",
        "emri_small_RLE.dcm",
        "emri_small_big_endian.dcm",
        "emri_small_jpeg_2k_lossless.dcm",
        "emri_small_jpeg_ls_lossless.dcm",
    ],
    "SC_rgb": ["SC_rgb.dcm", "SC_rgb_rle.dcm", "SC_rgb_expb.dcm", "SC_rgb_jpeg_gdcm.dcm"],
    "SC_rgb, 16 bit": ["SC_rgb_16bit.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_expb_16bit.dcm"],
    "SC_rgb, 32 bit": ["SC_rgb_32bit.dcm", "SC_rgb_rle_32bit.dcm", "SC_rgb_expb_32bit.dcm"],
    "rtdose": ["rtdose.dcm", "rtdose_expb.dcm", "rtdose_rle.dcm"],
    "liver": ["liver.dcm", "liver_expb.dcm"],
    "gdcm-US-ALOKA-16": ["gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"],
    "planes and pixels": ["color-pl.dcm", "color-px.dcm"],
    "odd length": ["SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm"],
}


@pytest.mark.parametrize("names", GROUPS.values(), ids=GROUPS.keys())
def test_encodings_of_one_picture_are_equal(names: list[str]) -> None:
    first, *others = [read_pixels(path_of(name)).frames for name in names]
    for frames in others:
        assert len(frames) == len(first)
        for ours, other in zip(first, frames, strict=True):
            assert ours.dtype == other.dtype
            np.testing.assert_array_equal(ours, other)


LOSSY = {
    "RG1": ["RG1_UNCR.dcm", "RG1_J2KI.dcm"],
    "RG3": ["RG3_UNCR.dcm", "RG3_J2KI.dcm"],
    "MR2": ["MR2_UNCR.dcm", "MR2_J2KI.dcm"],
    "US1": ["US1_UNCR.dcm", "US1_J2KI.dcm"],
    "SC_rgb as JPEG": ["SC_rgb.dcm", "SC_rgb_dcmtk_+eb+cr.dcm"],
    "SC_rgb as JPEG-LS": ["SC_rgb.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm"],
}


@pytest.mark.parametrize("names", LOSSY.values(), ids=LOSSY.keys())
def test_lossy_encodings_are_near(names: list[str]) -> None:
    first, *others = [read_pixels(path_of(name)).frames[0] for name in names]
    scale = np.iinfo(first.dtype).max
    for frame in others:
        assert np.abs(first / scale - frame / scale).mean() < 0.01


def _syntaxes(pixels: np.ndarray, bits: int) -> dict[str, bytes]:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    encoded = {
        "1.2.840.10008.1.2.1.98": pixels.tobytes(),
        "1.2.840.10008.1.2.8.1": deflate.compress(pixels.tobytes()) + deflate.flush(),
        "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_encode(pixels),
        "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0),
        "1.2.840.10008.1.2.4.201": imagecodecs.htj2k_encode(pixels, reversible=True),
        "1.2.840.10008.1.2.4.110": imagecodecs.jpegxl_encode(pixels, lossless=True),
    }
    if pixels.ndim == 2:
        encoded["1.2.840.10008.1.2.4.57"] = imagecodecs.ljpeg_encode(pixels, bitspersample=bits)
    return {syntax: bytes(frame) for syntax, frame in encoded.items()}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(33, 47), (32, 48, 3)])
def test_every_lossless_syntax_gives_the_array_that_was_encoded(dtype: type, shape: tuple[int, ...]) -> None:
    bits = 8 if dtype is np.uint8 else 12
    rng = np.random.default_rng(5)
    smooth = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) * (1 << bits) // 128
    pixels = (smooth.reshape(*smooth.shape, *[1] * (len(shape) - 2)) + rng.integers(0, 9, shape)).astype(dtype)
    plain = read_pixels(build(pixels, BitsStored=bits, HighBit=bits - 1)).frames[0]
    for syntax, frame in _syntaxes(pixels, bits).items():
        found = read_pixels(build(pixels, syntax=syntax, frames=[frame], BitsStored=bits, HighBit=bits - 1)).frames[0]
        np.testing.assert_array_equal(plain, found, err_msg=syntax)
    if len(shape) == 3 and bits == 8:
        np.testing.assert_array_equal(plain, pixels)


def test_signed_samples_survive_code_streams_without_sign() -> None:
    stored = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    unsigned = (stored & 0xFFF).astype(np.uint16)
    bits = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "WindowCenter": 0.5, "WindowWidth": 4096}
    plain = read_pixels(build(stored, **bits)).frames[0]
    assert len(np.unique(plain)) == 4096
    for syntax, frame in (
        ("1.2.840.10008.1.2.4.80", jpeg_ls.encode_array(unsigned)),
        ("1.2.840.10008.1.2.4.90", _j2k(unsigned, 12)),
        ("1.2.840.10008.1.2.4.90", _j2k(stored, 12)),
    ):
        found = read_pixels(build(stored, syntax=syntax, frames=[bytes(frame)], **bits)).frames[0]
        np.testing.assert_array_equal(plain, found, err_msg=syntax)


def _j2k(pixels: np.ndarray, bits: int) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True, level=0, bitspersample=bits))


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "emri_small_RLE.dcm", "emri_small_jpeg_2k_lossless.dcm"])
def test_each_frame_is_decoded_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values are counted before it is shown."""
    decoded = 0

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return decode_frame(*arguments, **options)

    monkeypatch.setattr(dicom, "decode_frame", count)
    frames = read_pixels(path_of(name)).frames
    assert decoded == len(frames)
    # where they are too many to be kept, twice
    monkeypatch.setattr(dicom, "_KEPT_BYTES", 0)
    again = read_pixels(path_of(name)).frames
    assert decoded == len(frames) * (2 if len(frames) == 1 else 3)
    for ours, other in zip(frames, again, strict=True):
        np.testing.assert_array_equal(ours, other)
