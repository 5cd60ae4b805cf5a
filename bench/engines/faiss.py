"""faiss HNSW: inner product over unit rows in float32, 16 links (32 at the bottom), 200 candidates while building."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np


def describe() -> dict[str, Any]:
    return {"name": "faiss HNSW", "version": faiss.__version__, "parameters": "f32, M=16, efConstruction=200"}


def build(rows: np.ndarray, threads: int) -> Any:
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexHNSWFlat(rows.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.add(rows)
    return index


def size(index: Any, path: Path) -> int:
    faiss.write_index(index, str(path))
    return path.stat().st_size


def single(index: Any, k: int, width: int) -> Callable[[np.ndarray], Any]:
    faiss.omp_set_num_threads(1)
    index.hnsw.efSearch = width
    search = index.search
    return lambda query: search(query[None], k)[1][0]


def batch(index: Any, queries: np.ndarray, k: int, width: int, threads: int) -> np.ndarray:
    faiss.omp_set_num_threads(threads)
    index.hnsw.efSearch = width
    return index.search(queries, k)[1]
