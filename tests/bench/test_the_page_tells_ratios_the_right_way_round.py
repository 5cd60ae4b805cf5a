"""From parts with known figures: who is the best peer, which way a ratio points, and that nothing is dropped."""

from __future__ import annotations

from typing import Any

import page
import pytest
import targets
from targets import Parts

ROUNDS = 3


def curve(fast: float) -> list[dict[str, Any]]:
    return [
        {"width": 10, "recall": 0.95, "speeds": [fast] * ROUNDS},
        {"width": 20, "recall": 0.995, "speeds": [fast / 4] * ROUNDS},
    ]


def part(case: str, engine: str, figures: Any, outcome: str = "measured", rows: int = 10_000) -> dict[str, Any]:
    control = "osler" if engine != "osler" else None
    return {
        "identity": {"engine": {"name": engine, "version": "1", "parameters": "p"}},
        "engine": engine,
        "control": control,
        "case": case,
        "set": {"name": "text", "origin": "here", "rows": rows, "dim": 384},
        "machine": {
            "cpu": "c", "cores": 2, "memory_gib": 1, "flags": [], "system": "s", "python": "3", "numpy": "2",
        },
        "date": "2026-01-01",
        "noise": [{"median_ms": 1.0, "spread": 0.1}],
        "outcome": outcome,
        "reason": None if outcome == "measured" else "a reason | with a bar",
        "figures": figures,
    }  # fmt: skip


def searched(engine: str, ours: float, theirs: float) -> dict[str, Any]:
    curves = {"osler": curve(ours), engine: curve(theirs)}
    one = {"way": "single-1", "mode": "single", "threads": 1, "queries": "texts", "curves": curves}
    builds = {key: {"seconds": 1.0} for key in curves}
    return part("search", engine, {"searches": [one], "refused": {}, "builds": builds})


@pytest.fixture
def parts() -> Parts:
    runs = {"osler": [{"seconds": 2.0}], "hnswlib": [{"seconds": 20.0}]}
    filtered = {"kind": "random", "share": 0.1, "curves": {"osler:recall": curve(900.0)}}
    return Parts(
        [
            searched("hnswlib", 6_000.0, 1_000.0),
            searched("rabitqlib:symqg-8b", 6_000.0, 3_000.0),
            part("build", "hnswlib", {"builds": [{"threads": 2, "runs": runs}]}),
            part(
                "filtered", "numpy", {"filters": [{**filtered, "curves": filtered["curves"] | {"numpy": curve(100.0)}}]}
            ),
            part(
                "filtered",
                "zvec:int8",
                {"filters": [{**filtered, "curves": filtered["curves"] | {"zvec:int8": curve(300.0)}}]},
            ),
            part("search", "scann", None, "missing"),
        ]
    )


def rows(parts: Parts, title: str) -> list[targets.Row]:
    return next(section.rows for section in targets.sections(parts) if section.title.startswith(title))


def grown(found: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    return targets.growth_curves(Parts(found))


def test_the_best_peer_is_the_one_we_beat_least(parts: Parts) -> None:
    first = rows(parts, "Queries per second, one query")[0]
    assert first.against == "rabitqlib:symqg-8b 1"
    assert first.measured == "2.00x (2.00-2.00)"
    assert first.met is True


def test_a_classic_is_met_only_from_its_own_bound(parts: Parts) -> None:
    met = {row.what.rpartition(" ")[2]: row.met for row in rows(parts, "The same against the classics")}
    assert met == {"0.95": True, "0.99": False}


def test_a_build_that_takes_a_tenth_of_the_time_is_ten_times_faster(parts: Parts) -> None:
    found = rows(parts, "Graph build")[0]
    assert found.measured.startswith("10.00x")
    assert found.met is True


def test_a_filter_is_compared_with_the_fastest_that_keeps_the_recall(parts: Parts) -> None:
    found = rows(parts, "Filtered")[0]
    assert found.against == "zvec:int8 1"
    assert found.measured.startswith("3.00x")
    assert found.met is False


def test_an_engine_that_was_not_measured_is_on_the_page_with_its_reason(parts: Parts) -> None:
    text = page.text(parts, page.plots(parts), "What was tried.")
    assert "What was tried." in text
    line = next(line for line in text.splitlines() if line.startswith("| scann |"))
    assert "missing: a reason / with a bar" in line


def test_growth_is_told_from_one_size_to_the_next() -> None:
    found = [searched("osler", 1_000.0, 1_000.0), searched("osler", 500.0, 500.0)]
    for one, count in zip(found, (10_000, 100_000), strict=True):
        one["set"] = {**one["set"], "name": "clip", "rows": count}
    assert grown(found)["queries/s"] == {"osler": [(10_000, 1_000.0), (100_000, 500.0)]}
    row = rows(Parts(found), "Growth")[0]
    assert (row.measured, row.met) == ("2.00x", False)


def test_what_was_measured_beside_others_only_has_its_growth() -> None:
    found = [searched("rabitqlib:symqg-8b", ours, 100.0) for ours in (1_000.0, 800.0)]
    for one, count in zip(found, (10_000, 100_000), strict=True):
        one["set"] = {**one["set"], "name": "clip", "rows": count}
    assert grown(found)["queries/s"] == {
        "osler": [(10_000, 1_000.0), (100_000, 800.0)],
        "rabitqlib:symqg-8b": [(10_000, 100.0), (100_000, 100.0)],
    }


def test_a_small_form_is_measured_against_peers_of_up_to_half_an_hnsw() -> None:
    def held(engine: str, row: int) -> dict[str, Any]:
        taken = {f"{kind}_bytes": row * 100 for kind in ("said", "private", "file", "disk")}
        return part("size", engine, {**taken, "rows": 100, "recall": 0.99})

    found = [
        searched("osler:sq5-disk", 1_000.0, 500.0),
        searched("rabitqlib:hnsw-7b", 1_000.0, 250.0),
        searched("rabitqlib:symqg-8b", 1_000.0, 900.0),
        held("osler:sq5-disk", 350),
        held("rabitqlib:hnsw-7b", 650),
        held("rabitqlib:symqg-8b", 2_300),
    ]
    for one in found:
        one["identity"]["engine"]["parameters"] = one["engine"]
    row = rows(Parts(found), "Smaller forms")[0]
    assert row.against == "rabitqlib:hnsw-7b 1"
    assert "350 bytes a row, 0.50x the default form" in row.measured
    assert "2.00x that peer (650 bytes a row)" in row.measured
    assert row.met is True
