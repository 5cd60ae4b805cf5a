"""Files that were made to do harm: DICOM files, pictures and volumes changed at random, with canaries in their headers.

Reads the data files of the installed packages; everything else comes from a generator of random numbers.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import nibabel
import numpy as np
import pydicom
from dicom_files import package_files
from PIL import Image, PngImagePlugin

__all__ = ["CANARIES", "CODES", "generate"]

Rng = np.random.Generator
CANARIES = ("QUINCEBLOSSOM", "LARKSPURMEADOW", "7744110099887", "JUNIPERCOAST")
# Outcomes that a decoder may give a file.
CODES = {
    "bad_header",
    "decode_failed",
    "empty",
    "no_pixels",
    "not_an_image",
    "not_finite",
    "several_volumes",
    "too_large",
    "truncated",
    "unknown_format",
    "unsupported_format",
    "unsupported_photometric",
    "unsupported_transfer_syntax",
    "unsupported_type",
}
_MOST = 150_000
_VRS = (
    b"AE",
    b"CS",
    b"DS",
    b"IS",
    b"LO",
    b"OB",
    b"OW",
    b"PN",
    b"SQ",
    b"UI",
    b"UL",
    b"UN",
    b"US",
    b"UT",
    b"ZZ",
    b"\0\0",
)
_SYNTAXES = [f"1.2.840.10008.1.2{end}".encode() for end in ("", ".1", ".2", ".5", ".1.99", ".4.50", ".4.70", ".4.90")]
_OPENED = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
_OPENED_IMPLICIT = b"\x08\x00\x40\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
# Elements that say how many pixels there are and what they mean: their tags, explicit, of one 16-bit number.
_NUMBERS = [
    bytes([0x28, 0, low, high]) + b"US\x02\0"
    for low, high in (
        (0x02, 0),
        (0x06, 0),
        (0x10, 0),
        (0x11, 0),
        (0x00, 1),
        (0x01, 1),
        (0x02, 1),
        (0x03, 1),
        (0x01, 0x11),
    )
]
_ITEM = b"\xfe\xff\x00\xe0"
# What begins like a file of another kind.
_OTHERS = [
    b"GIF89a",
    b"RIFF\0\0\0\0WEBP",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\x1f\x8b\x08\0",
    b"PK\x03\x04",
    b"%PDF-1.7",
    b"\x93NUMPY",
    b"8BPS",
    b"\x5c\x01\0\0" + bytes(340) + b"n+1\0",
    b"II*\0",
    b"BM",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
]


@cache
def _dicom() -> tuple[bytes, ...]:
    """Small package files with canaries for names and numbers, and as they are where they cannot be written again."""
    found = []
    for path in package_files():
        data = path.read_bytes()
        if not 256 < len(data) < _MOST:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                dataset = pydicom.dcmread(io.BytesIO(data), force=True)
                dataset.PatientName, dataset.PatientID = f"{CANARIES[0]}^{CANARIES[1]}", CANARIES[2]
                dataset.StudyDescription = dataset.InstitutionName = CANARIES[3]
                stream = io.BytesIO()
                dataset.save_as(stream)
                found.append(stream.getvalue())
            except Exception:
                found.append(data)
    assert len(found) > 100
    return tuple(found)


@cache
def _with_pixels() -> tuple[bytes, ...]:
    return tuple(
        data for data in _dicom() if any(pixels in data for pixels in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"))
    )


@cache
def _pictures() -> tuple[bytes, ...]:
    rng = np.random.default_rng(3)
    colours = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 60_000, (40, 50), np.uint16))
    words = PngImagePlugin.PngInfo()
    words.add_text("PatientName", CANARIES[0])
    words.add_text("Comment", CANARIES[3], zip=True)
    described = Image.Exif()
    described[0x010E], described[0x0112] = CANARIES[1], 6
    saved: list[tuple[Any, str, dict[str, Any]]] = [
        *((colours.convert(mode), "PNG", {"pnginfo": words}) for mode in ("1", "L", "LA", "P", "RGBA")),
        (deep, "PNG", {"pnginfo": words}),
        *((colours.convert(mode), "JPEG", {"exif": described}) for mode in ("L", "RGB", "CMYK")),
        (colours, "JPEG", {"progressive": True}),
        *((colours, "TIFF", {"compression": how, "description": CANARIES[2]}) for how in ("raw", "tiff_lzw", "jpeg")),
        (deep, "TIFF", {"compression": "tiff_deflate"}),
        (colours, "TIFF", {"save_all": True, "append_images": [colours] * 4}),
        (colours.convert("1"), "TIFF", {"compression": "group4"}),
        *((colours.convert(mode), "BMP", {}) for mode in ("1", "L", "RGB")),
    ]
    found = []
    for image, kind, options in saved:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found.append(stream.getvalue())
    return tuple(found)


@cache
def _volumes() -> tuple[bytes, ...]:
    rng = np.random.default_rng(5)
    found = []
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        for dtype in (np.uint8, np.int16, np.float32, np.float64):
            for shape in ((9, 8, 7), (5, 4, 3, 2), (12, 12)):
                image = kind(rng.integers(0, 100, shape).astype(dtype), np.diag([-1.0, 1.0, 2.0, 1.0]))
                image.header["descrip"], image.header["aux_file"] = CANARIES[0].encode(), CANARIES[1].encode()
                image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARIES[3].encode()))
                plain = bytes(image.to_bytes())
                found += [plain, gzip.compress(plain, mtime=0)]
    return tuple(found)


def generate(rng: Rng) -> bytes:
    """Make one file: most are DICOM, most of them with one change, some with several."""
    if rng.random() < 0.03:
        return _OTHERS[int(rng.integers(len(_OTHERS)))] + rng.bytes(int(rng.integers(0, 2_000)))
    kind = rng.random()
    dicom = kind < 0.84
    seeds = _dicom() if dicom else _pictures() if kind < 0.92 else _volumes()
    if dicom and rng.random() < 0.8:
        seeds = _with_pixels()
    data = seeds[int(rng.integers(len(seeds)))]
    changes = [*_PLAIN, *(_DICOM if dicom else _PICTURE if kind < 0.92 else _VOLUME)]
    for _ in range(1 + int(rng.random() < 0.3) + int(rng.random() < 0.1)):
        data = changes[int(rng.integers(len(changes)))](data, rng)
    return data


def _at(data: bytes, rng: Rng) -> int:
    """A place, more often in the header than behind it."""
    end = len(data) if rng.random() < 0.4 else min(len(data), 3_000)
    return int(rng.integers(0, max(end, 1)))


def _flipped(data: bytes, rng: Rng) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if changed:
            changed[_at(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwritten(data: bytes, rng: Rng) -> bytes:
    at, with_ = _at(data, rng), rng.bytes(int(rng.integers(1, 40)))
    return data[:at] + with_ + data[at + len(with_) :]


def _cut(data: bytes, rng: Rng) -> bytes:
    return data[: _at(data, rng)]


def _left_out(data: bytes, rng: Rng) -> bytes:
    at = _at(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 300)) :]


def _doubled(data: bytes, rng: Rng) -> bytes:
    at = _at(data, rng)
    piece = data[at : at + int(rng.integers(1, 3_000))]
    return data[:at] + piece * int(rng.integers(2, 20)) + data[at:]


def _blank(data: bytes, rng: Rng) -> bytes:
    at, length = _at(data, rng), int(rng.integers(1, 2_000))
    return data[:at] + bytes([int(rng.choice([0, 255]))]) * length + data[at + length :]


def _spliced(data: bytes, rng: Rng) -> bytes:
    other = _dicom()[int(rng.integers(len(_dicom())))]
    return data[: _at(data, rng)] + other[_at(other, rng) :]


def _start(data: bytes) -> int:
    """Where the data set begins, after the meta information."""
    if data[128:132] != b"DICM" or data[136:138] != b"UL":
        return 0
    return min(144 + int.from_bytes(data[140:144], "little"), len(data))


def _elements(data: bytes) -> list[int]:
    """Where explicit elements seem to begin."""
    pattern = rb"(?s)[\x02\x08\x10\x18\x20\x28\x40\x50\xe0]\x00..(?:[A-Z]{2})"
    return [found.start() for found in re.finditer(pattern, data[:20_000])]


def _length_lies(data: bytes, rng: Rng) -> bytes:
    found = _elements(data)
    if not found:
        return _flipped(data, rng)
    at = int(rng.choice(found))
    if data[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF"):
        lie = int(rng.choice([0, 1, 2**31, 2**32 - 1, 2**32 - 2, int(rng.integers(2**32))]))
        return data[: at + 8] + struct.pack("<I", lie) + data[at + 12 :]
    lie = int(rng.choice([0, 1, 65_534, 65_535, int(rng.integers(65_536))]))
    return data[: at + 6] + struct.pack("<H", lie) + data[at + 8 :]


def _wrong_kind(data: bytes, rng: Rng) -> bytes:
    found = _elements(data)
    if not found:
        return _flipped(data, rng)
    at = int(rng.choice(found))
    return data[: at + 4] + _VRS[int(rng.integers(len(_VRS)))] + data[at + 6 :]


def _numbers_lie(data: bytes, rng: Rng) -> bytes:
    for _ in range(int(rng.integers(1, 4))):
        at = data.find(_NUMBERS[int(rng.integers(len(_NUMBERS)))])
        if at >= 0:
            lie = int(rng.choice([0, 1, 2, 3, 7, 12, 32, 64, 255, 4_096, 16_384, 32_768, 65_535]))
            data = data[: at + 8] + struct.pack("<H", lie) + data[at + 10 :]
    return data


def _frames_lie(data: bytes, rng: Rng) -> bytes:
    count = str(int(rng.choice([0, 2, 100, 9_999, 10_001, 2**31 - 1, -1]))).encode()
    count += b" " * (len(count) % 2)
    element = b"\x28\x00\x08\x00IS" + struct.pack("<H", len(count)) + count
    at = data.find(b"\x28\x00\x08\x00IS")
    if at >= 0:
        return data[:at] + element + data[at + 8 + int.from_bytes(data[at + 6 : at + 8], "little") :]
    at = data.find(b"\x28\x00\x10\x00")
    return data[:at] + element + data[at:] if at >= 0 else data


def _nested(data: bytes, rng: Rng) -> bytes:
    at = _start(data)
    opened = _OPENED if rng.random() < 0.7 else _OPENED_IMPLICIT
    return data[:at] + opened * int(10 ** rng.uniform(0, 4)) + (data[at:] if rng.random() < 0.7 else b"")


def _many(data: bytes, rng: Rng) -> bytes:
    at = _start(data)
    return data[:at] + b"\x08\x00\x01\x00LO\x02\0a " * int(10 ** rng.uniform(2, 4.5)) + data[at:]


def _other_syntax(data: bytes, rng: Rng) -> bytes:
    found = re.search(rb"\x02\x00\x10\x00UI(..)([0-9.\x00 ]+)", data[:2_000], re.DOTALL)
    if not found:
        return _flipped(data, rng)
    length = int.from_bytes(found[1], "little")
    fitting = [uid for uid in _SYNTAXES if len(uid) <= length] or _SYNTAXES[:1]
    uid = fitting[int(rng.integers(len(fitting)))][:length].ljust(length, b"\0")
    return data[: found.start(2)] + uid + data[found.start(2) + length :]


def _deflated(data: bytes, rng: Rng) -> bytes:
    """Deflate the data set, or a bomb in its place, under the syntax that says so."""
    start = _start(data)
    body = data[start:] if rng.random() < 0.3 else bytes(int(10 ** rng.uniform(3, 7.5)))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    meta = b"\x02\x00\x10\x00UI\x16\x001.2.840.10008.1.2.1.99"
    head = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta)) + meta
    return head + deflate.compress(body) + deflate.flush()


def _fragments(data: bytes, rng: Rng) -> bytes:
    """Leave an item of the pixels out, write it again and again, or let it state another length."""
    pixels = data.rfind(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff")
    found = [match.start() + pixels for match in re.finditer(re.escape(_ITEM), data[pixels:])] if pixels >= 0 else []
    if not found:
        return _flipped(data, rng)
    at = int(rng.choice(found))
    end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    how = int(rng.integers(4))
    if how == 0:
        return data[:at] + data[end:]
    if how == 1:
        return data[:at] + data[at:end] * int(rng.integers(2, 30)) + data[end:]
    if how == 2:
        lie = int(rng.choice([0, 1, 2**32 - 1, 2**31, int(rng.integers(2**20))]))
        return data[: at + 4] + struct.pack("<I", lie) + data[at + 8 :]
    return data.replace(b"\xfe\xff\xdd\xe0\0\0\0\0", b"")


def _stream(data: bytes, rng: Rng) -> bytes:
    """Change bytes where a code stream begins, which state its size."""
    marks = [
        at
        for mark in (b"\xff\x4f\xff\x51", b"\xff\xd8\xff", b"\xff\xf7", b"\xff\xc0", b"\xff\xc3", b"IHDR", b"II*\0")
        if (at := data.rfind(mark)) >= 0
    ]
    if not marks:
        return _flipped(data, rng)
    at = int(rng.choice(marks)) + int(rng.integers(2, 60))
    return data[:at] + rng.bytes(int(rng.integers(1, 5))) + data[at + int(rng.integers(1, 5)) :]


def _chunks(data: bytes, rng: Rng) -> bytes:
    """Let a PNG state another size under a right checksum, or write chunks again."""
    if data[:4] != b"\x89PNG":
        return _stream(data, rng)
    width, height = (int(rng.choice([0, 1, 50, 13_000, 65_536, 2**31 - 1, 2**32 - 1])) for _ in range(2))
    depth, colour = int(rng.choice([1, 2, 4, 8, 16, 3])), int(rng.choice([0, 2, 3, 4, 6, 1]))
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(rng.integers(2)))
    return data[:12] + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def _header_lies(data: bytes, rng: Rng) -> bytes:
    """Put other numbers into the sizes, types, scaling or orientation of a NIfTI header."""
    packed = data[:2] == b"\x1f\x8b"
    try:
        plain = bytearray(gzip.decompress(data) if packed else data)
    except (OSError, EOFError, zlib.error):
        return data
    if len(plain) < 352:
        return data
    number = rng.choice([0, -1, 1, 3, 255, 32_767, -32_768])
    form = str(rng.choice(["<h", ">h", "<f", "<i"]))
    value = rng.choice([np.nan, np.inf, 1e38, -1.0]) if form == "<f" else int(number)
    struct.pack_into(form, plain, int(rng.integers(38, 344)) // 2 * 2, value)
    return gzip.compress(bytes(plain), mtime=0) if packed else bytes(plain)


def _grown(data: bytes, rng: Rng) -> bytes:
    """Compress a volume with far more behind it than its header states."""
    return gzip.compress(data + bytes(int(rng.integers(1, 64)) << 20), mtime=0)


Change = Callable[[bytes, Rng], bytes]
_PLAIN: tuple[Change, ...] = (_flipped, _flipped, _overwritten, _cut, _left_out, _doubled, _blank, _spliced)
_DICOM: tuple[Change, ...] = (
    _length_lies,
    _length_lies,
    _wrong_kind,
    _numbers_lie,
    _numbers_lie,
    _frames_lie,
    _nested,
    _many,
    _other_syntax,
    _deflated,
    _fragments,
    _stream,
)
_PICTURE: tuple[Change, ...] = (_stream, _chunks)
_VOLUME: tuple[Change, ...] = (_header_lies,) * 6 + (_grown,)
