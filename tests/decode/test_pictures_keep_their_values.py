"""PNG, JPEG, TIFF and BMP of every depth and mode give the values that were written, turned as EXIF says."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.decode import read_pixels
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

RNG = np.random.default_rng(11)
GREY = RNG.integers(0, 256, (13, 17)).astype(np.uint8)
DEEP = RNG.integers(0, 65536, (13, 17)).astype(np.uint16)
COLOUR = RNG.integers(0, 256, (13, 17, 3)).astype(np.uint8)


def _written(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _frame(data: bytes) -> np.ndarray:
    pixels = read_pixels(data)
    assert pixels.kind == "picture" and pixels.recipe == "picture-display/1" and len(pixels.frames) == 1
    frame: np.ndarray = pixels.frames[0]
    assert not frame.flags.writeable
    return frame


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_eight_bits_are_kept(kind: str, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(_frame(_written(Image.fromarray(pixels), kind)), pixels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_kept(kind: str) -> None:
    frame = _frame(_written(Image.fromarray(DEEP), kind))
    assert frame.dtype == np.uint16
    np.testing.assert_array_equal(frame, DEEP)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_equals_plain_tiff(compression: str) -> None:
    for pixels in (GREY, DEEP, COLOUR):
        frame = _frame(_written(Image.fromarray(pixels), "TIFF", compression=compression))
        np.testing.assert_array_equal(frame, pixels)


def test_jpeg_equals_pillow() -> None:
    for pixels in (GREY, COLOUR):
        data = _written(Image.fromarray(pixels), "JPEG", quality=90)
        np.testing.assert_array_equal(_frame(data), np.asarray(Image.open(io.BytesIO(data))))


def test_one_bit_is_black_and_white() -> None:
    bits = GREY > 127
    for kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(_frame(_written(Image.fromarray(bits), kind)), bits * np.uint8(255))


def _tiff(pixels: np.ndarray, photometric: int, bits: int, order: str) -> bytes:
    """Write a plain one-strip TIFF by hand: byte order, depth and polarity that Pillow does not write."""
    plain = pixels.astype(f"{order}u2" if bits > 8 else "u1").tobytes()
    fields = [(256, pixels.shape[1]), (257, pixels.shape[0]), (258, bits), (259, 1), (262, photometric), (273, 8)]
    fields += [(277, 1), (278, pixels.shape[0]), (279, len(plain))]

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, "little" if order == "<" else "big")

    entries = b"".join(number(tag, 2) + number(4, 2) + number(1, 4) + number(value, 4) for tag, value in fields)
    head = (b"II" if order == "<" else b"MM") + number(42, 2) + number(8 + len(plain), 4)
    return head + plain + number(len(fields), 2) + entries + number(0, 4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_either_byte_order(order: str) -> None:
    np.testing.assert_array_equal(_frame(_tiff(DEEP, 1, 16, order)), DEEP)


@pytest.mark.parametrize(("bits", "pixels"), [(8, GREY), (16, DEEP)])
def test_white_is_zero_is_inverted(bits: int, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(_frame(_tiff(pixels, 0, bits, "<")), (1 << bits) - 1 - pixels)


def test_float_and_wide_integers_are_scaled_only_where_they_must() -> None:
    unit = (GREY / 255).astype(np.float32)
    np.testing.assert_array_equal(_frame(_written(Image.fromarray(unit), "TIFF")), unit)
    hounsfield = unit * 3000 - 1000
    frame = _frame(_written(Image.fromarray(hounsfield), "TIFF"))
    assert frame.dtype == np.float32
    np.testing.assert_allclose(frame, (unit - unit.min()) / np.ptp(unit), atol=1e-5)
    wide = _frame(_written(Image.fromarray(GREY.astype(np.int32) * 70000), "TIFF"))
    np.testing.assert_allclose(wide, (GREY - GREY.min()) / float(np.ptp(GREY)), atol=1e-6)


def test_alpha_is_composited_on_black() -> None:
    alpha = RNG.integers(0, 256, GREY.shape).astype(np.uint8)
    colour = np.dstack([COLOUR, alpha])
    shown = _frame(_written(Image.fromarray(colour), "PNG"))
    assert np.abs(shown - COLOUR * (alpha[..., None] / 255)).max() <= 1
    grey = _frame(_written(Image.fromarray(np.dstack([GREY, alpha]), "LA"), "PNG"))
    assert grey.ndim == 2 and np.abs(grey - GREY * (alpha / 255)).max() <= 1
    keyed = _frame(_written(Image.fromarray(GREY), "PNG", transparency=int(GREY[0, 0])))
    assert keyed[0, 0] == 0 and (keyed[GREY[0, 0] != GREY] == GREY[GREY[0, 0] != GREY]).all()


def test_palettes_become_colour_or_grey() -> None:
    image = Image.fromarray(GREY % 4).convert("P")
    image.putpalette([10, 10, 10, 60, 60, 60, 99, 99, 99, 200, 200, 200])
    np.testing.assert_array_equal(_frame(_written(image, "PNG")), np.array([10, 60, 99, 200], np.uint8)[GREY % 4])
    image.putpalette([10, 20, 30, 60, 60, 60, 99, 0, 99, 200, 200, 1])
    table = np.array([[10, 20, 30], [60, 60, 60], [99, 0, 99], [200, 200, 1]], np.uint8)
    for kind in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(_frame(_written(image, kind)), table[GREY % 4])


def test_cmyk_becomes_rgb() -> None:
    image = Image.fromarray(COLOUR).convert("CMYK")
    np.testing.assert_array_equal(_frame(_written(image, "TIFF")), COLOUR)
    jpeg = _frame(_written(Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(jpeg.astype(int) - [200, 30, 60]).max() <= 6


def _with_orientation(image: Image.Image, kind: str, orientation: int) -> bytes:
    if kind == "TIFF":
        tags = ImageFileDirectory_v2()
        tags[0x0112] = orientation
        return _written(image, kind, tiffinfo=tags)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _written(image, kind, exif=exif, **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {}))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    steps: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: a.T[:, ::-1],
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: a.T[::-1],
    }
    for pixels in (GREY, DEEP) if kind != "JPEG" else (GREY,):
        data = _with_orientation(Image.fromarray(pixels), kind, orientation)
        upright = np.asarray(Image.open(io.BytesIO(_with_orientation(Image.fromarray(pixels), kind, 1))))
        np.testing.assert_array_equal(_frame(data), steps[orientation](upright))
        if pixels.dtype == np.uint8:
            np.testing.assert_array_equal(
                _frame(data), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
            )


def test_pages_of_a_tiff_are_frames_without_its_thumbnails() -> None:
    thumbnail = ImageFileDirectory_v2()
    thumbnail[254] = 1
    pages = [Image.fromarray(GREY), Image.fromarray(DEEP), Image.fromarray(COLOUR)]
    small = Image.fromarray(GREY[:4, :4])
    small.encoderinfo = {"tiffinfo": thumbnail}  # type: ignore[attr-defined]
    frames = read_pixels(_written(pages[0], "TIFF", save_all=True, append_images=[*pages[1:], small])).frames
    assert len(frames) == 3
    for frame, pixels in zip(frames, (GREY, DEEP, COLOUR), strict=True):
        np.testing.assert_array_equal(frame, pixels)


def test_label_pictures_of_a_slide_are_left_out() -> None:
    tags = ImageFileDirectory_v2()
    tags[270] = "Aperio Image Library v11.2.1"
    pages = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1])]
    frames = read_pixels(_written(pages[0], "TIFF", save_all=True, append_images=pages[1:], tiffinfo=tags)).frames
    assert len(frames) == 1


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_every_size_of_png_is_kept(height: int, width: int, deep: bool, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 65536 if deep else 256, (height, width))
    pixels = pixels.astype(np.uint16 if deep else np.uint8)
    np.testing.assert_array_equal(_frame(_written(Image.fromarray(pixels), "PNG")), pixels)
