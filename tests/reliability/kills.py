"""R1. Real kills: a process is killed at a random moment, or ends at a random file call, while it changes a
collection; a fresh process looks at what is left. A parent that has everything imported and runs nothing forks both."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import osler.collection
import polars as pl

from reliability import testing, workload

NAME, UNIT = "kills", "kills"
SIZES = {"quick": 2_000, "ci": 2_000, "full": 10_000}
TRIALS = 10
CHANGES = 10
# About as many file calls, and seconds, as the changes take.
CALLS = 600
SECONDS = 0.08
# In memory where there is such a folder: a kill loses nothing that was written, synced or not.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def piece(seed: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for trial in range(TRIALS):
        counts += _trial(seed * TRIALS + trial)
    return counts


def _trial(seed: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    folder = Path(tempfile.mkdtemp(prefix="kill-", dir=SCRATCH))
    path = folder / "cases.osler"
    reading, writing = os.pipe()
    by_call = bool(rng.random() < 0.5)
    calls, wait = int(rng.integers(CALLS)), float(rng.random() * SECONDS)
    child = _fork(lambda: _change(seed, path, writing, calls if by_call else None))
    os.close(writing)
    if not by_call:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as stream:
        acknowledged = len(stream.read())
    _, status = os.waitpid(child, 0)
    ended = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    killed = signal.SIGABRT if by_call else signal.SIGKILL
    assert ended or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == killed), f"seed {seed}: it failed by itself"
    problem = _ask(lambda: _look(seed, path, acknowledged))
    assert problem is None, f"seed {seed}, {acknowledged} changes acknowledged: {problem}"
    shutil.rmtree(folder)
    if ended:
        # It was done before it was killed.
        return Counter({"not killed in time": 1})
    return Counter({UNIT: 1, "at a file call" if by_call else "at a moment": 1, "changes acknowledged": acknowledged})


def _change(seed: int, path: Path, pipe: int, calls: int | None) -> None:
    if calls is not None:
        testing.native.die_after(calls)
    with testing.small_graphs():
        cases = workload.create(path)
        os.write(pipe, b".")
        for change, _ in workload.history(seed, CHANGES):
            cases = workload.apply(cases, change)
            os.write(pipe, b".")
        cases.close()


def _look(seed: int, path: Path, acknowledged: int) -> str | None:
    """What is wrong with what is left, looked at by a reader, then by a writer, who goes on."""
    models: list[workload.Model] = [{}, *(model for _, model in workload.history(seed, CHANGES))]
    if not path.exists():
        return None if acknowledged == 0 else "there is no collection"
    allowed = models[max(acknowledged - 1, 0) : acknowledged + 1]
    with testing.small_graphs():
        for mode in ("r", "a"):
            with osler.Collection.open(path, mode=mode) as cases:
                cases.verify()
                wrong = [workload.difference(cases, model, queries=1) for model in allowed]
                if None not in wrong:
                    return f"{mode}: " + "; and: ".join(str(problem) for problem in wrong)
                allowed = [allowed[wrong.index(None)]]
        left = _unlisted(path)
        if left:
            return f"files that nothing lists: {left}"
        rng = np.random.default_rng(seed + 1)
        cases, model = osler.Collection.open(path, mode="a"), allowed[0]
        for _ in range(2):
            change = workload.plan(rng, model)
            cases, model = workload.apply(cases, change), workload.expect(model, change)
        with cases:
            return workload.difference(cases, model, queries=2)


def _unlisted(path: Path) -> list[str]:
    """Files that no manifest there lists."""
    from format_reader import read

    listed = {"FORMAT", "LOCK"}
    for manifest in (path / "manifests").iterdir():
        listed.add(f"manifests/{manifest.name}")
        listed |= set(read(manifest.read_bytes(), check=False)[23, 0].tobytes().decode().splitlines())
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    return sorted(there - listed)


def _fork(work: Callable[[], Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _ask(work: Callable[[], Any]) -> Any:
    """What a function returns in a process of its own."""
    reading, writing = os.pipe()

    def answer() -> None:
        os.close(reading)
        with os.fdopen(writing, "wb") as stream:
            try:
                pickle.dump(work(), stream)
            except BaseException:
                pickle.dump(traceback.format_exc(), stream)

    child = _fork(answer)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    return pickle.loads(data) if data else "the process that looked died"


# What is imported here is not imported in each child.
_ = (osler.Collection, pl.DataFrame)
