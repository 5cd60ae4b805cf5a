"""Intel SVS: Vamana over float16 rows; its LVQ and LeanVec codes refuse processors of other makers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import svs
from engine import BUILD_WIDTH, GRAPH_LINKS, Peer

PARTS = ("config", "graph", "data")


class Engine(Peer):
    package = "scalable-vs"
    variants = {"f16": {}}

    def title(self) -> str:
        return "SVS Vamana f16"

    def parameters(self) -> str:
        return f"l2 on unit rows, float16, alpha=1.2, graph_max_degree={2 * GRAPH_LINKS}, window_size={BUILD_WIDTH}"

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        settings = svs.VamanaBuildParameters(alpha=1.2, graph_max_degree=2 * GRAPH_LINKS, window_size=BUILD_WIDTH)
        self.index = svs.Vamana.build(settings, rows.astype(np.float16), svs.DistanceType.L2, num_threads=threads)

    def save(self, folder: Path) -> None:
        self.index.save(*(str(folder / part) for part in PARTS))

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        config, graph, vectors = (str(folder / part) for part in PARTS)
        loader = svs.VectorDataLoader(vectors, svs.DataType.float16, dims=rows.shape[1])
        self.index = svs.Vamana(
            config, svs.GraphLoader(graph), loader, svs.DistanceType.L2, svs.DataType.float32, num_threads=threads
        )

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        self.index.num_threads = 1
        self.index.search_window_size = width
        search = self.index.search
        return lambda query: search(query, k)[0][0]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        self.index.num_threads = self.threads
        self.index.search_window_size = width
        return self.index.search(queries, k)[0]
