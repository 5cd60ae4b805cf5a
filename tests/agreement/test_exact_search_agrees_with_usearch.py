"""Three implementations of exact search agree: Osler's, usearch's and numpy's.

usearch sums in another order and precision, so keys are compared where scores differ by more than rounding.
"""

from __future__ import annotations

import numpy as np
import oracle
import osler
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_vectors import TextVectors
from usearch.index import MetricKind, search

KINDS = {"cosine": MetricKind.Cos, "dot": MetricKind.IP, "l2": MetricKind.L2sq}


def usearch_scores(metric: str, rows: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and scores in Osler's direction: higher is nearer."""
    found = search(rows, queries, k, KINDS[metric], exact=True, threads=1)
    distances = np.asarray(found.distances, np.float64).reshape(len(queries), k)
    scores = -distances if metric == "l2" else 1 - distances
    return np.asarray(found.keys).reshape(len(queries), k), scores


def agree(metric: str, rows: np.ndarray, queries: np.ndarray, k: int) -> None:
    index = osler.Index.build(rows, metric=metric)
    ours = index.search(queries, k, exact=True)
    their_keys, their_scores = usearch_scores(metric, rows, queries, k)
    truth = oracle.scores(metric, rows, queries)
    tolerance = 5e-6 * max(1.0, oracle.magnitude(metric, rows, queries))
    best = -np.sort(-truth, axis=1)[:, :k]
    np.testing.assert_allclose(ours.scores, best, rtol=0, atol=tolerance)
    np.testing.assert_allclose(their_scores, best, rtol=0, atol=tolerance)
    for at in range(len(queries)):
        gaps = -np.diff(-np.sort(-truth[at])[: k + 1])
        if (gaps > 4 * tolerance).all():
            assert ours.keys[at].tolist() == their_keys[at].tolist()


@pytest.mark.parametrize("metric", oracle.METRICS)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(11, 300), dim=st.integers(2, 130), k=st.integers(1, 10))
def test_random_vectors(metric: str, seed: int, n: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    agree(metric, rng.standard_normal((n, dim)).astype(np.float32), rng.standard_normal((5, dim)).astype(np.float32), k)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_real_text_vectors(metric: str, text_vectors: TextVectors) -> None:
    agree(metric, text_vectors.base[:4_000], text_vectors.queries[:50], 10)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_graphs_find_what_the_other_finds(metric: str, text_vectors: TextVectors) -> None:
    """Two graphs of different making over the same rows: both reach the recall that Osler was asked for."""
    from usearch.index import Index

    rows, queries = text_vectors.base[:4_000], text_vectors.queries[:200]
    theirs = Index(ndim=rows.shape[1], metric=KINDS[metric], dtype="f32", expansion_search=200)
    theirs.add(np.arange(len(rows), dtype=np.uint64), rows, threads=1)
    index = osler.Index.build(rows, metric=metric)
    keys = np.arange(len(rows), dtype=np.uint64)
    for found in (index.search(queries, 10, recall=0.95).keys, theirs.search(queries, 10, threads=1).keys):
        shares = oracle.recall(np.asarray(found), keys=keys, metric=metric, rows=rows, queries=queries)
        assert shares.mean() >= 0.95
