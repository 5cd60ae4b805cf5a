"""NGT: its ANNG graph with the documented edges (10 for creation, 40 for search), normalised cosine in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ngtpy
import numpy as np
from engine import Peer


class Engine(Peer):
    package = "ngt"
    widths = (-0.05, 0.0, 0.03, 0.06, 0.1, 0.14, 0.2, 0.3, 0.4)

    def title(self) -> str:
        return "NGT ANNG"

    def parameters(self) -> str:
        return "Normalized Cosine, Float, edges 10/40, swept by epsilon"

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        path = str(folder / "index")
        ngtpy.create(path, rows.shape[1], distance_type="Normalized Cosine", object_type="Float")
        self.index = ngtpy.Index(path)
        self.index.batch_insert(rows, num_threads=threads)

    def save(self, folder: Path) -> None:
        self.index.save()
        self.index.close()
        self.index = None

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        self.index = ngtpy.Index(str(folder / "index"), read_only=True)

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        search = self.index.search
        return lambda query: [row for row, _ in search(query, k, width)]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        found = ngtpy.BatchResults()
        self.index.set(epsilon=width)
        self.index.batch_search(queries, found, k)
        return found.get_ids()
