"""turbovec: a full scan of 4-bit codes, calibrated on a random sample as its documentation asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import turbovec
from engine import Peer

SAMPLE = 1_024


class Engine(Peer):
    package = "turbovec"
    variants = {"4b": {"bits": 4}}
    widths = (0,)

    def parameters(self) -> str:
        return f"{self.settings['bits']} bits, calibrated on {SAMPLE} random rows, no knob for recall"

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        self.index = turbovec.TurboQuantIndex(rows.shape[1], self.settings["bits"])
        sample = np.random.default_rng(0).choice(len(rows), min(SAMPLE, len(rows)), replace=False)
        self.index.calibrate(np.ascontiguousarray(rows[np.sort(sample)]))
        self.index.add(rows)
        self.index.prepare()

    def save(self, folder: Path) -> None:
        self.index.write(str(folder / "index.tv"), durable=False)

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        self.index = turbovec.TurboQuantIndex.load(str(folder / "index.tv"))
        self.index.prepare()

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        search = self.index.search
        return lambda query: search(query[None], k)[1][0]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        return self.index.search(queries, k)[1]

    def filtered(self, mask: np.ndarray, k: int, where: list[Any]) -> Callable[[np.ndarray, Any], Any]:
        search = self.index.search
        return lambda query, width: search(query[None], k, mask=mask)[1][0]
