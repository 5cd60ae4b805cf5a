"""Runs harnesses: `run.py --size quick|ci|full [--seconds S] [NAME...]`. Prints what each has counted; exits with 1 after a
failure.

Work is cut into pieces, one a seed. Of a full run what is done is noted under `target/soak`, and the next run goes on there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "target" / "testing"), str(ROOT / "tests")]
NAMES = ("kills", "power_cuts", "io_errors", "damage", "model", "erasing", "readers", "churn", "determinism", "forks")
DONE = ROOT / "target" / "soak"


def work(job: tuple[str, int]) -> tuple[int, Counter[str] | str]:
    name, seed = job
    warnings.simplefilter("ignore")
    try:
        return seed, import_module(f"reliability.{name}").piece(seed)
    except BaseException:
        return seed, traceback.format_exc()


def run(name: str, size: str, workers: int, start: int = 0, keep: bool = False) -> tuple[Counter[str], str | None]:
    """Do pieces until there are as many units as asked; return the counts and the first failure."""
    harness = import_module(f"reliability.{name}")
    wanted = harness.SIZES[size]
    note = DONE / f"{name}.json"
    done: dict[str, Any] = {"seed": start, "counts": {}, "seconds": 0.0}
    if keep and note.exists():
        done = json.loads(note.read_text())
    counts, began = Counter(done["counts"]), time.monotonic()
    context = multiprocessing.get_context("forkserver" if name != "kills" else "fork")
    pool = context.Pool(workers, maxtasksperchild=40)
    problem, seed = None, done["seed"]
    while counts[harness.UNIT] < wanted and problem is None:
        batch = [(name, at) for at in range(seed, seed + 2 * workers)]
        for at, found in pool.imap(work, batch):
            if isinstance(found, str):
                problem = problem or f"{name}, piece {at}:\n{found}"
            else:
                counts += found
        seed = batch[-1][1] + 1
        if keep and problem is None:
            DONE.mkdir(parents=True, exist_ok=True)
            spent = done["seconds"] + time.monotonic() - began
            note.write_text(json.dumps({"seed": seed, "counts": counts, "seconds": round(spent, 1)}))
    pool.close()
    pool.join()
    return counts, problem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("quick", "ci", "full"), default="quick")
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0))))
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; by default all")
    options = parser.parse_args()
    failed = False
    for name in options.names or NAMES:
        began = time.monotonic()
        counts, problem = run(name, options.size, options.workers, options.start, keep=options.size == "full")
        line = ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items(), key=lambda pair: -pair[1]))
        print(f"{import_module(f'reliability.{name}').NAME}: {line} ({time.monotonic() - began:.0f} s)", flush=True)
        if problem is not None:
            failed = True
            print(problem, file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
