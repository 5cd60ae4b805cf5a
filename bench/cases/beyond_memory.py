"""An index that is larger than the memory it may use: queries a second, and what each reads from the disk.

The process that answers lives in a memory cgroup whose limit is a share of the index's file, page cache included, and
the file is dropped from the cache before. Needs the right to make a cgroup; where it is missing, the case says so.

Run as a program it is that process.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent.parent
SETTINGS = ("k", "queries", "memory_shares", "passes")
GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
LIMITS = ("memory.limit_in_bytes", "memory.max")


def measure(visit: Any, control: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return, for each share of memory, every pass over the queries: seconds, reads, recall."""
    import numpy as np
    import truth

    vectors, k = visit.vectors, settings["k"]
    folder = visit.store.index(visit.engine)
    files = [path for path in folder.rglob("*") if path.is_file()]
    disk = sum(path.stat().st_size for path in files)
    kind = next(iter(vectors.queries))
    queries = vectors.asked(kind, settings["queries"])
    kth = truth.kth_scores(vectors.base, queries, k, cache=(vectors.digest, visit.store.cache))
    asked = visit.saved(queries, "asked")
    found = []
    for share in settings["memory_shares"]:
        for path in files:
            _forget(path)
        limit = int(share * disk)
        passes = _answered(
            [visit.engine, str(folder), asked, str(k), str(settings["passes"]), str(visit.scratch)], limit
        )
        reached = truth.recall(vectors.base, queries, np.load(visit.scratch), kth)
        found.append({"share": share, "limit_bytes": limit, "recall": reached, "passes": passes})
    return {"disk_bytes": disk, "queries": len(queries), "limits": found}


def _forget(path: Path) -> None:
    """Drop a file from the page cache."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def _answered(arguments: list[str], limit: int) -> list[dict[str, Any]]:
    from measure import EngineFailed, EngineRefused

    parent, name = next(
        ((group, name) for group, name in zip(GROUPS, LIMITS, strict=True) if (group / "cgroup.procs").exists()),
        (None, ""),
    )
    if parent is None:
        raise EngineRefused("this machine has no memory cgroup")
    group = parent / f"osler-bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit))
    except OSError as error:
        raise EngineRefused(f"no memory cgroup can be made here: {error}") from error
    try:
        done = subprocess.run(
            [sys.executable, __file__, str(group), *arguments], capture_output=True, text=True, check=False
        )
    finally:
        group.rmdir()
    if done.returncode:
        raise EngineFailed((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:200])
    return list(json.loads(done.stdout.splitlines()[-1]))


def _read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def _passes(group: str, key: str, folder: str, asked: str, k: str, passes: str, answers: str) -> list[dict[str, Any]]:
    import numpy as np

    sys.path.insert(0, str(BENCH))
    import measure

    queries = np.load(asked)
    engine = measure.make(key)
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    engine.open(Path(folder), queries, 1)
    widths = engine.sweep(len(queries))
    width = widths[len(widths) // 2]
    search = engine.single(int(k), width)
    found = []
    for _ in range(int(passes)):
        faults, read, start = resource.getrusage(resource.RUSAGE_SELF).ru_majflt, _read(), time.perf_counter()
        rows = [np.asarray(search(query)) for query in queries]
        found.append(
            {
                "width": width,
                "seconds": time.perf_counter() - start,
                "major_faults": resource.getrusage(resource.RUSAGE_SELF).ru_majflt - faults,
                "read_bytes": _read() - read,
            }
        )
    np.save(answers, np.array(rows))
    return found


if __name__ == "__main__":
    print(json.dumps(_passes(*sys.argv[1:])))
