"""Equal scores are no misses; an answer that cannot be is no answer."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
import truth

ROWS = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
QUERY = np.array([[1, 0]], np.float32)


def test_the_doctests_hold() -> None:
    assert doctest.testmod(truth).failed == 0


@pytest.mark.parametrize("found", [[0, 1], [2, 0], [1, 2]])
def test_any_of_the_rows_with_an_equal_score_is_a_hit(found: list[int]) -> None:
    kth = truth.kth_scores(ROWS, QUERY, 2)
    assert truth.recall(ROWS, QUERY, np.array([found]), kth) == 1.0


def test_a_row_below_the_kth_score_and_a_missing_row_are_misses() -> None:
    kth = truth.kth_scores(ROWS, QUERY, 2)
    assert truth.recall(ROWS, QUERY, np.array([[0, 4]]), kth) == 0.5
    assert truth.recall(ROWS, QUERY, np.array([[0, -1]]), kth) == 0.5
    assert truth.recall(ROWS, QUERY, np.array([[-1, -1]]), kth) == 0.0


@pytest.mark.parametrize(("found", "reason"), [([0, 0], "twice"), ([0, 5], "not exist"), ([0, -2], "not exist")])
def test_an_impossible_answer_is_refused(found: list[int], reason: str) -> None:
    kth = truth.kth_scores(ROWS, QUERY, 2)
    with pytest.raises(ValueError, match=reason):
        truth.recall(ROWS, QUERY, np.array([found]), kth)


def test_a_forbidden_row_is_refused_and_fewer_allowed_than_k_is_no_miss() -> None:
    mask = np.array([False, True, False, False, True])
    kth = truth.kth_scores(ROWS, QUERY, 3, mask=mask)
    assert kth[0] == -1.0
    assert truth.recall(ROWS, QUERY, np.array([[1, 4, -1]]), kth, mask=mask) == 1.0
    with pytest.raises(ValueError, match="forbids"):
        truth.recall(ROWS, QUERY, np.array([[1, 0, -1]]), kth, mask=mask)


@pytest.mark.parametrize("k", [1, 10])
def test_reading_block_by_block_gives_the_scores_of_the_whole(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(8)
    rows, queries = chance.standard_normal((500, 16), np.float32), chance.standard_normal((7, 16), np.float32)
    mask = chance.random(500) < 0.3
    monkeypatch.setattr(truth, "BLOCK", 64)
    for allowed in (None, mask):
        scores = queries @ (rows if allowed is None else rows[allowed]).T
        assert truth.kth_scores(rows, queries, k, mask=allowed) == pytest.approx(
            np.sort(scores, axis=1)[:, -k], abs=1e-5
        )


def test_scores_are_kept_and_a_set_of_another_name_has_its_own(tmp_path: Path) -> None:
    kept = truth.kth_scores(ROWS, QUERY, 2, cache=("one", tmp_path))
    assert truth.kth_scores(-ROWS, QUERY, 2, cache=("one", tmp_path)) == kept
    assert truth.kth_scores(-ROWS, QUERY, 2, cache=("another", tmp_path)) != kept
