"""Runs harnesses: `run.py --size quick|ci|full [NAME...]`. Prints what each has counted; exits with 1
after a failure.

Work is cut into pieces, one a seed. Of a full run what is done is noted under `target/soak`, and the next run of the
same code goes on there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "target" / "testing"), str(ROOT / "tests")]
NAMES = (
    "kills",
    "power_cuts",
    "io_errors",
    "damage",
    "model",
    "erasing",
    "readers",
    "churn",
    "determinism",
    "forks",
    "fuzz",
    "hostile",
)
# Those that look at a clock, which no test may.
TIMED = ("responsive",)
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
    done: dict[str, Any] = {"seed": start, "counts": {}, "seconds": 0.0, "code": code() if keep else ""}
    if keep and note.exists():
        former = json.loads(note.read_text())
        # What other code was found to do says nothing of this.
        done = former if former.get("code") == done["code"] else done
    counts, began = Counter(done["counts"]), time.monotonic()
    context = multiprocessing.get_context("forkserver" if name != "kills" else "fork")
    problem, seed = None, done["seed"]
    with ProcessPoolExecutor(workers, context) as pool:
        while counts[harness.UNIT] < wanted and problem is None:
            batch = [(name, at) for at in range(seed, seed + 2 * workers)]
            try:
                for at, found in pool.map(work, batch):
                    if isinstance(found, str):
                        problem = problem or f"{name}, piece {at}:\n{found}"
                    else:
                        counts += found
            except BrokenExecutor as error:
                problem = f"{name}, one of the pieces {seed} to {batch[-1][1]} ended its process: {error}"
            seed = batch[-1][1] + 1
            if keep and problem is None:
                DONE.mkdir(parents=True, exist_ok=True)
                spent = round(done["seconds"] + time.monotonic() - began, 1)
                note.write_text(json.dumps(done | {"seed": seed, "counts": counts, "seconds": spent}))
    return counts, problem


def code() -> str:
    """A hash of what is under test: the compiled module and the library."""
    found = hashlib.sha256()
    package = ROOT / "target" / "testing" / "osler"
    for path in sorted([*package.glob("*.so"), *(ROOT / "python").rglob("*.py")]):
        found.update(path.read_bytes())
    return found.hexdigest()


def plant(number: int, start: int) -> int:
    """Plant some of the bugs, each in a process of its own, and say whether each was seen."""
    planted = import_module("reliability.planted")
    chosen = [planted.EVERY[(start * number + at) % len(planted.EVERY)] for at in range(number)]
    with ThreadPoolExecutor(2) as threads:
        said = dict(zip(chosen, threads.map(_in_a_process, chosen), strict=True))
    for bug, what in said.items():
        print(f"planted bug {bug}: {'not seen' if what is None else what.splitlines()[0][:120]}")
    missed = [bug for bug, what in said.items() if what is None]
    print(f"planted bugs: {len(said) - len(missed)} of {len(said)} seen", flush=True)
    return int(bool(missed))


def _in_a_process(bug: str) -> str | None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        try:
            return pool.submit(_seen, bug).result()
        except BrokenExecutor:
            return None


def _seen(bug: str) -> str | None:
    warnings.simplefilter("ignore")
    found: str | None = import_module("reliability.planted").seen(bug)
    return found


def every(number: int, start: int) -> int:
    """Flip every bit, and cut at every length, of some of the small files."""
    whole = import_module("reliability.damage").WHOLE
    parts = [(start * number + at) % whole for at in range(min(number, whole))]
    with ProcessPoolExecutor(2, multiprocessing.get_context("forkserver")) as pool:
        for counts in pool.map(_every, parts):
            print("damage, all of it: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()), flush=True)
    return 0


def _every(part: int) -> Counter[str]:
    counts: Counter[str] = import_module("reliability.damage").every(part)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("quick", "ci", "full"), default="quick")
    parser.add_argument("--workers", type=int, default=max(1, len(os.sched_getaffinity(0))))
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES + TIMED)}; by default all")
    parser.add_argument("--bugs", type=int, metavar="N", help="plant N of the bugs instead, those that --start chooses")
    parser.add_argument(
        "--every", type=int, metavar="N", help="flip every bit, and cut at every length, of N small files (16: of all)"
    )
    options = parser.parse_args()
    if options.bugs:
        return plant(options.bugs, options.start)
    if options.every:
        return every(options.every, options.start)
    failed = False
    for name in options.names or (NAMES if options.size == "quick" else NAMES + TIMED):
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
