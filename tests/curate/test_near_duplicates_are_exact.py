"""near_duplicates gives every pair at or above the threshold, once, as a plain double loop does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.curate import near_duplicates


def unit(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 40), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_pairs_equal_a_double_loop(seed: int, rows: int, dim: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, rows // 4), dim))
    vectors = centres[rng.integers(len(centres), size=rows)] + 0.1 * rng.normal(size=(rows, dim))
    cosines = unit(vectors.astype(np.float32))
    cosines = cosines @ cosines.T
    frame = near_duplicates(vectors, threshold=threshold)
    found = {(a, b): score for a, b, score in frame.rows()}
    assert len(found) == len(frame)
    for a in range(rows):
        for b in range(a + 1, rows):
            # A pair whose cosine is within a rounding error of the threshold may fall on either side of it.
            if abs(cosines[a, b] - threshold) > 1e-5:
                assert ((a, b) in found) == (cosines[a, b] >= threshold)
            if (a, b) in found:
                assert found[a, b] == pytest.approx(cosines[a, b], abs=1e-5)
    assert all(a < b for a, b in found)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 40), st.sampled_from([0.0, 0.9, 1.0]))
def test_new_rows_against_old_are_the_pairs_of_all_that_are_not_of_old(
    seed: int, new: int, old: int, threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 6))
    vectors = (centres[rng.integers(5, size=new + old)] + 0.1 * rng.normal(size=(new + old, 6))).astype(np.float32)
    names = [f"{number:03}" for number in rng.permutation(new + old)]
    everything = near_duplicates(vectors, threshold=threshold, keys=names).rows()
    of_old = {
        frozenset(row[:2]) for row in near_duplicates(vectors[new:], threshold=threshold, keys=names[new:]).rows()
    }
    frame = near_duplicates(
        vectors[:new], threshold=threshold, keys=names[:new], against=vectors[new:], against_keys=names[new:]
    )
    assert {(frozenset(row[:2]), row[2]) for row in frame.rows()} == {
        (frozenset(row[:2]), row[2]) for row in everything if frozenset(row[:2]) not in of_old
    }
    known = set(names[new:])
    assert all(a not in known and (b in known) == against for a, b, _, against in frame.rows())


def test_a_collection_is_what_new_vectors_are_compared_against(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=2) as cases:
        cases.add_vectors(["x", "y", "z"], np.array([[1, 0], [0, 1], [2, 0]]))
        frame = near_duplicates(np.array([[0.0, 3], [1, 0.01]]), keys=["n", "m"], against=cases, threshold=0.9)
        assert [row[:2] for row in frame.rows()] == [("n", "y"), ("m", "x"), ("m", "z")]
        assert frame["against"].to_list() == [True] * 3
        assert len(near_duplicates(cases, against=np.empty((0, 2)), against_keys=[])) == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_a_limit_keeps_the_first_rows_of_the_whole(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(0, 3, size=(60, 3)) + np.array([1, 0, 0])
    whole = near_duplicates(vectors, threshold=0.9).rows()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("osler.curate.duplicates._HELD", 5)
        assert near_duplicates(vectors, threshold=0.9, limit=limit).rows() == whole[:limit]


def test_rows_are_sorted_by_score_then_keys() -> None:
    vectors = np.array([[1, 0], [1, 0], [1, 0.1], [1, 0]])
    frame = near_duplicates(vectors, threshold=0.9, keys=["d", "b", "c", "a"])
    assert [row[:2] for row in frame.rows()] == [
        ("a", "b"), ("a", "d"), ("b", "d"), ("a", "c"), ("b", "c"), ("c", "d"),
    ]  # fmt: skip
    assert frame["score"].to_list() == sorted(frame["score"].to_list(), reverse=True)


def test_items_pair_by_their_best_parts_and_never_with_themselves(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=3) as cases:
        vectors = np.array([[1, 0, 0], [1, 0.01, 0], [0, 1, 0], [1, 0, 0.02], [0, 1, 0.2], [0, 0, 1]])
        cases.add_vectors(["x", "y", "z"], vectors, parts=[0, 0, 0, 1, 1, 2])
        frame = near_duplicates(cases, threshold=0.9)
    best = float((unit(vectors[:3]) @ unit(vectors[3:5]).T).max())
    assert [row[:2] for row in frame.rows()] == [("x", "y")]
    assert frame["score"][0] == pytest.approx(best, abs=1e-6)


def test_pictures_are_compared_where_there_are_any(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=2) as cases:
        vectors = np.array([[1, 0], [1, 1], [0, 1], [1, 1]])
        cases.add_vectors(["x", "y"], vectors, parts=[0, 0, 1, 1], kind=["image", "text", "image", "text"])
        assert len(near_duplicates(cases, threshold=0.9)) == 0
    with osler.Collection.create(tmp_path / "b.osler", dim=2) as cases:
        cases.add_vectors(["x", "y"], np.ones((2, 2)), kind="text")
        assert near_duplicates(cases, threshold=0.9).rows() == [("x", "y", pytest.approx(1.0))]


def test_the_empty_and_the_single_have_no_pairs(tmp_path: Path) -> None:
    for vectors in (np.empty((0, 4)), np.ones((1, 4))):
        frame = near_duplicates(vectors)
        assert frame.columns == ["key_a", "key_b", "score"] and len(frame) == 0
    with osler.Collection.create(tmp_path / "a.osler", dim=2) as cases:
        assert len(near_duplicates(cases)) == 0


@pytest.mark.parametrize(
    ("vectors", "options", "said"),
    [
        (np.eye(2), {"threshold": 1.5}, "threshold is 1.5"),
        (np.eye(2), {"threshold": -1.0}, "above -1"),
        (np.eye(2), {"keys": ["a"]}, "1 different entries for 2 vectors"),
        (np.eye(2), {"keys": ["a", "a"]}, "1 different entries for 2 vectors"),
        (np.ones(3), {}, "shape"),
        (np.array([[1.0, np.nan], [1, 1]]), {}, "NaN|finite"),
        (np.zeros((2, 2)), {}, "zero"),
        (np.eye(2), {"limit": 0}, "limit is 0"),
        (np.eye(2), {"against": np.eye(3)}, "against has"),
        (np.eye(2), {"against": np.ones(2)}, "against has shape"),
        (np.eye(2), {"against": np.eye(2), "against_keys": ["a"]}, "against_keys has 1 different"),
        (np.eye(2), {"against": np.eye(2), "against_keys": ["a", "b"]}, "keys of one type"),
        (np.eye(2), {"against_keys": ["a", "b"]}, "give those too"),
    ],
)
def test_what_cannot_be_compared_says_why(vectors: Any, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        near_duplicates(vectors, **options)


def test_a_collection_takes_no_keys(tmp_path: Path) -> None:
    with (
        osler.Collection.create(tmp_path / "a.osler", dim=2) as cases,
        pytest.raises(ValueError, match="has its own keys"),
    ):
        near_duplicates(cases, keys=["a"])
