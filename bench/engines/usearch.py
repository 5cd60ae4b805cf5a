"""usearch: f32 and f16 rows under the inner product; i8 under the cosine, which fits its scale to the row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from engine import BUILD_WIDTH, GRAPH_LINKS, Peer
from usearch.index import Index, MetricKind
from usearch.index import search as exact_search


class Engine(Peer):
    package = "usearch"
    variants = {
        "f32": {"dtype": "f32", "metric": "ip"},
        "f16": {"dtype": "f16", "metric": "ip"},
        "i8": {"dtype": "i8", "metric": "cos"},
        "f32-view": {"dtype": "f32", "metric": "ip", "view": True},
        "exact": {"dtype": "f32", "metric": "ip", "exact": True},
    }

    def parameters(self) -> str:
        if self.settings.get("exact"):
            return "usearch.index.search, exact, float32"
        seen = ", opened as a view" if self.settings.get("view") else ""
        return f"{self.settings['dtype']}, connectivity={GRAPH_LINKS}, expansion_add={BUILD_WIDTH}{seen}"

    def sweep(self, rows: int) -> list[Any]:
        return [0] if self.settings.get("exact") else super().sweep(rows)

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        if self.settings.get("exact"):
            return
        self.index = Index(
            ndim=rows.shape[1],
            metric=self.settings["metric"],
            dtype=self.settings["dtype"],
            connectivity=GRAPH_LINKS,
            expansion_add=BUILD_WIDTH,
        )
        self.index.add(np.arange(len(rows), dtype=np.uint64), rows, threads=threads)

    def save(self, folder: Path) -> None:
        if self.index is not None:
            self.index.save(str(folder / "index"))

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        self.rows = rows
        if self.settings.get("exact"):
            return
        self.index = Index.restore(str(folder / "index"), view=self.settings.get("view", False))

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        if self.settings.get("exact"):
            return lambda query: exact_search(self.rows, query, k, MetricKind.IP, exact=True, threads=1).keys
        self.index.expansion_search = width
        search = self.index.search
        return lambda query: search(query, k, threads=1).keys

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        if self.settings.get("exact"):
            return exact_search(self.rows, queries, k, MetricKind.IP, exact=True, threads=self.threads).keys
        self.index.expansion_search = width
        return self.index.search(queries, k, threads=self.threads).keys
