"""A mask, a list of keys and a prepared bitmap all restrict a search exactly as numpy would."""

from __future__ import annotations

import numpy as np
import oracle
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st


def check(
    index: osler.Index, allowed: np.ndarray, form: object, *, seed: int = 0, k: int = 8, exact: bool = True
) -> None:
    queries = np.random.default_rng(seed).standard_normal((3, index.dim)).astype(np.float32)
    stored = index.get(index.keys)
    row_scores = oracle.scores(index.metric, stored, queries)
    tolerance = 4e-6 * oracle.magnitude(index.metric, stored, queries)
    found = index.search(queries, k, filter=form, exact=exact)
    for at in range(3):
        oracle.check_answer(
            found.keys[at],
            found.scores[at],
            found.counts[at],
            keys=index.keys,
            row_scores=row_scores[at],
            k=k,
            tolerance=tolerance,
            allowed=allowed,
        )


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 150),
    share=st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]),
    metric=st.sampled_from(oracle.METRICS),
    deleted=st.booleans(),
)
def test_mask_keys_and_bitmap_say_the_same(seed: int, n: int, share: float, metric: str, deleted: bool) -> None:
    rng = np.random.default_rng(seed)
    index = osler.Index.build(rng.standard_normal((n, 9)), rng.permutation(10 * n)[:n], metric=metric)
    if deleted:
        index.delete(rng.choice(index.keys, n // 3, replace=False))
    allowed = rng.random(len(index)) < share
    keys = index.keys[allowed]
    unknown = np.concatenate([keys, np.array([10**12, 10**13], np.uint64)])
    repeated = np.concatenate([keys, keys])
    for form in (allowed, keys, keys.astype(np.int64), unknown, repeated, index.bitmap(allowed), index.bitmap(unknown)):
        check(index, allowed, form, seed=seed)
    assert len(index.bitmap(allowed)) == len(index.bitmap(repeated)) == int(allowed.sum())


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 300),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_bitmaps_follow_set_algebra(seed: int, n: int, shares: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    index = osler.Index.build(rng.standard_normal((n, 5)), metric="l2")
    masks = [rng.random(n) < share for share in shares]
    a, b, c = (index.bitmap(mask) for mask in masks)
    x, y, z = masks
    for bitmap, mask in (
        (a & b, x & y),
        (a | b, x | y),
        (~a, ~x),
        (a - b, x & ~y),
        (~(a | b) & c, ~(x | y) & z),
        ((a - b) | (b - a), x ^ y),
        (a & ~a, np.zeros(n, bool)),
        (a | ~a, np.ones(n, bool)),
    ):
        assert len(bitmap) == int(mask.sum())
        check(index, mask, bitmap, seed=seed)
    assert [len(a), len(b), len(c)] == [int(mask.sum()) for mask in masks]


def test_filters_on_a_graph_return_allowed_rows_only(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((2_500, 12)))
    for share in (0.0, 0.0004, 0.01, 0.1, 0.5, 1.0):
        allowed = rng.random(2_500) < share
        for form in (allowed, index.keys[allowed], index.bitmap(allowed)):
            check(index, allowed, form, exact=True)
            found = index.search(rng.standard_normal((20, 12)), 10, filter=form)
            assert (found.counts == min(10, allowed.sum())).all()
            real = found.keys[found.keys != oracle.NO_KEY]
            assert allowed[real.astype(np.int64)].all()


def test_rows_added_later_are_outside_a_bitmap(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((20, 4)))
    everything, some = index.bitmap(np.ones(20, bool)), index.bitmap([3, 4])
    complement = ~some
    index.add(rng.standard_normal((5, 4)))
    query = rng.standard_normal(4)
    assert sorted(index.search(query, 25, filter=everything).keys[:20].tolist()) == list(range(20))
    assert index.search(query, 25, filter=everything).counts == 20
    assert index.search(query, 25, filter=some).counts == 2
    assert index.search(query, 25, filter=complement).counts == 18


def test_deleted_rows_leave_a_bitmap(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((20, 4)))
    bitmap = index.bitmap([1, 2, 3])
    index.delete([2])
    index.add(rng.standard_normal((1, 4)), keys=[2])
    found = index.search(rng.standard_normal(4), 10, filter=bitmap)
    assert sorted(found.keys[: found.counts].tolist()) == [1, 3]


def test_a_bitmap_that_was_searched_with_follows_every_change(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((3_000, 8)))
    wanted = set(range(0, 3_000, 150))
    bitmap = index.bitmap(sorted(wanted))
    for gone in ([150, 7], range(1_000, 2_800), [0]):  # the second makes rows move to other places
        for _ in range(2):
            found = index.search(rng.standard_normal(8), 30, filter=bitmap)
            assert set(found.keys[: found.counts].tolist()) == wanted
            assert len(bitmap) == len(wanted) == found.counts
        index.delete(list(gone))
        wanted -= set(gone)
    index.add(rng.standard_normal((50, 8)))
    assert set(index.search(rng.standard_normal(8), 30, filter=bitmap).keys[: len(wanted)].tolist()) == wanted


def test_a_bitmap_belongs_to_its_index(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((20, 4))
    index, other = osler.Index.build(rows), osler.Index.build(rows)
    with pytest.raises(ValueError, match="index"):
        other.search(rows[0], filter=index.bitmap([1]))
    with pytest.raises(ValueError, match="index"):
        index.bitmap([1]) & other.bitmap([1])


def test_a_mask_of_the_wrong_length_is_refused(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((20, 4)))
    for length in (0, 19, 21):
        for call in (
            lambda mask: index.search(np.ones(4), filter=mask),
            lambda mask: index.search_range(np.ones(4), 0.5, filter=mask),
            index.bitmap,
        ):
            with pytest.raises(ValueError, match=rf"{length}.*20|20.*{length}"):
                call(np.ones(length, bool))


@pytest.mark.parametrize("form", ["PA", 1.5, np.array([0.5, 1.5]), np.ones((2, 2), bool), {"a": 1}])
def test_other_filters_are_refused(form: object) -> None:
    index = osler.Index.build(np.eye(4, dtype=np.float32))
    with pytest.raises((ValueError, TypeError)):
        index.search(np.ones(4, np.float32), filter=form)


@pytest.mark.parametrize("nothing", [[], np.zeros(0, np.uint64), np.zeros(4, bool)], ids=["list", "array", "mask"])
def test_a_filter_that_allows_nothing(nothing: object) -> None:
    index = osler.Index.build(np.eye(4, dtype=np.float32))
    found = index.search(np.ones((2, 4), np.float32), filter=nothing)
    assert found.counts.tolist() == [0, 0]
    assert (found.keys == oracle.NO_KEY).all()
    assert len(index.bitmap(nothing)) == 0
