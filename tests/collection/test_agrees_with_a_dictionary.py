"""Random operations against a dictionary and brute force, reopened at random."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import osler
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

DIM = 4
KEYS = [f"k{number}" for number in range(12)]
ROW = st.dictionaries(st.sampled_from(["site", "age"]), st.one_of(st.none(), st.integers(0, 3)), max_size=2)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="osler-model-"))
        self.model: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}
        self.random = np.random.default_rng(0)

    @initialize(metric=st.sampled_from(["cosine", "dot", "l2"]), parts=st.integers(1, 2))
    def create(self, metric: str, parts: int) -> None:
        self.metric = metric
        self.cases = osler.Collection.create(self.folder / "m.osler", dim=DIM, metric=metric)  # type: ignore[arg-type]
        self.add(KEYS[:5], parts, [{"age": 1, "site": 2}, {}, {"age": None}, {"site": 2}, {"age": 1}], "error")

    def teardown(self) -> None:
        if hasattr(self, "cases"):
            self.cases.verify()
            self.cases.close()
        shutil.rmtree(self.folder)

    @rule(
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True),
        parts=st.integers(0, 3),
        rows=st.lists(ROW, min_size=5, max_size=5),
        on_duplicate=st.sampled_from(["error", "skip", "replace"]),
    )
    def add(self, keys: list[str], parts: int, rows: list[dict[str, Any]], on_duplicate: Any) -> None:
        rows = rows[: len(keys)]
        vectors = self.random.normal(size=(len(keys) * parts, DIM)).astype(np.float32)
        owner = np.tile(np.arange(len(keys)), parts)
        there = [key for key in keys if key in self.model]
        arguments: dict[str, Any] = {"metadata": rows, "on_duplicate": on_duplicate}
        if parts:
            arguments["parts"] = owner
        if there and on_duplicate == "error":
            before = self.cases.keys()
            try:
                self.cases.add_vectors(keys, vectors if parts else None, **arguments)
            except ValueError as error:
                assert repr(there[0]) in str(error)
            else:
                raise AssertionError("a key that is there was added again")
            assert self.cases.keys() == before
            return
        report = self.cases.add_vectors(keys, vectors if parts else None, **arguments)
        skipped = len(there) if on_duplicate == "skip" else 0
        assert (report.added, report.duplicates) == (len(keys) - skipped, skipped)
        for position, key in enumerate(keys):
            if key in there and on_duplicate == "skip":
                continue
            self.model.pop(key, None)
            self.model[key] = (vectors[owner == position], rows[position])

    @rule(keys=st.lists(st.sampled_from(KEYS), max_size=4, unique=True))
    def delete(self, keys: list[str]) -> None:
        assert self.cases.delete(keys) == sum(key in self.model for key in keys)
        for key in keys:
            self.model.pop(key, None)

    @rule(age=st.integers(0, 3))
    def delete_where(self, age: int) -> None:
        if "age" not in self.cases.schema:
            return
        gone = [key for key, (_, row) in self.model.items() if row.get("age") == age]
        assert self.cases.delete(where=f"age = {age}") == len(gone)
        for key in gone:
            del self.model[key]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), row=ROW)
    def update(self, data: Any, row: dict[str, Any]) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        self.cases.update(key, metadata=row)
        vectors, old = self.model.pop(key)
        self.model[key] = (vectors, {**old, **row})

    @rule(mode=st.sampled_from(["r", "a"]))
    def reopen(self, mode: Any) -> None:
        self.cases.close()
        if mode == "r":
            with osler.Collection.open(self.folder / "m.osler") as reader:
                self.compare(reader)
        self.cases = osler.Collection.open(self.folder / "m.osler", mode="a")

    @rule()
    def compact(self) -> None:
        self.cases.compact()

    @rule(k=st.integers(1, 15), age=st.one_of(st.none(), st.integers(0, 3)), grouped=st.booleans())
    def search(self, k: int, age: int | None, grouped: bool) -> None:
        query = self.random.normal(size=DIM).astype(np.float32)
        where = None if age is None or "age" not in self.cases.schema else f"age IS DISTINCT FROM {age}"
        group_by = "site" if grouped and "site" in self.cases.schema else None
        expected = []
        for key, (vectors, row) in self.model.items():
            if len(vectors) and (where is None or row.get("age") != age):
                expected.append((max(score(self.metric, query, vector) for vector in vectors), key))
        expected.sort(reverse=True)
        if group_by is not None:
            seen: set[Any] = set()
            distinct = []
            for value, key in expected:
                site = self.model[key][1].get("site")
                if site is None or site not in seen:
                    distinct.append((value, key))
                seen.add(site)
            expected = distinct
        hits = self.cases.search(vector=query, k=k, where=where, group_by=group_by)
        assert [hit.key for hit in hits] == [key for _, key in expected[:k]]
        np.testing.assert_allclose(
            [hit.score for hit in hits], [value for value, _ in expected[:k]], rtol=1e-4, atol=1e-4
        )
        for hit in hits:
            assert hit.metadata == self.model[hit.key][1]

    @invariant()
    def same(self) -> None:
        if hasattr(self, "cases"):
            self.compare(self.cases)

    def compare(self, cases: osler.Collection) -> None:
        assert cases.keys() == list(self.model)
        assert len(cases) == len(self.model)
        assert [hit.metadata for hit in cases.get(cases.keys())] == [row for _, row in self.model.values()]
        assert all((key in cases) == (key in self.model) for key in KEYS)
        found = cases.part_vectors(kind="any")
        for position, (vectors, _) in enumerate(self.model.values()):
            own = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if self.metric == "cosine" else vectors
            np.testing.assert_allclose(found.vectors[found.owner == position], own, rtol=1e-5, atol=1e-6)


def score(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "l2":
        return -float(((a - b) ** 2).sum())
    dot = float(a @ b)
    return dot if metric == "dot" else dot / float(np.linalg.norm(a) * np.linalg.norm(b))


Machine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestCollectionAgreesWithADictionary = Machine.TestCase
