"""A new process: import, open the saved index, answer one query. Engine and control in turns, the page cache warm.

Run as a program it is that process: it prints one line of JSON once it has the answer, and the parent's clock stops.
"""

from __future__ import annotations

import time

BORN = time.perf_counter()

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

BENCH = Path(__file__).resolve().parent.parent
SETTINGS = ("k", "starts")


def measure(visit: Any, control: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return every start of the engine and of the control, and of Python with numpy alone."""
    keys = [visit.engine] + ([control] if control and control != visit.engine else [])
    vectors = visit.vectors
    asked = visit.saved(vectors.asked(next(iter(vectors.queries)), 20), "asked")
    runs: dict[str, list[dict[str, Any]]] = {key: [] for key in ["numpy alone", *keys]}
    for turn in range(-1, settings["starts"]):
        for key in ["numpy alone", *keys[:: -1 if turn % 2 else 1]]:
            folder = "" if key == "numpy alone" else str(visit.store.index(key))
            found = _start([key, folder, str(vectors.rows), str(vectors.count), asked, str(settings["k"])])
            if turn >= 0:  # the first brings files into the page cache
                runs[key].append(found)
    disk = {key: visit.store.built[visit.store.recipe(key)]["disk_bytes"] for key in keys}
    return {"starts": runs, "disk_bytes": disk}


def _start(arguments: list[str]) -> dict[str, Any]:
    from measure import EngineFailed

    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        line = child.stdout.readline()
        total = time.perf_counter() - start
        rest = child.stderr.read().strip().splitlines()
    if not line.startswith("{"):
        raise EngineFailed(f"no first answer: {rest[-1][:200] if rest else 'the process ended'}")
    return {"total_seconds": total, **json.loads(line)}


def _counters() -> dict[str, int]:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {"read_bytes": int(fields["rchar"])}


def _first_answer(key: str, folder: str, rows: str, count: str, asked: str, k: str) -> dict[str, Any]:
    import numpy as np

    sys.path.insert(0, str(BENCH))
    ready = time.perf_counter()
    found: dict[str, Any] = {"python_seconds": ready - BORN}
    if key == "numpy alone":
        return found
    import measure

    queries = np.load(asked)
    start = time.perf_counter()
    engine = measure.make(key)
    imported = time.perf_counter()
    before, read = measure.resident(), _counters()
    begun = time.perf_counter()
    engine.open(Path(folder), np.load(rows, mmap_mode="c")[: int(count)].view(np.ndarray), 1)
    opened = time.perf_counter()
    widths = engine.sweep(int(count))
    answer = engine.single(int(k), widths[len(widths) // 2])(queries[0])
    answered = time.perf_counter()
    if len(answer) != int(k):
        raise ValueError("the first answer is not k rows")
    after = measure.resident()
    return {
        **found,
        "import_seconds": imported - start,
        "open_seconds": opened - begun,
        "first_seconds": answered - opened,
        "private_bytes": after["private"] - before["private"],
        "file_bytes": after["file"] - before["file"],
        "read_bytes": _counters()["read_bytes"] - read["read_bytes"],
    }


if __name__ == "__main__":
    import os

    # What an engine prints must not come before the answer.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    out.write(json.dumps(_first_answer(*sys.argv[1:])) + "\n")
    out.flush()
    os._exit(0)
