"""`search_range` returns every row at or above a score, and no other."""

from __future__ import annotations

import numpy as np
import oracle
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 120),
    dim=st.integers(1, 40),
    metric=st.sampled_from(["dot", "l2"]),
    filtered=st.booleans(),
)
def test_exact_sums(seed: int, n: int, dim: int, metric: str, filtered: bool) -> None:
    """Small integers: every score is exact, and rows at the threshold itself are common."""
    rng = np.random.default_rng(seed)
    index = osler.Index(dim, metric=metric)
    index.add(rng.integers(-2, 3, (n, dim)).astype(np.float32))
    queries = rng.integers(-2, 3, (4, dim)).astype(np.float32)
    allowed = rng.random(n) < 0.5 if filtered else None
    row_scores = oracle.scores(metric, index.get(index.keys), queries)
    threshold = float(rng.choice(row_scores.reshape(-1))) if n else 0.0
    pairs = index.search_range(queries, threshold, filter=allowed)
    assert (pairs.keys.dtype, pairs.scores.dtype) == (np.uint64, np.float32)
    assert pairs.offsets.shape == (5,)
    assert pairs.offsets[0] == 0
    assert pairs.offsets[-1] == len(pairs.keys) == len(pairs.scores)
    for at in range(4):
        part = slice(int(pairs.offsets[at]), int(pairs.offsets[at + 1]))
        permitted = row_scores[at] >= threshold
        if allowed is not None:
            permitted &= allowed
        expected = oracle.top(row_scores[at], n + 1, allowed=permitted)
        assert pairs.keys[part].tolist() == expected.tolist()
        assert pairs.scores[part].tolist() == row_scores[at][expected].tolist()


def test_cosine_away_from_the_threshold(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((2_300, 12)))
    queries = rng.standard_normal((30, 12)).astype(np.float32)
    table = oracle.scores("cosine", index.get(index.keys), queries)
    for threshold in (-1.0, 0.0, 0.5, 0.9, 1.1):
        pairs = index.search_range(queries, threshold)
        for at in range(30):
            got = set(pairs.keys[int(pairs.offsets[at]) : int(pairs.offsets[at + 1])].tolist())
            assert got >= set(np.flatnonzero(table[at] >= threshold + 1e-6).tolist())
            assert got <= set(np.flatnonzero(table[at] >= threshold - 1e-6).tolist())


def test_wrong_input(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((20, 4)))
    for queries, threshold in ((np.ones(5), 0.5), (np.full(4, np.nan), 0.5), (np.ones(4), np.nan), (np.zeros(4), 0.5)):
        with pytest.raises(ValueError):
            index.search_range(queries, threshold)
    with pytest.raises(TypeError):
        index.search_range(np.ones(4), 0.5, exact=True)
