"""Which rows a filter allows: a share of them at random, or the share that lies farthest along the vectors' main axis.

With the second kind the queries that lie farthest along the axis ask for what is allowed (correlated), and those at the
other end ask for what is not (anti-correlated). A filter is a column of ranks and a limit, so that an engine which
filters by columns can be given it.
"""

from __future__ import annotations

import numpy as np

SAMPLE = 10_000
KINDS = ("random", "correlated", "anti-correlated")


def axis(rows: np.ndarray) -> np.ndarray:
    """Return the first principal axis of the first rows, (dim,), its largest component positive."""
    sample = rows[:SAMPLE].astype(np.float64)
    sample = sample - sample.mean(axis=0)
    found = np.linalg.eigh(sample.T @ sample)[1][:, -1]
    return (found * np.sign(found[np.abs(found).argmax()])).astype(np.float32)


def columns(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return each row's rank, (n,) int64, in a random order and along the axis, the farthest first."""
    ranks = {"by_chance": np.random.default_rng(4).permutation(len(rows))}
    order = np.argsort(-(rows @ axis(rows)), kind="stable")
    ranks["by_axis"] = np.empty(len(rows), np.int64)
    ranks["by_axis"][order] = np.arange(len(rows))
    return ranks


def column(kind: str) -> str:
    """Return the column that a kind of filter reads."""
    return "by_chance" if kind == "random" else "by_axis"


def choose_queries(kind: str, queries: np.ndarray, along: np.ndarray, count: int) -> np.ndarray:
    """Return the queries that a kind of filter is measured with, at most `count` of them."""
    if kind == "random":
        return queries[:count]
    order = np.argsort(-(queries @ along), kind="stable")
    return queries[np.sort(order[:count] if kind == "correlated" else order[-count:])]
