"""The whole way on a small set: processes, answers checked, parts kept, what is kept not measured again."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import clip_like
import data
import machine
import page
import parts
import pytest
import run
from visit import Store

ROWS = 2_500
PLAN: dict[str, Any] = {
    "settings": {
        "k": 10, "rounds": 2, "thin": 12, "queries": 20, "ways": ["single-1", "batch-all"], "builds": 1,
        "build_threads": ["all"], "size_recall": 0.99, "shares": [0.1], "filtered_queries": 10, "filtered_thin": 12,
        "join_rounds": 1, "threshold": 0.95, "starts": 1,
    },
    "peers": {"few": ["numpy", "numpy:none", "no_such_engine"]},
    "case": [
        {"name": "search", "control": "osler", "peers": True, "engines": ["osler"]},
        {"name": "size", "engines": ["osler"]},
        {"name": "build", "control": "osler", "engines": ["osler"]},
        {"name": "filtered", "control": "osler:recall", "engines": ["numpy"]},
        {"name": "exact", "module": "search", "control": "osler:exact", "engines": ["numpy"]},
        {"name": "cold_start", "control": "osler:mapped", "engines": ["osler"]},
        {"name": "join", "control": "osler", "engines": ["numpy"]},
    ],
}  # fmt: skip
GROUP = {"profile": "full", "data": "clip", "rows": ROWS, "peers": "few"}


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(clip_like, "BLOCK", ROWS)
    monkeypatch.setattr(run.data, "load", partial(data.load, cache=tmp_path))
    monkeypatch.setattr(run, "Store", partial(Store, cache=tmp_path))
    monkeypatch.setattr(run.parts, "path", partial(parts.path, folder=tmp_path / "parts"))

    def once(**changed: Any) -> list[dict[str, Any]]:
        given = {
            "rows": None,
            "case": None,
            "engine": None,
            "rounds": None,
            "again": False,
            "retry": False,
            "list": False,
        }
        options = argparse.Namespace(**{**given, "older_osler": False, **changed})
        run.measure_set(GROUP, PLAN, options, run.Descriptions())
        return parts.read_all(machine.label(), "full", tmp_path / "parts")

    return once


def test_every_part_is_measured_once_and_none_is_dropped(measured: Any, tmp_path: Path) -> None:
    found = measured()
    outcomes = {(part["case"], part["engine"]): part["outcome"] for part in found}
    missing = {("search", "numpy:none"), ("search", "no_such_engine")}
    assert {key for key, outcome in outcomes.items() if outcome == "missing"} == missing
    assert {outcome for key, outcome in outcomes.items() if key not in missing} == {"measured"}
    assert len(outcomes) == 10
    exact = next(part for part in found if part["case"] == "exact")
    for search in exact["figures"]["searches"]:
        assert {point["recall"] for curve in search["curves"].values() for point in curve} == {1.0}
    joined = next(part for part in found if part["case"] == "join")["figures"]["joins"]
    assert len({run["pairs"] for runs in joined.values() for run in runs}) == 1
    assert not list((tmp_path / "work").glob("*/*"))
    text = page.text(page.Parts(found), {}, "")
    assert "no_such_engine" in text

    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("*.json")}
    measured()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

    place = next(path for path in stamps if path.name == "join-numpy.json")
    older = json.loads(place.read_text())
    older["identity"]["engine"]["version"] = "0.1"
    place.write_text(json.dumps(older))
    measured()
    changed = {path for path in stamps if path.stat().st_mtime_ns != stamps[path]}
    assert changed == {place}
    assert json.loads(place.read_text())["identity"]["engine"]["version"] != "0.1"
