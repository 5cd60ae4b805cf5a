"""R12. Hostile ingest: DICOM files and pictures of all kinds, damaged, cut, with lies about lengths and shapes, nested,
inflated. Each has exactly one outcome, with a code and a sentence, in limited memory and time; no value of a patient is
in a sentence; and the processes that decode take nothing with them."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pydicom
from dicom_files import package_files
from osler.decode.prewalk import check_elements
from osler.errors import SourceError
from osler.sources import worker, workers
from PIL import Image

NAME, UNIT = "hostile files", "files"
SIZES = {"quick": 600, "ci": 3_000, "full": 110_000}
FILES = 100
# What decoding one file may take here, and what a process may have had in memory when all is done.
LIMITS = replace(workers.LIMITS, decode_seconds=2, decode_bytes=512 << 20)
LARGEST_BASE = 300_000
CODES = {
    "bad_header", "crashed", "decode_failed", "empty", "metadata", "no_pixels", "not_an_image", "too_large", "too_slow",
    "truncated", "unknown_format", "unsupported_format", "unsupported_photometric", "unsupported_transfer_syntax",
}  # fmt: skip
CANARY = "Xq7Canary"
CARRIERS = {
    "PatientName": f"{CANARY}^Jane",
    "PatientID": f"{CANARY}0815",
    "PatientBirthDate": "19710229",
    "InstitutionName": f"{CANARY} Hospital",
    "AccessionNumber": f"{CANARY}A1",
    "StudyDescription": f"{CANARY} of the study",
    "ReferringPhysicianName": f"{CANARY}^Doctor",
}
DEFLATED = "1.2.840.10008.1.2.1.99"


def piece(seed: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    with (
        mock.patch.object(workers, "LIMITS", LIMITS),
        mock.patch.object(worker, "LIMITS", LIMITS),
        mock.patch.object(workers, "_PATIENCE", 5),
    ):
        decoder = workers.Workers(1)
        try:
            for number in range(FILES):
                kind, data = _file(rng)
                counts += _outcome(decoder, data, kind, f"seed {seed}, file {number}, {kind}")
        finally:
            decoder.close()
        assert decoder.peak < LIMITS.decode_bytes, f"seed {seed}: {decoder.peak} bytes were in memory"
        counts["processes that a file ended"] += decoder.broken
    return counts


def _outcome(decoder: Any, data: bytes, kind: str, where: str) -> Counter[str]:
    began = time.monotonic()
    try:
        found = decoder.decode(data)
        pixels = sum(frame.size for frame in found.frames)
        assert pixels > 0, f"{where}: it is decoded to nothing"
        said = "decoded"
    except SourceError as error:
        assert error.code in CODES, f"{where}: {error.code}"
        assert len(str(error)) > 10 and "\n" not in str(error), f"{where}: {error!s}"
        assert CANARY not in str(error) and "19710229" not in str(error), f"{where}: {error!s}"
        said = error.code
    # What stops a hang in the process itself is far below this.
    assert time.monotonic() - began < 60, f"{where}: it took {time.monotonic() - began:.0f} s"
    if data[128:132] == b"DICM":
        try:
            check_elements(data)
        except SourceError as error:
            assert error.code == "too_large", f"{where}: {error.code}"
    return Counter({UNIT: 1, f"of kind {kind}": 1, said: 1})


def _file(rng: np.random.Generator) -> tuple[str, bytes]:
    kind = str(rng.choice(list(KINDS), p=[share for _, share in KINDS.values()]))
    return kind, KINDS[kind][0](rng)


@cache
def _names() -> list[str]:
    return [str(file) for file in package_files() if file.stat().st_size < LARGEST_BASE]


@cache
def _base(name: str) -> bytes:
    """A file as it is, or if it can be read with values of a patient that nobody may see."""
    try:
        dataset = pydicom.dcmread(name)
        for keyword, value in CARRIERS.items():
            setattr(dataset, keyword, value)
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        return stream.getvalue()
    except Exception:
        with open(name, "rb") as file:
            return file.read()


def _dicom(rng: np.random.Generator) -> bytes:
    return _base(_names()[int(rng.integers(len(_names())))])


def _flipped(rng: np.random.Generator) -> bytes:
    data = bytearray(_dicom(rng))
    # Headers come first, and that is where a bit says most.
    end = len(data) if rng.random() < 0.5 else min(len(data), 4_000)
    for at in rng.integers(0, max(end, 1), int(rng.integers(1, 30))).tolist():
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _cut(rng: np.random.Generator) -> bytes:
    data = _dicom(rng)
    return data[: int(rng.integers(0, len(data) + 1))]


def _lengths(rng: np.random.Generator) -> bytes:
    """Lengths, or what may be some, that say anything."""
    data = bytearray(_dicom(rng))
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(132, max(min(len(data) - 8, 6_000), 133)))
        lie = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 0x10000, len(data)]))
        data[at : at + 4] = struct.pack("<I", lie)
    return bytes(data)


def _representations(rng: np.random.Generator) -> bytes:
    """Value representations with others in their place."""
    data = bytearray(_dicom(rng))
    known = [b"SQ", b"OB", b"OW", b"UN", b"DS", b"IS", b"US", b"PN", b"UI", b"AT", b"FD", b"UT", b"ZZ"]
    places = [at for at in range(132, min(len(data) - 2, 8_000)) if bytes(data[at : at + 2]) in known]
    for at in rng.choice(places, min(len(places), 3), replace=False).tolist() if places else []:
        data[at : at + 2] = known[int(rng.integers(len(known)))]
    return bytes(data)


def _nested(rng: np.random.Generator) -> bytes:
    """Sequences in sequences, of stated length or of none, to any depth."""
    depth = int(rng.choice([10, 31, 33, 200, 1_000, 10_000]))
    start, item = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF), b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    head = _head("1.2.840.10008.1.2.1")
    return head + (start + item) * depth + (end * depth if rng.random() < 0.7 else b"")


def _many(rng: np.random.Generator) -> bytes:
    """More elements than any file has."""
    count = int(rng.choice([40_000, 60_000, 200_000]))
    groups = np.zeros(count, [("group", "<u2"), ("element", "<u2"), ("vr", "S2"), ("length", "<u2")])
    groups["group"], groups["element"], groups["vr"] = (
        9 + 2 * (np.arange(count) >> 16),
        np.arange(count) & 0xFFFF,
        b"LO",
    )
    return _head("1.2.840.10008.1.2.1") + groups.tobytes()


def _bomb(rng: np.random.Generator) -> bytes:
    """A deflated data set that inflates to anything."""
    size = int(rng.choice([1 << 20, 64 << 20, 700 << 20]))
    pack = zlib.compressobj(9, wbits=-15)
    inside = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size & 0xFFFFFFFE)
    parts = [pack.compress(inside)]
    parts += [pack.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return _head(DEFLATED) + b"".join(parts) + pack.flush()


def _fragments(rng: np.random.Generator) -> bytes:
    """Encapsulated frames: items missing, twice, empty, out of order."""
    data = _dicom(rng)
    tag = b"\xfe\xff\x00\xe0"
    at = data.find(tag, data.rfind(b"\xe0\x7f\x10\x00"))
    pieces = data[at:].split(tag) if at > 0 else [data]
    how = str(rng.choice(["missing", "twice", "empty", "shuffled", "extra"]))
    chosen = int(rng.integers(len(pieces)))
    if how == "missing":
        del pieces[chosen]
    elif how == "twice":
        pieces.insert(chosen, pieces[chosen])
    elif how == "empty":
        pieces[chosen] = b"\0\0\0\0"
    elif how == "extra":
        pieces.insert(chosen, struct.pack("<I", 8) + rng.bytes(8))
    else:
        rng.shuffle(pieces)
    return data[: max(at, 0)] + tag.join(pieces)


def _shapes(rng: np.random.Generator) -> bytes:
    """Rows, columns, frames and samples whose product is anything."""
    data = bytearray(_dicom(rng))
    for element, size in ((0x0010, 2), (0x0011, 2), (0x0002, 2), (0x0100, 2), (0x0101, 2), (0x0103, 2)):
        at = data.find(struct.pack("<HH2sH", 0x0028, element, b"US", size))
        if at > 0 and rng.random() < 0.5:
            data[at + 8 : at + 10] = struct.pack("<H", int(rng.choice([0, 1, 3, 255, 4_096, 65_535])))
    frames = struct.pack("<HH2sH", 0x0028, 0x0008, b"IS", 10) + b"2147483647"
    at = data.find(struct.pack("<HH", 0x0028, 0x0010))
    if at > 0 and rng.random() < 0.5:
        data[at:at] = frames
    return bytes(data)


def _spliced(rng: np.random.Generator) -> bytes:
    one, other = _dicom(rng), _dicom(rng)
    at, to = int(rng.integers(len(one) + 1)), int(rng.integers(len(other) + 1))
    return one[:at] + other[to:]


@cache
def _picture_bases() -> list[bytes]:
    found = []
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    tiff = [{"compression": name} for name in ("tiff_deflate", "tiff_lzw", "jpeg", "packbits")]
    others: list[dict[str, Any]] = [{"format": "png"}, {"format": "jpeg"}, {"format": "jpeg", "progressive": True}]
    for options in (*others, {"format": "bmp"}, {"format": "tiff"}, *({"format": "tiff"} | one for one in tiff)):
        for array in (pixels, pixels[:, :, 0], (pixels[:, :, 0] > 99)):
            if options.get("compression") == "jpeg" and array.dtype == bool:
                continue
            if options["format"] == "jpeg" and array.dtype == bool:
                continue
            stream = io.BytesIO()
            extra: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(array)]}
            Image.fromarray(array).save(stream, **options, **(extra if options["format"] == "tiff" else {}))
            found.append(stream.getvalue())
    return found


def _pictures(rng: np.random.Generator) -> bytes:
    bases = _picture_bases()
    data = bytearray(bases[int(rng.integers(len(bases)))])
    how = str(rng.choice(["flipped", "cut", "numbers", "spliced", "grown"]))
    if how == "flipped":
        for at in rng.integers(0, len(data), int(rng.integers(1, 20))).tolist():
            data[at] ^= 1 << int(rng.integers(8))
    elif how == "cut":
        del data[int(rng.integers(len(data))) :]
    elif how == "numbers":
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(4, len(data) - 4))
            order = str(rng.choice(["<I", ">I"]))
            data[at : at + 4] = struct.pack(order, int(rng.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFF, 1 << 20])))
        if data[:4] == b"\x89PNG":
            # Under a right sum, so that it is believed.
            data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    elif how == "spliced":
        other = bases[int(rng.integers(len(bases)))]
        at = int(rng.integers(len(data)))
        data = data[:at] + bytearray(other[int(rng.integers(len(other))) :])
    else:
        data += rng.bytes(int(rng.integers(1, 5_000)))
    return bytes(data)


def _noise(rng: np.random.Generator) -> bytes:
    marks = [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        bytes(128) + b"DICM",
    ]
    return marks[int(rng.integers(len(marks)))] + rng.bytes(int(rng.integers(0, 3_000)))


def _head(syntax: str) -> bytes:
    uid = syntax.encode() + (b"\0" if len(syntax) % 2 else b"")
    element = struct.pack("<HH2sH", 2, 0x0010, b"UI", len(uid)) + uid
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(element)) + element


# How each sort of file is made, and its share of all.
KINDS = {
    "flipped": (_flipped, 0.2),
    "cut": (_cut, 0.1),
    "lengths": (_lengths, 0.16),
    "representations": (_representations, 0.08),
    "nested": (_nested, 0.02),
    "many elements": (_many, 0.01),
    "deflated": (_bomb, 0.01),
    "fragments": (_fragments, 0.1),
    "shapes": (_shapes, 0.1),
    "spliced": (_spliced, 0.06),
    "pictures": (_pictures, 0.13),
    "noise": (_noise, 0.03),
}
