"""ScaNN: a tree with anisotropic 4-bit codes and exact re-ranking, with and without SOAR's second assignment."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scann
from engine import Peer

LEAVES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REORDERS = (40, 100, 300)


class Engine(Peer):
    package = "scann"
    variants = {"tree-ah": {}, "soar": {"soar_lambda": 1.5, "overretrieve_factor": 2.0}}

    def title(self) -> str:
        return "ScaNN SOAR" if self.variant == "soar" else "ScaNN"

    def parameters(self) -> str:
        return f"about sqrt(n) leaves, AH 2 dims a block, threshold 0.2, exact reorder, {self.settings or 'no SOAR'}"

    def sweep(self, rows: int) -> list[Any]:
        return [[leaves, reorder] for reorder in REORDERS for leaves in LEAVES if leaves <= math.isqrt(rows)]

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        builder = scann.scann_ops_pybind.builder(rows, 10, "dot_product").set_n_training_threads(threads)
        tree = builder.tree(
            num_leaves=math.isqrt(len(rows)),
            num_leaves_to_search=64,
            training_sample_size=min(len(rows), 250_000),
            **self.settings,
        )
        scored = tree.score_ah(2, anisotropic_quantization_threshold=0.2)
        self.index = scored.reorder(100).build()

    def save(self, folder: Path) -> None:
        self.index.serialize(str(folder))

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        self.index = scann.scann_ops_pybind.load_searcher(str(folder))
        self.index.set_num_threads(threads)

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        search, (leaves, reorder) = self.index.search, width
        return lambda query: search(query, k, reorder, leaves)[0]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        leaves, reorder = width
        call = self.index.search_batched if self.threads == 1 else self.index.search_batched_parallel
        found, scores = call(queries, k, reorder, leaves)
        # Where the leaves hold fewer than k rows it fills up with row 0 and no score.
        return np.where(np.isnan(scores), -1, found.astype(np.int64))
