"""Seconds from vectors in memory to an index that answers, on one thread and on all; engine and control in turns.

The time to write the file and the peak of memory beyond the vectors stand beside it.
"""

from __future__ import annotations

from typing import Any

import machine
from visit import Visit

SETTINGS = ("builds", "build_threads")


def measure(visit: Visit, control: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return, for each number of threads, every build of the engine and of the control."""
    keys = [visit.engine] + ([control] if control and control != visit.engine else [])
    found = []
    for threads in settings["build_threads"]:
        count = machine.cores() if threads == "all" else int(threads)
        runs: dict[str, list[dict[str, Any]]] = {key: [] for key in keys}
        for turn in range(settings["builds"]):
            for key in keys[:: -1 if turn % 2 else 1]:
                runs[key].append(visit.store.build(key, count, keep=False))
        found.append({"threads": count, "runs": runs})
    return {"builds": found}
