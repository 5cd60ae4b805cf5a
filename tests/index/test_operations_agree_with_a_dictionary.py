"""Any sequence of add, delete, search, get, save and open leaves the index equal to a plain dictionary.

A Hypothesis state machine; it starts on either side of the size from which a graph is used, so both paths and the way
from one to the other are walked. Every row alive must find itself, and a deleted one must never come back.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import oracle
import osler
import pytest
from forms import FULL, SCANNED, WALKED, Form
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

DIM = 12
SEEDS = st.integers(0, 2**32 - 1)


class IndexAgainstDictionary(RuleBasedStateMachine):
    """`rows` is the model: key to vector as stored, in insertion order."""

    metric = "cosine"
    form = FULL[0]

    @initialize(start=st.sampled_from([0, 1, 40, 1_960, 1_990, 2_050]), seed=SEEDS)
    def begin(self, start: int, seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.rows: dict[int, np.ndarray] = {}
        self.gone: set[int] = set()
        self.unused = 0
        if start and seed % 2:
            vectors = self.vectors(start, seed)
            self.index = osler.Index.build(vectors, metric=self.metric, **self.form.options)
            self.remember(self.index.keys, vectors)
        else:
            self.index = osler.Index(DIM, metric=self.metric, **self.form.options)
            self.add(start, seed)

    def vectors(self, n: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)

    def remember(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        if self.metric == "cosine":
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for key, vector in zip(keys.tolist(), vectors, strict=True):
            assert key not in self.rows
            self.rows[key] = vector
            self.gone.discard(key)
            self.unused = max(self.unused, key + 1)

    @rule(n=st.integers(0, 60), seed=SEEDS)
    def add(self, n: int, seed: int) -> None:
        vectors = self.vectors(n, seed)
        keys = self.index.add(vectors)
        assert keys.dtype == np.uint64
        assert keys.tolist() == list(range(self.unused, self.unused + n)), "default keys are the next unused integers"
        self.remember(keys, vectors)

    @rule(n=st.integers(1, 20), seed=SEEDS, again=st.booleans())
    def add_with_keys(self, n: int, seed: int, again: bool) -> None:
        rng = np.random.default_rng(seed)
        pool = sorted(self.gone)[:n] if again else []
        keys = pool or [int(key) for key in rng.choice(10**6, n, replace=False) if int(key) not in self.rows]
        vectors = self.vectors(len(keys), seed)
        assert self.index.add(vectors, keys).tolist() == keys
        self.remember(np.array(keys, np.uint64), vectors)

    @precondition(lambda self: self.rows)
    @rule(seed=SEEDS)
    def refuse_a_known_key(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        taken = int(rng.choice(list(self.rows)))
        with pytest.raises(ValueError):
            self.index.add(self.vectors(3, seed), [2 * 10**6, taken, 2 * 10**6 + 1])

    @rule(seed=SEEDS, share=st.sampled_from([0.0, 0.01, 0.1, 0.6, 1.0]), strangers=st.integers(0, 3))
    def delete(self, seed: int, share: float, strangers: int) -> None:
        rng = np.random.default_rng(seed)
        keys = [key for key in self.rows if rng.random() < share]
        unknown = [5 * 10**6 + at for at in range(strangers)]
        assert self.index.delete(np.array(keys + unknown, np.uint64)) == len(keys)
        for key in keys:
            del self.rows[key]
        self.gone.update(keys)

    @precondition(lambda self: self.rows)
    @rule(seed=SEEDS, k=st.integers(1, 20))
    def search(self, seed: int, k: int) -> None:
        queries = self.vectors(3, seed)
        # Codes of few bits score rows otherwise than what they stand for does, so that the order is another.
        if self.form.keeps:
            oracle.check_exact_search(self.index, queries, k, 1.5e-3 if self.form.codes == "f16" else 4e-6)
        found = self.index.search(queries, k, exact=True)
        assert set(self.index.keys.tolist()) == self.rows.keys()
        assert found.counts.tolist() == [min(k, len(self.rows))] * 3
        quick = self.index.search(queries, k)
        assert quick.counts.tolist() == [min(k, len(self.rows))] * 3
        for key_row in quick.keys:
            real = key_row[key_row != oracle.NO_KEY].tolist()
            assert len(set(real)) == len(real)
            assert set(real) <= self.rows.keys(), "a deleted row came back"

    @precondition(lambda self: self.rows)
    @rule()
    def every_live_row_finds_itself(self) -> None:
        keys = np.array(list(self.rows), np.uint64)
        stored = self.index.get(keys)
        if self.form.error > 0.1:
            return
        if self.metric == "dot":
            # A longer row may beat a row at its own vector: what is asked for is the recall, at the first place.
            best = self.index.search(stored, 1, exact=True)
            found = self.index.search(stored, 1, recall=0.95)
            assert (found.scores >= best.scores * (1 - 1e-6)).mean() >= 0.95
            return
        for exact in (True, False):
            found = self.index.search(stored, 3, exact=exact)
            lost = (found.keys != keys[:, None]).all(axis=1)
            assert not lost.any(), f"{int(lost.sum())} of {len(keys)} live rows are not found by their own vector"

    @rule(mmap=st.booleans())
    def save_and_open(self, mmap: bool) -> None:
        path = Path(self.folder.name) / "index.osler"
        self.index.save(path)
        reopened = osler.Index.open(path, mmap=mmap)
        assert reopened.verify() is None
        np.testing.assert_array_equal(reopened.keys, self.index.keys)
        np.testing.assert_array_equal(reopened.get(reopened.keys), self.index.get(self.index.keys))
        query = self.vectors(1, 0)
        then, now = self.index.search(query, 5), reopened.search(query, 5)
        np.testing.assert_array_equal(now.keys, then.keys)
        np.testing.assert_array_equal(now.scores, then.scores)
        if not mmap:
            self.index = reopened

    @invariant()
    def contents_agree(self) -> None:
        if not hasattr(self, "index"):
            return
        assert len(self.index) == len(self.rows)
        assert self.index.keys.tolist() == list(self.rows)
        sample = list(self.rows)[:: max(1, len(self.rows) // 50)]
        for key in sample[:5]:
            assert key in self.index
        for key in list(self.gone)[:5]:
            assert key not in self.index
            with pytest.raises(KeyError):
                self.index.get([key])
        if sample:
            expected = np.array([self.rows[key] for key in sample])
            got = self.index.get(sample)
            if not self.form.keeps:
                off = np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)
                assert off.mean() <= 2 * self.form.error
                return
            slack = 2e-3 if self.form.codes == "f16" else 2e-7
            np.testing.assert_allclose(got, expected, rtol=slack, atol=slack)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


CASES = [(metric, form) for form in FULL for metric in oracle.METRICS]
CASES += [(oracle.METRICS[at % 3], form) for at, form in enumerate(WALKED + SCANNED)]
CASES += [("dot", form) for form in WALKED + SCANNED if not form.keeps]


@pytest.mark.parametrize(("metric", "form"), CASES, ids=str)
def test_index_against_dictionary(metric: str, form: Form) -> None:
    machine = type("Machine", (IndexAgainstDictionary,), {"metric": metric, "form": form})
    profile = settings.get_current_profile_name()
    case = machine.TestCase
    # A failure is printed as found: making it smaller would take many times the whole run.
    case.settings = settings(
        settings.get_profile(profile),
        max_examples=5 if profile == "ci" else 200,
        stateful_step_count=25,
        phases=(Phase.explicit, Phase.generate),
    )
    case("runTest").runTest()
