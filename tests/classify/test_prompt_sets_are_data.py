"""A prompt set is a file: texts are templates times synonyms and descriptions, and a wrong file names its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler.classify import PromptSet, zero_shot


def test_texts_are_every_template_with_every_synonym_then_descriptions() -> None:
    prompts = PromptSet(
        name="x",
        templates=("one {}", "two {} of it"),
        negative_templates=("no {}",),
        labels={  # type: ignore[arg-type]
            "lung": {"synonyms": ["a", "b"], "descriptions": ["said at length"], "negatives": ["clear"]},
            "bare": {},
        },
    )
    assert prompts.texts("lung") == ["one a", "one b", "two a of it", "two b of it", "said at length"]
    assert prompts.negatives("lung") == ["no a", "no b", "clear"]
    assert prompts.texts("bare") == ["one bare", "two bare of it"]


@pytest.mark.parametrize("name", PromptSet.names())
def test_shipped_sets_are_complete(name: str) -> None:
    prompts = PromptSet.load(name)
    assert prompts.name == name and prompts.about and prompts.citation
    texts = [text for label in prompts.labels for text in prompts.texts(label)]
    assert len(texts) == len(set(texts)) >= 2 * len(prompts.labels)
    assert all(prompts.negatives(label) for label in prompts.labels)
    assert not any("{}" in text for text in texts)


def test_there_is_a_set_for_each_kind_of_picture_that_the_papers_ask_for() -> None:
    assert {"modality", "chest-xray", "colorectal-histology", "diabetic-retinopathy"} <= set(PromptSet.names())


def test_descriptions_change_the_answer(tmp_path: Path) -> None:
    minilm = osler.load_encoder("minilm")
    with osler.Collection.create(tmp_path / "a.osler", encoder=minilm) as cases:
        report = "few microaneurysms near the macula, nothing else"
        cases.add_vectors(["a"], minilm.encode_texts([report]), kind="text")
        labels: Any = {"grade one": {"descriptions": ["microaneurysms are the only lesion"]}, "grade two": {}}
        told = PromptSet(name="told", labels=labels)
        untold = PromptSet(name="untold", labels={"grade one": {}, "grade two": {}})  # type: ignore[arg-type]
        gain = [zero_shot(cases, prompts, scale=10).scores[0, 0] for prompts in (untold, told)]
    assert gain[1] > gain[0] + 0.1


def test_pairs_take_the_negatives_of_the_set(tmp_path: Path) -> None:
    minilm = osler.load_encoder("minilm")
    with osler.Collection.create(tmp_path / "a.osler", encoder=minilm) as cases:
        reports = ["a chest radiograph that shows pleural effusion", "a chest radiograph without pleural effusion"]
        cases.add_vectors(["with", "without"], minilm.encode_texts(reports), kind="text")
        result = zero_shot(cases, PromptSet.load("chest-xray"), mode="pairs", scale=20)
    effusion = result.scores[:, result.labels.index("pleural effusion")]
    assert effusion[0] > effusion[1]
    by_hand = []
    prompts = PromptSet.load("chest-xray")
    for texts in (prompts.texts("pleural effusion"), prompts.negatives("pleural effusion")):
        mean = minilm.encode_texts(texts).astype(np.float64).mean(axis=0)
        by_hand.append(mean / np.linalg.norm(mean))
    expected = 1 / (1 + np.exp(-20 * (minilm.encode_texts(reports) @ (by_hand[0] - by_hand[1]))))
    np.testing.assert_allclose(effusion, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"labels": {"a": {}}}, "name: field required"),
        ({"name": "x", "labels": {}}, "labels:"),
        ({"name": "x", "labels": {"a": {}}, "templates": ["no gap"]}, "exactly once"),
        ({"name": "x", "labels": {"a": {}}, "templates": ["{} and {}"]}, "exactly once"),
        ({"name": "x", "labels": {"a": {"synonym": ["b"]}}}, "labels.a.synonym: extra inputs"),
        ({"name": "x", "labels": {"a": {"synonyms": [""]}}}, "labels.a.synonyms.0"),
    ],
)
def test_a_wrong_file_names_its_field(tmp_path: Path, document: Any, said: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"mine\.json is no prompt set") as caught:
        PromptSet.load(file)
    assert said in str(caught.value)


def test_a_file_that_is_not_json_and_an_unknown_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text("not json")
    with pytest.raises(ValueError, match="is no prompt set"):
        PromptSet.load(file)
    with pytest.raises(FileNotFoundError, match="no prompt set 'modalities'; there are chest-xray, "):
        PromptSet.load("modalities")
