"""Every engine, variant, case and setting that the plan names exists; the peers need not be installed to say so."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

import run

BENCH = Path(run.__file__).parent
PLAN: dict[str, Any] = tomllib.loads((BENCH / "plan.toml").read_text())


def variants(name: str) -> set[str]:
    tree = ast.parse((BENCH / "engines" / f"{name}.py").read_text())
    engine = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Engine")
    for node in engine.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "variants":  # type: ignore[attr-defined]
            return {key.value for key in node.value.keys}  # type: ignore[attr-defined]
    return {""}


def named() -> set[str]:
    found = {key for group in PLAN["peers"].values() for key in group}
    for case in PLAN["case"]:
        found |= {*case["engines"], *([case["control"]] if "control" in case else [])}
    return found | {key.rpartition("/")[2] for group in PLAN["set"] for key in group.get("leave", [])}


def test_every_engine_and_variant_exists() -> None:
    for key in named():
        name, _, variant = key.partition(":")
        assert variant in variants(name), key


def test_every_set_has_its_peers_its_cases_and_every_setting() -> None:
    cases = {case["name"] for case in PLAN["case"]}
    for group in PLAN["set"]:
        assert group["peers"] in PLAN["peers"]
        assert set(group.get("cases", [])) <= cases
        for case in run.cases_of(group, PLAN, group.get("rows", 10_000)):
            assert run.engines_of(case, group, PLAN)
            assert run.settings_of(case, group, PLAN, None)


def test_the_nearest_word_wins() -> None:
    case = next(case for case in PLAN["case"] if case["name"] == "exact")
    found = run.settings_of(case, {"settings": {"queries": 7, "k": 3}}, PLAN, 9)
    assert (found["queries"], found["k"], found["rounds"]) == (case["settings"]["queries"], 3, 9)
