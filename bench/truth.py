"""Exact neighbours by numpy, and recall by score against them.

Keeps its answers in `bench/.cache` under the hash of the vectors; rows are unit length, so the score is the cosine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from data import CACHE, TextVectors

EPSILON = 1e-6


def kth_scores(vectors: TextVectors, k: int, cache: Path = CACHE) -> np.ndarray:
    """Return the exact k-th best score of every query, (m,) float32."""
    path = cache / f"truth-{vectors.digest}-{k}.npy"
    if path.is_file():
        return np.asarray(np.load(path))
    parts = []
    for start in range(0, len(vectors.queries), 100):
        table = vectors.queries[start : start + 100] @ vectors.base.T
        parts.append(-np.partition(-table, k - 1, axis=1)[:, k - 1])
    scores = np.concatenate(parts)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, scores)
    return scores


def recall(vectors: TextVectors, found: np.ndarray, kth: np.ndarray) -> float:
    """Return the mean share of rows `found` (m, k) whose true score reaches the exact k-th: equal scores are no misses.

    Raises ValueError where an engine returned a row twice or a row that does not exist.
    """
    if found.min() < 0 or found.max() >= len(vectors.base):
        raise ValueError("an engine returned a row that does not exist")
    ordered = np.sort(found, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("an engine returned a row twice")
    scores = np.einsum("mkd,md->mk", vectors.base[found], vectors.queries)
    return float((scores >= kth[:, None] - EPSILON).mean())
