"""FORMAT.md is enough to read a collection: a reader written from that page alone finds every item as it was stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import format_reader
import numpy as np
import osler
import pytest
from format_reader import NOWHERE
from osler.items import Locator


def stored(cases: osler.Collection) -> dict[str, Any]:
    found = {}
    for key in cases:
        own = cases.part_vectors([key], kind="any")
        places = []
        for part in own.parts:
            place = part.locator
            numbers = (place.frame, *(place.box or (None,) * 4), *(place.span or (None,) * 2))
            places.append([part.position, *(NOWHERE if number is None else number for number in numbers)])
        kinds = [part.kind for part in own.parts]
        found[key] = (cases[key].metadata, kinds, places, own.vectors.tolist())
    return found


@pytest.mark.parametrize("compacted", [False, True])
def test_every_item_is_read(tmp_path: Path, rng: np.random.Generator, compacted: bool) -> None:
    with osler.Collection.create(tmp_path / "cases.osler", dim=5) as cases:
        cases.add_vectors([f"plain-{n}" for n in range(40)], rng.normal(size=(40, 5)))
        cases.add_vectors(
            ["ä", "b", "c"],
            rng.normal(size=(4, 5)),
            parts=[1, 0, 1, 1],
            kind=["image", "text", "text", "image"],
            locators=[Locator(frame=7), None, Locator(span=(3, 9)), Locator(box=(1, 2, 3, 4))],
            metadata=[{"n": 1, "s": "x"}, {"n": None}, {"tags": ["a", "b"]}],
        )
        cases.update("plain-3", metadata={"n": 4})
        cases.delete(["plain-1", "plain-39", "ä"])
        if compacted:
            cases.compact()
            assert cases.info().segments == 1
        expected = stored(cases)
        state, items = format_reader.collection(cases.path)
    found = {item["key"]: (item["columns"], item["kinds"], item["places"], item["vectors"].tolist()) for item in items}
    assert found == expected
    assert list(found) == list(expected), "the order of insertion"
    assert state["dim"] == 5 and state["metric"] == "cosine" and state["schema"]["tags"] == "list of text"


def test_an_item_of_a_file_has_its_digest(tmp_path: Path, pictures: Any, tiny: Any) -> None:
    folder = pictures(3)
    with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
        cases.add(folder, progress=False)
        _, items = format_reader.collection(cases.path)
    from osler.collection.privacy import content_digest

    assert {item["key"]: item["content"] for item in items} == {
        file.name: content_digest(file.read_bytes()) for file in folder.iterdir()
    }
