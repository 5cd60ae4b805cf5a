"""zero_shot is scale times cosine, pooled over an item's parts, then a softmax or a sigmoid: here in plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import osler
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler.classify import zero_shot


def collection(
    path: Path, vectors: Any, owner: Any, kinds: Any = "image", count: int | None = None
) -> osler.Collection:
    cases = osler.Collection.create(path, dim=np.shape(vectors)[1])
    keys = [f"item {at}" for at in range((max(owner) + 1) if count is None else count)]
    cases.add_vectors(keys, vectors, parts=owner, kind=kinds, metadata=[{"place": at} for at in range(len(keys))])
    return cases


def direction(prompts: np.ndarray) -> np.ndarray:
    mean = np.mean([row / np.linalg.norm(row) for row in prompts.astype(np.float64)], axis=0)
    return mean / np.linalg.norm(mean)


def by_hand(vectors: Any, owner: Any, prompts: dict[str, Any], mode: str, pool: str, scale: float) -> list[list[float]]:
    rows = []
    for item in range(max(owner) + 1):
        logits = []
        for given_ in prompts.values():
            if mode == "pairs":
                target = direction(given_["positive"]) - direction(given_["negative"])
            else:
                target = direction(given_)
            own = [
                scale * float(vector / np.linalg.norm(vector) @ target)
                for vector, whose in zip(vectors.astype(np.float64), owner, strict=True)
                if whose == item
            ]
            logits.append(max(own) if pool == "max" else sum(own) / len(own))
        if mode == "softmax":
            total = sum(math.exp(one) for one in logits)
            rows.append([math.exp(one) / total for one in logits])
        else:
            rows.append([1 / (1 + math.exp(-one)) for one in logits])
    return rows


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("mode", ["softmax", "sigmoid", "pairs"])
def test_scores_equal_a_plain_loop(tmp_path: Path, rng: np.random.Generator, mode: Any, pool: Any) -> None:
    owner = [0, 0, 1, 2, 2, 2, 3]
    vectors = rng.normal(size=(7, 5)).astype(np.float32)
    prompts: dict[str, Any] = {name: rng.normal(size=(3, 5)) for name in ("a", "b", "c")}
    if mode == "pairs":
        prompts = {name: {"positive": one, "negative": rng.normal(size=(2, 5))} for name, one in prompts.items()}
    with collection(tmp_path / "a.osler", vectors, owner) as cases:
        result = zero_shot(cases, prompts, mode=mode, score=pool, scale=4.0)
    expected = np.array(by_hand(vectors, owner, prompts, mode, pool, 4.0))
    np.testing.assert_allclose(result.scores, expected, atol=1e-5)
    assert list(result.label) == [("a", "b", "c")[at] for at in expected.argmax(axis=1)]


def test_the_part_of_an_item_is_the_one_that_its_label_comes_from(tmp_path: Path) -> None:
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0, 0.2, 1]], dtype=np.float32)
    prompts = {"x": np.array([[1.0, 0, 0]]), "z": np.array([[0, 0, 1.0]])}
    with collection(tmp_path / "a.osler", vectors, [0, 0, 0]) as cases:
        strong_x = zero_shot(cases, prompts, scale=1)
        strong_z = zero_shot(cases, {"x": np.array([[0.1, 1, 0]]), "z": prompts["z"]}, scale=1)
    assert (strong_x.label[0], strong_x.part[0].position) == ("x", 0)  # type: ignore[union-attr]
    assert (strong_z.label[0], strong_z.part[0].position) == ("x", 1)  # type: ignore[union-attr]


def test_equal_scores_take_the_first_label(tmp_path: Path) -> None:
    prompts = {"late": np.array([[1.0, 1.0]]), "early": np.array([[1.0, 1.0]])}
    with collection(tmp_path / "a.osler", np.eye(2), [0, 1]) as cases:
        assert zero_shot(cases, prompts, scale=7).label == ("late", "late")


def test_an_item_without_a_vector_has_a_row_and_no_label(tmp_path: Path) -> None:
    with collection(tmp_path / "a.osler", np.eye(2), [0, 2], count=3) as cases:
        result = zero_shot(cases, {"x": np.array([[1.0, 0]]), "y": np.array([[0, 1.0]])}, scale=1)
    frame = result.to_polars()
    assert frame["key"].to_list() == ["item 0", "item 1", "item 2"]
    assert frame.row(1) == ("item 1", None, None, None, None)
    assert result.to_dict()["items"][1] == {
        "key": "item 1", "label": None, "score": None, "scores": {"x": None, "y": None}, "part": None,
    }  # fmt: skip


def test_where_limits_the_rows(tmp_path: Path) -> None:
    with collection(tmp_path / "a.osler", np.eye(3), [0, 1, 2]) as cases:
        result = zero_shot(cases, {"x": np.eye(3)[:1], "y": np.eye(3)[1:]}, scale=1, where="place >= 1")
        empty = zero_shot(cases, {"x": np.eye(3)[:1], "y": np.eye(3)[1:]}, scale=1, where="place > 9")
    assert result.key == ("item 1", "item 2")
    assert len(empty) == 0 and empty.to_polars().columns == ["key", "label", "score", "x", "y"]


def test_image_parts_are_used_where_there_are_any(tmp_path: Path) -> None:
    prompts = {"x": np.array([[1.0, 0]]), "y": np.array([[0, 1.0]])}
    vectors = np.array([[1, 0], [0, 1]], dtype=np.float32)
    with collection(tmp_path / "a.osler", vectors, [0, 0], ["text", "image"]) as cases:
        assert zero_shot(cases, prompts, scale=9).label == ("y",)
    with collection(tmp_path / "b.osler", vectors, [0, 1], "text") as cases:
        assert zero_shot(cases, prompts, scale=9).label == ("x", "y")


@given(st.permutations(range(6)), st.integers(1, 6))
def test_pooling_does_not_depend_on_how_parts_are_spread(order: list[int], items: int) -> None:
    from osler.classify.zero_shot import _by_item

    owner = np.sort(np.array(order) % items)
    logits = np.array(order, dtype=np.float64)[:, None]
    pooled, best = _by_item(logits, owner, items, "max")
    for item in range(items):
        own = np.flatnonzero(owner == item)
        assert pooled[item, 0] == logits[own, 0].max()
        assert best[item, 0] == own[np.argmax(logits[own, 0])]


@pytest.mark.parametrize(
    ("prompts", "options", "said"),
    [
        ({"x": ["a"]}, {}, "softmax chooses among at least 2"),
        ({}, {"mode": "sigmoid"}, "there are 0 labels"),
        ({"x": [], "y": ["b"]}, {}, "'x' has no prompt"),
        ({"score": ["a"], "y": ["b"]}, {}, "cannot be called 'score'"),
        ({"x": "a", "y": "b"}, {"scale": 1}, "put it into a list"),
        ({"x": np.eye(3), "y": np.eye(3)}, {"scale": 1}, r"shape \(3, 3\)"),
        ({"x": np.array([[1.0, 0], [-1, 0]]), "y": np.eye(2)}, {"scale": 1}, "cancel out"),
        ({"x": np.array([[np.nan, 0]]), "y": np.eye(2)}, {"scale": 1}, "NaN"),
        ({"x": np.zeros((1, 2)), "y": np.eye(2)}, {"scale": 1}, "zero vector"),
        ({"x": np.eye(2), "y": np.eye(2)}, {"scale": -1}, "positive scale"),
        ({"x": np.eye(2), "y": np.eye(2)}, {"mode": "pairs"}, "positive"),
        ({"x": np.eye(2), "y": np.eye(2)}, {"mode": "votes"}, "choose softmax"),
        ({"x": np.eye(2), "y": np.eye(2)}, {"score": "sum", "scale": 1}, "choose max or mean"),
        ({"x": np.eye(2), "y": np.eye(2)}, {"scale": 1, "where": "plce = 1"}, "did you mean 'place'"),
    ],
)
def test_what_cannot_be_labelled_says_why(tmp_path: Path, prompts: Any, options: Any, said: str) -> None:
    with collection(tmp_path / "a.osler", np.eye(2), [0, 1]) as cases, pytest.raises(ValueError, match=said):
        zero_shot(cases, prompts, **options)


def test_another_encoder_than_the_collections_is_refused(tmp_path: Path) -> None:
    minilm = osler.load_encoder("minilm")
    with osler.Collection.create(tmp_path / "a.osler", encoder=minilm) as cases:
        cases.add_vectors(["a"], minilm.encode_texts(["a broken leg"]), kind="text")
        prompts = {"bone": ["a fracture"], "lung": ["pneumonia"]}
        stranger: Any = SimpleNamespace(name="stranger", fingerprint="0" * 64, dim=384)
        with pytest.raises(osler.EncoderError, match="made by another encoder than stranger"):
            zero_shot(cases, prompts, encoder=stranger, scale=10)
        own = zero_shot(cases, prompts, encoder=minilm, scale=10)
        assert own.label == ("bone",) and own.fingerprint == minilm.fingerprint
        assert zero_shot(cases, prompts, scale=10).to_dict() == own.to_dict()
        with pytest.raises(ValueError, match="positive scale"):
            zero_shot(cases, prompts)


def test_an_encoder_of_another_width_is_refused_for_vectors_of_ones_own(tmp_path: Path) -> None:
    with (
        collection(tmp_path / "a.osler", np.eye(2), [0, 1]) as cases,
        pytest.raises(ValueError, match="384 numbers, the collection holds 2"),
    ):
        zero_shot(cases, {"x": ["a"], "y": ["b"]}, encoder=osler.load_encoder("minilm"), scale=1)


def test_texts_without_an_encoder_say_what_is_missing(tmp_path: Path) -> None:
    with collection(tmp_path / "a.osler", np.eye(2), [0, 1]) as cases, pytest.raises(osler.Error, match="no encoder"):
        zero_shot(cases, {"x": ["a"], "y": ["b"]})
