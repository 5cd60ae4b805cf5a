"""Every registry entry is whole: what it names exists, what is uncertain is a field, what cannot run says why."""

from __future__ import annotations

from pathlib import Path

import osler
import pytest
from osler import EncoderError
from osler.encoders.entry import Entry, entries, recipe
from osler.encoders.registry import describe, home_folder, shipped, what_to_do

ENTRIES = sorted(entries())


def field(entry: Entry, dotted: str) -> bool:
    """Whether the dotted name is a field of the entry."""
    value: object = entry.model_dump(mode="json")
    for part in dotted.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return False
    return True


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_whole(name: str) -> None:
    entry = entries()[name]
    assert name not in shipped()
    if entry.image is not None:
        assert recipe(entry.image.recipe)
    for dotted in entry.uncertain:
        assert field(entry, dotted), f"{dotted} is no field of {name}"
    if entry.anchor is None:
        assert "anchor" in entry.uncertain or entry.impossible
    for number, source in enumerate(entry.sources):
        unchecked = source.hub is not None and source.revision is None
        assert not unchecked or f"sources.{number}.revision" in entry.uncertain, (
            f"{name}: source {number} is not pinned"
        )
    assert what_to_do(entry).partition(":")[0] in ("downloadable", "needs your files", "not possible")


def test_what_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_HOME", str(tmp_path))
    with pytest.raises(EncoderError, match="osler encoder pull biomedclip") as caught:
        osler.load_encoder("biomedclip")
    assert caught.value.code == "not_ready"
    with pytest.raises(EncoderError, match="did you mean 'biomedclip'"):
        osler.load_encoder("biomedclp")


def test_a_folder_in_the_home_makes_a_name_ready(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_HOME", str(tmp_path / "home"))
    place = home_folder("biomedclip")
    place.parent.mkdir(parents=True)
    tiny.save().rename(place)
    assert describe("biomedclip").folder == place
    states = {info.name: info.state for info in osler.list_encoders()}
    assert states["biomedclip"] == "ready"
