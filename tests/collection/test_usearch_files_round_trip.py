"""usearch as a neighbour and as a second opinion: its files come and go, and its exact search agrees with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler.collection.interchange import export_usearch, import_usearch, read_usearch
from usearch.index import Index as UsearchIndex
from usearch.index import search as usearch_search

METRICS = {"cosine": "cos", "dot": "ip", "l2": "l2sq"}
TOLERANCE = {"f32": 1e-6, "f16": 2e-3, "i8": 2e-2}


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
def test_a_file_of_usearch_becomes_a_collection(
    metric: str, dtype: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    vectors = unit(rng.normal(size=(200, 24)))
    keys = rng.permutation(10_000)[:200].astype(np.uint64)
    theirs = UsearchIndex(ndim=24, metric=METRICS[metric], dtype=dtype)
    theirs.add(keys, vectors)
    theirs.save(str(tmp_path / "a.usearch"))
    with import_usearch(tmp_path / "a.usearch", tmp_path / "cases.osler") as cases:
        assert (cases.metric, cases.dim, len(cases)) == (metric, 24, 200)
        assert sorted(map(int, cases.keys())) == sorted(keys.tolist())
        found = cases.vectors([str(key) for key in keys])
        np.testing.assert_allclose(found, vectors, atol=TOLERANCE[dtype])
        again = cases.vectors([str(key) for key in keys])
        for row in range(0, 200, 20):
            assert cases.search(vector=again[row], k=1)[0].key == str(keys[row])


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
def test_a_collection_goes_to_usearch_and_back(
    metric: str, dtype: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    cases = osler.Collection.create(tmp_path / "a.osler", dim=8, metric=metric)  # type: ignore[arg-type]
    cases.add_vectors([f"case {row}" for row in range(60)], vectors)
    cases.add_vectors(["without"], None)
    cases.delete(["case 7"])
    if dtype == "i8" and metric != "cosine":
        with pytest.raises(ValueError, match="for cosine"):
            export_usearch(cases, tmp_path / "b.usearch", dtype=dtype)
        assert not list(tmp_path.glob("b.*"))
        return
    export_usearch(cases, tmp_path / "b.usearch", dtype=dtype)
    theirs = UsearchIndex.restore(str(tmp_path / "b.usearch"))
    assert theirs is not None
    assert len(theirs) == 59
    assert theirs.ndim == 8
    with import_usearch(tmp_path / "b.usearch", tmp_path / "c.osler") as back:
        assert back.keys() == [key for key in cases if key != "without"]
        np.testing.assert_allclose(back.vectors(), cases.vectors(back.keys()), rtol=2e-3, atol=TOLERANCE[dtype])


def test_an_index_goes_to_usearch_and_back(tmp_path: Path, rng: np.random.Generator) -> None:
    keys = np.array([7, 2**64 - 2, 0, 12], np.uint64)
    index = osler.Index.build(rng.normal(size=(4, 5)).astype(np.float32), keys=keys, metric="l2")
    export_usearch(index, tmp_path / "a.usearch")
    numbers, vectors, metric = read_usearch(tmp_path / "a.usearch")
    assert metric == "l2"
    assert numbers.tolist() == sorted(keys.tolist())
    np.testing.assert_array_equal(vectors, index.get(numbers))


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_exact_search_agrees_with_usearch(metric: str, tmp_path: Path, rng: np.random.Generator) -> None:
    vectors, queries = rng.normal(size=(1_500, 33)).astype(np.float32), rng.normal(size=(40, 33)).astype(np.float32)
    if metric == "cosine":
        vectors, queries = unit(vectors), unit(queries)
    theirs = usearch_search(vectors, queries, 10, METRICS[metric], exact=True)
    cases = osler.Collection.create(tmp_path / "a.osler", dim=33, metric=metric)  # type: ignore[arg-type]
    cases.add_vectors([str(row) for row in range(1_500)], vectors)
    many = cases.search_many(vectors=queries, k=10, recall=1)
    for row, hits in enumerate(many):
        assert [int(hit.key) for hit in hits] == theirs[row].keys.tolist()
        distances = {"cosine": lambda s: 1 - s, "dot": lambda s: 1 - s, "l2": lambda s: -s}[metric]
        np.testing.assert_allclose([distances(hit.score) for hit in hits], theirs[row].distances, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "is not a usearch index"),
        (lambda path: path.write_bytes(b"not an index" * 100), "is not a usearch index"),
        (
            lambda path: UsearchIndex(ndim=8, metric="hamming", dtype="b1").save(str(path)),
            "of b1 vectors under hamming",
        ),
        (lambda path: UsearchIndex(ndim=8, metric="cos", dtype="f32").save(str(path)), "holds no vectors"),
    ],
)
def test_what_cannot_be_imported_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "a.usearch")
    with pytest.raises(ValueError, match=message):
        import_usearch(tmp_path / "a.usearch", tmp_path / "cases.osler")
    assert not (tmp_path / "cases.osler").exists()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="usearch is not there"):
        import_usearch(tmp_path / "a.usearch", tmp_path / "cases.osler")
    with pytest.raises(FileNotFoundError, match="folder for a"):
        export_usearch(osler.Index(dim=3), tmp_path / "none" / "a.usearch")
