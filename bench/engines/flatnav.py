"""flatnav: one flat graph, inner product over unit rows in float32; it declares numpy < 2 and works with 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatnav
import numpy as np
from engine import BUILD_WIDTH, GRAPH_LINKS, Peer


class Engine(Peer):
    package = "flatnav"

    def parameters(self) -> str:
        return f"angular, float32, max_edges_per_node={2 * GRAPH_LINKS}, ef_construction={BUILD_WIDTH}"

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        self.index = flatnav.index.create("angular", rows.shape[1], len(rows), 2 * GRAPH_LINKS)
        self.index.set_num_threads(threads)
        self.index.add(rows, BUILD_WIDTH)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        self.index = flatnav.index.IndexIPFloat.load_index(str(folder / "index"))
        # A loaded index does not know what its rows are, and answers at random until told.
        self.index.set_data_type(flatnav.data_type.DataType.float32)
        self.index.set_num_threads(threads)

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        search = self.index.search_single
        return lambda query: search(query, k, width)[1]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        return self.index.search(queries, k, width)[1]
