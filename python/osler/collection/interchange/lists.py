"""Inverted lists over vectors, as faiss keeps them in its IVF files: centroids, the list of each row, lists to search.

Pure arithmetic over arrays; all chance comes from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from osler.collection.rows import Array

__all__ = ["Lists", "build"]

_ROUNDS = 10
# Rows a list that k-means learns from, as many as faiss takes at most.
_LEARN = 256
_BLOCK = 4_096
# The lists to search are counted on so many rows as queries, so that this share of their nearest rows is found.
_QUERIES = 200
_NEAREST = 10
_SHARE = 0.98


@dataclass(frozen=True)
class Lists:
    """Centroids float32 (lists, dim), the list of each row int64 (n,), and how many lists a search should look into."""

    centroids: Array
    owner: Array
    probes: int


def build(vectors: Array, *, inner: bool, seed: int = 0) -> Lists:
    """Return as many lists as the square root of the rows, by the inner product if `inner`, else Euclidean distance."""
    count = len(vectors)
    rng = np.random.default_rng(seed)
    size = max(1, round(count**0.5))
    if not count:
        return Lists(np.zeros((1, vectors.shape[1]), np.float32), np.empty(0, np.int64), 1)
    sample = vectors[rng.permutation(count)[: _LEARN * size]]
    centroids = _directions(sample[:size]) if inner else sample[:size].copy()
    for _ in range(_ROUNDS):
        owner = _nearest(sample, centroids, inner)
        order = np.argsort(owner, kind="stable")
        filled, first, rows = np.unique(owner[order], return_index=True, return_counts=True)
        centroids[filled] = np.add.reduceat(sample[order], first, dtype=np.float64) / rows[:, None]
        bare = np.setdiff1d(np.arange(size), filled)
        centroids[bare] = sample[rng.integers(len(sample), size=len(bare))]
        if inner:
            centroids = _directions(centroids)
    owner = _nearest(vectors, centroids, inner)
    return Lists(centroids, owner, _probes(vectors, centroids, owner, inner, rng))


def _scores(queries: Array, rows: Array, inner: bool) -> Array:
    """Return scores (queries, rows), higher is nearer."""
    found = queries @ rows.T
    return found if inner else found - np.einsum("ij,ij->i", rows, rows) / 2


def _nearest(vectors: Array, centroids: Array, inner: bool) -> Array:
    blocks = [vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK)]
    return np.concatenate([_scores(block, centroids, inner).argmax(1) for block in blocks])


def _directions(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Array = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return found


def _probes(vectors: Array, centroids: Array, owner: Array, inner: bool, rng: np.random.Generator) -> int:
    """Return how many lists hold the nearest rows of rows that are asked for."""
    asked = rng.permutation(len(vectors))[:_QUERIES]
    best = np.full((len(asked), 0), -np.inf, np.float32)
    rows: Any = np.empty((len(asked), 0), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        scores = _scores(vectors[asked], vectors[start : start + _BLOCK], inner)
        best = np.concatenate([best, scores], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)], axis=1)
        keep = np.argsort(-best, axis=1, kind="stable")[:, : _NEAREST + 1]
        best, rows = np.take_along_axis(best, keep, 1), np.take_along_axis(rows, keep, 1)
    place = np.empty((len(asked), len(centroids)), np.int64)
    order = np.argsort(-_scores(vectors[asked], centroids, inner), axis=1, kind="stable")
    np.put_along_axis(place, order, np.arange(len(centroids))[None], axis=1)
    needed = np.take_along_axis(place, owner[rows], 1)[rows != asked[:, None]]
    return 1 if not needed.size else int(np.quantile(needed, _SHARE, method="higher")) + 1
