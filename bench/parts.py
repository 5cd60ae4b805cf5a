"""What is already measured: one JSON file for each engine, data, size and case, and when it still counts.

Writes `bench/.cache/parts` only. A part is kept under what it depends on: versions, parameters and settings of the
engine and of the one it was measured beside, the data, the case's settings, the machine.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from data import CACHE

PARTS = CACHE / "parts"


def path(machine: str, profile: str, vectors: str, case: str, engine: str, folder: Path = PARTS) -> Path:
    """Return where a part lies."""
    safe = re.sub(r"[^a-z0-9]+", "-", engine.lower())
    return folder / machine / profile / vectors / f"{case}-{safe}.json"


def identity(engine: Any, control: Any, settings: dict[str, Any], digest: str) -> dict[str, Any]:
    """Return what a part depends on, as plain values."""
    return json.loads(json.dumps({"engine": engine, "control": control, "settings": settings, "data": digest}))


def current(place: Path, wanted: dict[str, Any], *, older_control: bool = False) -> bool:
    """Return whether the part at `place` is of `wanted`.

    With `older_control` a part still counts whose engine was measured beside another build of the control, and an
    engine of the control's package counts in any build.
    """
    if not place.is_file():
        return False
    found = json.loads(place.read_text())["identity"]
    if older_control:
        found, wanted = _without_build(found), _without_build(wanted)
    return found == wanted


def _without_build(found: dict[str, Any]) -> dict[str, Any]:
    parts = {name: found[name] for name in ("engine", "control")}
    kept = {
        name: {field: value for field, value in part.items() if field not in ("build", "version")}
        if isinstance(part, dict) and "build" in part
        else part
        for name, part in parts.items()
    }
    return {**found, **kept}


def write(place: Path, part: dict[str, Any]) -> None:
    """Write a part whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(part, indent=1) + "\n")
    partial.rename(place)


def read(place: Path) -> dict[str, Any]:
    """Return one part."""
    return dict(json.loads(place.read_text()))


def read_all(machine: str, profile: str, folder: Path = PARTS) -> list[dict[str, Any]]:
    """Return all parts of a machine and profile, in the order of their names."""
    return [read(found) for found in sorted((folder / machine / profile).glob("*/*.json"))]
