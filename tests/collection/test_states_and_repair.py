"""Snapshots that do not move, graphs made again, earlier states put in force, and audits."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import osler
import pytest


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))


def test_a_snapshot_does_not_move_and_writes_nothing(cases: osler.Collection) -> None:
    cases.add_vectors(["a", "b"], np.eye(8)[:2])
    before = cases.snapshot()
    for number in range(7):
        cases.add_vectors([f"k{number}"], np.eye(8)[2:3])
    cases.delete(["a"])
    cases.compact()
    assert before.keys() == ["a", "b"]
    assert [hit.key for hit in before.search(vector=np.eye(8)[0])] == ["a", "b"]
    for write in (lambda: before.delete(["a"]), lambda: before.erase("a"), lambda: before.repair()):
        with pytest.raises(osler.ReadOnlyError, match=r"snapshot of cases\.osler"):
            write()
    before.close()
    cases.add_vectors(["after"], np.eye(8)[3:4])
    assert "after" in cases and len(cases) == 9


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_damaged_graph_is_made_again_and_no_row_is_touched(
    how: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "cases.osler"
    vectors = rng.normal(size=(2_100, 8))
    with osler.Collection.create(path, dim=8) as cases:
        cases.add_vectors([str(row) for row in range(2_100)], vectors)
    (graph,) = (path / "graphs").iterdir()
    if how == "flipped":
        flip(graph, 9_000)
    else:
        graph.unlink()
    with osler.Collection.open(path) as cases, pytest.raises(osler.CorruptIndexError, match="graphs/"):
        cases.verify()
    with osler.Collection.open(path, mode="a") as cases:
        cases.repair()
        cases.verify()
        assert len(cases) == 2_100
        assert cases.search(vector=vectors[7], k=1)[0].key == "7"
    with osler.Collection.open(path) as cases:
        cases.verify()
        assert cases.info().graph is not None


def test_damage_of_rows_is_never_repaired(tmp_path: Path) -> None:
    path = tmp_path / "cases.osler"
    with osler.Collection.create(path, dim=8) as cases:
        cases.add_vectors(["a"], np.eye(8)[:1])
    (segment,) = (path / "segments").iterdir()
    before = segment.read_bytes()
    flip(segment, 4_100)
    with osler.Collection.open(path, mode="a") as cases:
        with pytest.raises(osler.CorruptIndexError, match=segment.name):
            cases.repair()
        assert cases.info().items == 1
    assert len(segment.read_bytes()) == len(before)


def test_an_earlier_state_is_put_in_force_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "cases.osler"
    with osler.Collection.create(path, dim=8) as cases:
        cases.add_vectors(["a"], np.eye(8)[:1])
        cases.add_vectors(["b"], np.eye(8)[1:2])
        cases.add_vectors(["c"], np.eye(8)[2:3])
    newest = max((path / "manifests").iterdir())
    flip(newest, 4_200)
    for mode in ("r", "a"):
        with pytest.raises(osler.CorruptIndexError, match=newest.name):
            osler.Collection.open(path, mode=mode)
    states = osler.Collection.states(path)
    assert [(state.commit, state.items, bool(state.findings)) for state in states] == [
        (3, None, True),
        (2, 2, False),
        (1, 1, False),
        (0, 0, False),
    ]
    for wrong in (3, 9):
        with pytest.raises((ValueError, osler.CorruptIndexError)):
            osler.Collection.recover(path, to=wrong)
    assert osler.Collection.recover(path, to=2) == 4
    with osler.Collection.open(path, mode="a") as cases:
        cases.verify()
        assert cases.keys() == ["a", "b"]
        cases.add_vectors(["d"], np.eye(8)[3:4])
        assert [state.commit for state in osler.Collection.states(path)] == [5, 4, 3, 2]
        # Then it goes like any other old one.
        cases.add_vectors(["e"], np.eye(8)[4:5])
        cases.add_vectors(["f"], np.eye(8)[5:6])
    assert not newest.exists()
    with pytest.raises(FileNotFoundError, match="no collection at none"):
        osler.Collection.states(tmp_path / "none")


def test_a_state_whose_segment_is_damaged_is_listed_as_that(tmp_path: Path) -> None:
    path = tmp_path / "cases.osler"
    with osler.Collection.create(path, dim=8) as cases:
        cases.add_vectors(["a"], np.eye(8)[:1])
        (first,) = (path / "segments").iterdir()
        cases.add_vectors(["b"], np.eye(8)[1:2])
    (second,) = set((path / "segments").iterdir()) - {first}
    flip(second, 4_100)
    damaged = [(state.commit, [found["file"] for found in state.findings]) for state in osler.Collection.states(path)]
    assert damaged == [(2, [f"segments/{second.name}"]), (1, []), (0, [])]
    with pytest.raises(ValueError, match="no sound state 2"):
        osler.Collection.recover(path, to=2)
    osler.Collection.recover(path, to=1)
    with osler.Collection.open(path) as cases:
        assert cases.keys() == ["a"]


def test_nobody_recovers_a_collection_that_is_written_to(cases: osler.Collection) -> None:
    cases.add_vectors(["a"], np.eye(8)[:1])
    with pytest.raises(osler.LockedError):
        osler.Collection.recover(cases.path, to=0)


def test_an_audit_counts_what_looks_like_a_person_and_shows_nothing(cases: osler.Collection) -> None:
    rows = [
        {"note": "seen by Doe^Jane", "site": "a", "number": 12345678},
        {"note": "write to jane@example.org", "site": "b", "when": "2024-05-31"},
        {"note": "1.2.840.113619.2.55.3", "file": "/home/jane/scans/1.dcm", "pseudonym": "0123456789abcdef" * 2},
    ]
    cases.add_vectors(["20240531-1", "b", "c"], None, metadata=rows)
    found = cases.audit()
    assert {(one["column"], one["pattern"]) for one in found.findings} == {
        ("key", "date"),
        ("key", "digits"),
        ("note", "person_name"),
        ("note", "email"),
        ("note", "uid"),
        ("number", "digits"),
        ("when", "date"),
        ("file", "path"),
    }
    assert all(one["items"] == 1 for one in found.findings)
    assert "jane" not in repr(found).lower()
    assert set(found.unknown) == {"note", "site", "number", "when", "file", "pseudonym"}
    assert found.kept == ()


def test_an_audit_looks_at_numbers_lists_former_versions_and_names_of_columns(cases: osler.Collection) -> None:
    row = {"mrn": 1234567.0, "numbers": [7654321, 1], "note": "Doe^Jane", "tel jane@example.org": 1}
    cases.add_vectors(["a"], None, metadata=[row])
    cases.update("a", metadata={"note": None})
    found = {(one["column"], one["pattern"], one["items"]) for one in cases.audit().findings}
    assert found >= {("mrn", "digits", 2), ("numbers", "digits", 2), ("note", "person_name", 1)}
    assert ("tel jane@example.org", "email", 0) in found
    assert cases.audit().items == 2


def test_a_snapshot_is_not_pickled_as_something_else(cases: osler.Collection) -> None:
    with pytest.raises(TypeError, match="a snapshot is not pickled"):
        pickle.dumps(cases.snapshot())
    with pytest.raises(TypeError, match="the key of an item is a str"):
        cases[["a", "b"]]
    cases.add_vectors(["a"], None, metadata=[{"l": [1, 2]}])
    with pytest.raises(ValueError, match="column 'l' holds lists"):
        cases.minmax("l")
    with pytest.raises(ValueError, match="number of a commit"):
        osler.Collection.recover(cases.path, to=-1)
