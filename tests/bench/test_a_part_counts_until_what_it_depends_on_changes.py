"""What is measured is not measured again; a change of version, settings, data or neighbour makes it stale."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import parts
import pytest

ENGINE = {"name": "a", "version": "1", "parameters": "M=16"}
CONTROL = {"name": "osler", "version": "0.1", "build": "abc", "parameters": "defaults"}


def wanted() -> dict[str, Any]:
    return parts.identity(ENGINE, CONTROL, {"k": 10, "shares": (0.5, 0.1)}, "text 10000")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    found = parts.path("a machine", "full", "text-10000", "search", "a:8-bit", tmp_path)
    parts.write(found, {"identity": wanted(), "outcome": "measured"})
    return found


def test_a_part_counts_as_long_as_nothing_changed(place: Path) -> None:
    assert parts.current(place, wanted())
    assert not parts.current(place.with_name("other.json"), wanted())
    assert parts.read_all("a machine", "full", place.parents[3])[0]["outcome"] == "measured"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("engine", "version"), "2"),
        (("engine", "parameters"), "M=32"),
        (("settings", "k"), 100),
        (("data",), "text 20000"),
    ],
)
def test_a_change_makes_a_part_stale(place: Path, where: tuple[str, ...], value: Any) -> None:
    changed = copy.deepcopy(wanted())
    inner = changed
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = value
    assert not parts.current(place, changed)
    assert not parts.current(place, changed, older_control=True)


def test_another_build_of_the_control_makes_a_part_stale_unless_it_is_let_count(place: Path) -> None:
    changed = wanted()
    changed["control"]["build"] = "def"
    assert not parts.current(place, changed)
    assert parts.current(place, changed, older_control=True)


def test_engines_of_different_names_do_not_share_a_file(tmp_path: Path) -> None:
    names = [
        parts.path("m", "full", "text-1", "search", key, tmp_path) for key in ("osler", "osler:f16", "osler:f16-disk")
    ]
    assert len(set(names)) == 3
