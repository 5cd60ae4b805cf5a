"""At most `group_size` hits of a group, and none of an excluded one, exactly as numpy would choose them."""

from __future__ import annotations

import numpy as np
import oracle
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 120),
    how_many=st.integers(1, 60),
    group_size=st.sampled_from([1, 2, 7, None]),
    k=st.integers(1, 130),
    metric=st.sampled_from(oracle.METRICS),
    share=st.sampled_from([None, 0.1, 0.6]),
    exclude=st.booleans(),
    prepared=st.booleans(),
)
def test_groups_with_filters_and_exclusions(
    seed: int,
    n: int,
    how_many: int,
    group_size: int | None,
    k: int,
    metric: str,
    share: float | None,
    exclude: bool,
    prepared: bool,
) -> None:
    rng = np.random.default_rng(seed)
    index = osler.Index.build(rng.standard_normal((n, 7)), rng.permutation(5 * n)[:n], metric=metric)
    index.delete(rng.choice(index.keys, n // 4, replace=False))
    n = len(index)
    ids = rng.integers(0, how_many, n) * 10**15
    queries = rng.standard_normal((4, 7)).astype(np.float32)
    allowed = None if share is None else rng.random(n) < share
    banned = np.where(rng.random(4) < 0.3, -1, rng.integers(0, how_many, 4) * 10**15) if exclude else None
    found = index.search(
        queries,
        k,
        filter=allowed,
        groups=index.groups(ids) if prepared else ids,
        group_size=group_size,
        exclude_groups=banned,
        exact=True,
    )
    stored = index.get(index.keys)
    row_scores = oracle.scores(metric, stored, queries)
    for at in range(4):
        permitted = np.ones(n, bool) if allowed is None else allowed.copy()
        if banned is not None and banned[at] != -1:
            permitted &= ids != banned[at]
        oracle.check_answer(
            found.keys[at],
            found.scores[at],
            found.counts[at],
            keys=index.keys,
            row_scores=row_scores[at],
            k=k,
            tolerance=4e-6 * oracle.magnitude(metric, stored, queries),
            allowed=permitted,
            groups=ids,
            group_size=group_size,
        )


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 80), group_size=st.sampled_from([1, 3, None]))
def test_one_column_groups_and_another_excludes(seed: int, n: int, group_size: int | None) -> None:
    rng = np.random.default_rng(seed)
    index = osler.Index.build(rng.standard_normal((n, 6)), metric="l2")
    studies, patients = rng.integers(0, 20, n), rng.integers(0, 6, n)
    queries, own = rng.standard_normal((5, 6)).astype(np.float32), rng.integers(-1, 6, 5)
    by = index.groups(patients)
    grouped = index.search(
        queries, 9, groups=studies, group_size=group_size, exclude_groups=own, exclude_by=by, exact=True
    )
    plain = index.search(queries, 9, exclude_groups=own, exclude_by=by, exact=True)
    row_scores = oracle.scores("l2", index.get(index.keys), queries)
    for at in range(5):
        for found, groups in ((grouped, studies), (plain, None)):
            oracle.check_answer(
                found.keys[at],
                found.scores[at],
                found.counts[at],
                keys=index.keys,
                row_scores=row_scores[at],
                k=9,
                tolerance=4e-6 * oracle.magnitude("l2", index.get(index.keys), queries),
                allowed=np.ones(n, bool) if own[at] == -1 else patients != own[at],
                groups=groups,
                group_size=group_size,
            )


def test_group_size_none_is_no_limit(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((50, 5)))
    query = rng.standard_normal(5)
    plain, grouped = index.search(query), index.search(query, groups=np.zeros(50, np.int64), group_size=None)
    assert grouped.keys.tolist() == plain.keys.tolist()
    assert index.search(query, groups=np.zeros(50, np.int64)).counts == 1


def test_groups_on_a_graph_find_k_groups(rng: np.random.Generator) -> None:
    """Large groups around the query must not use up the width of the beam."""
    ids = rng.integers(0, 25, 2_600)
    rows = rng.standard_normal((25, 16))[ids] + 0.3 * rng.standard_normal((2_600, 16))
    index = osler.Index.build(rows)
    queries = rows[:60].astype(np.float32)
    for group_size in (1, 2):
        found = index.search(queries, 10, groups=ids, group_size=group_size)
        exact = index.search(queries, 10, groups=ids, group_size=group_size, exact=True)
        assert (found.counts == 10).all()
        hits = (found.scores >= exact.scores[:, -1:] - 1e-6).mean()
        assert hits >= 0.95, f"recall {hits:.3f} at group_size {group_size}"
        for keys in found.keys:
            assert np.unique(ids[keys.astype(np.int64)], return_counts=True)[1].max() <= group_size


def test_an_excluded_group_does_not_shorten_the_answer(rng: np.random.Generator) -> None:
    ids = np.repeat(np.arange(26), 100)
    rows = rng.standard_normal((26, 16))[ids] + 0.1 * rng.standard_normal((2_600, 16))
    index = osler.Index.build(rows)
    at = np.arange(0, 2_600, 50)
    found = index.search(rows[at], 10, exclude_groups=ids[at], exclude_by=index.groups(ids))
    exact = index.search(rows[at], 10, exclude_groups=ids[at], exclude_by=index.groups(ids), exact=True)
    assert (found.counts == 10).all()
    assert (ids[found.keys.astype(np.int64)] != ids[at][:, None]).all()
    assert (found.scores >= exact.scores[:, -1:] - 1e-6).mean() >= 0.95


def test_one_query_takes_one_id(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((30, 5)))
    ids = np.arange(30) % 3
    batch = index.search(np.ones((1, 5)), 30, groups=ids, group_size=None, exclude_groups=[1])
    for form in (1, [1], np.array([1])):
        one = index.search(np.ones(5), 30, groups=ids, group_size=None, exclude_groups=form)
        assert one.keys.tolist() == batch.keys[0].tolist()
        assert one.counts == 20


def test_wrong_groups_are_refused(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((20, 4)))
    other = osler.Index.build(rng.standard_normal((20, 4)))
    ids, query = np.zeros(20, np.int64), np.ones((2, 4))
    wrong: list[dict[str, object]] = [
        {"groups": ids[:19]},
        {"groups": ids.astype(np.float64) + 0.5},
        {"groups": ids, "group_size": 0},
        {"groups": ids, "group_size": -1},
        {"groups": ids, "exclude_groups": [1]},
        {"groups": ids, "exclude_groups": [1, 2, 3]},
        {"exclude_groups": [1, 2]},
        {"exclude_groups": [1, 2], "exclude_by": other.groups(ids)},
        {"groups": other.groups(ids)},
    ]
    for options in wrong:
        with pytest.raises(ValueError):
            index.search(query, **options)
