"""R7. Any changes against a dictionary and exact search: an index in every form it keeps rows in, and a collection.
No wrong key, scores within the stated error, every live row finds itself, nothing deleted comes back."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import forms
import numpy as np
import oracle
import osler

from reliability import testing, workload

NAME, UNIT = "model", "rows changed"
SIZES = {"quick": 100_000, "ci": 300_000, "full": 2_000_000}
DIM = 12
ROUNDS = 14
SIZES_AT_START = [0, 1, 60, 400, 1_950, 2_100, 3_000, 6_000]
LARGEST = 20_000
EXACT_QUERIES = 12
CHANGES = 30
# Times the mean error that the worst row may be off.
FURTHEST = 5


def piece(seed: int) -> Counter[str]:
    return _index(seed) + _collection(seed)


def _index(seed: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    form = forms.EVERY[seed % len(forms.EVERY)]
    metric = ("cosine", "dot", "l2")[(seed // len(forms.EVERY)) % 3]
    start = LARGEST if seed % 40 == 39 else int(rng.choice(SIZES_AT_START))
    model = _Model(rng, metric, form)
    model.add(start)
    for _ in range(ROUNDS if start < LARGEST else 4):
        getattr(model, str(rng.choice(["add", "replace", "delete", "save", "copy"], p=[0.35, 0.25, 0.25, 0.1, 0.05])))()
        model.check(f"seed {seed}, {metric}, {form}")
    return model.counts


class _Model:
    def __init__(self, rng: np.random.Generator, metric: str, form: forms.Form) -> None:
        self.rng, self.metric, self.form = rng, metric, form
        self.index = osler.Index(DIM, metric=metric, **form.options)
        self.rows: dict[int, np.ndarray[Any, Any]] = {}
        self.next = 0
        self.counts: Counter[str] = Counter()

    def add(self, count: int | None = None, keys: list[int] | None = None) -> None:
        count = int(self.rng.integers(0, 200)) if count is None else count
        keys = list(range(self.next, self.next + count)) if keys is None else keys
        self.next = max(self.next, *(key + 1 for key in keys), 0) if keys else self.next
        vectors = self.rng.standard_normal((len(keys), DIM)).astype(np.float32)
        self.index.add(vectors, keys)
        if self.metric == "cosine":
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.rows |= dict(zip(keys, vectors, strict=True))
        self.counts[UNIT] += len(keys)

    def _some(self, share: float) -> list[int]:
        return [key for key, chosen in zip(self.rows, self.rng.random(len(self.rows)) < share, strict=True) if chosen]

    def delete(self) -> None:
        keys = self._some(float(self.rng.choice([0.001, 0.02, 0.1, 0.5, 1.0], p=[0.25, 0.3, 0.25, 0.15, 0.05])))
        assert self.index.delete(np.array([*keys, 10**9], np.uint64)) == len(keys)
        for key in keys:
            del self.rows[key]
        self.counts[UNIT] += len(keys)

    def replace(self) -> None:
        keys = self._some(0.03)
        self.index.delete(np.array(keys, np.uint64))
        self.add(keys=keys)

    def save(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.index"
            self.index.save(path)
            osler.Index.open(path).verify()
            self.index = osler.Index.open(path, mmap=False)

    def copy(self) -> None:
        import copy

        former, self.index = self.index, copy.copy(self.index)
        if len(former):
            former.delete(former.keys[:1])

    def check(self, where: str) -> None:
        keys = np.array(list(self.rows), np.uint64)
        assert len(self.index) == len(keys), where
        if not len(keys):
            return
        stored = self.index.get(keys)
        wanted = np.stack(list(self.rows.values()))
        off = np.linalg.norm(stored - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        allowed = 1e-6 if self.form.error == 0 else self.form.error
        assert off.mean() <= allowed, f"{where}: rows are {off.mean():.2g} off, not {allowed}"
        # Another row's vector is further off than what any code leaves of one's own.
        assert off.max() <= min(FURTHEST * allowed, 1), f"{where}: row {keys[off.argmax()]} is {off.max():.2g} off"
        queries = self.rng.standard_normal((EXACT_QUERIES, DIM)).astype(np.float32)
        k = int(self.rng.integers(1, 30))
        # Codes of few bits score rows otherwise than what they stand for does, so that the order is another.
        if self.form.keeps:
            oracle.check_exact_search(self.index, queries, k, 1.5e-3 if self.form.codes == "f16" else 4e-6)
            self.counts["searches"] += EXACT_QUERIES
        quick = self.index.search(queries, k)
        for row in quick.keys:
            real = row[row != oracle.NO_KEY].tolist()
            assert len(set(real)) == len(real) == min(k, len(keys)), where
            assert set(real) <= self.rows.keys(), f"{where}: a deleted row came back"
        self.counts["searches"] += EXACT_QUERIES
        if self.form.error > 0.1 or self.metric == "dot":
            return
        self.counts["searches"] += len(keys)
        oracle.check_rows_find_themselves(self.index, stored, keys, where)


def _collection(seed: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    if testing.native is None:
        return counts
    disk = testing.disk(seed)
    with testing.small_graphs(outside=int(seed % 7 * 6)), testing.mounted(disk):
        cases = workload.create("/data/cases.osler")
        before: workload.Model = {}
        for change, model in workload.history(seed, CHANGES):
            cases = workload.apply(cases, change)
            problem = workload.difference(cases, model, queries=6)
            assert problem is None, f"seed {seed}, after {change[0]}: {problem}"
            counts[UNIT] += sum(before.get(key) is not model.get(key) for key in before.keys() | model.keys())
            counts["changes of a collection"] += 1
            counts["searches"] += 6
            before = model
        cases.verify()
    return counts
