"""All pairs of rows above a cosine: seconds on all threads, engine and control in turns, and that they find as many."""

from __future__ import annotations

from typing import Any

import machine
from measure import Worker
from visit import Visit

SETTINGS = ("join_rounds", "threshold")


def measure(visit: Visit, control: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return every run of the engine and of the control."""
    keys = [visit.engine] + ([control] if control and control != visit.engine else [])
    runs: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
    for turn in range(settings["join_rounds"]):
        for key in keys[:: -1 if turn % 2 else 1]:
            with Worker(key, machine.cores()) as worker:
                runs[key].append(worker.ask("join", threshold=settings["threshold"], **visit.rows()))
    return {"threshold": settings["threshold"], "joins": runs}
