"""Osler's own index as a user calls it, in the forms a user can choose.

Most variants sweep the width `ef`, which gives curves to compare; `recall` asks for a recall, as users do, and
`recall-texts` after a calibration with text queries that are not among the reported ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
from engine import NotOffered, Peer

PROMISES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


class Engine(Peer):
    package = "osler"
    variants = {
        "": {},
        "recall": {"by": "recall"},
        "recall-texts": {"by": "recall", "practise": True},
        "recall-mapped": {"by": "recall", "mapped": True},
        "exact": {"exact": True},
        "mapped": {"mapped": True},
        "f32": {"codes": "f32"},
        "f16": {"codes": "f16"},
        "sq8": {"codes": "sq8"},
        "sq5": {"codes": "sq5"},
        "rabitq": {"codes": "rabitq"},
        # Opened as a copy that can be changed: codes and graph in memory, full vectors in the file.
        "f32-disk": {"codes": "f32", "keep_vectors": "disk"},
        "f16-disk": {"codes": "f16", "keep_vectors": "disk"},
        "sq8-disk": {"codes": "sq8", "keep_vectors": "disk"},
        "sq5-disk": {"codes": "sq5", "keep_vectors": "disk"},
        "rabitq-disk": {"codes": "rabitq", "keep_vectors": "disk"},
        # dim / 4 codes of 8 bits are a sixteenth of the bytes of float32.
        "pq-disk": {"codes": "pq:{quarter}x8", "keep_vectors": "disk"},
        # 0.30 of what a float32 HNSW with the benchmark's links takes: 4 bytes a dimension and about 148 of links.
        "budget-30": {"memory": 0.30},
        "budget-60": {"memory": 0.60},
    }

    def describe(self) -> dict[str, Any]:
        """The version of a build in development is the hash of the compiled module: a figure belongs to one build."""
        found = super().describe()
        import osler._native

        module = Path(osler._native.__file__).read_bytes()
        return {**found, "build": hashlib.sha256(module).hexdigest()[:12]}

    def parameters(self) -> str:
        said = ", ".join(
            f"{name}={str(value).format(quarter='(dim / 4)')}"
            for name, value in self.settings.items()
            if name in ("codes", "keep_vectors", "memory")
        )
        opened = "opened mapped" if self.settings.get("mapped") else "opened in memory"
        swept = "exact=True" if self.settings.get("exact") else f"swept by {self.settings.get('by', 'ef')}="
        swept += ", calibrated with texts" if self.settings.get("practise") else ""
        return f"cosine, {said or 'all defaults'}, {opened}, {swept}"

    def sweep(self, rows: int) -> list[Any]:
        if self.settings.get("exact"):
            return [0]
        return list(PROMISES) if self.settings.get("by") else super().sweep(rows)

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        chosen: dict[str, Any] = {}
        if codes := self.settings.get("codes"):
            chosen["codes"] = codes.format(quarter=rows.shape[1] // 4)
        if kept := self.settings.get("keep_vectors"):
            chosen["keep_vectors"] = kept
        if share := self.settings.get("memory"):
            chosen["memory"] = int(share * len(rows) * (4 * rows.shape[1] + 148))
        try:
            self.index = osler.Index.build(rows, metric="cosine", threads=threads, **chosen)
        except ValueError as error:
            raise NotOffered(f"not yet: {error}") from error

    def save(self, folder: Path) -> None:
        self.index.save(folder / "index")

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        self.index = osler.Index.open(folder / "index", mmap=self.settings.get("mapped", False))

    def practise(self, queries: np.ndarray) -> None:
        if self.settings.get("practise"):
            if not len(queries):
                raise NotOffered("this set has no queries of another kind to calibrate with")
            self.index.calibrate(queries)

    def _option(self, width: Any) -> dict[str, Any]:
        if self.settings.get("exact"):
            return {"exact": True}
        return {"recall": width} if self.settings.get("by") else {"ef": width}

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        search, option = self.index.search, self._option(width)
        return lambda query: search(query, k, **option).keys

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        return self.index.search(queries, k, threads=self.threads, **self._option(width)).keys

    def filtered(self, mask: np.ndarray, k: int, where: list[Any]) -> Callable[[np.ndarray, Any], Any]:
        search, allowed = self.index.search, self.index.bitmap(mask)
        return lambda query, width: search(query, k, filter=allowed, **self._option(width)).keys

    def join(self, rows: np.ndarray, threshold: float, threads: int) -> int:
        from osler import index

        return len(index.join(rows, threshold, metric="cosine", threads=threads)[0])

    def ram(self) -> int | None:
        # A mapped index must hold nothing, which says nothing about what makes it fast.
        return int(self.index.stats()["bytes_resident"]) or None
