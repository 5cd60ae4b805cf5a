"""FORMAT.md is enough to read an index file: a reader written from that page alone, with NumPy, finds what was stored.

It checks every checksum and all padding, reads vectors and keys, and reads the graph's links.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest

PAGE = 4096
ELEMENTS = {2: {2: np.float16, 4: np.float32}, 3: {8: np.uint64}, 8: {4: np.float32}, 9: {4: np.float32}}


def crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def read(data: bytes) -> dict[tuple[int, int], np.ndarray[Any, Any]]:
    """The sections by kind and number, each (rows, elements), after checking every byte that is not hashed."""
    assert data[:8] == bytes.fromhex("8f4f534c0d0a1a0a")
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
        for place in range(-(-rows // (1 << shift))):
            own = crc32c(data[offset + place * block : min(offset + (place + 1) * block, offset + size)])
            assert crc32c(file_id + struct.pack("<IIQI", kind, number, place, own)) == sums[first + place]
        at = -(-(offset + size) // PAGE) * PAGE
        assert not any(data[offset + size : at])
        of = ELEMENTS.get(kind, {}).get(element) or np.dtype(f"<u{element}")
        found[kind, number] = np.frombuffer(data, of, rows * stride, offset).reshape(rows, stride)[:, :width]
    assert at == table
    return found


@pytest.mark.parametrize("codes", ["f32", "f16"])
def test_vectors_and_keys_are_read(tmp_path: Path, rng: np.random.Generator, codes: str) -> None:
    path = tmp_path / "a.index"
    rows = rng.standard_normal((300, 20)).astype(np.float32)
    keys = rng.permutation(10_000)[:300].astype(np.uint64)
    index = osler.Index.build(rows, keys=keys, metric="l2", codes=codes)
    index.save(path)
    sections = read(path.read_bytes())
    settings = sections[1, 0][:, 0]
    assert settings[:2].tolist() == [20, 3]
    assert int(settings[4]) == 300
    np.testing.assert_array_equal(sections[3, 0][:, 0], keys)
    np.testing.assert_array_equal(sections[2, 0].astype(np.float32), index.get(keys))


def test_the_graph_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.index"
    rows = rng.standard_normal((2_100, 16)).astype(np.float32)
    osler.Index.build(rows, metric="l2", codes="f32").save(path)
    sections = read(path.read_bytes())
    wide = 64  # D: dim rounded up to a multiple of 64
    name_of = sections[6, 0][:, 0]
    linked = set()
    seen = 0
    for number, places in ((0, 16), (1, 32)):
        nodes, of_node = sections[4, number], sections[5, number][:, 0]
        assert len(nodes) == len(of_node)
        header = nodes[:, wide // 4 : wide // 4 + 16]
        np.testing.assert_array_equal(header[:, 2], of_node)
        for node, row in enumerate(of_node.tolist()):
            assert name_of[row] == 2 * node + number
        neighbours = nodes[:, wide // 4 + 16 : wide // 4 + 16 + places]
        real = neighbours != 2**32 - 1
        assert (header[:, 3] <= real.sum(1)).all()
        linked |= set(neighbours[real].tolist())
        seen += len(nodes)
        # Rows as bytes times their scale have the length that the header states, but for rounding.
        own = np.ascontiguousarray(nodes[:, : wide // 4]).view(np.int8).astype(np.float32)
        scale = np.ascontiguousarray(header[:, :2]).view(np.float32)
        np.testing.assert_allclose(np.square(own * scale[:, :1]).sum(1), scale[:, 1], rtol=0.02)
    assert seen == len(rows)
    assert linked == set(name_of.tolist()), "every node is somebody's neighbour"
