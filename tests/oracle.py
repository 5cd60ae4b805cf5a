"""What exact search must answer, in plain numpy and float64.

Knows nothing of Osler; tests compare the engine with it, by score where rounding decides and by key where it cannot.
"""

from __future__ import annotations

from typing import Any

import numpy as np

METRICS = ("cosine", "dot", "l2")
NO_KEY = np.uint64(2**64 - 1)


def scores(metric: str, rows: Any, queries: Any) -> np.ndarray:
    """Return the score of every row for every query, (m, n) float64; higher is nearer."""
    rows, queries = (np.asarray(np.asarray(side, np.float32), np.float64) for side in (rows, queries))
    if metric == "l2":
        return np.array([-np.square(rows - query).sum(-1) for query in queries]).reshape(len(queries), len(rows))
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return queries @ rows.T


def magnitude(metric: str, rows: Any, queries: Any) -> float:
    """Return the size of the terms that a score is summed from: rounding errors are a small multiple of it."""
    if metric == "cosine":
        return 1.0
    squares = [float(np.square(np.asarray(side, np.float64)).sum(-1).max(initial=0.0)) for side in (rows, queries)]
    return max(1e-30, squares[0] + squares[1])


def top(
    row_scores: np.ndarray,
    k: int,
    *,
    allowed: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    group_size: int | None = 1,
) -> np.ndarray:
    """Return the rows of the k best scores of one query: ties in row order, at most `group_size` rows of a group."""
    order = np.argsort(-row_scores, kind="stable")
    taken: list[int] = []
    per_group: dict[int, int] = {}
    for row in order:
        if allowed is not None and not allowed[row]:
            continue
        if groups is not None and group_size is not None:
            group = int(groups[row])
            if per_group.get(group, 0) >= group_size:
                continue
            per_group[group] = per_group.get(group, 0) + 1
        taken.append(int(row))
        if len(taken) == k:
            break
    return np.array(taken, dtype=np.int64)


def check_answer(
    found_keys: np.ndarray,
    found_scores: np.ndarray,
    count: int,
    *,
    keys: np.ndarray,
    row_scores: np.ndarray,
    k: int,
    tolerance: float,
    allowed: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    group_size: int | None = 1,
) -> None:
    """Assert that one query's answer is the exact one, up to rounding of the scores.

    The rows returned must be distinct, allowed and carry their own scores in descending order, and the list of scores
    must be the best one possible. Which of two rows within `tolerance` of each other is returned is left open.
    """
    best = top(row_scores, k, allowed=allowed, groups=groups, group_size=group_size)
    assert found_keys.shape == found_scores.shape == (k,)
    assert found_keys.dtype == np.uint64
    assert found_scores.dtype == np.float32
    assert count == len(best)
    assert (found_keys[count:] == NO_KEY).all()
    assert np.isneginf(found_scores[count:]).all()
    got = found_scores[:count].astype(np.float64)
    assert (np.diff(got) <= 0).all(), "scores are not in descending order"
    row_of = {int(key): row for row, key in enumerate(keys)}
    rows = np.array([row_of[int(key)] for key in found_keys[:count]], dtype=np.int64)
    assert len(set(rows.tolist())) == count, "a row was returned twice"
    if allowed is not None:
        assert allowed[rows].all(), "a row outside the filter was returned"
    if groups is not None and group_size is not None and count:
        assert np.unique(groups[rows], return_counts=True)[1].max() <= group_size
    np.testing.assert_allclose(got, row_scores[rows], rtol=0, atol=tolerance)
    np.testing.assert_allclose(got, row_scores[best], rtol=0, atol=tolerance)


def check_exact_search(index: Any, queries: np.ndarray, k: int, slack: float) -> None:
    """Assert that exact search over an index gives the best of the rows as `get` gives them.

    `slack` is how far a score may be off, of the largest that there can be.
    """
    keys = index.keys
    stored = index.get(keys)
    found = index.search(queries, k, exact=True)
    row_scores = scores(index.metric, stored, queries)
    for at in range(len(queries)):
        check_answer(
            found.keys[at],
            found.scores[at],
            found.counts[at],
            keys=keys,
            row_scores=row_scores[at],
            k=k,
            tolerance=slack * magnitude(index.metric, stored, queries),
        )


def recall(
    found_keys: np.ndarray,
    *,
    keys: np.ndarray,
    metric: str,
    rows: np.ndarray,
    queries: np.ndarray,
    allowed: np.ndarray | None = None,
    epsilon: float = 1e-6,
) -> np.ndarray:
    """Return each query's share of k returned rows whose true score reaches the true k-th, so ties are no misses."""
    k = found_keys.shape[1]
    row_of = np.full(int(keys.max()) + 1, -1, np.int64)
    row_of[keys.astype(np.int64)] = np.arange(len(keys))
    shares = np.empty(len(queries))
    for start in range(0, len(queries), 100):
        block = slice(start, start + 100)
        if metric == "l2":
            table = 2 * queries[block] @ rows.T - np.square(rows).sum(1) - np.square(queries[block]).sum(1)[:, None]
        else:
            table = queries[block] @ rows.T
        if allowed is not None:
            table = np.where(allowed, table, -np.inf)
        possible = min(k, int(allowed.sum()) if allowed is not None else len(rows))
        kth = -np.partition(-table, possible - 1, axis=1)[:, possible - 1]
        for at, returned in enumerate(found_keys[block]):
            rows_found = row_of[returned[returned != NO_KEY].astype(np.int64)]
            shares[start + at] = (table[at, rows_found] >= kth[at] - epsilon).sum() / possible
    return shares


def check_rows_find_themselves(
    index: Any, vectors: np.ndarray[Any, Any], keys: np.ndarray[Any, Any], where: str
) -> None:
    """Assert that nearly every row finds itself in a search for 3, and that each other one is reached by a wide walk.

    The recall that is asked for allows a miss here and there; a row that no walk reaches is lost.
    """
    missed = np.flatnonzero((index.search(vectors, 3).keys != keys[:, None]).all(axis=1))
    assert len(missed) <= 1 + len(keys) // 2_000, f"{where}: {len(missed)} of {len(keys)} rows miss themselves"
    if len(missed):
        wide = index.search(vectors[missed], 3, recall=0.999)
        lost = (wide.keys != keys[missed][:, None]).all(axis=1)
        assert not lost.any(), f"{where}: {int(lost.sum())} of {len(keys)} live rows are lost"
