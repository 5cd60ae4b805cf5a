"""`stats`, `repr` and `calibrate`: what an index says of itself is true, cheap to print and names no key."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import oracle
import osler
import pytest


@pytest.mark.parametrize("n", [0, 300, 2_500])
@pytest.mark.parametrize("codes", ["f32", "f16"])
@pytest.mark.parametrize("metric", oracle.METRICS)
def test_attributes_and_stats(metric: str, codes: str, n: int, rng: np.random.Generator) -> None:
    index = osler.Index(dim=10, metric=metric, codes=codes)
    index.add(rng.standard_normal((n, 10)))
    assert (index.dim, index.metric, index.codes, len(index)) == (10, metric, codes, n)
    stats = index.stats()
    assert isinstance(stats, dict)
    assert json.loads(json.dumps(stats)) == stats, "stats are plain values"
    assert {"dim": 10, "metric": metric, "codes": codes, "seed": 0}.items() <= stats.items()
    assert len(index.keys) == n


def test_auto_codes_resolve() -> None:
    assert osler.Index(4).codes in ("f32", "f16")
    assert osler.Index.build(np.eye(4, dtype=np.float32), codes="auto").codes in ("f32", "f16")


def test_attributes_cannot_be_set() -> None:
    index = osler.Index(4)
    for name in ("dim", "metric", "codes", "keys"):
        with pytest.raises(AttributeError):
            setattr(index, name, getattr(index, name))


def test_repr_is_one_line_without_keys() -> None:
    index = osler.Index.build(np.eye(3, dtype=np.float32), keys=[987654321, 2, 3])
    for text in (repr(index), repr(index.search(np.ones(3))), repr(index.bitmap([2])), repr(index.groups([1, 1, 2]))):
        assert "\n" not in text
        assert "osler" in text.lower()
    assert "987654321" not in repr(index)
    assert "3" in repr(index)


def test_calibration_is_stored_in_the_file(tmp_path: Path, rng: np.random.Generator) -> None:
    """Queries far from every row need a wider beam than rows do, and a reopened index remembers it."""
    rows = rng.standard_normal((3_000, 24)).astype(np.float32)
    index = osler.Index.build(rows)
    queries = (rng.standard_normal((500, 24)) + 4).astype(np.float32)
    index.save(tmp_path / "before.osler")
    assert index.calibrate(queries) is None or isinstance(index.calibrate(queries), dict)
    index.save(tmp_path / "after.osler")
    assert (tmp_path / "after.osler").read_bytes() != (tmp_path / "before.osler").read_bytes()
    reopened = osler.Index.open(tmp_path / "after.osler")
    for recall in (0.8, 0.95, 0.99):
        now, then = reopened.search(queries, 10, recall=recall), index.search(queries, 10, recall=recall)
        np.testing.assert_array_equal(now.keys, then.keys)
    fresh = (rng.standard_normal((400, 24)) + 4).astype(np.float32)
    found = index.search(fresh, 10, recall=0.95)
    assert (
        oracle.recall(
            found.keys,
            keys=index.keys,
            metric="dot",
            rows=index.get(index.keys),
            queries=fresh / np.linalg.norm(fresh, axis=1, keepdims=True),
        ).mean()
        >= 0.95
    )


def test_calibrate_on_a_small_index_is_harmless(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((50, 6)))
    index.calibrate()
    index.calibrate(rng.standard_normal((10, 6)))
    assert index.search(np.ones(6), 3, recall=0.5).counts == 3
    for queries in (np.ones((3, 7)), np.full((2, 6), np.nan)):
        with pytest.raises(ValueError):
            index.calibrate(queries)


def test_a_wider_beam_finds_no_less(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((4_000, 32)).astype(np.float32)
    index = osler.Index.build(rows)
    queries = rng.standard_normal((200, 32)).astype(np.float32)
    exact = index.search(queries, 10, exact=True)
    shares = []
    for ef in (10, 40, 160, 640, 4_000):
        found = index.search(queries, 10, ef=ef)
        shares.append(float((found.scores >= exact.scores[:, -1:] - 1e-6).mean()))
    print(f"recall by ef 10, 40, 160, 640, 4000: {shares}")
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    assert shares[-1] >= 0.999
