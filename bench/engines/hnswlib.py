"""hnswlib: inner product over unit rows, compiled from its source for this machine's processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from engine import BUILD_WIDTH, GRAPH_LINKS, Peer


class Engine(Peer):
    package = "hnswlib"

    def parameters(self) -> str:
        return f"f32, M={GRAPH_LINKS}, ef_construction={BUILD_WIDTH}, compiled here"

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        self.index = hnswlib.Index(space="ip", dim=rows.shape[1])
        self.index.init_index(max_elements=len(rows), M=GRAPH_LINKS, ef_construction=BUILD_WIDTH, random_seed=0)
        self.index.add_items(rows, num_threads=threads)

    def save(self, folder: Path) -> None:
        self.index.save_index(str(folder / "index"))

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        dim = rows.shape[1]
        self.index = hnswlib.Index(space="ip", dim=dim)
        self.index.load_index(str(folder / "index"))

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        self.index.set_ef(width)
        search = self.index.knn_query
        return lambda query: search(query, k, 1)[0][0]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        self.index.set_ef(width)
        return self.index.knn_query(queries, k, self.threads)[0]

    def filtered(self, mask: np.ndarray, k: int, where: list[Any]) -> Callable[[np.ndarray, Any], Any]:
        # The filter is a Python call for every candidate: a list answers such a call faster than an array.
        allowed = mask.tolist()

        def search(query: np.ndarray, width: Any) -> Any:
            self.index.set_ef(width)
            return self.index.knn_query(query, k, 1, filter=allowed.__getitem__)[0][0]

        return search
