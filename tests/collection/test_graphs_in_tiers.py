"""Answers do not depend on how many graphs there are: each way of asking gives the same over one as over several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest

DIM, ITEMS = 6, 240
SCORES = ("max", "mean", "sum", "count", "maxsim", "median_min")


@pytest.fixture(params=["one part", "several parts"])
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[osler.Collection, osler.Collection]]:
    """The same items, in one graph and in several with rows outside them, some of them deleted since."""
    counts = np.ones(ITEMS, int) if request.param == "one part" else rng.integers(1, 4, ITEMS)
    owner = np.repeat(np.arange(ITEMS), counts)
    vectors = rng.normal(size=(len(owner), DIM))
    rows = [{"n": item % 17, "who": f"p{item % 40}"} for item in range(ITEMS)]
    keys = [str(item) for item in range(ITEMS)]
    made = []
    for name, pieces in (("one", 1), ("several", 6)):
        monkeypatch.setattr("osler.collection.graph._OUTSIDE_ROWS", 10**6 if pieces == 1 else 50)
        monkeypatch.setattr("osler.collection.graph._TAKEN_ALONG", 0)
        cases = osler.Collection.create(tmp_path / f"{name}.osler", dim=DIM)
        for part in np.array_split(np.arange(ITEMS), pieces):
            here = np.isin(owner, part)
            cases.add_vectors(
                [keys[item] for item in part],
                vectors[here],
                parts=owner[here] - part[0],
                metadata=[rows[item] for item in part],
            )
        cases.delete([str(item) for item in range(0, ITEMS, 11)])
        made.append(cases)
    assert len(made[0]._handle.snapshot.manifest["graphs"]) == 0
    assert len(made[1]._handle.snapshot.manifest["graphs"]) > 1
    yield made[0], made[1]
    for cases in made:
        cases.close()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"where": "n < 9"},
        {"where": "n > 90"},
        {"group_by": "who"},
        {"group_by": "who", "where": "n >= 3"},
        {"exclude": {"who": ["p1", "p2", "p3"]}},
        {"k": 400},
    ],
    ids=str,
)
def test_every_question_has_one_answer(
    score: Any, options: dict[str, Any], pair: tuple[osler.Collection, osler.Collection], rng: np.random.Generator
) -> None:
    asked = {"recall": 1, "score": score, **options}
    for query in (rng.normal(size=DIM), rng.normal(size=(3, DIM))):
        one, several = (cases.search(vector=query, **asked) for cases in pair)
        assert one.searched == several.searched
        assert len(one) == len(several)
        np.testing.assert_allclose([hit.score for hit in one], [hit.score for hit in several], rtol=1e-5, atol=1e-6)
        # Among equal scores, such as those that count, any order is right.
        ties = len({round(hit.score, 5) for hit in one}) < len(one)
        if not ties:
            assert [hit.key for hit in one] == [hit.key for hit in several]
            assert [hit.part for hit in one] == [hit.part for hit in several]


@pytest.mark.parametrize("options", [{}, {"group_by": "who"}, {"exclude": "who"}, {"score": "count"}], ids=str)
def test_an_item_never_finds_itself(options: dict[str, Any], pair: tuple[osler.Collection, osler.Collection]) -> None:
    for key in ("5", "100", "239"):
        found = [cases.search(like=key, recall=1, **options) for cases in pair]
        assert key not in [hit.key for hit in found[1]]
        np.testing.assert_allclose(*([hit.score for hit in hits] for hits in found), rtol=1e-5, atol=1e-6)


def test_a_batch_is_its_queries(pair: tuple[osler.Collection, osler.Collection], rng: np.random.Generator) -> None:
    queries = rng.normal(size=(9, DIM))
    batch = pair[1].search_many(vectors=queries, k=7, recall=1)
    for query, hits in zip(queries, batch, strict=True):
        assert [hit.key for hit in hits] == [hit.key for hit in pair[1].search(vector=query, k=7, recall=1)]
