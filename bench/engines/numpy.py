"""numpy: a matrix product and a partition. Exact, and the floor that a filter must beat once the rows are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from engine import Peer

TABLE = 1 << 25  # cells of one table of scores: 128 MB of float32


class Engine(Peer):
    package = "numpy"
    variants = {"": {}}
    widths = (0,)

    def title(self) -> str:
        return "numpy matmul"

    def parameters(self) -> str:
        return "exact, float32, matmul and argpartition"

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        """There is nothing to build."""

    def save(self, folder: Path) -> None:
        """There is nothing to save."""

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.rows = np.array(rows)

    @staticmethod
    def _best(scores: np.ndarray, k: int) -> np.ndarray:
        if scores.shape[1] <= k:
            return np.argsort(-scores, axis=1, kind="stable")
        near = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, near, 1), axis=1, kind="stable")
        return np.take_along_axis(near, order, 1)

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        return lambda query: self._best((self.rows @ query)[None], k)[0]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        step = max(1, TABLE // len(self.rows))
        parts = [self._best(queries[at : at + step] @ self.rows.T, k) for at in range(0, len(queries), step)]
        return np.concatenate(parts)

    def filtered(self, mask: np.ndarray, k: int, where: list[Any]) -> Callable[[np.ndarray, Any], Any]:
        # The rows are gathered for every query, as someone does who has only the row numbers.
        allowed = np.flatnonzero(mask)
        return lambda query, width: allowed[self._best((self.rows[allowed] @ query)[None], k)[0]]

    def join(self, rows: np.ndarray, threshold: float, threads: int) -> int:
        found, step = 0, max(1, TABLE // len(rows))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            near = block @ rows[start:].T >= threshold
            found += int(np.triu(near, 1).sum())
        return found
