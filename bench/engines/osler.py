"""Osler's own index, as a user calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler


def describe() -> dict[str, Any]:
    return {"name": "osler", "version": osler.__version__, "parameters": "cosine, f32, default build"}


def build(rows: np.ndarray, threads: int) -> osler.Index:
    return osler.Index.build(rows, metric="cosine", codes="f32", threads=threads)


def size(index: osler.Index, path: Path) -> int:
    index.save(path)
    return path.stat().st_size


def single(index: osler.Index, k: int, width: int) -> Callable[[np.ndarray], Any]:
    search = index.search
    return lambda query: search(query, k, ef=width).keys


def batch(index: osler.Index, queries: np.ndarray, k: int, width: int, threads: int) -> np.ndarray:
    return index.search(queries, k, ef=width, threads=threads).keys
