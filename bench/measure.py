"""One process an engine, measured in turns: build, size, answers and speeds.

`Engine` starts this file as a child, which holds the index and obeys one JSON line at a time; the parent decides whose
turn it is, so that only one child works at any moment. A child that may use one thread is pinned to one processor.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "OSLER_THREADS")


class EngineFailed(Exception):
    """A child ended before it answered."""


class Engine:
    """A child process with one engine; `rows` and `queries` are paths of .npy files with unit rows."""

    def __init__(self, name: str, rows: Path, queries: Path, *, k: int, threads: int) -> None:
        self.name = name
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        self.child = subprocess.Popen(
            [sys.executable, __file__, name, str(rows), str(queries), str(k), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.description = self.ask("describe")

    def ask(self, verb: str, **arguments: Any) -> Any:
        """Send one command and wait for its answer."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        if not line:
            raise EngineFailed(f"{self.name} ended with exit code {self.child.wait()} when asked to {verb}")
        return json.loads(line)

    def close(self) -> None:
        """End the child."""
        if self.child.stdin is not None:
            self.child.stdin.close()
        self.child.wait(60)
        if self.child.stdout is not None:
            self.child.stdout.close()


def _clock(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Session:
    """What a child holds: vectors, one engine's module, its index."""

    def __init__(self, name: str, rows: str, queries: str, k: str, threads: str) -> None:
        self.engine = importlib.import_module(f"engines.{name}")
        self.rows, self.queries = np.load(rows), np.load(queries)
        self.k, self.threads = int(k), int(threads)
        self.index: Any = None

    def describe(self) -> dict[str, Any]:
        return dict(self.engine.describe())

    def build(self) -> float:
        self.index = None
        start = time.perf_counter()
        self.index = self.engine.build(self.rows, self.threads)
        return time.perf_counter() - start

    def size(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            return int(self.engine.size(self.index, Path(folder) / "index"))

    def answers(self, width: int, mode: str, path: str) -> None:
        """Write the keys found, (m, k), to `path`; also the warm-up of this width."""
        if mode == "single":
            one = self.engine.single(self.index, self.k, width)
            found = np.array([one(query) for query in self.queries])
        else:
            found = self.engine.batch(self.index, self.queries, self.k, width, self.threads)
        np.save(path, np.asarray(found).astype(np.int64))

    def speed(self, width: int, mode: str) -> float:
        """Return queries per second of one pass over all queries."""
        queries = list(self.queries)
        if mode == "single":
            one = self.engine.single(self.index, self.k, width)

            def work() -> None:
                for query in queries:
                    one(query)
        else:

            def work() -> None:
                self.engine.batch(self.index, self.queries, self.k, width, self.threads)

        return len(queries) / _clock(work)


def main() -> None:
    """Obey the parent until it closes the pipe; what an engine prints goes to stderr, not between the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    session = Session(*sys.argv[1:])
    if session.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(session, command.pop("verb"))(**command)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
