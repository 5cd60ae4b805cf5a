"""R3. Every file call of a change fails once, in every way: nothing acknowledged is lost, no change is half there,
the error says which of the two states holds, and the writer goes no further after a failed write."""

from __future__ import annotations

import errno
from collections import Counter
from itertools import count
from typing import Any

import numpy as np
import osler

from reliability import testing, workload

NAME, UNIT = "I/O errors", "failed calls"
SIZES = {"quick": 10_000, "ci": 10_000, "full": 100_000}
BEFORE = 8
PATH = "/data/cases.osler"
FAULTS = (
    ("error", errno.EIO),
    ("error", errno.ENOSPC),
    ("error", errno.EDQUOT),
    ("error", errno.EINTR),
    ("short", errno.ENOSPC),
    ("done", errno.EIO),
    ("partial", 0),
)


def piece(seed: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    disk = testing.disk(seed)
    *earlier, (change, after) = workload.history(seed, BEFORE + seed % 5)
    before = earlier[-1][1]
    with testing.small_graphs(), testing.mounted(disk):
        cases = workload.create(PATH)
        for former, _ in earlier:
            cases = workload.apply(cases, former)
        cases.close()
        del cases
        disk.settle()
        for how, code in FAULTS:
            for at in count():
                copy = disk.fork()
                copy.mount()
                copy.fail(at, how, code)
                try:
                    outcome = _try(change)
                except AssertionError as error:
                    where = f"seed {seed}, {change[0]}, call {at} ({copy.struck()}) {how} {code}"
                    raise AssertionError(f"{where}: {error}") from None
                struck = copy.struck()
                if not copy.came():
                    break
                if struck is None:
                    continue
                where = f"seed {seed}, {change[0]}, call {at} ({struck}) {how} {errno.errorcode.get(code, '')}"
                # What failed once works from now on, as on a disk that has room again.
                copy.fail(2**60, "error", errno.EIO)
                if outcome == "failed":
                    _again(copy.fork(), change, after, where)
                    copy.mount()
                _look(before, after, outcome, where)
                counts[UNIT] += 1
                counts[f"ended as {outcome}"] += 1
    return counts


def _try(change: workload.Change) -> str:
    """Make one change in a collection that is opened for it; returns how that ended."""
    try:
        cases = osler.Collection.open(PATH, mode="a")
    except (osler.Error, OSError) as error:
        assert str(error), "an error without a sentence"
        return "not opened"
    try:
        cases = workload.apply(cases, change)
    except osler.CommitUnknownError:
        return _refused(cases, "unknown")
    except osler.Error as error:
        if error.code == "not_erased":
            return "done"
        if error.code == "secret":
            # It is made before anything is written, so the writer may go on.
            return "failed"
        assert error.code in ("disk_full", "write_failed", "locked"), f"{error.code}: {error}"
        return _refused(cases, "failed")
    except OSError:
        # A file that cannot be read: nothing was tried.
        return "not read"
    finally:
        # A change that reopens may have closed it.
        cases.close()
    return "done"


def _refused(cases: osler.Collection, outcome: str) -> str:
    """After a failed write nothing more may be written."""
    try:
        cases.add_vectors(["another"], workload.unit(np.random.default_rng(0), 1))
    except osler.Error as error:
        assert error.code in ("write_failed", "read_only", "closed"), error.code
        return outcome
    raise AssertionError(f"the writer went on after a write that {outcome}")


def _again(left: Any, change: workload.Change, after: workload.Model, where: str) -> None:
    """What failed can be done after all."""
    left.mount()
    with osler.Collection.open(PATH, mode="a") as cases:
        done = workload.apply(cases, change)
        problem = workload.difference(done, after, queries=0)
        done.close()
    assert problem is None, f"{where}, done again: {problem}"


def _look(before: workload.Model, after: workload.Model, outcome: str, where: str) -> None:
    allowed: dict[str, list[Any]] = {
        "done": [after],
        "unknown": [before, after],
        "failed": [before],
        "not opened": [before],
        "not read": [before],
    }
    with osler.Collection.open(PATH, mode="a") as cases:
        cases.verify()
        wrong = [workload.difference(cases, model, queries=2) for model in allowed[outcome]]
        assert None in wrong, f"{where}, ended as {outcome}: {wrong[0]}"
        cases.add_vectors(["another"], workload.unit(np.random.default_rng(0), 1))
    with osler.Collection.open(PATH) as cases:
        assert "another" in cases, f"{where}: a change after it is lost"
