"""voyager: HNSW, inner product over unit rows in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import voyager
from engine import BUILD_WIDTH, GRAPH_LINKS, Peer


class Engine(Peer):
    package = "voyager"

    def parameters(self) -> str:
        return f"InnerProduct, Float32, M={GRAPH_LINKS}, ef_construction={BUILD_WIDTH}"

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        self.index = voyager.Index(
            voyager.Space.InnerProduct, rows.shape[1], M=GRAPH_LINKS, ef_construction=BUILD_WIDTH, random_seed=1
        )
        self.index.add_items(rows, num_threads=threads)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        self.index = voyager.Index.load(str(folder / "index"))

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        search = self.index.query
        return lambda query: search(query, k, 1, width)[0]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        return self.index.query(queries, k, self.threads, width)[0]
