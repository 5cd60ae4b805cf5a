"""A filter allows exactly its share, and its queries come from the side that its kind says."""

from __future__ import annotations

import filters
import numpy as np
import pytest


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    chance = np.random.default_rng(3)
    found = chance.standard_normal((2_000, 12)).astype(np.float32)
    found[:, 5] *= 4
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", filters.KINDS)
@pytest.mark.parametrize("share", [0.5, 0.01])
def test_the_share_is_exact(rows: np.ndarray, kind: str, share: float) -> None:
    limit = round(share * len(rows))
    assert (filters.columns(rows)[filters.column(kind)] < limit).sum() == limit


def test_correlated_queries_lie_among_the_allowed_rows_and_the_others_do_not(rows: np.ndarray) -> None:
    along = filters.axis(rows)
    allowed = rows[filters.columns(rows)["by_axis"] < 200]
    queries = rows[::10]
    near, far, any_ = (
        filters.choose_queries(kind, queries, along, 20) for kind in ("correlated", "anti-correlated", "random")
    )
    assert (near @ allowed.T).mean() > (any_ @ allowed.T).mean() > (far @ allowed.T).mean()


def test_the_main_axis_is_the_direction_of_most_spread(rows: np.ndarray) -> None:
    assert abs(filters.axis(rows)[5]) > 0.9
