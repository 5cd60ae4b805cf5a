"""A reader of Osler's files written from FORMAT.md alone, with NumPy; nothing of the package is used.

It checks every checksum and all padding of a file of sections.
"""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = bytes.fromhex("8f4f534c0d0a1a0a")
PAGE = 4096
TABLE_ITEMS = 4096
NOWHERE = -(2**63)
ELEMENTS = {2: {2: np.float16, 4: np.float32}, 3: {8: np.uint64}, 8: {4: np.float32}, 9: {4: np.float32}}
Sections = dict[tuple[int, int], np.ndarray[Any, Any]]


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def read(data: bytes, check: bool = True) -> Sections:
    """The sections by kind and number, each (rows, elements), after checking every byte that is not hashed."""
    assert data[:8] == MAGIC
    assert crc32c(data[:4092]) == struct.unpack_from("<I", data, 4092)[0]
    version, count, table, length = struct.unpack_from("<IIQQ", data, 8)
    features, file_id, blocks = *struct.unpack_from("<Q", data, 64), data[88:104], *struct.unpack_from("<Q", data, 104)
    assert (version, features, length) == (4, 0, len(data))
    assert not any(data[72:88])
    assert not any(data[112:4092])
    lists = table + 48 * count
    sums = np.frombuffer(data, "<u4", offset=lists + 4 * -(-blocks // 16_384))
    assert len(sums) == blocks
    for piece in range(-(-blocks // 16_384)):
        own = crc32c(sums[16_384 * piece : 16_384 * (piece + 1)].tobytes())
        salted = crc32c(file_id + struct.pack("<IIQI", 2**32 - 1, 0, piece, own))
        assert salted == struct.unpack_from("<I", data, lists + 4 * piece)[0]
    found = {}
    at = PAGE
    for entry in range(count):
        kind, number, offset, rows, width, stride, element, shift, first = struct.unpack_from(
            "<IIQQIIIIQ", data, table + 48 * entry
        )
        assert offset == at
        size = rows * stride * element
        block = (stride * element) << shift
        for place in range(-(-rows // (1 << shift)) if check else 0):
            own = crc32c(data[offset + place * block : min(offset + (place + 1) * block, offset + size)])
            assert crc32c(file_id + struct.pack("<IIQI", kind, number, place, own)) == sums[first + place]
        at = -(-(offset + size) // PAGE) * PAGE
        assert not any(data[offset + size : at])
        of = ELEMENTS.get(kind, {}).get(element) or np.dtype(f"<u{element}")
        found[kind, number] = np.frombuffer(data, of, rows * stride, offset).reshape(rows, stride)[:, :width]
    assert at == table
    return found


def texts(data: bytes) -> bytes:
    """What the compressed tables of a file say."""
    if not data.startswith(MAGIC):
        return b""
    sections = read(data, check=False)
    found = tables(sections, 30, 31) if (30, 0) in sections else []
    found += [sections[42, 0].tobytes()] if (42, 0) in sections else []
    return b"".join(map(zlib.decompress, found))


def table(data: bytes) -> list[dict[str, Any]]:
    """The rows of a compressed table, each with the columns that were set."""
    plain = zlib.decompress(data)
    (size,) = struct.unpack_from("<I", plain)
    head = json.loads(plain[4 : 4 + size])
    assert (4 + size) % 8 == 0
    at = 4 + size
    rows: list[dict[str, Any]] = [{} for _ in range(head["rows"])]
    for column in head["columns"]:
        buffers = []
        for length in column["buffers"]:
            buffers.append(plain[at : at + length])
            at += length + -length % 8
        for row, (state, value) in zip(rows, _values(column["type"], len(rows), buffers), strict=True):
            if state:
                row[column["name"]] = value
    assert at == len(plain)
    return rows


def _values(kind: str, rows: int, buffers: list[bytes]) -> list[tuple[int, Any]]:
    states = list(buffers.pop(0)) or [2] * rows
    values: list[Any] = [None] * rows
    if kind == "text" or kind.startswith("list of "):
        ends = [0, *np.frombuffer(buffers.pop(0), "<u4").tolist()]
        inner: Any = buffers.pop(0) if kind == "text" else _values(kind[8:], ends[-1], buffers)
        pieces = [inner[start:end] for start, end in itertools.pairwise(ends)]
        values = [piece.decode() if kind == "text" else [value for _, value in piece] for piece in pieces]
    elif kind != "null":
        of = {"bool": "|b1", "int": "<i8", "float": "<f8", "date": "<i4", "datetime": "<i8"}[kind]
        values = np.frombuffer(buffers.pop(0), of).tolist()
        if kind == "date":
            values = [date(1970, 1, 1) + timedelta(days=value) for value in values]
        if kind == "datetime":
            values = [datetime(1970, 1, 1) + timedelta(microseconds=value) for value in values]
    return [(state, value if state == 2 else None) for state, value in zip(states, values, strict=True)]


def tables(sections: Sections, kind: int, ends: int) -> list[bytes]:
    """Pieces of one section that end where another says."""
    text, last = sections[kind, 0].tobytes(), [0, *sections[ends, 0][:, 0].tolist()]
    return [text[start:end] for start, end in itertools.pairwise(last)]


def collection(folder: Path, check: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the state in force says, and every live item: its key, columns that were set, parts and vectors."""
    version = read((folder / "FORMAT").read_bytes(), check)[20, 0][:, 0]
    assert version[0] == 2
    newest = max(path for path in (folder / "manifests").iterdir() if path.suffix == ".manifest")
    manifest = read(newest.read_bytes(), check)
    assert manifest[21, 0][0, 0] == int(newest.stem)
    names = manifest[23, 0].tobytes().decode().splitlines()
    for name, facts in zip(names, manifest[24, 0], strict=True):
        data = (folder / name).read_bytes()
        assert len(data) == facts[0]
        assert data[32:64] == facts[1:].tobytes()
    state = json.loads(manifest[22, 0].tobytes())
    dead: set[int] = set()
    for name in state["tombstones"]:
        dead |= set(read((folder / name).read_bytes(), check)[41, 0][:, 0].tolist())
    items = []
    for entry in state["segments"]:
        items += [item for item in segment(folder, entry, check) if item.pop("id") not in dead]
    return state, items


def segment(folder: Path, entry: dict[str, Any], check: bool) -> list[dict[str, Any]]:
    sections = read((folder / entry["file"]).read_bytes(), check)
    count, parts = entry["items"], entry["parts"]
    keys = [key.decode() for key in tables(sections, 32, 33)]
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    if (30, 0) in sections:
        rows = [row for text in tables(sections, 30, 31) for row in table(text)]
    ids = sections[36, 0][:, 0].tolist() if (36, 0) in sections else range(entry["first_item"], entry["end_item"])
    owners = sections[37, 0][:, 0] if (37, 0) in sections else np.arange(count)
    kinds = sections[38, 0][:, 0] if (38, 0) in sections else np.zeros(parts, np.uint8)
    contents = sections[35, 0] if (35, 0) in sections else np.zeros((count, 2), np.uint64)
    found = []
    for item in range(count):
        own = np.flatnonzero(owners == item)
        places = [[at] + [NOWHERE] * 7 for at in range(len(own))]
        if (39, 0) in sections:
            places = sections[39, 0][own].view(np.int64).tolist()
        found.append(
            {
                "id": ids[item],
                "key": keys[item],
                "columns": rows[item],
                "content": contents[item].tobytes().hex() if contents[item].any() else None,
                "kinds": ["text" if kind else "image" for kind in kinds[own]],
                "places": places,
                "vectors": sections[2, 0][own] if parts else np.empty((0, 0), np.float32),
            }
        )
    return found
