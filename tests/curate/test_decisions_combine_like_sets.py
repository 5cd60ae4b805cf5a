"""Decisions are sets of kept keys: &, | and ~ are set operations, files hold all, and apply deletes the rest."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import osler
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.curate import Decisions

KEYS = ["a", "b", "c", "d", "e"]
VERDICTS = st.lists(st.booleans(), min_size=5, max_size=5)


def make(keep: list[bool], order: list[str] = KEYS, **options: Any) -> Decisions:
    return Decisions.of(order, keep=keep, **options)


@given(VERDICTS, VERDICTS, st.permutations(KEYS))
def test_operators_are_set_operations(left: list[bool], right: list[bool], order: list[str]) -> None:
    a, b = make(left), make(right, order)
    assert set((a & b).kept) == set(a.kept) & set(b.kept)
    assert set((a | b).kept) == set(a.kept) | set(b.kept)
    assert set((~a).kept) == set(KEYS) - set(a.kept)
    assert (a & b).key == (a | b).key == (~a).key == tuple(KEYS)
    assert set((a & b).kept) == set((b & a).kept)
    assert (~(a & b)).kept == (~a | ~b).kept


def test_the_reason_is_the_one_that_settled_it() -> None:
    sharp = make([True, True, False, False, True], reason=["sharp", "sharp", "blurred", "blurred", "sharp"], rule="s")
    paired = make([True, False, True, False, True], reason=["text", "no text", "text", "no text", "text"], rule="p")
    assert (sharp & paired).reason == ("sharp and text", "no text", "blurred", "blurred and no text", "sharp and text")
    assert (sharp | paired).reason == ("sharp or text", "sharp", "text", "blurred or no text", "sharp or text")
    assert (~sharp).reason[0] == "not (sharp)"
    assert (sharp & paired).rule == "(s) and (p)" and (~sharp).rule == "not (s)"


def test_a_score_stays_where_both_sides_have_it() -> None:
    a = make([True] * 5, score=[0.1, 0.2, None, 0.4, 0.5])
    b = make([True] * 5, score=[0.1, 0.3, 0.9, None, 0.5])
    assert (a & b).to_polars()["score"].to_list() == [0.1, None, None, None, 0.5]


def test_sides_about_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="2 items have a verdict on one side only"):
        make([True] * 5) & Decisions.of(["a", "b", "c", "d", "x"], keep=[True] * 5)
    with pytest.raises(TypeError):
        make([True] * 5) & 3  # type: ignore[operator]


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_a_file_gives_back_what_was_saved(tmp_path: Path, suffix: str) -> None:
    decisions = make([True, False, True, False, True], reason=list("vwxyz"), score=[0.5, None, -1, 1, 0], rule="ä rule")
    file = tmp_path / f"kept.{suffix}"
    decisions.save(file)
    assert Decisions.load(file) == decisions
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_an_edit_of_the_file_is_what_counts(tmp_path: Path) -> None:
    file = tmp_path / "kept.json"
    make([True, False, True, False, True]).save(file)
    document = json.loads(file.read_text())
    document["decisions"][1]["keep"] = True
    file.write_text(json.dumps(document))
    assert Decisions.load(file).kept == ["a", "b", "c", "e"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nothing", "no JSON document"),
        ("[]", "holds no decisions"),
        ('{"format": "other"}', "holds no decisions"),
        ('{"format": "osler decisions", "version": 2, "decisions": []}', "version 2; upgrade osler"),
        (
            '{"format": "osler decisions", "version": 1, "decisions": [{"key": "a", "keep": "no"}]}',
            "row 0 of kept.json",
        ),
        (
            '{"format": "osler decisions", "version": 1, "decisions": [{"keep": true}]}',
            "row 0 of kept.json lacks a key",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "kept.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=said):
        Decisions.load(file)


def test_a_parquet_file_of_something_else_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"key": ["a"], "keep": [True]}).write_parquet(tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="holds no decisions"):
        Decisions.load(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="is no Parquet file"):
        Decisions.load(tmp_path / "broken.parquet")
    with pytest.raises(ValueError, match=r"not as '\.csv'"):
        make([True] * 5).save(tmp_path / "kept.csv")


def test_columns_of_different_length_and_repeated_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="keep has 1 entries for 2 keys"):
        Decisions.of(["a", "b"], keep=[True])
    with pytest.raises(ValueError, match="1 keys are repeated"):
        Decisions.of(["a", "a"], keep=[True, True])


def test_apply_deletes_the_dropped_and_adding_again_undoes_it(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=5) as cases:
        cases.add_vectors(KEYS, np.eye(5))
        before = cases.vectors(["b"])
        decisions = make([True, False, True, False, True])
        assert decisions.apply(cases) == 2
        assert cases.keys() == ["a", "c", "e"]
        assert decisions.apply(cases) == 0
        cases.add_vectors(decisions.dropped, np.eye(5)[[1, 3]])
        assert sorted(cases.keys()) == KEYS
        np.testing.assert_array_equal(cases.vectors(["b"]), before)


def test_apply_to_items_without_a_verdict_deletes_nothing(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=6) as cases:
        cases.add_vectors([*KEYS, "late"], np.eye(6))
        with pytest.raises(ValueError, match="1 of the collection's 6 items have no verdict"):
            make([False] * 5).apply(cases)
        assert len(cases) == 6


def test_apply_can_write_keys_and_touch_nothing(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=5) as cases:
        cases.add_vectors(KEYS, np.eye(5))
        assert make([True, False, True, False, True]).apply(cases, keys=tmp_path / "keys.txt") == 3
        assert len(cases) == 5
    assert (tmp_path / "keys.txt").read_text() == "a\nc\ne\n"


def test_a_key_with_a_line_break_is_not_written_as_two_lines(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=2) as cases:
        cases.add_vectors(["a\nb", "c"], np.eye(2))
        with pytest.raises(ValueError, match="line break"):
            osler.curate.Decisions.of(["a\nb", "c"], keep=[True, True]).apply(cases, keys=tmp_path / "keys.txt")
    assert not (tmp_path / "keys.txt").exists()


def test_decisions_cannot_be_changed() -> None:
    decisions = make([True] * 5)
    with pytest.raises(ValueError, match="read-only"):
        decisions.keep[0] = False
    with pytest.raises(AttributeError):
        decisions.rule = "other"  # type: ignore[misc]
    assert repr(decisions) == "<osler Decisions: 5 of 5 items kept>"
