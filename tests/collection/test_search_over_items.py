"""Searches over items of several parts against brute force: scores, groups, exclusion, kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest

SCORES = ("max", "mean", "sum", "count", "maxsim", "median_min")


@pytest.fixture(scope="module", params=["cosine", "dot", "l2"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """150 items of 0 to 4 parts in two commits, some of them texts."""
    rng = np.random.default_rng(5)
    path: Path = tmp_path_factory.mktemp("filled") / "cases.osler"
    cases = osler.Collection.create(path, dim=6, metric=request.param)
    model = {}
    for start in (0, 75):
        keys = [f"k{number}" for number in range(start, start + 75)]
        owner = rng.permutation(np.repeat(np.arange(75), rng.integers(0, 5, 75)))
        vectors = rng.normal(size=(len(owner), 6)).astype(np.float32)
        kinds = rng.choice(["image", "text"], len(owner), p=[0.7, 0.3]).tolist()
        rows: list[dict[str, Any]] = []
        for number in range(start, start + 75):
            row: dict[str, Any] = {"n": number}
            if number % 7:
                row["patient"] = None if number % 5 == 0 else f"p{number % 20}"
            rows.append(row)
        cases.add_vectors(keys, vectors, parts=owner, kind=kinds, metadata=rows)
        for position, key in enumerate(keys):
            mine = np.flatnonzero(owner == position)
            model[key] = ([vectors[row] for row in mine], [kinds[row] for row in mine], rows[position])
    yield cases, model, request.param
    cases.close()


def value(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "l2":
        return -float(((a - b) ** 2).sum())
    return float(a @ b) / (float(np.linalg.norm(a) * np.linalg.norm(b)) if metric == "cosine" else 1.0)


def expected(
    model: Any, metric: str, queries: np.ndarray, score: str, kind: str | None, skip: Any = lambda key, row: False
) -> list[tuple[float, float, str, int]]:
    """Score, best score, key and best part's position of every item that may be found, best first."""
    allowed = {}
    for key, (vectors, kinds, row) in model.items():
        parts = [at for at, found in enumerate(kinds) if kind in (None, found)]
        if parts and not skip(key, row):
            allowed[key] = [(at, [value(metric, query, vectors[at]) for query in queries]) for at in parts]
    nearest: list[set[tuple[str, int]]] = []
    for q in range(len(queries)):
        ranked = sorted(((-scores[q], key, at) for key, parts in allowed.items() for at, scores in parts))
        nearest.append({(key, at) for _, key, at in ranked[:20]})
    found = []
    for key, parts in allowed.items():
        table = np.array([scores for _, scores in parts])
        best = table.max(0)
        combined = {
            "max": best.max(),
            "mean": table.mean(0).max(),
            "sum": table.sum(0).max(),
            "count": float(sum((key, at) in chosen for at, _ in parts for chosen in nearest)),
            "maxsim": best.sum(),
            "median_min": np.median(best),
        }[score]
        if score != "count" or combined > 0:
            found.append((float(combined), float(best.max()), key, parts[int(table.max(1).argmax())][0]))
    return sorted(found, key=lambda one: (-one[0], -one[1]))


def check(hits: osler.collection.Hits, wanted: list[Any], k: int) -> None:
    assert [hit.key for hit in hits] == [key for _, _, key, _ in wanted[:k]]
    np.testing.assert_allclose([hit.score for hit in hits], [one[0] for one in wanted[:k]], rtol=1e-4, atol=1e-4)
    assert [hit.part.position for hit in hits] == [part for _, _, _, part in wanted[:k]]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("kind", [None, "text", "any"])
def test_every_score_equals_brute_force(
    score: str, frames: int, kind: str | None, filled: Any, rng: np.random.Generator
) -> None:
    cases, model, metric = filled
    searched_kind = {None: "image", "text": "text", "any": None}[kind]
    for k in (1, 10, 500):
        queries = rng.normal(size=(frames, 6)).astype(np.float32)
        hits = cases.search(vector=queries, k=k, score=score, kind=kind)
        wanted = expected(model, metric, queries, score, searched_kind)
        check(hits, wanted, k)
        assert hits.searched == sum(any(searched_kind in (None, k) for k in kinds) for _, kinds, _ in model.values())


@pytest.mark.parametrize("score", ["max", "sum"])
def test_groups_and_conditions_hold_inside_the_search(score: str, filled: Any, rng: np.random.Generator) -> None:
    cases, model, metric = filled
    for k in (1, 5, 200):
        query = rng.normal(size=(1, 6)).astype(np.float32)
        hits = cases.search(vector=query[0], k=k, score=score, group_by="patient", where="n % 3 <> 0")
        wanted, seen = [], set()
        for one in expected(model, metric, query, score, "image", lambda key, row: row["n"] % 3 == 0):
            patient = model[one[2]][2].get("patient")
            if patient is None or patient not in seen:
                wanted.append(one)
            seen.add(patient)
        check(hits, wanted, k)


def test_like_never_finds_itself_and_excludes_its_own_value(filled: Any) -> None:
    cases, model, metric = filled
    asked = 0
    for key, (vectors, kinds, row) in model.items():
        images = [vector for vector, kind in zip(vectors, kinds, strict=True) if kind == "image"]
        if not images:
            continue
        asked += 1
        queries = np.array(images)
        check(
            cases.search(like=key, k=7),
            expected(model, metric, queries, "max", "image", lambda other, _, key=key: other == key),
            7,
        )
        own = row.get("patient")
        check(
            cases.search(like=key, k=7, exclude="patient"),
            expected(
                model,
                metric,
                queries,
                "max",
                "image",
                lambda other, there, key=key, own=own: (
                    other == key or (own is not None and there.get("patient") == own)
                ),
            ),
            7,
        )
    assert asked > 80


def test_values_to_exclude_can_be_named(filled: Any, rng: np.random.Generator) -> None:
    cases, model, metric = filled
    query = rng.normal(size=(1, 6)).astype(np.float32)
    for exclude in ({"patient": "p3"}, {"patient": ["p3", "p4"]}, {"patient": "p3", "n": 5}, {"patient": []}):
        gone = {column: set(given) if isinstance(given, list) else {given} for column, given in exclude.items()}
        wanted = expected(
            model,
            metric,
            query,
            "max",
            "image",
            lambda key, row, gone=gone: any(row.get(column) in values for column, values in gone.items()),
        )
        check(cases.search(vector=query[0], k=200, exclude=exclude), wanted, 200)


def test_many_queries_equal_single_ones(filled: Any, rng: np.random.Generator) -> None:
    cases, _, _ = filled
    queries = rng.normal(size=(9, 6))
    for options in ({}, {"where": "n > 40", "group_by": "patient"}, {"score": "maxsim"}, {"exclude": {"n": 3}}):
        many = cases.search_many(vectors=queries, k=6, **options)
        for query, hits in zip(queries, many, strict=True):
            single = cases.search(vector=query, k=6, **options)
            assert [hit.key for hit in hits] == [hit.key for hit in single]
            np.testing.assert_allclose([h.score for h in hits], [h.score for h in single], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "exactly one of image=, text=, vector=, like=; 0 were given"),
        ({"vector": np.ones(6), "like": "k1"}, ValueError, "2 were given"),
        ({"vector": np.ones(5)}, ValueError, "5 columns, this collection has dim 6"),
        ({"vector": np.ones((0, 6))}, ValueError, "shape"),
        ({"vector": np.full(6, np.nan)}, ValueError, "NaN"),
        ({"vector": np.ones(6), "k": 0}, ValueError, "k must be"),
        ({"vector": np.ones(6), "k": 2.5}, ValueError, "k must be"),
        ({"vector": np.ones(6), "k": True}, ValueError, "k must be"),
        ({"vector": np.ones(6), "recall": 0}, ValueError, "recall"),
        ({"vector": np.ones(6), "score": "best"}, ValueError, "score is 'best'"),
        ({"vector": np.ones(6), "kind": "video"}, ValueError, "kind is 'video'"),
        ({"vector": np.ones(6), "where": "patiant = 'p1'"}, ValueError, "did you mean 'patient'"),
        ({"vector": np.ones(6), "group_by": "patiant"}, ValueError, "did you mean 'patient'"),
        ({"vector": np.ones(6), "exclude": "patiant"}, ValueError, "did you mean 'patient'"),
        ({"vector": np.ones(6), "exclude": {"patiant": "p1"}}, ValueError, "did you mean 'patient'"),
        ({"vector": np.ones(6), "exclude": {"patient": 3}}, ValueError, "a value that is not text"),
        ({"vector": np.ones(6), "exclude": "patient"}, ValueError, "needs a query that has a value of its own"),
        ({"vector": np.ones(6), "exclude": 3}, TypeError, "exclude must be"),
        ({"vector": np.ones(6), "where": 3}, TypeError, "where is a int"),
        ({"like": "nobody"}, KeyError, "no item 'nobody'"),
        ({"text": "effusion"}, osler.Error, "has no encoder"),
        ({"image": np.ones((8, 8))}, osler.Error, "has no encoder"),
        ({"vector": np.ones(6), "wher": "n = 1"}, TypeError, "wher"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments: Any, error: type[Exception], message: str, filled: Any) -> None:
    cases, _, _ = filled
    with pytest.raises(error, match=message):
        cases.search(**arguments)


def test_options_are_checked_before_anything_is_encoded(tmp_path: Path, tiny: Any) -> None:
    cases = osler.Collection.create(tmp_path / "cases.osler", encoder=tiny)
    cases.add_vectors(["a"], np.ones((1, 16)), metadata=[{"n": 1}])
    picture = np.zeros((8, 8), np.uint8)
    for options in ({"where": "m = 1"}, {"k": 0}, {"group_by": "m"}, {"exclude": "m"}, {"score": "x"}):
        with pytest.raises(ValueError):
            cases.search(image=picture, **options)  # type: ignore[arg-type]
    assert tiny.pictures == 0
    assert cases.search(image=picture)[0].key == "a"
    assert tiny.pictures == 1


def test_an_item_without_vectors_is_counted_and_never_found(cases: osler.Collection) -> None:
    cases.add_vectors(["a"], np.eye(8)[:1], metadata=[{"n": 1}])
    cases.add_vectors(["b"], None, metadata=[{"n": 2}])
    assert cases.keys("n = 2") == ["b"]
    assert [hit.key for hit in cases.search(vector=np.ones(8))] == ["a"]
    assert len(cases.search(vector=np.ones(8), where="n = 2")) == 0
    assert np.isnan(cases.vectors(["b"])).all()
    with pytest.raises(ValueError, match="stored without vectors"):
        cases.search(like="b")


def test_an_empty_collection_answers_nothing(cases: osler.Collection) -> None:
    hits = cases.search(vector=np.ones(8))
    assert (len(hits), hits.searched, repr(hits)) == (0, 0, "no hits among 0 items")
    assert cases.search(vector=np.ones(8), score="mean").to_polars().columns[:3] == ["rank", "key", "score"]
    assert cases.vectors().shape == (0, 8)


def test_vectors_of_several_parts_are_their_mean(filled: Any) -> None:
    cases, model, metric = filled
    found = cases.vectors()
    assert found.dtype == np.float32
    for row, (vectors, kinds, _) in zip(found, model.values(), strict=True):
        images = np.array([v for v, kind in zip(vectors, kinds, strict=True) if kind == "image"], np.float64)
        if not len(images):
            assert np.isnan(row).all()
            continue
        if metric == "cosine":
            images /= np.linalg.norm(images, axis=1, keepdims=True)
        mean = images.mean(0)
        if metric == "cosine" and len(images) > 1:
            mean /= np.linalg.norm(mean)
        np.testing.assert_allclose(row, mean, rtol=1e-5, atol=1e-6)


def test_hits_are_tables(filled: Any) -> None:
    cases, model, _ = filled
    hits = cases.search(vector=np.ones(6), k=4)
    frame = hits.to_polars()
    assert frame["key"].to_list() == [hit.key for hit in hits]
    assert frame["n"].to_list() == [model[hit.key][2]["n"] for hit in hits]
    assert hits.to_pandas()["score"].tolist() == frame["score"].to_list()
    assert [hit.key for hit in hits[1:3]] == [hits[1].key, hits[2].key]
    assert hits[-1].key == hits[3].key
    assert all(hit.metadata == model[hit.key][2] for hit in hits)
    assert "patient" not in repr(hits)
