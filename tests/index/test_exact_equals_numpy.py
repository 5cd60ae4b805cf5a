"""Exact search gives numpy's answer for every metric, code, dtype, layout, k and dimension.

Follows the design's contract of `Index.search`; where every sum is exact in float32 the keys must be numpy's too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st

# One unit of float32 rounding per term, generously: 32 lanes bound the depth of a sum.
ROUNDING = 4e-6
HALF = 1.5e-3


def grid(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Rows of small integers, none of them zero: dot and l2 are exact in float32, and ties are common."""
    rows = rng.integers(-2, 3, size=(n, dim)).astype(np.float32)
    rows[~rows.any(axis=1), 0] = 1.0
    return rows


def check(index: osler.Index, queries: np.ndarray, k: int, **options: Any) -> None:
    """Compare with numpy over the rows as they are stored."""
    stored = index.get(index.keys)
    row_scores = oracle.scores(index.metric, stored, queries)
    size = oracle.magnitude(index.metric, stored, queries)
    slack = HALF if (index.codes, index.metric) == ("f16", "cosine") else ROUNDING
    found = index.search(queries, k, exact=True, **options)
    for at in range(len(queries)):
        oracle.check_answer(
            found.keys[at],
            found.scores[at],
            found.counts[at],
            keys=index.keys,
            row_scores=row_scores[at],
            k=k,
            tolerance=slack * size,
        )


@pytest.mark.parametrize("codes", ["f32", "f16"])
@pytest.mark.parametrize("metric", oracle.METRICS)
def test_every_tail_length(metric: str, codes: str, rng: np.random.Generator) -> None:
    for dim in range(1, 68):
        rows, queries = rng.standard_normal((37, dim)), rng.standard_normal((3, dim))
        check(osler.Index.build(rows, metric=metric, codes=codes), queries, 10)


@pytest.mark.parametrize("metric", oracle.METRICS)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 90),
    dim=st.integers(1, 130),
    m=st.integers(1, 20),
    k=st.integers(1, 100),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    codes=st.sampled_from(["f32", "f16"]),
)
def test_any_shape(metric: str, seed: int, n: int, dim: int, m: int, k: int, scale: float, codes: str) -> None:
    rng = np.random.default_rng(seed)
    index = osler.Index(dim, metric=metric, codes=codes)
    index.add((scale * rng.standard_normal((n, dim))).astype(np.float32))
    check(index, (scale * rng.standard_normal((m, dim))).astype(np.float32), k)


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize("codes", ["f32", "f16"])
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 90), dim=st.integers(1, 70), k=st.integers(1, 100))
def test_same_keys_as_numpy_where_sums_are_exact(metric: str, codes: str, seed: int, n: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    rows, queries = grid(rng, n, dim), grid(rng, 3, dim)
    index = osler.Index.build(rows, metric=metric, codes=codes)
    found = index.search(queries, k, exact=True)
    for at, row_scores in enumerate(oracle.scores(metric, rows, queries)):
        best = oracle.top(row_scores, k)
        assert found.keys[at, : len(best)].tolist() == best.tolist()
        assert found.scores[at, : len(best)].tolist() == row_scores[best].tolist()


@pytest.mark.parametrize("n", [1, 31, 32, 33, 255, 256, 257, 1_999])
@pytest.mark.parametrize("metric", oracle.METRICS)
def test_block_edges(metric: str, n: int, rng: np.random.Generator) -> None:
    index = osler.Index.build(rng.standard_normal((n, 24)), metric=metric)
    for m in (1, 7, 8, 33):
        check(index, rng.standard_normal((m, 24)), 10)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_recall_one_is_exact_on_a_graph(metric: str, rng: np.random.Generator) -> None:
    rows, queries = rng.standard_normal((2_600, 16)), rng.standard_normal((40, 16))
    index = osler.Index.build(rows, metric=metric)
    check(index, queries, 10)
    exact, one = index.search(queries, 10, exact=True), index.search(queries, 10, recall=1.0)
    np.testing.assert_array_equal(one.keys, exact.keys)
    np.testing.assert_array_equal(one.scores, exact.scores)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_input_dtype_and_layout_do_not_matter(metric: str, rng: np.random.Generator) -> None:
    halves = rng.standard_normal((60, 20)).astype(np.float16)
    plain = halves.astype(np.float32)
    wide = np.zeros((120, 40), np.float32)
    wide[::2, ::2] = plain
    swapped = plain.astype(">f4")
    read_only = plain.copy()
    read_only.flags.writeable = False
    forms = {
        "float16": halves,
        "float64": plain.astype(np.float64),
        "Fortran order": np.asfortranarray(plain),
        "strided": wide[::2, ::2],
        "reversed": np.ascontiguousarray(plain[::-1])[::-1],
        "other byte order": swapped,
        "read only": read_only,
        "float16 strided": np.repeat(halves, 2, axis=0)[::2],
        "list": plain.tolist(),
    }
    expected = osler.Index.build(plain, metric=metric)
    answer = expected.search(plain[:9], 7, exact=True)
    for name, form in forms.items():
        index = osler.Index.build(form, metric=metric)
        np.testing.assert_array_equal(index.get(index.keys), expected.get(expected.keys), err_msg=name)
        found = expected.search(form[:9], 7, exact=True)
        np.testing.assert_array_equal(found.keys, answer.keys, err_msg=name)
        np.testing.assert_array_equal(found.scores, answer.scores, err_msg=name)


def test_stored_rows_are_what_was_given(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((50, 33)).astype(np.float32)
    for metric in ("dot", "l2"):
        index = osler.Index.build(rows, metric=metric, codes="f32")
        np.testing.assert_array_equal(index.get(index.keys), rows)
        index = osler.Index.build(rows, metric=metric, codes="f16")
        np.testing.assert_array_equal(index.get(index.keys), rows.astype(np.float16).astype(np.float32))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for codes, slack in (("f32", 2e-7), ("f16", 5e-4)):
        index = osler.Index.build(rows, metric="cosine", codes=codes)
        np.testing.assert_allclose(index.get(index.keys), unit, rtol=0, atol=slack)


def test_cosine_ignores_length(rng: np.random.Generator) -> None:
    rows, queries = rng.standard_normal((50, 12)).astype(np.float32), rng.standard_normal((5, 12)).astype(np.float32)
    lengths = np.exp2(rng.integers(-60, 60, size=(50, 1))).astype(np.float32)
    plain, scaled = osler.Index.build(rows), osler.Index.build(rows * lengths)
    answer, found = plain.search(queries, 50), scaled.search(queries * np.float32(2**40), 50)
    np.testing.assert_allclose(found.scores, answer.scores, rtol=0, atol=1e-6)
    assert (np.abs(found.scores) <= 1.0).all()


def test_cosine_of_a_row_with_itself_is_at_most_one(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((200, 67)).astype(np.float32)
    found = osler.Index.build(rows).search(rows, 1)
    assert (found.keys[:, 0] == np.arange(200)).all()
    assert (found.scores <= 1.0).all()
    assert (found.scores >= 1.0 - 1e-6).all()
