"""Codes, and vectors in memory, on disk or nowhere: recall, what `get` returns, what stays in memory, and the budget.

Recall is by the score of the full vectors, which the tests keep, on real text and on clustered rows with held-out
queries.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import oracle
import osler
import pytest
from forms import EVERY, SCANNED, WALKED, Form
from text_vectors import TextVectors

ROWS = 12_000


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """Rows around 60 centres, of which one in ten nearly repeats another."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((60, dim))
    rows = centres[rng.integers(60, size=n)] + 0.4 * rng.standard_normal((n, dim))
    again = rng.integers(n, size=n // 10)
    rows[again] = rows[rng.integers(n, size=n // 10)] + 0.02 * rng.standard_normal((n // 10, dim))
    return rows.astype(np.float32)


def recall(index: osler.Index, rows: np.ndarray, queries: np.ndarray, k: int = 10, **options: object) -> float:
    found = index.search(queries, k, **options)
    if index.metric == "cosine":
        rows, queries = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (rows, queries))
    allowed = options.get("filter")
    shares = oracle.recall(
        found.keys, keys=index.keys, metric=index.metric, rows=rows, queries=queries, allowed=allowed
    )
    print(f"{index!r}, k {k}, {options.keys()}: recall {shares.mean():.4f}")
    return float(shares.mean())


def short(form: Form) -> str:
    return str(form)


@pytest.mark.slow
@pytest.mark.parametrize("form", [form for form in EVERY[1:] if form.keeps], ids=short)
def test_recall_on_text_is_what_was_asked_for(form: Form, text_vectors: TextVectors) -> None:
    rows, queries = text_vectors.base[:ROWS], text_vectors.queries[:400]
    index = osler.Index.build(rows, **form.options)
    for wanted in (0.9, 0.95, 0.99):
        assert recall(index, rows, queries, recall=wanted) >= wanted - 0.01
    assert recall(index, rows, queries, k=1, recall=0.95) >= 0.94
    assert recall(index, rows, queries, k=100, recall=0.95) >= 0.94
    exact = index.search(queries[:50], 10, exact=True)
    assert oracle.recall(exact.keys, keys=index.keys, metric="cosine", rows=rows, queries=queries[:50]).mean() > 0.995


@pytest.mark.slow
@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("form", [form for form in WALKED + SCANNED if form.keeps], ids=short)
def test_recall_on_clusters_is_what_was_asked_for(form: Form, metric: str) -> None:
    rows, queries = clustered(6_000, 48, 1), clustered(300, 48, 2)
    index = osler.Index.build(rows, metric=metric, **form.options)
    assert recall(index, rows, queries, recall=0.95) >= 0.94


@pytest.mark.slow
@pytest.mark.parametrize("form", [form for form in WALKED + SCANNED if not form.keeps], ids=short)
def test_without_vectors_the_measured_recall_is_the_truth(form: Form, text_vectors: TextVectors) -> None:
    """What cannot be reached is said: `stats` has the recall against the vectors that were there when it was built."""
    rows, queries = text_vectors.base[:ROWS], text_vectors.queries[:400]
    index = osler.Index.build(rows, **form.options)
    stats = index.stats()
    assert stats["scores_from"] != "f32"
    assert stats["bytes_vectors"] == 0
    assert abs(recall(index, rows, queries) - stats["recall"]) < (0.03 if form.error < 0.1 else 0.15)
    points = [point for point in stats["calibration"]["points"] if point["k"] == 10]
    best = max(point["recall"] for point in points)
    assert recall(index, rows, queries, exact=True) >= best - 0.03


@pytest.mark.slow
@pytest.mark.parametrize("form", SCANNED, ids=short)
@pytest.mark.parametrize("share", [0.5, 0.05, 0.002])
def test_filters_groups_and_exclusion_under_codes(form: Form, share: float) -> None:
    rows, queries = clustered(5_000, 48, 3), clustered(100, 48, 4)
    index = osler.Index.build(rows, **form.options)
    kept = index.get(index.keys)
    rng = np.random.default_rng(5)
    mask, groups = rng.random(len(rows)) < share, rng.integers(0, 700, len(rows))
    own = rng.integers(0, 700, len(queries))
    found = index.search(queries, 10, filter=mask)
    assert mask[found.keys[found.keys != oracle.NO_KEY].astype(int)].all()
    assert found.counts.tolist() == [min(10, int(mask.sum()))] * len(queries)
    together = index.search(queries, 10, filter=mask, groups=groups, exclude_groups=own, exclude_by=groups, recall=0.95)
    scores = oracle.scores("cosine", kept, queries)
    right = wanted = 0
    for at, (hits, count) in enumerate(zip(together.keys, together.counts, strict=True)):
        hits = hits[:count].astype(int)
        assert len(set(groups[hits])) == count
        assert own[at] not in groups[hits]
        allowed = mask & (groups != own[at])
        best = oracle.top(scores[at], 10, allowed=allowed, groups=groups)
        assert count == len(best)
        right += int((scores[at][hits] >= scores[at][best].min(initial=2) - 1e-6).sum())
        wanted += len(best)
    if form.keeps:
        assert right / wanted >= 0.93


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("form", EVERY, ids=short)
def test_get_returns_the_vectors_or_what_stands_for_them(form: Form, metric: str) -> None:
    rows = clustered(3_000, 40, 6) * (1 if metric == "cosine" else 3)
    index = osler.Index.build(rows, metric=metric, **form.options)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    got = index.get(index.keys)
    off = np.linalg.norm(got - rows, axis=1) / np.linalg.norm(rows, axis=1)
    print(f"{form} {metric}: off by {off.mean():.5f}")
    assert off.mean() <= form.error + 1e-6
    if not form.keeps:
        assert off.mean() > 0, "something else than the vectors is kept"
    if metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=2e-3)
    few = osler.Index.build(rows[:500], metric=metric, **form.options)
    np.testing.assert_allclose(few.get(few.keys), rows[:500], rtol=1e-3 if form.codes == "f16" else 1e-5, atol=2e-3)


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("form", [form for form in EVERY if not form.keeps], ids=short)
def test_scores_without_vectors_are_those_of_what_get_returns(form: Form, metric: str) -> None:
    rows, queries = clustered(3_000, 40, 6), clustered(20, 40, 7)
    index = osler.Index.build(rows, metric=metric, **form.options)
    found = index.search(queries, 10, exact=True)
    got = index.get(index.keys)
    scores = np.take_along_axis(oracle.scores(metric, got, queries), found.keys.astype(int), axis=1)
    size = oracle.magnitude(metric, got, queries)
    assert np.abs(found.scores - scores).mean() <= (0.02 if form.error < 0.1 else 0.3) * size
    assert (np.diff(found.scores, axis=1) <= 0).all()


def mapped_without_a_name() -> int:
    """Bytes of this process that are mapped from files which have no name any more."""
    sizes = [
        int(match[2], 16) - int(match[1], 16)
        for line in Path("/proc/self/maps").read_text().splitlines()
        if (match := re.match(r"([0-9a-f]+)-([0-9a-f]+) .*osler-vectors.*\(deleted\)$", line))
    ]
    return sum(sizes)


@pytest.mark.parametrize("codes", ["f32", "f16", "pq"])
def test_vectors_on_disk_are_not_in_memory(codes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    rows = clustered(8_000, 96, 8)
    size = rows.nbytes // (2 if codes == "f16" else 1)
    before = mapped_without_a_name() if sys.platform == "linux" else 0
    index = osler.Index.build(rows, codes=codes, keep_vectors="disk")
    stats = index.stats()
    assert stats["bytes_on_disk"] >= size
    assert stats["bytes_resident"] == stats["bytes"] - stats["bytes_on_disk"]
    assert stats["bytes_resident"] < stats["bytes_graph"] + stats["bytes_codes"] + 64 * len(rows)
    assert os.listdir(tmp_path) == [], "the file has no name"
    if sys.platform == "linux":
        assert mapped_without_a_name() - before >= size
    # Small additions wait in memory, up to a bound.
    index.add(rows[:1] + 1)
    assert index.stats()["bytes_vectors"] - index.stats()["bytes_on_disk"] <= (1 << 20) + size // 8
    index.add(clustered(4_000, 96, 9))
    index.delete(np.arange(0, 6_000, 2))
    assert index.stats()["bytes_vectors"] - index.stats()["bytes_on_disk"] <= (1 << 20) + size // 8
    del index
    if sys.platform == "linux":
        assert mapped_without_a_name() <= before, "the file is gone with its index"


@pytest.mark.parametrize("codes", ["f32", "rabitq:2"])
def test_an_opened_copy_leaves_vectors_in_their_file(codes: str, tmp_path: Path) -> None:
    rows = clustered(5_000, 96, 10)
    path = tmp_path / "a.osler"
    osler.Index.build(rows, codes=codes, keep_vectors="disk").save(path)
    index = osler.Index.open(path, mmap=False)
    assert index.stats()["bytes_on_disk"] >= rows.nbytes
    kept = index.get(index.keys)
    path.write_bytes(b"another file") if sys.platform == "win32" else path.unlink()
    np.testing.assert_array_equal(index.get(index.keys), kept)
    index.add(rows[:50] + 1)
    index.delete(index.keys[:2_000])
    assert index.verify() is None
    again = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(again.get(again.keys), index.get(index.keys))
    assert again.stats()["bytes_on_disk"] > 0, "an unpickled index keeps its vectors on disk too"


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(OSError, match=r"temporary|osler-vectors"):
        osler.Index.build(clustered(8_000, 96, 8), keep_vectors="disk")
    index = osler.Index(96, keep_vectors="disk")
    index.add(clustered(100, 96, 8))
    with pytest.raises(OSError, match=r"temporary|osler-vectors"):
        index.add(clustered(8_000, 96, 8))
    assert len(index) == 100
    assert index.search(np.ones(96), 3).counts == 3


@pytest.mark.slow
def test_auto_fits_the_budget_and_says_what_it_chose() -> None:
    rows, queries = clustered(8_000, 128, 11), clustered(200, 128, 12)
    last = None
    chosen = []
    for memory in (20_000_000, 9_000_000, 6_000_000, 1_300_000, 900_000, 500_000):
        index = osler.Index.build(rows, memory=memory)
        stats = index.stats()
        assert stats["bytes_resident"] <= memory
        assert stats["recall"] >= 0.95
        assert recall(index, rows, queries) >= 0.94
        assert last is None or stats["bytes_resident"] <= last
        last = stats["bytes_resident"]
        chosen.append((index.codes, stats["keep_vectors"]))
    print(chosen)
    assert chosen[0] == ("f32", "ram")
    assert chosen[-1][0].startswith(("pq", "rabitq"))
    assert len(set(chosen)) >= 4


def test_a_budget_holds_for_vectors_without_structure() -> None:
    rows = np.random.default_rng(13).standard_normal((3_000, 128)).astype(np.float32)
    for memory in (5_000_000, 4_100_000, 3_300_000):
        index = osler.Index.build(rows, memory=memory)
        assert index.codes in ("f32", "f16"), "large blocks are what this test is about"
        assert index.stats()["bytes_resident"] <= memory


def test_a_budget_that_nothing_fits_is_refused_with_advice() -> None:
    rows = np.eye(64, dtype=np.float32)
    with pytest.raises(ValueError, match=r"memory is 100 bytes, but 64 vectors of 64 numbers need \d+ .*allow more"):
        osler.Index.build(rows, memory=100)
    with pytest.raises(ValueError, match='keep_vectors="disk"'):
        osler.Index.build(rows, memory=20_000, keep_vectors="ram")
    with pytest.raises(ValueError, match='codes="auto"'):
        osler.Index.build(rows, memory=10_000, codes="f32", keep_vectors="ram")
    index = osler.Index.build(rows, memory=10_000_000, codes="pq:8x4", keep_vectors="none")
    assert (index.codes, index.stats()["keep_vectors"]) == ("pq:8x4", "none")


@pytest.mark.parametrize("form", SCANNED, ids=short)
def test_an_index_that_grows_trains_again_and_keeps_its_recall(form: Form) -> None:
    rows, queries = clustered(9_000, 32, 13), clustered(200, 32, 14)
    index = osler.Index(32, **form.options)
    for start in range(0, len(rows), 1_500):
        index.add(rows[start : start + 1_500])
    assert index.stats()["search"] == "scan"
    if form.keeps:
        assert recall(index, rows, queries) >= 0.94


@pytest.mark.parametrize("form", [form for form in EVERY if not form.keeps], ids=short)
def test_shrinking_below_a_graph_and_growing_again(form: Form) -> None:
    """What is left is decoded, and is coded again when there are enough rows."""
    rows = clustered(2_600, 24, 15)
    index = osler.Index.build(rows, **form.options)
    before = index.get(np.arange(2_000, 2_600))
    index.delete(np.arange(2_000))
    assert index.stats()["search"] == "exact"
    np.testing.assert_allclose(index.get(np.arange(2_000, 2_600)), before, atol=1e-6)
    index.add(clustered(30_00, 24, 16))
    assert index.stats()["search"] != "exact"
    assert index.stats()["bytes_vectors"] == 0
    assert index.verify() is None
    after = index.get(np.arange(2_000, 2_600))
    assert np.linalg.norm(after - before, axis=1).mean() <= 2 * form.error + 0.01
