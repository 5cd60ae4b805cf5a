"""hnswlib as a neighbour: files that it wrote come in, and a walk over ours as it walks finds what exact search finds.

hnswlib has no wheels, so no test needs it: `Walk` reads its format and searches by its paper, and shares no code with
the library.
"""

from __future__ import annotations

import heapq
import struct
from pathlib import Path
from typing import Any

import foreign_files as made
import numpy as np
import osler
import pytest
from osler.collection.interchange import export_hnswlib, import_hnswlib, layers, read_hnswlib

SPACES: dict[str, Any] = {"cosine": "cosine", "ip": "dot", "l2": "l2"}


class Walk:
    """An hnswlib file, and Algorithms 2 and 5 of Malkov and Yashunin over it."""

    def __init__(self, path: Path, dim: int, distance: Any) -> None:
        self.distance = distance
        content = path.read_bytes()
        header = struct.unpack_from("<6QiI3QdQ", content)
        start, most, count, size, label, vector, self.top, self.entry, upper, room, m, scale, width = header
        assert (start, upper, room, size) == (0, m, 2 * m, 4 + 4 * room + 4 * dim + 8)
        assert most >= count and scale > 0 and width >= 1
        self.vectors, self.labels = np.empty((count, dim), np.float32), np.empty(count, np.uint64)
        self.links: list[list[np.ndarray]] = []
        at = 96 + count * size
        for row in range(count):
            base = 96 + row * size
            self.vectors[row] = np.frombuffer(content, "<f4", dim, base + vector)
            self.labels[row] = struct.unpack_from("<Q", content, base + label)[0]
            self.links.append([np.frombuffer(content, "<u4", struct.unpack_from("<I", content, base)[0], base + 4)])
            (above,) = struct.unpack_from("<I", content, at)
            for place in range(at + 4, at + 4 + above, 4 + 4 * m):
                found = np.frombuffer(content, "<u4", struct.unpack_from("<I", content, place)[0], place + 4)
                self.links[row].append(found)
            at += 4 + above
        assert at == len(content)
        assert len(self.links[self.entry]) == self.top + 1 == max(map(len, self.links))
        for row, layers_ in enumerate(self.links):
            for level, found in enumerate(layers_):
                assert (found < count).all() and row not in found and len(set(found.tolist())) == len(found)
                assert all(len(self.links[other]) > level for other in found)

    def search(self, query: np.ndarray, k: int, width: int) -> list[int]:
        best, away = self.entry, float(self.distance(query, self.vectors[[self.entry]])[0])
        for level in range(self.top, 0, -1):
            while len(around := self.links[best][level]):
                distances = self.distance(query, self.vectors[around])
                if distances.min() >= away:
                    break
                best, away = int(around[distances.argmin()]), float(distances.min())
        seen, open_, kept = {best}, [(away, best)], [(-away, best)]
        while open_:
            away, row = heapq.heappop(open_)
            if away > -kept[0][0] and len(kept) == width:
                break
            fresh = [one for one in self.links[row][0].tolist() if one not in seen]
            seen.update(fresh)
            for distance, one in zip(self.distance(query, self.vectors[fresh]).tolist(), fresh, strict=True):
                if len(kept) < width or distance < -kept[0][0]:
                    heapq.heappush(open_, (distance, one))
                    heapq.heappush(kept, (-distance, one))
                    if len(kept) > width:
                        heapq.heappop(kept)
        return [int(self.labels[row]) for _, row in sorted(kept, reverse=True)[:k]]


def inner(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return 1 - rows @ query


def squared(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.square(rows - query).sum(1)


@pytest.mark.parametrize("space", sorted(SPACES))
def test_a_file_of_hnswlib_becomes_a_collection(space: str, tmp_path: Path) -> None:
    vectors, keys = made.vectors(), made.keys()
    path = made.HERE / "hnswlib-0.8.0" / f"{space}.hnswlib"
    with import_hnswlib(path, tmp_path / "cases.osler", metric=SPACES[space]) as cases:
        assert cases.keys() == [str(key) for key in sorted(keys.tolist())]
        expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if space == "cosine" else vectors
        np.testing.assert_allclose(cases.vectors([str(key) for key in keys.tolist()]), expected, rtol=1e-6)


def test_deleted_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    path = made.HERE / "hnswlib-0.8.0" / "deleted.hnswlib"
    with pytest.warns(UserWarning, match=r"3 deleted rows of deleted\.hnswlib are not imported"):
        numbers, vectors = read_hnswlib(path)
    kept = np.setdiff1d(np.arange(48), made.DELETED)
    order = kept[np.argsort(made.keys()[kept])]
    assert numbers.tolist() == made.keys()[order].tolist()
    np.testing.assert_array_equal(vectors, made.vectors()[order])
    with pytest.warns(UserWarning, match="3 deleted rows"):
        assert len(import_hnswlib(path, tmp_path / "cases.osler", metric="l2")) == 45


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_collection_goes_to_hnswlib_and_back(metric: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    cases = osler.Collection.create(tmp_path / "a.osler", dim=8, metric=metric)
    cases.add_vectors([f"case {row}" for row in range(60)], rng.normal(size=(60, 8)))
    cases.add_vectors(["without"], None)
    cases.delete(["case 7"])
    export_hnswlib(cases, tmp_path / "b.hnswlib")
    assert (tmp_path / "b.hnswlib").stat().st_mode & 0o777 == 0o600
    with import_hnswlib(tmp_path / "b.hnswlib", tmp_path / "c.osler", metric=metric) as back:
        assert back.keys() == [key for key in cases if key != "without"]
        np.testing.assert_array_equal(back.vectors(), cases.vectors(back.keys()))


def test_an_index_keeps_its_keys(tmp_path: Path, rng: np.random.Generator) -> None:
    keys = np.array([7, 2**64 - 2, 0, 12], np.uint64)
    index = osler.Index.build(rng.normal(size=(4, 5)).astype(np.float32), keys=keys, metric="l2")
    export_hnswlib(index, tmp_path / "a.hnswlib")
    numbers, vectors = read_hnswlib(tmp_path / "a.hnswlib")
    assert numbers.tolist() == sorted(keys.tolist())
    np.testing.assert_array_equal(vectors, index.get(numbers))


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_a_narrow_walk_finds_what_exact_search_finds(metric: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    centres = rng.normal(size=(60, 32))
    rows = (centres[rng.integers(60, size=5_100)] + 0.4 * rng.normal(size=(5_100, 32))).astype(np.float32)
    vectors, queries = rows[:5_000], rows[5_000:]
    index = osler.Index.build(vectors, rng.permutation(20_000)[:5_000].astype(np.uint64), metric=metric)
    true = index.search(queries, k=10, exact=True).keys.tolist()
    export_hnswlib(index, tmp_path / "a.hnswlib")
    walk = Walk(tmp_path / "a.hnswlib", 32, squared if metric == "l2" else inner)
    # 10 is the width that hnswlib starts with after loading a file.
    found = [walk.search(query, 10, 10) for query in queries]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, true, strict=True)]) >= 0.95


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_no_row_is_out_of_reach(metric: str, rng: np.random.Generator) -> None:
    """Equal rows, far groups and lone rows: each is reached in layer 0 from any other, and links are within bounds."""
    groups = [np.zeros((300, 4)), 1e3 + rng.normal(size=(5, 4)), 1e6 * np.eye(4), -50 + rng.normal(size=(400, 4))]
    vectors = np.concatenate(groups).astype(np.float32)
    graph = layers.build(vectors, 8, metric)
    for level, (rows, links) in enumerate(graph.links):
        assert rows.tolist() == np.flatnonzero(graph.levels >= level).tolist()
        assert links.shape == (len(rows), 8 if level else 16)
        assert np.isin(links[links >= 0], rows).all() and (links != rows[:, None]).all()
        assert (np.diff((links < 0).astype(int), axis=1) >= 0).all()
        near = dict(zip(rows.tolist(), links.tolist(), strict=True))
        seen, open_ = {graph.entry}, [graph.entry]
        while open_:
            fresh = {one for one in near[open_.pop()] if one >= 0} - seen
            seen |= fresh
            open_ += fresh
        assert seen == set(rows.tolist())


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_rows_are_enough(count: int, tmp_path: Path) -> None:
    index = osler.Index(dim=3, metric="l2")
    index.add(np.eye(5, 3, dtype=np.float32)[:count])
    export_hnswlib(index, tmp_path / "a.hnswlib")
    assert len(read_hnswlib(tmp_path / "a.hnswlib")[0]) == count
    if count:
        assert 0 in Walk(tmp_path / "a.hnswlib", 3, squared).search(np.array([1, 0, 0], np.float32), 5, 10)


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.hnswlib"
    for content in (b"", b"not an index" * 100, bytes(96)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.hnswlib is not an hnswlib index; give a file that its save_index"):
            import_hnswlib(path, tmp_path / "cases.osler")
    export_hnswlib(osler.Index(dim=3), path)
    with pytest.raises(ValueError, match="holds no vectors"):
        import_hnswlib(path, tmp_path / "cases.osler")
    export_hnswlib(osler.Index.build(np.eye(2, dtype=np.float32)), path)
    content = bytearray(path.read_bytes())
    size = 4 + 4 * 32 + 8 + 8
    content[96 + size + size - 8 : 96 + 2 * size] = content[96 + size - 8 : 96 + size]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="several vectors under one label"):
        import_hnswlib(path, tmp_path / "cases.osler")
    assert not (tmp_path / "cases.osler").exists()
    with pytest.raises(FileNotFoundError, match="folder for a"):
        export_hnswlib(osler.Index(dim=3), tmp_path / "none" / "a.hnswlib")
    with pytest.raises(FileNotFoundError, match="hnswlib is not there"):
        read_hnswlib(tmp_path / "b.hnswlib")
