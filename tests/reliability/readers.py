"""R8. One writer, a second that is refused, readers that come and go, and kills: each answer belongs to a state that
was in force while its reader was open, a reader's state does not move, and neither memory nor descriptors grow."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import osler

from reliability import testing, workload
from reliability.kills import SCRATCH, _ask, _fork

NAME, UNIT = "readers and writers", "answers"
SIZES = {"quick": 200, "ci": 3_000, "full": 100_000}
CHANGES = 60
READERS = 3
LOOKS = 4
# States after which a reader has all that it keeps, and what it may take besides.
WARM = 4
GROWTH_BYTES = 24 << 20


def piece(seed: int) -> Counter[str]:
    """A writer is killed and another goes on, until all changes are made; meanwhile readers look."""
    folder = Path(tempfile.mkdtemp(prefix="readers-", dir=SCRATCH))
    path, log = folder / "cases.osler", folder / "log"
    log.touch()
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    _ask(lambda: workload.create(path).close())
    readers = [_fork(lambda at=at: _read(seed, at, path, log, folder / f"reader-{at}")) for at in range(READERS)]
    while _killed(_fork(lambda: _write(seed, path, log)), float(rng.uniform(0.05, 0.4)), f"seed {seed}"):
        counts["writers killed"] += 1
    (folder / "stop").touch()
    for at, reader in enumerate(readers):
        os.waitpid(reader, 0)
        said = (folder / f"reader-{at}").read_text() if (folder / f"reader-{at}").exists() else "it died"
        assert said.startswith("ok "), f"seed {seed}, reader {at}: {said}"
        answers, states = map(int, said.split()[1:])
        counts[UNIT] += answers
        counts["states looked at"] += states
    done = _ask(lambda: _end(seed, path))
    assert done is None, f"seed {seed}: {done}"
    shutil.rmtree(folder)
    counts["changes"] += CHANGES
    return counts


def _killed(writer: int, seconds: float, where: str) -> bool:
    """Kill a process after some time; False if it had ended by then, as it should."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        child, status = os.waitpid(writer, os.WNOHANG)
        if child:
            assert os.waitstatus_to_exitcode(status) == 0, f"{where}: the writer failed by itself"
            return False
        time.sleep(0.01)
    os.kill(writer, signal.SIGKILL)
    _, status = os.waitpid(writer, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL), f"{where}: the writer failed by itself"
    return ended != 0


def _history(seed: int) -> Iterator[tuple[workload.Change, workload.Model]]:
    """Changes, with erasures in one of three: they take files from readers, which nothing else may do."""
    return workload.history(seed, CHANGES, erasing=seed % 3 == 0)


def _acknowledged(log: Path) -> int:
    return log.stat().st_size


def _write(seed: int, path: Path, log: Path) -> None:
    """Go on where the last writer was killed; what it was doing is done or not."""
    warnings.simplefilter("ignore")
    models = [{}, *(model for _, model in _history(seed))]
    changes = [change for change, _ in _history(seed)]
    with testing.small_graphs():
        cases = osler.Collection.open(path, mode="a")
        try:
            osler.Collection.open(path, mode="a")
        except osler.LockedError:
            pass
        else:
            raise AssertionError("two writers")
        at = _acknowledged(log)
        if at < CHANGES and workload.difference(cases, models[at], queries=0) is not None:
            at += 1
            with open(log, "ab") as stream:
                stream.write(b".")
        for change in changes[at:]:
            cases = workload.apply(cases, change)
            with open(log, "ab") as stream:
                stream.write(b".")
        cases.close()


def _read(seed: int, number: int, path: Path, log: Path, answer: Path) -> None:
    warnings.simplefilter("ignore")
    models = [{}, *(model for _, model in _history(seed))]
    rng = np.random.default_rng((seed, number))
    answers = states = 0
    said = ""
    descriptors = memory = 0
    with testing.small_graphs():
        while not said and not (answer.parent / "stop").exists():
            first = _acknowledged(log)
            try:
                cases = osler.Collection.open(path)
            except osler.Error as error:
                # Only one that is overtaken many times while it opens is told to try again.
                said = "" if error.code == "stale" else f"not opened: {error!r}"
                continue
            allowed = range(first, min(_acknowledged(log) + 1, CHANGES) + 1)
            states += 1
            held = None
            if rng.random() < 0.5:
                # The writer goes on before any file is read.
                time.sleep(float(rng.uniform(0, 0.2)))
            for _ in range(LOOKS):
                try:
                    fits = [at for at in allowed if workload.difference(cases, models[at], queries=2) is None]
                except osler.Error as error:
                    # An erasure leaves nothing of earlier states, and says so.
                    if error.code != "stale" or seed % 3:
                        said = f"{error!r}"
                    break
                if not fits or (held is not None and held not in fits):
                    said = f"it is none of the states {allowed}, or not what it was ({held})"
                    break
                held = fits[0] if held is None else held
                answers += 1
                time.sleep(float(rng.uniform(0, 0.02)))
            cases.close()
            del cases
            open_now = len(os.listdir("/proc/self/fd"))
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
            if states == WARM:
                descriptors, memory = open_now, resident
            if states > WARM and open_now > descriptors + 8:
                said = f"{open_now} descriptors are open, {descriptors} were"
            if states > WARM and resident > memory + GROWTH_BYTES:
                said = f"{resident} bytes are in memory, {memory} were"
    answer.write_text(said or f"ok {answers} {states}")


def _end(seed: int, path: Path) -> str | None:
    *_, (_, model) = _history(seed)
    with testing.small_graphs(), osler.Collection.open(path) as cases:
        cases.verify()
        return workload.difference(cases, model)
