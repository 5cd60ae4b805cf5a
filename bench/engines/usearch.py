"""usearch: inner product over unit rows in float32, 16 links (32 at the bottom), 200 candidates while building."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from usearch.index import Index


def describe() -> dict[str, Any]:
    version = importlib.metadata.version("usearch")
    return {"name": "usearch", "version": version, "parameters": "f32, connectivity=16, expansion_add=200"}


def build(rows: np.ndarray, threads: int) -> Index:
    index = Index(ndim=rows.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=200)
    index.add(np.arange(len(rows), dtype=np.uint64), rows, threads=threads)
    return index


def size(index: Index, path: Path) -> int:
    index.save(str(path))
    return path.stat().st_size


def single(index: Index, k: int, width: int) -> Callable[[np.ndarray], Any]:
    index.expansion_search = width
    search = index.search
    return lambda query: search(query, k, threads=1).keys


def batch(index: Index, queries: np.ndarray, k: int, width: int, threads: int) -> np.ndarray:
    index.expansion_search = width
    return index.search(queries, k, threads=threads).keys
