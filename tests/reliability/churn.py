"""R11. Twenty rounds of deleting half of the live rows and adding 30 % of the first number: the index holds what a
dictionary does, every live row finds itself, and recall is that of an index built afresh."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import oracle
import osler

NAME, UNIT = "churn", "rounds"
SIZES = {"quick": 80, "ci": 80, "full": 400}
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

    rows = made(ROWS)
    index = osler.Index.build(rows, codes=codes)
    held = dict(enumerate(rows))
    following = ROWS
    counts: Counter[str] = Counter()
    for _ in range(ROUNDS):
        gone = rng.permutation(list(held))[: len(held) // 2].tolist()
        assert index.delete(np.array(gone, np.uint64)) == len(gone)
        for key in gone:
            del held[key]
        fresh = made(int(0.3 * ROWS))
        index.add(fresh, np.arange(following, following + len(fresh), dtype=np.uint64))
        held |= dict(enumerate(fresh, following))
        following += len(fresh)
        where = f"seed {seed}, {codes}"
        assert set(index.keys.tolist()) == held.keys(), f"{where}: it has other keys"
        keys, wanted = np.array(list(held), np.uint64), np.stack(list(held.values()))
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        off = np.abs(index.get(keys) - wanted).max()
        assert off <= (1e-3 if codes == "f16" else 1e-6), f"{where}: a row is {off:.2g} off"
        oracle.check_rows_find_themselves(index, wanted, keys, where)
        counts += Counter({UNIT: 1, "rows that found themselves": len(keys)})
    queries = made(QUERIES)
    exact = keys[np.argsort(-queries @ wanted.T, axis=1, kind="stable")[:, :K]]
    rebuilt = osler.Index.build(wanted, keys=keys, codes=codes)
    ours, theirs = (_recall(one.search(queries, K).keys, exact) for one in (index, rebuilt))
    assert ours >= theirs - 0.01, f"seed {seed}, {codes}: recall is {ours:.3f}, of a new index {theirs:.3f}"
    return counts


def _recall(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / K for a, b in zip(found, wanted, strict=True)]))
