"""Small files that ask for much: each is refused, or shown, in 512 MiB of memory, by a process that takes the next."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable, Iterator

import imagecodecs
import numpy as np
import pytest
from dicom_files import build, path_of
from osler.config import LIMITS
from osler.errors import SourceError
from osler.sources import interpreter, worker, workers
from osler.sources.decoder import Decoded
from osler.sources.workers import Workers
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

MEMORY = 512 << 20
RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
ZEROS = zlib.compress(bytes(64 << 20), 9)
# Within the limit of pixels, and far from what fits into the memory.
SIDE = 14_000


def png(width: int, height: int, depth: int = 8, colour: int = 2, more: bytes = b"", lace: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, lace))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", ZEROS) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def jpeg(width: int, height: int, marker: int = 0xC0, parts: int = 3) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, parts) + b"".join(bytes([i + 1, 0x11, 0]) for i in range(parts))
    scan = bytes([parts]) + b"".join(bytes([i + 1, 0]) for i in range(parts)) + bytes([0, 63, 0])
    tables = b"\0" + bytes(range(1, 65))
    code = b"\0" + bytes([0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]) + bytes(range(12))
    segments = ((0xDB, tables), (marker, frame), (0xC4, code), (0xC4, b"\x10" + code[1:]), (0xDA, scan))
    body = b"".join(bytes([0xFF, kind]) + struct.pack(">H", len(data) + 2) + data for kind, data in segments)
    return b"\xff\xd8" + body + bytes(4_096) + b"\xff\xd9"


def tiff(width: int, height: int, *more: tuple[int, int], data: bytes = bytes(64), pages: int = 1) -> bytes:
    """Write the same page again and again, with its pixels at byte 8."""
    fields = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    fields |= dict(more)
    start = 8 + len(data) + len(data) % 2
    size = 2 + 12 * len(fields) + 4
    out = [b"II*\0" + struct.pack("<I", start) + data.ljust(start - 8, b"\0")]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    for page in range(pages):
        following = start + size * (page + 1) if page + 1 < pages else 0
        out.append(struct.pack("<H", len(fields)) + entries + struct.pack("<I", following))
    return b"".join(out)


def bmp(width: int, height: int, bits: int = 24, packing: int = 0) -> bytes:
    palette = bytes(1_024) if bits == 8 else b""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, 0, 0, 0, 0, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + 4_096, 0, 0, start) + header + palette + b"\xff\x07" * 2_048


def deflated(length: int) -> bytes:
    header = path_of("image_dfl.dcm").read_bytes()
    start = 144 + int.from_bytes(header[140:144], "little")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return header[:start] + deflate.compress(bytes(length)) + deflate.flush()


def frame(encoded: bytes, side: int = SIDE, syntax: str = "5", **elements: object) -> bytes:
    """Write a file of one encapsulated frame that states a side."""
    data = encoded + b"\0" * (len(encoded) % 2)
    return build(RAMP, syntax=f"1.2.840.10008.1.2.{syntax}", frames=[data], Rows=side, Columns=side, **elements)


def runs(side: int) -> bytes:
    """Write an RLE frame of 16 bits that is one long run."""
    run = b"\x81\0" * (side * side // 128 + 1)
    return struct.pack("<16I", 2, 64, 64 + len(run), *[0] * 13) + run + run


def large_codestream(encode: Callable[..., bytes], offset: int) -> bytes:
    """Change the size that a code stream states, which is two numbers of 32 bits."""
    data = bytearray(encode(RAMP))
    at = data.index(b"\xff\x51") + offset
    data[at : at + 8] = struct.pack(">II", SIDE, SIDE)
    tile = at + 16
    data[tile : tile + 8] = struct.pack(">II", SIDE, SIDE)
    return bytes(data)


def jpeg_ls(side: int) -> bytes:
    data = bytearray(imagecodecs.jpegls_encode(RAMP))
    at = data.index(b"\xff\xf7") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def nested(depth: int) -> bytes:
    inner = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        inner = outer
    return build(RAMP, ReferencedImageSequence=Sequence([inner]))


OPENED = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
HEADER = build(RAMP, PixelData=None)
TEXT = b"Comment\0\0" + ZEROS
J2K = large_codestream(lambda array: imagecodecs.jpeg2k_encode(array, codecformat="j2k", level=0), 6)

BOMBS: dict[str, Callable[[], bytes]] = {
    "png, 10 Gpx": lambda: png(100_000, 100_000),
    "png, sides of 2^31": lambda: png(2**31 - 1, 2**31 - 1, 1, 0),
    "png, colour of 196 Mpx": lambda: png(SIDE, SIDE),
    "png, colour of 16 bits": lambda: png(SIDE, SIDE, 16, 6),
    "png, interlaced": lambda: png(SIDE, SIDE, 8, 6, lace=1),
    "png, palette": lambda: png(SIDE, SIDE, 8, 3, chunk(b"PLTE", bytes(range(30)))),
    "png, grey of 16 bits": lambda: png(SIDE, SIDE, 16, 0),
    "png, text": lambda: png(8, 8, 8, 0, chunk(b"zTXt", TEXT) * 40),
    "png, profile": lambda: png(8, 8, 8, 0, chunk(b"iCCP", TEXT) * 40),
    "png, pixels beyond its size": lambda: png(8, 8, 8, 0),
    "jpeg, 4 Gpx": lambda: jpeg(65_500, 65_500),
    "jpeg, 196 Mpx": lambda: jpeg(SIDE, SIDE),
    "jpeg, progressive": lambda: jpeg(SIDE, SIDE, 0xC2),
    "jpeg, four colours": lambda: jpeg(SIDE, SIDE, parts=4),
    "tiff, 10 Gpx": lambda: tiff(100_000, 100_000),
    "tiff, 196 Mpx in 64 bytes": lambda: tiff(SIDE, SIDE),
    "tiff, deflated": lambda: tiff(SIDE, SIDE, (259, 8), data=ZEROS),
    "tiff, packed": lambda: tiff(SIDE, SIDE, (259, 32773), data=b"\x81\0" * 4_096),
    "tiff, a tile larger than it": lambda: tiff(64, 64, (322, 60_000), (323, 60_000), (324, 8), (325, 64)),
    "tiff, strips by the million": lambda: tiff(64, 64, (278, 1), (273, 8), (279, 2**31 - 1)),
    "tiff, too many pages": lambda: tiff(8, 8, pages=LIMITS.frames + 1),
    "tiff, pages of 196 Mpx": lambda: tiff(SIDE, SIDE, pages=60),
    "tiff, 64 bits a sample": lambda: tiff(SIDE, SIDE, (258, 64), (339, 3)),
    "bmp, 10 Gpx": lambda: bmp(100_000, 100_000),
    "bmp, upside down": lambda: bmp(SIDE, -SIDE, 32),
    "bmp, runs": lambda: bmp(SIDE, SIDE, 8, 1),
    "dicom, 4 Gpx": lambda: build(RAMP, Rows=65_535, Columns=65_535),
    "dicom, too many frames": lambda: build(RAMP, NumberOfFrames=LIMITS.frames + 1),
    "dicom, 2^31 frames": lambda: build(RAMP, NumberOfFrames=2**31 - 1),
    "dicom, frames of 196 Mpx": lambda: frame(b"\0\0", NumberOfFrames=LIMITS.frames),
    "dicom, more samples than there are": lambda: build(RAMP, Rows=SIDE, Columns=SIDE),
    "dicom, one bit a pixel": lambda: build(RAMP, Rows=SIDE, Columns=SIDE, BitsAllocated=1, BitsStored=1, HighBit=0),
    "dicom, deflated 1000:1": lambda: deflated(300 << 20),
    "dicom, deflated as far as is allowed": lambda: deflated(1 << 20),
    "dicom, nested": lambda: nested(LIMITS.sequence_depth + 8),
    "dicom, nested without end": lambda: HEADER + OPENED * 10_000,
    "dicom, elements": lambda: HEADER + b"\x11\x00\x01\x10LO\0\0" * (LIMITS.elements + 1),
    "dicom, an element longer than the file": lambda: HEADER + b"\x11\x00\x01\x10UN\0\0\xf0\xff\xff\xff",
    "dicom, fragments": lambda: build(
        RAMP, syntax="1.2.840.10008.1.2.5", frames=[b"\0\0"], PixelData=fragments(200_000)
    ),
    "rle, runs": lambda: frame(runs(SIDE)),
    "rle, segments beyond the frame": lambda: frame(struct.pack("<16I", 2, 64, 2**32 - 1, *[0] * 13)),
    "deflated frame": lambda: frame(ZEROS[2:], syntax="8.1"),
    "jpeg, of a size that both state": lambda: frame(jpeg(SIDE, SIDE, parts=1), syntax="4.50", BitsAllocated=8),
    "jpeg lossless": lambda: frame(jpeg(SIDE, SIDE, 0xC3, 1), syntax="4.70"),
    "jpeg-ls": lambda: frame(jpeg_ls(SIDE), syntax="4.80"),
    "jpeg 2000": lambda: frame(J2K, syntax="4.90"),
    "jpeg xl": lambda: frame(imagecodecs.jpegxl_encode(np.zeros((4_000, 4_000), np.uint16)), syntax="4.110"),
    "palette": lambda: build(
        RAMP.astype(np.uint8), PhotometricInterpretation="PALETTE COLOR", **dict(palette(("Red", "Green", "Blue")))
    ),
}


def fragments(count: int) -> bytes:
    return (
        encapsulate([b"\0\0"], has_bot=False)[:-8] + b"\xfe\xff\x00\xe0\0\0\0\0" * count + b"\xfe\xff\xdd\xe0\0\0\0\0"
    )


def palette(colours: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    """Segments of one linear run after another, each of as many entries as can be stated."""
    for colour in colours:
        yield f"{colour}PaletteColorLookupTableDescriptor", [0, 0, 16]
        segments = struct.pack("<3H", 0, 1, 0) + struct.pack("<3H", 1, 65_535, 7) * 2_000
        yield f"Segmented{colour}PaletteColorLookupTableData", segments


@pytest.fixture(scope="module")
def decoder() -> Iterator[Workers]:
    with pytest.MonkeyPatch.context() as patch:
        small = dataclasses.replace(LIMITS, decode_bytes=MEMORY, decode_seconds=20)
        for module in (workers, worker, interpreter):
            patch.setattr(module, "LIMITS", small)
        found = Workers(1)
        yield found
        found.close()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_little(name: str, decoder: Workers) -> None:
    data = BOMBS[name]()
    assert len(data) < 8 << 20
    try:
        found: Decoded | None = decoder.decode(data)
    except SourceError as error:
        found = None
        assert error.code in ("too_large", "bad_header", "truncated", "decode_failed", "no_pixels"), error
        assert "\n" not in str(error)
        if "10 Gpx" in name or "4 Gpx" in name or "too many" in name:
            assert error.code == "too_large" and "limit" in str(error)
    assert decoder.broken == 0
    assert decoder.peak < MEMORY + (150 << 20)
    if found is not None:
        assert sum(frame.nbytes for frame in found.frames) < MEMORY


def test_there_are_many() -> None:
    assert len(BOMBS) >= 30
