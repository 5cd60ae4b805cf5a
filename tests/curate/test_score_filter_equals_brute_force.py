"""score_filter keeps exactly what a plain loop keeps: a threshold, or floor(f n) items with ties broken by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler.curate import score_filter


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """1,000 items with one or two pictures and texts, some without either."""
    rng = np.random.default_rng(3)
    items: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
    for _ in range(1_000):
        centre = rng.normal(size=8)
        count = (int(rng.choice([1, 1, 2, 0], p=[0.4, 0.4, 0.1, 0.1])), int(rng.choice([1, 2, 0], p=[0.7, 0.2, 0.1])))
        items.append(tuple([centre + rng.normal(size=8) for _ in range(many)] for many in count))  # type: ignore[arg-type]
    vectors = [vector for pair in items for side in pair for vector in side]
    kinds = [kind for pair in items for kind, side in zip(("image", "text"), pair, strict=True) for _ in side]
    owner = [at for at, pair in enumerate(items) for side in pair for _ in side]
    # Keys whose order is not that of the rows, so that a tie broken by row would show.
    keys = [f"{(at * 7919) % 1_000:04d}" for at in range(1_000)]
    cases = osler.Collection.create(tmp_path_factory.mktemp("pairs") / "pairs.osler", dim=8)
    cases.add_vectors(keys, np.array(vectors), parts=owner, kind=kinds)
    yield cases, keys, items
    cases.close()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def by_hand(items: Any) -> list[float | None]:
    return [
        max(cosine(picture, text) for picture in pictures for text in texts) if pictures and texts else None
        for pictures, texts in items
    ]


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.333, 0.5, 1.0])
def test_a_threshold_keeps_what_reaches_it(pairs: Any, threshold: float) -> None:
    cases, keys, items = pairs
    decisions = score_filter(cases, threshold=threshold)
    scores = by_hand(items)
    assert decisions.key == tuple(keys)
    assert set(decisions.kept) == {
        key for key, score in zip(keys, scores, strict=True) if score is not None and score >= threshold
    }
    np.testing.assert_allclose(
        decisions.score, np.array([np.nan if score is None else score for score in scores]), atol=1e-6
    )


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.29, 0.3, 0.5, 0.999, 1.0])
def test_a_fraction_keeps_exactly_its_share_of_the_best(pairs: Any, fraction: float) -> None:
    cases, keys, items = pairs
    ranked = sorted((-score, key) for key, score in zip(keys, by_hand(items), strict=True) if score is not None)
    wanted = len(ranked) * round(fraction * 1_000) // 1_000
    decisions = score_filter(cases, fraction=fraction)
    assert len(decisions.kept) == wanted
    assert set(decisions.kept) == {key for _, key in ranked[:wanted]}


def test_two_filters_cut_to_what_both_keep_in_any_order(pairs: Any) -> None:
    cases, _, _ = pairs
    best, good = score_filter(cases, fraction=0.3), score_filter(cases, threshold=0.4)
    assert set((best & good).kept) == set(best.kept) & set(good.kept) == set((good & best).kept)


def test_an_item_without_a_score_is_dropped_and_says_so(pairs: Any) -> None:
    cases, _, items = pairs
    decisions = score_filter(cases, threshold=-1.0)
    for (pictures, texts), keep, reason in zip(items, decisions.keep, decisions.reason, strict=True):
        assert keep == bool(pictures and texts)
        assert reason == ("score >= -1" if keep else "no text" if pictures else "no picture")


def test_equal_scores_stay_by_key(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=2) as cases:
        keys = ["d", "b", "a", "c"]
        cases.add_vectors(keys, np.ones((8, 2)), parts=np.repeat(np.arange(4), 2), kind=["image", "text"] * 4)
        assert score_filter(cases, fraction=0.5).kept == ["b", "a"]
        assert score_filter(cases, fraction=0.74).kept == ["b", "a"]


def test_the_decimal_that_was_typed_counts(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=2) as cases:
        cases.add_vectors(
            [f"{at:03d}" for at in range(100)], np.ones((200, 2)), parts=np.repeat(np.arange(100), 2),
            kind=["image", "text"] * 100,
        )  # fmt: skip
        assert [len(score_filter(cases, fraction=share).kept) for share in (0.29, 0.57, 0.58)] == [29, 57, 58]


def test_pictures_can_be_scored_against_a_text(tmp_path: Path) -> None:
    minilm = osler.load_encoder("minilm")
    with osler.Collection.create(tmp_path / "a.osler", encoder=minilm) as cases:
        said = ["a broken leg", "a fractured ankle", "a bowl of soup"]
        cases.add_vectors(said, minilm.encode_texts(said))
        with pytest.raises(ValueError, match="no item has both a picture and a text"):
            score_filter(cases, threshold=0.3)
        one = score_filter(cases, threshold=0.5, text="a fracture of the leg")
        assert one.kept == ["a broken leg", "a fractured ankle"]
        several = score_filter(cases, fraction=1, text=["a fracture", "an injury"])
        mean = minilm.encode_texts(["a fracture", "an injury"]).astype(np.float64).mean(axis=0)
        expected = minilm.encode_texts(said) @ (mean / np.linalg.norm(mean))
        np.testing.assert_allclose(several.score, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either threshold= or fraction="),
        ({"threshold": 0.1, "fraction": 0.1}, "either threshold= or fraction="),
        ({"threshold": 25}, "a cosine lies in"),
        ({"threshold": float("nan")}, "a cosine lies in"),
        ({"fraction": 30}, "a share in"),
        ({"threshold": 0.1, "text": " "}, "text is empty"),
        ({"threshold": 0.1, "text": []}, "text is empty"),
    ],
)
def test_what_cannot_be_decided_says_why(pairs: Any, options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        score_filter(pairs[0], **options)


def test_a_score_that_equals_the_threshold_is_kept(tmp_path: Path) -> None:
    with osler.Collection.create(tmp_path / "a.osler", dim=2) as cases:
        vectors = np.array([[1, 0], [0, 1], [1, 0], [1, 0]])
        cases.add_vectors(["square", "same"], vectors, parts=[0, 0, 1, 1], kind=["image", "text"] * 2)
        assert score_filter(cases, threshold=0.0).kept == ["square", "same"]
        assert score_filter(cases, threshold=1.0).kept == ["same"]
