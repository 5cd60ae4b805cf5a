"""hnswlib: inner product over unit rows, 16 links (32 at the bottom), 200 candidates while building."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np


def describe() -> dict[str, Any]:
    version = importlib.metadata.version("hnswlib")
    return {"name": "hnswlib", "version": version, "parameters": "f32, M=16, ef_construction=200"}


def build(rows: np.ndarray, threads: int) -> hnswlib.Index:
    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=16, ef_construction=200, random_seed=0)
    index.add_items(rows, num_threads=threads)
    return index


def size(index: hnswlib.Index, path: Path) -> int:
    index.save_index(str(path))
    return path.stat().st_size


def single(index: hnswlib.Index, k: int, width: int) -> Callable[[np.ndarray], Any]:
    index.set_ef(width)
    search = index.knn_query
    return lambda query: search(query, k, 1)[0][0]


def batch(index: hnswlib.Index, queries: np.ndarray, k: int, width: int, threads: int) -> np.ndarray:
    index.set_ef(width)
    return index.knn_query(queries, k, threads)[0]
