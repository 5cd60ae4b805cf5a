"""Wrong input raises one sentence that says what to do, and nothing of the call is applied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import osler
import pytest


@pytest.fixture(params=oracle.METRICS)
def index(request: pytest.FixtureRequest, rng: np.random.Generator) -> osler.Index:
    return osler.Index.build(rng.standard_normal((25, 6)).astype(np.float32), np.arange(25) * 2, metric=request.param)


def state(index: osler.Index) -> tuple[bytes, bytes, list[int]]:
    return index.keys.tobytes(), index.get(index.keys).tobytes(), index.search(np.ones(6), 25).keys.tolist()


def rows_with(value: float) -> np.ndarray:
    rows = np.ones((3, 6), np.float32)
    rows[1, 4] = value
    return rows


WRONG_ADDS: dict[str, tuple[Any, ...]] = {
    "NaN": (rows_with(np.nan),),
    "infinity": (rows_with(np.inf),),
    "minus infinity": (rows_with(-np.inf),),
    "float64 beyond float32": (np.full((2, 6), 1e300),),
    "too few columns": (np.ones((3, 5)),),
    "too many columns": (np.ones((3, 7)),),
    "one dimension": (np.ones(6),),
    "three dimensions": (np.ones((1, 3, 6)),),
    "no columns": (np.ones((3, 0)),),
    "strings": (np.array([["a"] * 6]),),
    "objects": (np.array([[None] * 6], dtype=object),),
    "complex": (np.ones((2, 6), np.complex64),),
    "ragged": ([[1.0] * 6, [1.0] * 5],),
    "duplicate keys": (np.ones((3, 6)), [101, 103, 101]),
    "a key that is there": (np.ones((3, 6)), [101, 4, 103]),
    "the reserved key": (np.ones((3, 6)), np.array([101, 2**64 - 1, 103], np.uint64)),
    "negative keys": (np.ones((3, 6)), [101, -1, 103]),
    "too few keys": (np.ones((3, 6)), [101, 103]),
    "too many keys": (np.ones((3, 6)), [101, 103, 105, 107]),
    "keys in two dimensions": (np.ones((3, 6)), [[101, 103, 105]]),
    "keys that are not integers": (np.ones((3, 6)), [0.5, 1.5, 2.5]),
    "keys that are strings": (np.ones((3, 6)), ["a", "b", "c"]),
}


def sentence(error: BaseException) -> str:
    text = str(error)
    assert text, "an error without a message"
    assert "\n" not in text
    assert not text.endswith("."), text
    assert text[0].islower() or not text[0].isalpha(), text
    return text


@pytest.mark.parametrize("name", WRONG_ADDS)
def test_add(index: osler.Index, name: str) -> None:
    before = state(index)
    with pytest.raises((ValueError, TypeError)) as raised:
        index.add(*WRONG_ADDS[name])
    if name not in ("strings", "objects", "complex", "keys that are strings"):
        assert isinstance(raised.value, ValueError)
    if name != "ragged":
        sentence(raised.value)
    assert state(index) == before
    assert index.add(np.ones((1, 6))).tolist() == [49], "a refused call used up a key"


@pytest.mark.parametrize("name", WRONG_ADDS)
def test_build(name: str) -> None:
    if name in ("a key that is there", "too few columns", "too many columns"):
        assert len(osler.Index.build(*WRONG_ADDS[name])) == 3
        return
    with pytest.raises((ValueError, TypeError)):
        osler.Index.build(*WRONG_ADDS[name])


def test_zero_rows_under_cosine() -> None:
    rows = np.ones((4, 6), np.float32)
    rows[2] = 0
    index = osler.Index.build(np.ones((2, 6)))
    for call in (lambda: osler.Index.build(rows), lambda: index.add(rows)):
        with pytest.raises(ValueError, match="2"):
            call()
    assert len(index) == 2
    with pytest.raises(ValueError, match="zero"):
        index.search(np.zeros(6))
    for metric in ("dot", "l2"):
        assert osler.Index.build(rows, metric=metric).search(np.zeros(6), 4).counts == 4


def test_values_too_large_for_half_precision() -> None:
    index = osler.Index.build(np.ones((2, 6)), metric="dot", codes="f16")
    with pytest.raises(ValueError, match="f16"):
        index.add(rows_with(7e4))
    assert len(index) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": -1},
        {"k": 2**40},
        {"recall": 0.0},
        {"recall": 1.01},
        {"recall": -0.5},
        {"recall": float("nan")},
        {"ef": 0},
        {"ef": -3},
        {"threads": 0},
        {"threads": -1},
        {"group_size": 0, "groups": np.zeros(25, np.int64)},
    ],
    ids=str,
)
def test_search_options(index: osler.Index, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, OverflowError, MemoryError)) as raised:
        index.search(np.ones(6), **options)
    sentence(raised.value)


@pytest.mark.parametrize(
    "queries",
    [
        np.ones(5),
        np.ones((2, 7)),
        np.ones((1, 2, 6)),
        np.float32(1),
        np.full(6, np.nan),
        np.full((3, 6), np.inf),
        np.array(["a"] * 6),
        None,
    ],
    ids=["5", "(2, 7)", "(1, 2, 6)", "scalar", "NaN", "infinity", "strings", "None"],
)
def test_search_queries(index: osler.Index, queries: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        index.search(queries)
    sentence(raised.value)


def test_wrong_dim_names_both_numbers(index: osler.Index) -> None:
    for call in (lambda: index.add(np.ones((2, 513))), lambda: index.search(np.ones(513))):
        with pytest.raises(ValueError, match=r"513.*\b6\b|\b6\b.*513"):
            call()


def test_nan_names_the_row(index: osler.Index) -> None:
    rows = np.ones((90, 6), np.float32)
    rows[77, 3] = np.nan
    with pytest.raises(ValueError, match="77"):
        index.add(rows)


UNKNOWN: dict[str, Callable[[osler.Index, Any], Any]] = {
    "Index": lambda index, path: osler.Index(dim=4, metrics="l2"),
    "build": lambda index, path: osler.Index.build(np.ones((2, 4)), M=16),
    "open": lambda index, path: osler.Index.open(path, map=True),
    "add": lambda index, path: index.add(np.ones((1, 6)), ids=[1]),
    "search": lambda index, path: index.search(np.ones(6), top_k=3),
    "search_range": lambda index, path: index.search_range(np.ones(6), 0.5, radius=1),
    "delete": lambda index, path: index.delete([1], missing="skip"),
    "get": lambda index, path: index.get([1], missing="skip"),
    "calibrate": lambda index, path: index.calibrate(k=10),
    "save": lambda index, path: index.save(path, compress=True),
    "options by position": lambda index, path: index.search(np.ones(6), 3, 0.95),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_arguments(index: osler.Index, name: str, tmp_path: Any) -> None:
    path = tmp_path / "a.osler"
    index.save(path)
    before = state(index)
    with pytest.raises(TypeError):
        UNKNOWN[name](index, path)
    assert state(index) == before


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0},
        {"dim": -1},
        {"dim": 4, "metric": "euclid"},
        {"dim": 4, "metric": "Cosine"},
        {"dim": 4, "codes": "f64"},
        {"dim": 4, "codes": "pq:0x0"},
        {"dim": 4, "keep_vectors": "tape"},
        {"dim": 4, "memory": -1},
    ],
    ids=str,
)
def test_constructor(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, OverflowError)) as raised:
        osler.Index(**options)
    sentence(raised.value)


def test_get_names_the_first_missing_key(index: osler.Index) -> None:
    with pytest.raises(KeyError, match="33"):
        index.get([2, 4, 33, 35])
    with pytest.raises(KeyError):
        index.get([2**64 - 1])


def test_delete_ignores_what_is_not_there(index: osler.Index) -> None:
    assert index.delete([1, 3, 2**64 - 1]) == 0
    assert index.delete([2, 2, 4, 5]) == 2
    assert index.delete([2, 4]) == 0
    assert len(index) == 23


def test_membership_of_anything(index: osler.Index) -> None:
    assert 4 in index
    assert np.uint64(4) in index
    for other in (5, 2**64 - 1):
        assert other not in index
