"""A collection of a million vectors: what a commit, a deletion, compaction and opening again take.

Each step is a process of its own, so that its peak memory is its own: seconds, bytes of the files it wrote, and the
process's peak memory, mapped pages that were touched among it. Run as `collection.py VECTORS.npy
FOLDER`; writes `results/collection.md`.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np

BENCH = Path(__file__).resolve().parent
STEP = 50_000


def build(path: Path, vectors: Any) -> dict[str, Any]:
    import osler

    with osler.Collection.create(path, dim=vectors.shape[1]) as cases:
        for start in range(0, len(vectors), STEP):
            keys = [f"image-{row:08}" for row in range(start, min(start + STEP, len(vectors)))]
            rows = [{"n": row, "site": f"site-{row % 7}"} for row in range(start, start + len(keys))]
            cases.add_vectors(keys, vectors[start : start + len(keys)], metadata=rows)
    return {}


def commit(path: Path, vectors: Any) -> dict[str, Any]:
    import osler

    with osler.Collection.open(path, mode="a") as cases:
        began = time.perf_counter()
        cases.add_vectors([f"new-{row}" for row in range(1_000)], vectors[:1_000] + np.float32(0.01))
        return {"seconds": time.perf_counter() - began}


def delete(path: Path, vectors: Any) -> dict[str, Any]:
    import osler

    with osler.Collection.open(path, mode="a") as cases:
        began = time.perf_counter()
        count = cases.delete([f"image-{row:08}" for row in range(0, len(vectors), 100)])
        return {"seconds": time.perf_counter() - began, "deleted": count}


def compact(path: Path, vectors: Any) -> dict[str, Any]:
    import osler

    with osler.Collection.open(path, mode="a") as cases:
        began = time.perf_counter()
        cases.compact()
        return {"seconds": time.perf_counter() - began, "segments": cases.info().segments}


def erase(path: Path, vectors: Any) -> dict[str, Any]:
    import osler

    with osler.Collection.open(path, mode="a") as cases:
        began = time.perf_counter()
        cases.erase(["image-00000001", "new-7"])
        return {"seconds": time.perf_counter() - began}


def reopen(path: Path, vectors: Any) -> dict[str, Any]:
    """Opening and a first answer, once what is imported is there."""
    import osler
    import osler.collection

    query = vectors[12_345] + np.float32(0.001)
    began = time.perf_counter()
    cases = osler.Collection.open(path)
    opened = time.perf_counter()
    hits = cases.search(vector=query, k=10)
    key = hits[0].key
    answered = time.perf_counter()
    hits[0].metadata  # noqa: B018
    read = time.perf_counter()
    for at in range(20):
        cases.search(vector=vectors[at * 1_000], k=10)[0].key  # noqa: B018
    later = (time.perf_counter() - read) / 20
    assert key == "image-00012345", key
    milliseconds = {"open": opened - began, "first answer": answered - opened, "its metadata": read - answered}
    return {"seconds": answered - began, "ms": {n: 1e3 * s for n, s in (milliseconds | {"a later one": later}).items()}}


STEPS = (build, reopen, commit, delete, compact, reopen, erase, reopen)


def main() -> None:
    if len(sys.argv) == 5:
        _, source, folder, name, _ = sys.argv
        vectors = np.load(source, mmap_mode="r")
        began = time.perf_counter()
        said = globals()[name](Path(folder), vectors)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        print(json.dumps({"seconds": time.perf_counter() - began, **said, "peak": peak}))
        return
    source, folder = sys.argv[1], Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    lines = []
    for step in STEPS:
        before = {file for file in folder.rglob("*") if file.is_file()}
        done = subprocess.run(
            [sys.executable, __file__, source, str(folder), step.__name__, "run"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        new = [file for file in folder.rglob("*") if file.is_file() and file not in before]
        written = sum(file.stat().st_size for file in new)
        more = ", ".join(f"{name} {value:.1f} ms" for name, value in said.get("ms", {}).items())
        more = more or ", ".join(f"{value:,} {name}" for name, value in said.items() if name in ("deleted", "segments"))
        shown = f"{said['seconds']:.3f} s" if said["seconds"] < 10 else f"{said['seconds']:.0f} s"
        lines.append(f"| {step.__name__} | {shown} | {written / 1e6:,.1f} MB | {said['peak'] / 1e6:,.0f} MB | {more} |")
        print(lines[-1], flush=True)
    vectors = np.load(source, mmap_mode="r")
    here = machine.label()
    text = [
        f"# A collection of {len(vectors):,} x {vectors.shape[1]} vectors",
        "",
        "Made by `bench/collection.py`: steps one after another, each in a process of its own. Bytes are those of the",
        "files that a step left; peak memory counts mapped pages that were touched.",
        "",
        f"{here}",
        "",
        "| step | time | written | peak memory | |",
        "|---|---|---|---|---|",
        *lines,
    ]
    (BENCH / "results" / "collection.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
