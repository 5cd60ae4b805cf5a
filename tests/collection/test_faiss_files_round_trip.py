"""faiss as a neighbour: its files come in, ours are searched by it with the answers of exact search, and come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import foreign_files as made
import numpy as np
import osler
import polars as pl
import pytest
from osler.collection.interchange import (
    export_faiss,
    export_usearch,
    import_faiss,
    import_usearch,
    is_faiss,
    read_faiss,
)
from osler.errors import CorruptIndexError

METRICS = {"dot": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
KINDS: Any = ("flat", "hnsw", "ivf")


def clustered(rng: np.random.Generator, *counts: int, dim: int = 32) -> list[np.ndarray]:
    centres = rng.normal(size=(60, dim))
    return [
        (centres[rng.integers(60, size=count)] + 0.4 * rng.normal(size=(count, dim))).astype(np.float32)
        for count in counts
    ]


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)]))


@pytest.mark.parametrize("metric", sorted(METRICS))
@pytest.mark.parametrize("kind", ["Flat", "HNSW8", "IVF7,Flat", "IVF4_HNSW4,Flat", "IDMap,HNSW8", "IDMap2,Flat"])
def test_a_file_of_faiss_becomes_a_collection(metric: str, kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(300, 9)).astype(np.float32)
    theirs = faiss.index_factory(9, kind, METRICS[metric])
    theirs.train(vectors)
    keys = np.arange(300)
    if kind.startswith("I"):
        keys = rng.permutation(10_000)[:300].astype(np.int64)
        theirs.add_with_ids(vectors, keys)
    else:
        theirs.add(vectors)
    faiss.write_index(theirs, str(tmp_path / "a.faiss"))
    assert is_faiss(tmp_path / "a.faiss")
    with import_faiss(tmp_path / "a.faiss", tmp_path / "cases.osler") as cases:
        assert (cases.metric, cases.dim) == (metric, 9)
        assert cases.keys() == [str(key) for key in sorted(keys.tolist())]
        np.testing.assert_array_equal(cases.vectors([str(key) for key in keys.tolist()]), vectors)


@pytest.mark.parametrize("version", ["1.7.4", "1.15.1"])
def test_files_of_old_and_new_versions_hold_the_same(version: str) -> None:
    vectors, keys = made.vectors(), made.keys()
    paths = sorted((made.HERE / f"faiss-{version}").glob("*.faiss"))
    assert [path.stem for path in paths] == [
        *("flat-dot", "flat-l2", "hnsw-dot", "hnsw-l2", "ids-dot", "ids-l2", "ivf-dot", "ivf-l2", "sparse-l2")
    ]
    for path in paths:
        kind, metric = path.stem.split("-")
        numbers, rows, found = read_faiss(path)
        own = np.arange(48) if kind in ("flat", "hnsw") else keys
        assert found == metric
        assert numbers.tolist() == sorted(own.tolist())
        np.testing.assert_array_equal(rows, vectors[np.argsort(own)])


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_collection_goes_to_faiss_and_back(kind: Any, metric: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    cases = osler.Collection.create(tmp_path / "a.osler", dim=8, metric=metric)
    cases.add_vectors([f"case {row}" for row in range(60)], rng.normal(size=(60, 8)))
    cases.add_vectors(["without"], None)
    cases.delete(["case 7"])
    export_faiss(cases, tmp_path / "b.faiss", kind=kind)
    assert (tmp_path / "b.faiss").stat().st_mode & 0o777 == 0o600
    assert faiss.read_index(str(tmp_path / "b.faiss")).ntotal == 59
    own = {"cosine": "dot"}.get(metric, metric)
    for name, asked, expected in (("c.osler", None, own), ("d.osler", metric, metric)):
        with import_faiss(tmp_path / "b.faiss", tmp_path / name, metric=asked) as back:
            assert back.metric == expected
            assert back.keys() == [key for key in cases if key != "without"]
            np.testing.assert_array_equal(back.vectors(), cases.vectors(back.keys()))


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_faiss_finds_what_exact_search_finds(kind: Any, metric: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    vectors, queries = clustered(rng, 5_000, 200)
    keys = rng.permutation(20_000)[:5_000].astype(np.uint64)
    index = osler.Index.build(vectors, keys, metric=metric)
    true = index.search(queries, k=10, exact=True)
    export_faiss(index, tmp_path / "a.faiss", kind=kind)
    theirs = faiss.read_index(str(tmp_path / "a.faiss"))
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True) if metric == "cosine" else queries
    scores, found = theirs.search(asked, 10)
    if kind == "flat":
        assert found.tolist() == true.keys.tolist()
        np.testing.assert_allclose(scores if metric != "l2" else -scores, true.scores, rtol=1e-4, atol=1e-4)
    assert recall(found, true.keys) >= 0.95
    if kind == "hnsw":
        inner = faiss.downcast_index(theirs.index)
        inner.hnsw.efSearch = 16
        assert recall(theirs.search(asked, 10)[1], true.keys) >= 0.95
    if kind == "ivf":
        assert theirs.nprobe < theirs.nlist
    else:
        np.testing.assert_array_equal(theirs.reconstruct(int(keys[5])), index.get(keys[5:6])[0])


def test_clusters_larger_than_what_a_row_sees_hold_no_walk(tmp_path: Path, rng: np.random.Generator) -> None:
    """All near rows that a row is linked with may be of its own cluster, and a walk must leave the wrong one."""
    centres = rng.normal(size=(160, 48))
    rows = (centres[np.arange(16_200) % 160] + 0.2 * rng.normal(size=(16_200, 48))).astype(np.float32)
    index = osler.Index.build(rows[:16_000], metric="l2")
    export_faiss(index, tmp_path / "a.faiss", kind="hnsw")
    found = faiss.read_index(str(tmp_path / "a.faiss")).search(rows[16_000:], 10)[1]
    assert recall(found, index.search(rows[16_000:], k=10, exact=True).keys) >= 0.995


@pytest.mark.parametrize("kind", KINDS)
def test_faiss_adds_to_our_file(kind: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    vectors, more = clustered(rng, 800, 50)
    export_faiss(osler.Index.build(vectors, metric="l2"), tmp_path / "a.faiss", kind=kind)
    theirs = faiss.read_index(str(tmp_path / "a.faiss"))
    theirs.add(more)
    assert (theirs.search(more, 1)[1][:, 0] == np.arange(800, 850)).mean() >= 0.95
    faiss.write_index(theirs, str(tmp_path / "b.faiss"))
    numbers, rows, _ = read_faiss(tmp_path / "b.faiss")
    assert numbers.tolist() == list(range(850))
    np.testing.assert_array_equal(rows, np.vstack([vectors, more]))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_are_enough(kind: Any, count: int, tmp_path: Path) -> None:
    index = osler.Index(dim=3, metric="l2")
    index.add(np.eye(5, 3, dtype=np.float32)[:count])
    export_faiss(index, tmp_path / "a.faiss", kind=kind)
    theirs = faiss.read_index(str(tmp_path / "a.faiss"))
    assert theirs.ntotal == count
    if count:
        distances, found = theirs.search(np.eye(5, 3, dtype=np.float32)[:count], 1)
        assert not distances.any() and (found >= 0).all()
    assert len(read_faiss(tmp_path / "a.faiss")[0]) == count


def test_the_same_vectors_make_the_same_bytes(tmp_path: Path, rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.normal(size=(2_500, 6)).astype(np.float32))
    for kind in KINDS:
        files = [tmp_path / name for name in ("a.faiss", "b.faiss")]
        for file in files:
            export_faiss(index, file, kind=kind)
        assert files[0].read_bytes() == files[1].read_bytes()


def test_keys_lie_beside_the_file(tmp_path: Path) -> None:
    cases = osler.Collection.create(tmp_path / "a.osler", dim=2)
    cases.add_vectors(["x", "y"], np.eye(2))
    export_faiss(cases, tmp_path / "a.faiss")
    table = pl.read_parquet(tmp_path / "a.faiss.keys.parquet")
    assert table.drop("sha256").to_dict(as_series=False) == {"number": [0, 1], "key": ["x", "y"]}


@pytest.mark.parametrize(("export", "load"), [(export_faiss, import_faiss), (export_usearch, import_usearch)])
def test_names_of_an_older_file_do_not_stay(export: Any, load: Any, tmp_path: Path) -> None:
    cases = osler.Collection.create(tmp_path / "a.osler", dim=2)
    cases.add_vectors(["x", "y"], np.eye(2))
    export(cases, tmp_path / "a.file")
    export(osler.Index.build(np.eye(2, dtype=np.float32)), tmp_path / "a.file")
    assert load(tmp_path / "a.file", tmp_path / "b.osler").keys() == ["0", "1"]


def refused(write: Any, message: str, path: Path) -> None:
    write(str(path))
    with pytest.raises(ValueError, match=message) as caught:
        import_faiss(path, path.with_name("cases.osler"))
    assert not isinstance(caught.value, CorruptIndexError)
    assert path.name in str(caught.value)
    assert not path.with_name("cases.osler").exists()


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("SQ8", "IxSQ"),
        ("PQ3x4", "IxPq"),
        ("HNSW8,SQ8", "IHNs"),
        ("IVF3,SQ8", "IwSq"),
        ("PCA2,Flat", "IxPT"),
        ("IDMap,SQ8", "IxSQ"),
    ],
)
def test_kinds_that_lose_vectors_are_refused_by_name(kind: str, named: str, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    index = faiss.index_factory(6, kind)
    index.train(vectors)
    refused(lambda path: faiss.write_index(index, path), f"of kind {named}; Osler reads flat", tmp_path / "a.faiss")


def test_what_has_no_place_here_is_refused(tmp_path: Path) -> None:
    def of(index: Any, ids: list[int] | None = None) -> Any:
        rows = np.eye(2, 3, dtype=np.float32)
        if ids is None:
            index.add(rows)
        else:
            index.add_with_ids(rows, np.array(ids, np.int64))
        return lambda path: faiss.write_index(index, path)

    path = tmp_path / "a.faiss"
    refused(of(faiss.IndexFlat(3, faiss.METRIC_L1)), "under metric 2; Osler has", path)
    refused(of(faiss.IndexIDMap(faiss.IndexFlatL2(3)), [-1, 5]), "negative ids", path)
    refused(of(faiss.IndexIDMap(faiss.IndexFlatL2(3)), [5, 5]), "several vectors under one id", path)
    refused(lambda name: faiss.write_index(faiss.IndexFlatL2(3), name), "holds no vectors", path)
    refused(lambda name: Path(name).write_bytes(b""), "is not a faiss index; give a file", path)
    refused(lambda name: Path(name).write_bytes(b"Hello, world"), "is not a faiss index; give a file", path)
    refused(lambda name: faiss.write_index_binary(faiss.IndexBinaryFlat(8), name), "of kind IBxF", path)


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    index = osler.Index.build(np.eye(2, dtype=np.float32), keys=np.array([1, 2**63], np.uint64))
    with pytest.raises(ValueError, match=r"at most 2\*\*63 - 1"):
        export_faiss(index, tmp_path / "a.faiss")
    other: Any = "pq"
    with pytest.raises(ValueError, match="kind is 'pq'; choose flat, hnsw or ivf"):
        export_faiss(index, tmp_path / "a.faiss", kind=other)
    with pytest.raises(FileNotFoundError, match="folder for a"):
        export_faiss(index, tmp_path / "none" / "a.faiss")
    with pytest.raises(FileNotFoundError, match="faiss is not there"):
        import_faiss(tmp_path / "a.faiss", tmp_path / "cases.osler")
    assert not list(tmp_path.iterdir())
