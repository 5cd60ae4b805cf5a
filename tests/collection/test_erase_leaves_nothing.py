"""What `erase` removes: live, deleted and former versions, earlier states, graphs, places; what it leaves; what it
reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import format_reader
import numpy as np
import osler
import polars as pl
import pytest


def holds(path: Path, what: bytes) -> list[str]:
    files = [file for file in path.rglob("*") if file.is_file()]
    return sorted(
        file.relative_to(path).parts[0]
        for file in files
        if what in file.read_bytes() or what in format_reader.texts(file.read_bytes())
    )


def test_an_item_and_its_earlier_states_are_gone(cases: osler.Collection) -> None:
    vectors = np.eye(8, dtype=np.float32)
    cases.add_vectors(["a-key", "b-key"], vectors[:2], metadata=[{"note": "first-note"}, {"note": "other-note"}])
    cases.update("a-key", metadata={"note": "second-note"})
    cases.delete(["a-key"])
    for what in (b"a-key", b"first-note", b"second-note", b"other-note"):
        assert holds(cases.path, what), "the scan finds nothing"
    report = cases.erase("a-key")
    assert (report.items, report.versions, report.parts) == (1, 2, 2)
    assert report.commit == cases.info().commit and report.files > 0 and report.bytes > 0
    for what in (b"a-key", b"first-note", b"second-note"):
        assert not holds(cases.path, what)
    assert len(list((cases.path / "manifests").iterdir())) == 1
    assert cases.keys() == ["b-key"] and holds(cases.path, b"other-note") == ["segments"]
    cases.verify()


def test_a_key_that_only_an_earlier_state_has_is_erased_too(cases: osler.Collection) -> None:
    cases.add_vectors(["a-key", "b"], np.eye(8)[:2])
    cases.delete(["a-key"])
    cases.compact()
    assert holds(cases.path, b"a-key"), "the earlier state is kept for readers"
    assert cases.erase("a-key").versions == 0
    assert not holds(cases.path, b"a-key")


def test_a_condition_erases_what_it_holds_for_and_nothing_else(cases: osler.Collection) -> None:
    cases.add_vectors(["a", "b", "c"], np.eye(8)[:3], metadata=[{"who": "doe"}, {"who": "roe"}, {"who": "doe"}])
    # What "a" was is meant by the condition, what it is now is not.
    cases.update("a", metadata={"who": "poe"})
    cases.delete(["c"])
    report = cases.erase(where="who = 'doe'")
    assert (report.items, report.versions) == (1, 2)
    assert cases.keys() == ["b", "a"]
    assert not holds(cases.path, b"doe")
    with pytest.raises(ValueError, match="exactly one of keys= and where="):
        cases.erase()
    with pytest.raises(ValueError, match="no column 'name'"):
        cases.erase(where="name = 'doe'")
    assert cases.erase(["nobody"]).items == 0


def test_a_graph_goes_on_without_what_was_erased(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(2_300, 16)).astype(np.float32)
    with osler.Collection.create(tmp_path / "cases.osler", dim=16, metric="l2") as cases:
        cases.add_vectors([str(row) for row in range(2_300)], vectors)
    with osler.Collection.open(tmp_path / "cases.osler", mode="a") as cases:
        assert set(holds(cases.path, vectors[7].tobytes())) == {"graphs", "segments"}
        cases.erase(["7", "8"])
        assert not holds(cases.path, vectors[7].tobytes())
        assert cases.info().graph["count"] == 2_298
        assert [hit.key for hit in cases.search(vector=vectors[9], k=1)] == ["9"]
        cases.verify()


def test_a_reader_of_an_earlier_state_is_told(cases: osler.Collection) -> None:
    cases.add_vectors(["a", "b"], np.eye(8)[:2])
    with osler.Collection.open(cases.path) as reader:
        cases.erase("a")
        with pytest.raises(osler.Error, match="changed and cleaned up since it was opened; open it again") as caught:
            reader.keys()
        assert caught.value.code == "stale" and not isinstance(caught.value, osler.CorruptIndexError)


def test_where_a_file_lay_is_erased_with_it(tmp_path: Path, pictures: Callable[..., Path], tiny: Any) -> None:
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(pictures(3), progress=False)
        gone, kept, _ = cases.keys()
        assert set(holds(cases.path, gone.encode())) == {"locators", "segments"}
        cases.erase(gone)
        assert not holds(cases.path, gone.encode())
        assert cases._handle.snapshot.locator(0)[1] == [kept]


def test_a_reader_cannot_erase(cases: osler.Collection) -> None:
    cases.add_vectors(["a"], np.eye(8)[:1])
    with osler.Collection.open(cases.path) as reader, pytest.raises(osler.ReadOnlyError):
        reader.erase("a")


def test_a_polars_expression_erases_what_it_counts(cases: osler.Collection) -> None:
    cases.add_vectors(["a", "b"], None, metadata=[{"age": 10}, {"age": 50}])
    cases.add_vectors(["c"], None, metadata=[{"age": 20}])
    oldest = pl.col("age") == pl.col("age").max()
    assert cases.keys(oldest) == ["b"]
    assert cases.erase(where=oldest).items == 1
    assert cases.keys() == ["a", "c"]


def test_the_name_of_a_column_goes_with_the_last_item_that_has_it(cases: osler.Collection) -> None:
    cases.add_vectors(["a"], None, metadata=[{"Jane Doe's number": 1, "site": "x"}])
    cases.add_vectors(["b"], None, metadata=[{"site": "y", "note": None}])
    cases.erase("a")
    assert cases.schema == {"site": "text", "note": "null"}
    assert b"Jane" not in b"".join(file.read_bytes() for file in cases.path.rglob("*") if file.is_file())
    cases.delete("b")
    cases.erase(where="site = 'y'")
    assert cases.schema == {}
