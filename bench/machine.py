"""The machine a figure was taken on, and how quiet it was.

Reads the processor's description and library versions; names no host and no user.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from pathlib import Path
from typing import Any

import numpy as np


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> tuple[str, list[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), []
    fields = dict(re.findall(r"^(model name|flags|Features|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    name = fields.get("model name", platform.machine())
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']} model {fields.get('model', '?')})"
    known = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "asimd")
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return name, [flag for flag in known if flag in flags]


def describe() -> dict[str, Any]:
    """Return processor, memory and versions as plain values."""
    name, flags = _cpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": name,
        "flags": flags,
        "cores": cores(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": importlib.metadata.version("numpy"),
    }


def label() -> str:
    """Return a short name for file names."""
    name = re.sub(r"\(.*?\)|processor|cpu|@.*", "", _cpu()[0], flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {cores()} cores".lower()).strip("-")


def noise() -> dict[str, float]:
    """Time one fixed piece of work twenty times: milliseconds in the median, and how far the slowest tenth is above it.

    The work walks 64 MB at random, as a graph search does, so a neighbour on the same memory bus shows.
    """
    rng = np.random.default_rng(0)
    table = np.zeros(16 << 20, np.float32)
    places = rng.integers(0, len(table), 400_000)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        table[places].sum()
        times.append(time.perf_counter() - start)
    ordered = sorted(times)
    median = ordered[len(ordered) // 2]
    return {"median_ms": round(1e3 * median, 3), "spread": round(ordered[-2] / median - 1, 3)}
