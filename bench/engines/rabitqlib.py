"""RaBitQ-Library: SymphonyQG (raw and 8-bit rows) and its 7-bit HNSW.

Metric `l2` on unit rows, which orders as the inner product does: with `ip` SymphonyQG builds a broken graph. Its
`max_degree` is the 32 links at the bottom that the other graphs have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rabitqlib
from engine import BUILD_WIDTH, GRAPH_LINKS, Peer

CENTROIDS = 16


class Engine(Peer):
    package = "rabitqlib"
    variants = {
        "symqg-raw": {"bits": 0},
        "symqg-8b": {"bits": 8},
        "hnsw-7b": {"bits": 7, "hnsw": True},
    }

    def title(self) -> str:
        names = {"symqg-raw": "SymphonyQG raw", "symqg-8b": "SymphonyQG 8-bit", "hnsw-7b": "RaBitQ HNSW 7-bit"}
        return names[self.variant]

    def parameters(self) -> str:
        links = f"M={GRAPH_LINKS}" if self.settings.get("hnsw") else f"max_degree={2 * GRAPH_LINKS}"
        return f"l2 on unit rows, {links}, ef_construction={BUILD_WIDTH}, {self.settings['bits'] or 'raw'} bits"

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        dim = rows.shape[1]
        if not self.settings.get("hnsw"):
            self.index = rabitqlib.SymqgIndex(dim, 2 * GRAPH_LINKS, "l2", self.settings["bits"])
            self.index.build(rows, BUILD_WIDTH, num_threads=threads)
            return
        # The library asks for centroids; k-means over a sample is part of the build and of its time.
        import faiss

        faiss.omp_set_num_threads(threads)
        kmeans = faiss.Kmeans(dim, CENTROIDS, niter=10, seed=0, max_points_per_centroid=2_000)
        kmeans.train(rows)
        near = kmeans.index.search(rows, 1)[1][:, 0].astype(np.uint32)
        self.index = rabitqlib.HnswIndex(
            dim, len(rows), M=GRAPH_LINKS, ef_construction=BUILD_WIDTH, nbits=self.settings["bits"], metric="l2"
        )
        self.index.build(rows, np.ascontiguousarray(kmeans.centroids), near, num_threads=threads)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        kind = rabitqlib.HnswIndex if self.settings.get("hnsw") else rabitqlib.SymqgIndex
        self.index = kind.load(str(folder / "index"))

    def _rows(self, found: Any) -> np.ndarray:
        # (ids, distances) or (distances, ids): the array of whole numbers is the ids.
        return next(np.asarray(part) for part in found if np.asarray(part).dtype.kind in "iu")

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        search = self.index.search
        at = 0 if np.asarray(search(np.zeros((1, self.index.dim), np.float32), k, width)[0]).dtype.kind in "iu" else 1
        return lambda query: search(query[None], k, width)[at][0]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        if not self.settings.get("hnsw"):
            return self._rows(self.index.search_batch(queries, k, width, self.threads))
        return self._rows(self.index.search(queries, k, width, self.threads))
