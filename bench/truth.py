"""Exact neighbours by numpy, and recall by score against them.

Keeps its answers in `bench/.cache` under the names of the vectors; rows are unit length, so the score is the cosine.
Reads the rows block by block: a million of them need no more memory than ten thousand.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

EPSILON = 1e-6
BLOCK = 20_000


def kth_scores(
    base: np.ndarray,
    queries: np.ndarray,
    k: int,
    *,
    mask: np.ndarray | None = None,
    cache: tuple[str, Path] | None = None,
) -> np.ndarray:
    """Return the exact k-th best score of every query among the rows that `mask` allows, (m,) float32.

    Where fewer than k are allowed, the lowest score of those. `cache` is what the rows and the mask are called, and the
    folder to keep the answer in.
    """
    path = None
    if cache is not None:
        mark = hashlib.sha256(f"{cache[0]} {len(base)} {k}".encode() + queries.tobytes()).hexdigest()[:16]
        path = cache[1] / f"truth-{mark}.npy"
        if path.is_file():
            return np.asarray(np.load(path))
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(base), BLOCK):
        rows = base[start : start + BLOCK]
        if mask is not None:
            rows = rows[mask[start : start + BLOCK]]
        best = np.concatenate([best, queries @ rows.T], axis=1)
        if best.shape[1] > k:
            best = np.partition(best, best.shape[1] - k, axis=1)[:, -k:]
    if best.shape[1] == 0:
        raise ValueError("the mask allows no row: there is no k-th score")
    scores = best.min(axis=1)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, scores)
    return scores


def recall(
    base: np.ndarray, queries: np.ndarray, found: np.ndarray, kth: np.ndarray, *, mask: np.ndarray | None = None
) -> float:
    """Return the mean share of rows `found` (m, k) whose true score reaches the exact k-th: equal scores are no misses.

    -1 stands for "no row" and is a miss, save where fewer than k are allowed: then the share is of those.
    Raises ValueError where an engine returned a row twice, one that does not exist, or one that the mask forbids.

    >>> base, queries = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:1]
    >>> recall(base, queries, np.array([[0, 2]]), kth_scores(base, queries, 2))
    1.0
    """
    if found.min() < -1 or found.max() >= len(base):
        raise ValueError("it returned a row that does not exist")
    ordered = np.sort(found, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("it returned a row twice")
    real = found >= 0
    if mask is not None and not mask[found[real]].all():
        raise ValueError("it returned a row that the filter forbids")
    scores = np.full(found.shape, -np.inf, np.float32)
    for at, query in enumerate(queries):
        scores[at, real[at]] = base[found[at, real[at]]] @ query
    wanted = found.shape[1] if mask is None else min(found.shape[1], int(mask.sum()))
    return float((scores >= kth[:, None] - EPSILON).sum() / (wanted * len(queries)))
