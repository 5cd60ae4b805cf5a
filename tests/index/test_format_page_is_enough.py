"""FORMAT.md is enough to read an index file: a reader written from that page alone, with NumPy, finds what was stored.

It checks every checksum and all padding, reads vectors and keys, and reads the graph's links.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import osler
import pytest
from format_reader import read


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
