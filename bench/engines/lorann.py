"""LoRANN: clusters with reduced-rank regressions, compiled from its source for this machine's processor."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lorann
import numpy as np
from engine import Peer

RANK, BITS = 32, 8


class Engine(Peer):
    package = "lorann"

    def parameters(self) -> str:
        return f"about sqrt(n) clusters, global_dim=128, rank={RANK}, quantization_bits={BITS}, IP, compiled here"

    def sweep(self, rows: int) -> list[Any]:
        clusters = self._clusters(rows)
        widths = ((2, 50), (4, 50), (8, 100), (16, 100), (16, 200), (32, 200), (64, 400), (64, 1600), (128, 800))
        return [[probe, keep] for probe, keep in widths if probe <= clusters]

    @staticmethod
    def _clusters(rows: int) -> int:
        return 2 ** round(math.log2(math.sqrt(rows)))

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        # Its documentation: about sqrt(n) clusters, and 128 global dimensions for rows of 200 to 1000.
        self.index = lorann.LorannIndex(
            data=rows,
            n_clusters=self._clusters(len(rows)),
            global_dim=128 if rows.shape[1] >= 200 else None,
            quantization_bits=BITS,
            rank=RANK,
            distance=lorann.IP,
        )
        self.index.build(verbose=False, n_threads=threads)

    def save(self, folder: Path) -> None:
        self.index.save(str(folder / "index"))

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        self.index = lorann.LorannIndex.load(str(folder / "index"))

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        search, (probe, keep) = self.index.search, width
        return lambda query: search(query, k, probe, keep, n_threads=1)

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        return self.index.search(queries, k, *width, n_threads=self.threads)
