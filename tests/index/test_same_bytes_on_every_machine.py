"""Equal input and seed give equal bytes in the saved file, at any number of threads and on any SIMD level.

Each case is a process of its own, because the SIMD level is chosen once at start (`OSLER_SIMD` lowers it).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import osler
import pytest

PROGRAM = """
import hashlib, sys
import numpy as np
import osler

metric, codes, keep, threads, seed, path = sys.argv[1:]
rng = np.random.default_rng(11)
rows = rng.standard_normal((3000, 40)).astype(np.float32)
options = {"metric": metric, "codes": codes, "keep_vectors": keep}
index = osler.Index.build(rows[:2500], **options, threads=int(threads), seed=int(seed))
index.delete(np.arange(0, 700, 3))
index.add(rows[2500:])
index.save(path)
found = index.search(rows[::50], 10, recall=0.9, threads=int(threads))
answer = hashlib.sha256(found.keys.tobytes() + found.scores.tobytes()).hexdigest()
print(hashlib.sha256(open(path, "rb").read()).hexdigest(), answer)
"""


def levels() -> list[str]:
    """The SIMD levels of this CPU, lowest first."""
    flags = set(Path("/proc/cpuinfo").read_text().split()) if sys.platform == "linux" else set()
    names = ["scalar"]
    if {"avx2", "fma", "f16c"} <= flags:
        names.append("avx2")
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags:
        names.append("avx512")
    if "asimd" in flags:
        names.append("neon")
    return names


def saved(
    folder: Path,
    metric: str,
    codes: str,
    keep: str = "ram",
    *,
    threads: int = 1,
    seed: int = 0,
    simd: str | None = None,
) -> str:
    environment = {**os.environ, **({"OSLER_SIMD": simd} if simd else {})}
    arguments = [metric, codes, keep, str(threads), str(seed), str(folder / "index.osler")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CASES = [
    ("cosine", "f32", "ram"),
    ("dot", "f16", "ram"),
    ("l2", "f32", "disk"),
    ("dot", "f32", "none"),
    ("l2", "sq8", "none"),
    ("dot", "sq5", "disk"),
    ("cosine", "pq", "disk"),
    ("dot", "pq:8x8", "none"),
    ("l2", "rabitq", "disk"),
    ("cosine", "rabitq:4", "ram"),
]


@pytest.mark.parametrize(("metric", "codes", "keep"), CASES)
def test_threads_and_simd_levels(metric: str, codes: str, keep: str, tmp_path: Path) -> None:
    reference = saved(tmp_path, metric, codes, keep)
    for threads in (2, 3, 8):
        assert saved(tmp_path, metric, codes, keep, threads=threads) == reference, f"{threads} threads"
    for simd in levels():
        assert saved(tmp_path, metric, codes, keep, threads=2, simd=simd) == reference, simd
    print(f"levels compared: {levels()}")


def test_the_seed_matters(tmp_path: Path) -> None:
    """Otherwise the test above might compare files that depend on nothing."""
    assert saved(tmp_path, "cosine", "f32", seed=1) != saved(tmp_path, "cosine", "f32", seed=2)


def test_a_simd_level_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import osler; osler.Index(4)"],
        env={**os.environ, "OSLER_SIMD": "mmx"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "OSLER_SIMD" in done.stderr


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_input_layout_leaves_no_trace(metric: str, tmp_path: Path, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((2_100, 20)).astype(np.float16)
    forms = (rows, rows.astype(np.float32), np.asfortranarray(rows.astype(np.float64)))
    digests = set()
    for form in forms:
        osler.Index.build(form, metric=metric).save(tmp_path / "index.osler")
        digests.add(hashlib.sha256((tmp_path / "index.osler").read_bytes()).hexdigest())
    assert len(digests) == 1
