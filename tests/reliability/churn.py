"""R11. Twenty rounds of deleting half of the live rows and adding 30 % of the first number: every live row finds
itself, none is lost, and recall is that of an index built afresh."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import osler

NAME, UNIT = "churn", "rounds"
SIZES = {"quick": 20, "ci": 80, "full": 400}
ROUNDS = 20
ROWS, DIM = 6_000, 24
QUERIES, K = 200, 10
CODES = ("f32", "f16", "sq8", "sq5")


def piece(seed: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    codes = CODES[seed % len(CODES)]
    centres = rng.normal(size=(60, DIM))

    def made(count: int) -> np.ndarray[Any, Any]:
        near = centres[rng.integers(0, len(centres), count)]
        return (near + 0.3 * rng.normal(size=(count, DIM))).astype(np.float32)

    index = osler.Index.build(made(ROWS), codes=codes)
    following = ROWS
    counts: Counter[str] = Counter()
    for _ in range(ROUNDS):
        keys = index.keys
        index.delete(rng.permutation(keys)[: len(keys) // 2])
        fresh = made(int(0.3 * ROWS))
        index.add(fresh, np.arange(following, following + len(fresh), dtype=np.uint64))
        following += len(fresh)
        keys = index.keys
        stored = index.get(keys)
        own = index.search(stored, 3)
        lost = (own.keys != keys[:, None]).all(axis=1)
        assert not lost.any(), f"seed {seed}, {codes}: {int(lost.sum())} of {len(keys)} live rows are lost"
        counts += Counter({UNIT: 1, "rows that found themselves": len(keys)})
    queries = made(QUERIES)
    exact = index.search(queries, K, exact=True)
    rebuilt = osler.Index.build(stored, keys=keys, codes=codes)
    ours, theirs = (_recall(one.search(queries, K).keys, exact.keys) for one in (index, rebuilt))
    assert ours >= theirs - 0.01, f"seed {seed}, {codes}: recall is {ours:.3f}, of a new index {theirs:.3f}"
    return counts


def _recall(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / K for a, b in zip(found, wanted, strict=True)]))
