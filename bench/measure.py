"""A process an engine, obeyed one JSON line at a time: build, open, answer, and how fast.

`Worker` starts this file as a child; the parent decides whose turn it is, so that only one child works at any moment. A
child that may use one thread is pinned to one processor. A refusal of an engine and the death of its process come back
as exceptions with the reason.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "OSLER_THREADS")
LIMIT = 7_200.0
SHORTEST, LONGEST = 0.1, 1.0  # seconds of one timed pass: repeated until the first, cut off after the second


class EngineFailed(Exception):
    """A child raised, ended or did not answer in time."""


class EngineRefused(Exception):
    """The engine does not offer what was asked."""


class Worker:
    """A child process with one engine in one variant: `name` or `name:variant`."""

    def __init__(self, key: str, threads: int) -> None:
        self.key, self.threads = key, threads
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the child)
        self.child = subprocess.Popen(
            [sys.executable, __file__, key, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, verb: str, *, limit: float = LIMIT, **arguments: Any) -> Any:
        """Send one command and wait for its answer."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
            self.child.stdin.flush()
        if not select.select([self.child.stdout], [], [], limit)[0]:
            self.child.kill()
            raise EngineFailed(f"no answer to {verb} in {limit:.0f} s")
        line = self.child.stdout.readline()
        if not line:
            raise EngineFailed(f"ended with exit code {self.child.wait()} when asked to {verb}{self._last_words()}")
        answer = json.loads(line)
        if "refused" in answer:
            raise EngineRefused(answer["refused"])
        if "failed" in answer:
            raise EngineFailed(answer["failed"])
        return answer["answer"]

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        return f": {lines[-1][:200]}" if lines else ""

    def close(self) -> None:
        """End the child."""
        with contextlib.suppress(BrokenPipeError):
            if self.child.stdin is not None:
                self.child.stdin.close()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()
        self.errors.close()


def make(key: str) -> Any:
    """Return the engine named `name` or `name:variant`."""
    name, _, variant = key.partition(":")
    return importlib.import_module(f"engines.{name}").Engine(variant)


def resident() -> dict[str, int]:
    """Return this process's resident bytes: its own (`private`) and those of mapped files (`file`)."""
    fields = {"RssAnon": "private", "RssFile": "file"}
    found = {}
    with open("/proc/self/status") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in fields:
                found[fields[name]] = int(value.split()[0]) * 1024
    return found


def _padded(found: Any, k: int) -> np.ndarray:
    """Return row numbers as (k,) int64, -1 where there are fewer."""
    found = np.asarray(found)
    rows = np.where(found == 2**32 - 1, -1, found) if found.dtype == np.uint32 else found.astype(np.int64)
    short = k - len(rows)
    return np.concatenate([rows, np.full(short, -1)]).astype(np.int64) if short > 0 else rows[:k].astype(np.int64)


def paced(one: Callable[[Any], Any], queries: list[Any]) -> float:
    """Return queries per second of passes over `queries`: at least `SHORTEST` seconds, at most about `LONGEST`."""
    step = max(1, len(queries) // 20)
    done, start = 0, time.perf_counter()
    while True:
        for at in range(0, len(queries), step):
            for query in queries[at : at + step]:
                one(query)
            done += len(queries[at : at + step])
            taken = time.perf_counter() - start
            if taken > LONGEST:
                return done / taken
        if taken > SHORTEST:
            return done / taken


class Session:
    """What a child holds: the vectors, one engine, its queries."""

    def __init__(self, key: str, threads: str) -> None:
        self.threads = int(threads)
        self.engine = make(key)
        self.queries = np.empty((0, 0), np.float32)
        self.filtered: Any = None

    def describe(self) -> dict[str, Any]:
        return dict(self.engine.describe())

    def sweep(self, rows: int) -> list[Any]:
        return list(self.engine.sweep(rows))

    @staticmethod
    def _rows(path: str, count: int) -> np.ndarray:
        # Copy on write: engines see an ordinary array whose pages come from the file.
        return np.load(path, mmap_mode="c")[:count].view(np.ndarray)

    def build(self, rows: str, count: int, folder: str) -> dict[str, float]:
        vectors = self._rows(rows, count)
        vectors.sum()  # the pages are in memory before the clock starts
        before = resident()["private"]
        start = time.perf_counter()
        self.engine.build(vectors, Path(folder), self.threads)
        built = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        start = time.perf_counter()
        self.engine.save(Path(folder))
        return {
            "seconds": built,
            "save_seconds": time.perf_counter() - start,
            "peak_bytes": peak - before - vectors.nbytes,
        }

    def open(self, rows: str, count: int, folder: str) -> dict[str, Any]:
        before = resident()
        start = time.perf_counter()
        self.engine.open(Path(folder), self._rows(rows, count), self.threads)
        return {"seconds": time.perf_counter() - start, "before": before, "after": resident()}

    def practise(self, path: str | None) -> None:
        self.engine.practise(np.load(path) if path else np.empty((0, 0), np.float32))

    def resident(self) -> dict[str, int]:
        return resident()

    def ram(self) -> int | None:
        return self.engine.ram()

    def load_queries(self, path: str, count: int) -> None:
        self.queries = np.ascontiguousarray(np.load(path)[:count])

    def answers(self, k: int, width: Any, mode: str, path: str) -> None:
        """Write the rows found, (m, k), to `path`; also the warm-up of this width."""
        if mode == "single":
            one = self.engine.single(k, width)
            found = [one(query) for query in self.queries]
        else:
            found = self.engine.batch(self.queries, k, width)
        np.save(path, np.array([_padded(rows, k) for rows in found]))

    def speed(self, k: int, width: Any, mode: str) -> float:
        """Return queries per second."""
        if mode == "single":
            return paced(self.engine.single(k, width), list(self.queries))
        share = paced(lambda queries: self.engine.batch(queries, k, width), [self.queries])
        return share * len(self.queries)

    def filter(self, mask: str, where: list[Any], k: int) -> float:
        """Prepare a filter: a mask, and the same as `[column, limit]` of `filters.py`. Returns the seconds it took."""
        allowed = np.load(mask)
        start = time.perf_counter()
        self.filtered = self.engine.filtered(allowed, k, where)
        return time.perf_counter() - start

    def filtered_answers(self, k: int, width: Any, path: str) -> None:
        np.save(path, np.array([_padded(self.filtered(query, width), k) for query in self.queries]))

    def filtered_speed(self, width: Any) -> float:
        return paced(lambda query: self.filtered(query, width), list(self.queries))

    def join(self, rows: str, count: int, threshold: float) -> dict[str, float]:
        vectors = self._rows(rows, count)
        vectors.sum()
        start = time.perf_counter()
        pairs = self.engine.join(vectors, threshold, self.threads)
        return {"seconds": time.perf_counter() - start, "pairs": int(pairs)}


def main() -> None:
    """Obey the parent until it closes the pipe; what an engine prints goes to stderr, not between the answers."""
    from engine import NotOffered

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if int(sys.argv[2]) == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    session: Session | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            session = session or Session(*sys.argv[1:])
            answer = {"answer": getattr(session, command.pop("verb"))(**command)}
        except NotOffered as reason:
            answer = {"refused": str(reason)}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
