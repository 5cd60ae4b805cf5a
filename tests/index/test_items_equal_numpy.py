"""Items found by the scores of their parts are those that numpy finds, and the graph keeps its recall."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.index import rank_items

SCORES = ("max", "mean", "sum", "count", "maxsim", "median_min")
ROUNDING = 4e-6


def brute_force(
    part_scores: np.ndarray, items: np.ndarray, score: str, counts_as_part: np.ndarray
) -> dict[int, tuple[float, float, set[int]]]:
    """Return each item's score, its best part's score and the rows that may be that part; scores are (q, n)."""
    allowed = np.flatnonzero(counts_as_part)
    nearest = np.zeros(part_scores.shape[1])
    for values in part_scores:
        nearest[allowed[np.argsort(-values[allowed], kind="stable")[:20]]] += 1
    found = {}
    for item in np.unique(items[allowed]):
        rows = allowed[items[allowed] == item]
        table = part_scores[:, rows]
        best = table.max(1)
        value = {
            "max": best.max(),
            "mean": table.mean(1).max(),
            "sum": table.sum(1).max(),
            "count": nearest[rows].sum(),
            "maxsim": best.sum(),
            "median_min": np.median(best),
        }[score]
        if score != "count" or value > 0:
            near = table.max(0) >= table.max() - 2 * ROUNDING * max(1.0, float(np.abs(table).max()))
            found[int(item)] = (float(value), float(table.max()), set(rows[near].tolist()))
    return found


def check(
    found: Any,
    wanted: dict[int, tuple[float, float, set[int]]],
    k: int,
    tolerance: float,
    row_of: dict[int, int],
    group_of: dict[int, int] | None = None,
    group_size: int | None = 1,
) -> None:
    """Assert that an answer is the exact one, up to which of two items within the tolerance comes first."""
    order = sorted(wanted, key=lambda item: (-wanted[item][0], -wanted[item][1]))
    if group_of is not None and group_size is not None:
        taken: dict[int, int] = {}
        kept = []
        for item in order:
            taken[group_of[item]] = taken.get(group_of[item], 0) + 1
            if taken[group_of[item]] <= group_size:
                kept.append(item)
        order = kept
    order = order[:k]
    count = found.counts
    assert count == len(order)
    assert found.items.shape == found.scores.shape == found.parts.shape == (k,)
    assert (found.items.dtype, found.scores.dtype, found.parts.dtype) == (np.int64, np.float32, np.uint64)
    assert (found.items[count:] == -1).all()
    assert np.isneginf(found.scores[count:]).all()
    assert (found.parts[count:] == oracle.NO_KEY).all()
    got = found.items[:count].tolist()
    assert len(set(got)) == count, "an item was returned twice"
    assert (np.diff(found.scores[:count]) <= 0).all(), "scores are not in descending order"
    np.testing.assert_allclose(found.scores[:count], [wanted[item][0] for item in got], rtol=2e-6, atol=tolerance)
    np.testing.assert_allclose(found.scores[:count], [wanted[item][0] for item in order], rtol=2e-6, atol=tolerance)
    if group_of is not None and group_size is not None and count:
        assert np.unique([group_of[item] for item in got], return_counts=True)[1].max() <= group_size
    for item, part in zip(got, found.parts[:count].tolist(), strict=True):
        assert row_of[part] in wanted[item][2], "the part is not the best of its item"


def spread(rng: np.random.Generator, n: int, how: str) -> np.ndarray:
    """Return the item of each of n rows: at random, one for all, or each its own."""
    if how == "one":
        return np.full(n, 7, np.int64)
    if how == "own":
        return rng.permutation(n) * 10**12
    return rng.integers(-3, max(1, n // 5), n)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 150),
    how=st.sampled_from(["random", "random", "one", "own"]),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    k=st.integers(1, 60),
    metric=st.sampled_from(oracle.METRICS),
    score=st.sampled_from(SCORES),
    share=st.sampled_from([None, 0.05, 0.6]),
    exclude=st.sampled_from([None, "items", "groups"]),
    grouped=st.booleans(),
    group_size=st.sampled_from([1, 2, None]),
    prepared=st.booleans(),
)
def test_every_score_with_filters_groups_and_exclusions(
    seed: int,
    n: int,
    how: str,
    lengths: list[int],
    k: int,
    metric: str,
    score: str,
    share: float | None,
    exclude: str | None,
    grouped: bool,
    group_size: int | None,
    prepared: bool,
) -> None:
    rng = np.random.default_rng(seed)
    index = osler.Index.build(rng.standard_normal((n, 7)), rng.permutation(5 * n)[:n], metric=metric)
    before = spread(rng, n, how)
    items = index.groups(before) if prepared else None
    gone = rng.random(n) < 0.2
    index.delete(index.keys[gone])
    ids = before[~gone]
    n = len(index)
    offsets = np.cumsum([0, *lengths])
    queries = rng.standard_normal((offsets[-1], 7)).astype(np.float32)
    allowed = None if share is None else rng.random(n) < share
    patients = ids % 4
    options: dict[str, Any] = {"groups": patients, "group_size": group_size} if grouped else {}
    banned = np.full(len(lengths), -1)
    if exclude is not None:
        banned = rng.choice([*(ids if exclude == "items" else patients), -1], len(lengths))
        options |= {"exclude_groups": banned, "exclude_by": ids if exclude == "items" else patients}
    found = index.search_items(
        queries, ids if items is None else items, k, score=score, offsets=offsets, filter=allowed, exact=True, **options
    )
    rows, row_of = index.get(index.keys), {int(key): row for row, key in enumerate(index.keys)}
    scores = oracle.scores(metric, rows, queries)
    by = ids if exclude == "items" else patients
    for at in range(len(lengths)):
        counted = np.ones(n, bool) if allowed is None else allowed.copy()
        if banned[at] != -1:
            counted &= by != banned[at]
        mine = slice(offsets[at], offsets[at + 1])
        many = n if score == "sum" else lengths[at] if score == "maxsim" else 1
        check(
            One(found, at),
            brute_force(scores[mine], ids, score, counted),
            k,
            ROUNDING * many * oracle.magnitude(metric, rows, queries) if n else 1.0,
            row_of,
            {int(item): int(item) % 4 for item in ids} if grouped else None,
            group_size,
        )


class One:
    """One query's answer of several."""

    def __init__(self, found: Any, at: int) -> None:
        self.items, self.scores, self.parts = found.items[at], found.scores[at], found.parts[at]
        self.counts = int(found.counts[at])


def clusters(rng: np.random.Generator, sizes: np.ndarray, dim: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows around their item's centre, which lies around one of 40; the item of each row; the centres."""
    ids = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.standard_normal((40, dim))[rng.integers(0, 40, len(sizes))] + 0.5 * rng.standard_normal(
        (len(sizes), dim)
    )
    return (centres[ids] + 0.4 * rng.standard_normal((len(ids), dim))).astype(np.float32), ids, centres


@pytest.fixture(scope="module", params=oracle.METRICS)
def clustered(request: pytest.FixtureRequest, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    sizes = np.minimum(rng.geometric(0.12, 1_500), 40)
    rows, ids, centres = clusters(rng, sizes)
    index = osler.Index.build(rows, metric=request.param)
    assert index.stats()["search"] == "hnsw"
    return index, index.groups(ids), ids, centres


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("vectors", [1, 5])
@pytest.mark.parametrize("recall", [0.9, 0.99])
def test_the_graph_keeps_the_recall_that_is_asked(
    score: str, vectors: int, recall: float, clustered: Any, rng: np.random.Generator
) -> None:
    index, items, ids, centres = clustered
    about = np.repeat(rng.integers(0, len(centres), 100), vectors)
    queries = (centres[about] + 0.4 * rng.standard_normal((len(about), 16))).astype(np.float32)
    options: dict[str, Any] = {"score": score, "offsets": np.arange(0, len(queries) + 1, vectors)}
    some = index.bitmap(rng.random(len(index)) < 0.7)
    cases: list[tuple[int, dict[str, Any]]] = [
        (1, {}),
        (10, {"filter": some}),
        (10, {"groups": index.groups(ids % 500)}),
        (60, {"exclude_groups": about[::vectors]}),
    ]
    for k, more in cases:
        found = index.search_items(queries, items, k, recall=recall, **options, **more)
        exact = index.search_items(queries, items, k, exact=True, **options, **more)
        assert found.counts.tolist() == exact.counts.tolist() or score == "count"
        last = exact.scores[np.arange(100), exact.counts - 1][:, None]
        hits = (found.scores >= last - 1e-5 * np.abs(last)).sum(1) / exact.counts
        assert np.minimum(hits, 1).mean() >= recall, f"recall {hits.mean():.4f} at k={k} with {list(more)}"


@pytest.mark.parametrize("score", ["mean", "sum"])
def test_means_and_sums_are_exact_whatever_recall_is_asked(score: str, clustered: Any) -> None:
    index, items, ids, centres = clustered
    queries = centres[:50].astype(np.float32)
    offsets = np.arange(0, 51, 2)
    keep = index.bitmap(ids % 3 > 0) | index.bitmap(np.arange(len(ids)) % 2 == 0)
    for options in ({}, {"filter": keep}, {"groups": ids % 100, "group_size": 2}):
        for k in (1, 20, 2_000):
            prepared = index.search_items(queries, items, k, score=score, offsets=offsets, recall=0.5, **options)
            plain = index.search_items(queries, ids, k, score=score, offsets=offsets, exact=True, **options)
            assert prepared.items.tobytes() == plain.items.tobytes()
            assert prepared.scores.tobytes() == plain.scores.tobytes()
            assert prepared.parts.tobytes() == plain.parts.tobytes()


@pytest.mark.parametrize("score", SCORES)
def test_an_item_of_a_thousand_parts_beside_items_of_one(score: str, rng: np.random.Generator) -> None:
    sizes = np.array([1_000] + [1] * 1_400)
    rows, ids, centres = clusters(rng, sizes)
    for metric in oracle.METRICS:
        index = osler.Index.build(rows, metric=metric)
        queries = (centres[:3] + 0.1).astype(np.float32)
        scores = oracle.scores(metric, index.get(index.keys), queries)
        wanted = brute_force(scores, ids, score, np.ones(len(ids), bool))
        tolerance = ROUNDING * oracle.magnitude(metric, rows, queries) * (1_000 if score == "sum" else 3)
        for k in (1, 50, 3_000):
            found = index.search_items(queries, index.groups(ids), k, score=score, exact=True)
            check(found, wanted, k, tolerance, {row: row for row in range(len(ids))})


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("n", [400, 2_400])
def test_ties_go_to_the_better_part_and_then_to_the_earlier_row(score: str, n: int, rng: np.random.Generator) -> None:
    """Whole numbers under the inner product have exact scores, so that the order is known to the last row."""
    rows = rng.integers(0, 3, (n, 4)).astype(np.float32)
    ids = rng.permutation(np.arange(n) // 6)
    index = osler.Index.build(rows, metric="dot")
    queries = rng.integers(-1, 3, (2, 4)).astype(np.float32)
    table = queries @ rows.T
    best = table.max(0)
    first = {}
    for item in np.unique(ids).tolist():
        mine = np.flatnonzero(ids == item)
        first[item] = int(mine[np.argmax(best[mine])])
    wanted = brute_force(table.astype(np.float64), ids, score, np.ones(n, bool))
    order = sorted(wanted, key=lambda item: (-np.float32(wanted[item][0]), -wanted[item][1], first[item]))
    for items in (ids, index.groups(ids)):
        for k in (1, 7, n):
            found = index.search_items(queries, items, k, score=score, exact=True)
            assert found.items[: found.counts].tolist() == order[:k]
            assert found.parts[: found.counts].tolist() == [first[item] for item in order[:k]]


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 120),
    vectors=st.integers(1, 5),
    score=st.sampled_from(SCORES),
    k=st.integers(1, 40),
    grouped=st.booleans(),
)
def test_a_table_of_scores_is_ranked_as_an_index_ranks(
    seed: int, n: int, vectors: int, score: str, k: int, grouped: bool
) -> None:
    rng = np.random.default_rng(seed)
    index = osler.Index.build(rng.standard_normal((n, 6)), metric="dot")
    ids, queries = rng.integers(0, 1 + n // 4, n), rng.standard_normal((vectors, 6)).astype(np.float32)
    groups = ids % 5 if grouped else None
    table = (queries.astype(np.float64) @ index.get(index.keys).astype(np.float64).T).astype(np.float32)
    ranked = rank_items(table, ids, k, score=score, groups=groups)
    found = index.search_items(queries, ids, k, score=score, groups=groups, exact=True)
    assert ranked.counts == found.counts
    np.testing.assert_allclose(ranked.scores, found.scores[: found.counts], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("score", SCORES)
def test_the_answer_is_the_same_at_any_number_of_threads_and_in_any_batch(score: str, clustered: Any) -> None:
    index, items, ids, centres = clustered
    queries = centres[:60].astype(np.float32)
    offsets = np.array([0, 1, 6, 7, 20, 22, 60])
    options: dict[str, Any] = {"score": score, "filter": index.bitmap(ids % 7 > 0)}
    found = index.search_items(queries, items, 9, offsets=offsets, threads=1, **options)
    for threads in (2, 3):
        other = index.search_items(queries, items, 9, offsets=offsets, threads=threads, **options)
        assert other.items.tobytes() == found.items.tobytes()
        assert other.scores.tobytes() == found.scores.tobytes()
        assert other.parts.tobytes() == found.parts.tobytes()
    for at in range(6):
        single = index.search_items(queries[offsets[at] : offsets[at + 1]], items, 9, **options)
        assert single.items.tolist() == found.items[at].tolist()
        assert single.scores.tobytes() == found.scores[at].tobytes()


def test_prepared_items_follow_deletions_and_new_numbers(rng: np.random.Generator) -> None:
    rows, ids, _ = clusters(rng, rng.integers(1, 9, 700))
    index = osler.Index.build(rows)
    items, live = index.groups(ids), np.ones(len(ids), bool)
    for _ in range(4):
        gone = live & (rng.random(len(ids)) < 0.15)
        index.delete(np.flatnonzero(gone))
        live &= ~gone
        for score in SCORES:
            found = index.search_items(rows[:3], items, 2_000, score=score, exact=True)
            again = index.search_items(rows[:3], ids[live], 2_000, score=score, exact=True)
            assert found.items.tolist() == again.items.tolist()
            assert found.scores.tobytes() == again.scores.tobytes()
            assert live[found.parts[: found.counts].astype(np.int64)].all()
    index.add(rows[:1], keys=[10**6])
    with pytest.raises(ValueError, match="prepare them again"):
        index.search_items(rows[0], items)


@pytest.mark.parametrize("group_size", [1, 2, 500])
def test_long_answers_of_different_groups_are_those_of_a_full_sort(group_size: int, rng: np.random.Generator) -> None:
    """From some k on they are kept in trees instead of a list."""
    ids = rng.integers(0, 1_500, 1_990)
    rows = rng.integers(-3, 4, (1_990, 4)).astype(np.float32)
    index = osler.Index.build(rows, metric="dot")
    for k in (1_000, 1_100, 1_990):
        found = index.search(rows[0], k, groups=ids, group_size=group_size, exact=True)
        expected = oracle.top(rows @ rows[0], k, groups=ids, group_size=group_size)
        assert found.keys[: found.counts].tolist() == expected.tolist()


def test_wrong_arguments_are_refused(rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((20, 4)))
    other = osler.Index.build(rng.standard_normal((20, 4)))
    ids, queries = np.arange(20) // 4, np.ones((3, 4))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"items": ids[:19]}, "20 keys"),
        ({"items": ids + 0.5}, "whole numbers"),
        ({"items": other.groups(ids)}, "another index"),
        ({"items": index.groups(ids), "filter": ids[:5] > 1}, "mask"),
        ({"score": "best"}, "choose one of max, mean, sum, count, maxsim, median_min"),
        ({"k": 0}, "k is 0"),
        ({"recall": 0.0}, "recall"),
        ({"recall": 1.5}, "recall"),
        ({"group_size": 0, "groups": ids}, "group_size"),
        ({"offsets": [0, 2]}, "offsets must begin with 0 and end with 3"),
        ({"offsets": [1, 3]}, "offsets must begin"),
        ({"offsets": [0, 2, 2, 3]}, "query 1 has no vectors"),
        ({"offsets": [0, 5, 3]}, "offsets must grow"),
        ({"offsets": [0, -1, 3]}, "negative"),
        ({"offsets": []}, "offsets must begin"),
        ({"exclude_groups": [1, 2, 3]}, "3 ids for 1 queries"),
        ({"exclude_by": ids}, "exclude_by needs exclude_groups"),
        ({"queries": np.empty((0, 4))}, "query 0 has no vectors"),
        ({"queries": np.full(4, np.nan)}, "not finite"),
        ({"queries": np.ones(5)}, "5 columns"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            index.search_items(**({"queries": queries, "items": ids} | options))
    with pytest.raises(TypeError, match="does not unpack"):
        iter(index.search_items(queries, ids))
    for table, parts, message in (
        (np.ones((2, 3)), [1, 2], "6 values"),
        (np.ones((0, 3)), [1, 2, 3], "at least one vector"),
        (np.full(2, np.inf), [1, 2], "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            rank_items(table, parts)
    assert index.search_items(queries, ids, offsets=[0, 1, 3], exclude_groups=[0, -1]).counts.tolist() == [4, 5]
    assert osler.Index(dim=4).search_items(queries, []).counts == 0
