"""One query alone, in a batch, on any number of threads: the same keys and bits of scores, the same shape rules."""

from __future__ import annotations

import numpy as np
import oracle
import osler
import pytest


@pytest.fixture(scope="module", params=[300, 2_400], ids=["exact", "graph"])
def index(request: pytest.FixtureRequest, seed: int) -> osler.Index:
    return osler.Index.build(np.random.default_rng(seed).standard_normal((request.param, 40)).astype(np.float32))


@pytest.mark.parametrize("exact", [False, True])
def test_each_row_of_a_batch_is_the_single_answer(index: osler.Index, exact: bool, rng: np.random.Generator) -> None:
    queries = rng.standard_normal((70, 40)).astype(np.float32)
    groups = rng.integers(0, 50, len(index))
    allowed = rng.random(len(index)) < 0.4
    for options in ({}, {"filter": allowed}, {"groups": groups}, {"recall": 0.8}, {"ef": 40}):
        batch = index.search(queries, 6, exact=exact, **options)
        for at, query in enumerate(queries):
            one = index.search(query, 6, exact=exact, **options)
            np.testing.assert_array_equal(one.keys, batch.keys[at])
            np.testing.assert_array_equal(one.scores, batch.scores[at])
            assert one.counts == batch.counts[at]


def test_threads_change_nothing(index: osler.Index, rng: np.random.Generator) -> None:
    queries = rng.standard_normal((50, 40)).astype(np.float32)
    for exact in (False, True):
        answer = index.search(queries, 10, exact=exact, threads=1)
        for threads in (2, 3, 8, None):
            found = index.search(queries, 10, exact=exact, threads=threads)
            np.testing.assert_array_equal(found.keys, answer.keys)
            np.testing.assert_array_equal(found.scores, answer.scores)


def test_shapes_and_types(index: osler.Index) -> None:
    one = index.search(np.ones(40, np.float32), k=3)
    assert one.keys.shape == one.scores.shape == (3,)
    assert one.keys.dtype == np.uint64
    assert one.scores.dtype == np.float32
    assert type(one.counts) is int
    batch = index.search(np.ones((1, 40), np.float32), k=3)
    assert batch.keys.shape == batch.scores.shape == (1, 3)
    assert batch.counts.shape == (1,)
    assert batch.counts.dtype.kind in "iu"
    none = index.search(np.ones((0, 40), np.float32), k=3)
    assert none.keys.shape == none.scores.shape == (0, 3)
    assert none.counts.shape == (0,)


def test_fewer_than_k_is_padded() -> None:
    index = osler.Index.build(np.eye(3, dtype=np.float32), keys=[7, 8, 9])
    found = index.search(np.array([[1, 0.5, 0.1], [0, 0, 1]], np.float32), k=5)
    assert found.counts.tolist() == [3, 3]
    assert found.keys[0].tolist() == [7, 8, 9, 2**64 - 1, 2**64 - 1]
    assert (found.keys[:, 3:] == oracle.NO_KEY).all()
    assert np.isneginf(found.scores[:, 3:]).all()
    one = index.search(np.array([1, 0.5, 0.1], np.float32), k=5, filter=[8])
    assert (one.counts, one.keys.tolist()) == (1, [8] + 4 * [2**64 - 1])


def test_an_empty_index_answers() -> None:
    for metric in oracle.METRICS:
        index = osler.Index(dim=4, metric=metric)
        assert (len(index), index.keys.shape, index.keys.dtype) == (0, (0,), np.uint64)
        found = index.search(np.ones((2, 4), np.float32), k=3)
        assert found.counts.tolist() == [0, 0]
        assert (found.keys == oracle.NO_KEY).all()
        assert index.search(np.ones(4, np.float32)).counts == 0
        assert index.get([]).shape == (0, 4)
        assert index.delete([1, 2]) == 0


def test_ties_come_in_insertion_order(rng: np.random.Generator) -> None:
    rows = np.repeat(rng.standard_normal((30, 9)), 8, axis=0)[rng.permutation(240)].astype(np.float32)
    keys = rng.permutation(1_000)[:240].astype(np.uint64)
    for metric in oracle.METRICS:
        for codes in ("f32", "f16"):
            index = osler.Index.build(rows, keys, metric=metric, codes=codes)
            place = {int(key): at for at, key in enumerate(index.keys)}
            assert index.keys.tolist() == keys.tolist()
            found = index.search(rows[:20], 50)
            for key_row, score_row in zip(found.keys, found.scores, strict=True):
                places = [place[int(key)] for key in key_row]
                for left, right in zip(range(49), range(1, 50), strict=True):
                    if score_row[left] == score_row[right]:
                        assert places[left] < places[right]


def test_a_row_added_again_goes_to_the_end() -> None:
    index = osler.Index.build(np.ones((3, 2), np.float32), keys=[5, 6, 7])
    assert index.delete([5]) == 1
    index.add(np.ones((1, 2), np.float32), keys=[5])
    assert index.keys.tolist() == [6, 7, 5]
    assert index.search(np.ones(2, np.float32), k=3).keys.tolist() == [6, 7, 5]


def test_a_result_refuses_tuple_unpacking(index: osler.Index) -> None:
    for queries in (np.ones(40, np.float32), np.ones((2, 40), np.float32), np.ones((3, 40), np.float32)):
        found = index.search(queries, k=2)
        with pytest.raises(TypeError, match="keys"):
            _keys, _scores = found
        with pytest.raises(TypeError, match="keys"):
            _keys, _scores, _counts = found


def test_results_do_not_change_when_the_index_does() -> None:
    index = osler.Index.build(np.eye(3, dtype=np.float32))
    found, keys, rows = index.search(np.eye(3, dtype=np.float32), k=2), index.keys, index.get([0])
    before = found.keys.copy(), found.scores.copy(), keys.copy(), rows.copy()
    index.delete([0, 1])
    index.add(np.ones((5, 3), np.float32))
    for now, then in zip((found.keys, found.scores, keys, rows), before, strict=True):
        np.testing.assert_array_equal(now, then)
