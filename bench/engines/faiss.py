"""faiss: HNSW over float32 and 8-bit rows, IVF with 4-bit product codes re-ranked from memory or disk, and flat."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from engine import BUILD_WIDTH, GRAPH_LINKS, NotOffered, Peer

PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
REFINES = (4, 16, 64)
JOIN_ROWS = 5_000


class Engine(Peer):
    package = "faiss-cpu"
    variants = {
        "flat": {"kind": "flat"},
        "hnsw": {"kind": "hnsw"},
        "hnsw-sq8": {"kind": "hnsw-sq8"},
        "ivfpqfs": {"kind": "ivf", "refine": "ram"},
        "ivfpqfs-disk": {"kind": "ivf", "refine": "disk"},
    }

    def title(self) -> str:
        return {
            "flat": "faiss IndexFlatIP",
            "hnsw": "faiss HNSW",
            "hnsw-sq8": "faiss HNSW SQ8",
            "ivfpqfs": "faiss IVF-PQ FastScan + refine",
            "ivfpqfs-disk": "faiss IVF-PQ FastScan, refined from disk",
        }[self.variant]

    def parameters(self) -> str:
        if self.settings["kind"] == "ivf":
            place = "a flat float32 copy in memory" if self.settings["refine"] == "ram" else "a mapped file of the rows"
            return f"IVF(about 4 sqrt n), PQ(dim/2)x4 fast scan, re-ranked from {place}"
        if self.settings["kind"] == "flat":
            return "exact, float32"
        return f"{self.settings['kind']}, M={GRAPH_LINKS}, efConstruction={BUILD_WIDTH}"

    def sweep(self, rows: int) -> list[Any]:
        if self.settings["kind"] != "ivf":
            return [0] if self.settings["kind"] == "flat" else super().sweep(rows)
        lists = self._lists(rows)
        return [[probe, refine] for refine in REFINES for probe in PROBES if probe <= lists]

    @staticmethod
    def _lists(rows: int) -> int:
        # The faiss wiki's guideline: 4 to 16 sqrt(n) lists, a power of two, at least 39 training rows each.
        return 2 ** round(math.log2(4 * math.sqrt(rows)))

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        dim, metric = rows.shape[1], faiss.METRIC_INNER_PRODUCT
        if self.settings["kind"] == "ivf":
            refine = ",RFlat" if self.settings["refine"] == "ram" else ""
            self.index = faiss.index_factory(dim, f"IVF{self._lists(len(rows))},PQ{dim // 2}x4fs{refine}", metric)
            self.index.train(rows)
        elif self.settings["kind"] == "flat":
            self.index = faiss.IndexFlatIP(dim)
        elif self.settings["kind"] == "hnsw":
            self.index = faiss.IndexHNSWFlat(dim, GRAPH_LINKS, metric)
            self.index.hnsw.efConstruction = BUILD_WIDTH
        else:
            self.index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, GRAPH_LINKS, metric)
            self.index.hnsw.efConstruction = BUILD_WIDTH
            self.index.train(rows)
        self.index.add(rows)

    def save(self, folder: Path) -> None:
        faiss.write_index(self.index, str(folder / "index"))

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        faiss.omp_set_num_threads(threads)
        self.index = faiss.read_index(str(folder / "index"))
        self.rows = rows

    def _setting(self, width: Any, selector: Any = None) -> Any:
        if self.settings["kind"] == "flat":
            return faiss.SearchParameters(sel=selector)
        if self.settings["kind"] != "ivf":
            return faiss.SearchParametersHNSW(efSearch=width, sel=selector)
        probes = faiss.SearchParametersIVF(nprobe=width[0], sel=selector)
        if self.settings["refine"] == "disk":
            return probes
        return faiss.IndexRefineSearchParameters(k_factor=width[1], base_index_params=probes)

    def _search(self, queries: np.ndarray, k: int, width: Any, setting: Any) -> np.ndarray:
        if self.settings.get("refine") != "disk":
            return self.index.search(queries, k, params=setting)[1]
        found = self.index.search(queries, k * width[1], params=setting)[1]
        best = np.full((len(queries), k), -1, np.int64)
        for at, query in enumerate(queries):
            near = found[at][found[at] >= 0]
            order = np.argsort(-(self.rows[near] @ query), kind="stable")[:k]
            best[at, : len(order)] = near[order]
        return best

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        faiss.omp_set_num_threads(1)
        setting = self._setting(width)
        return lambda query: self._search(query[None], k, width, setting)[0]

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        faiss.omp_set_num_threads(self.threads)
        return self._search(queries, k, width, self._setting(width))

    def filtered(self, mask: np.ndarray, k: int, where: list[Any]) -> Callable[[np.ndarray, Any], Any]:
        if self.settings["kind"] == "ivf" and self.settings["refine"] == "disk":
            raise NotOffered("filters are measured with the copy in memory")
        faiss.omp_set_num_threads(1)
        bits = np.packbits(mask, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        self.kept = (bits, selector)
        settings: dict[Any, Any] = {}

        def search(query: np.ndarray, width: Any) -> Any:
            key = str(width)
            if key not in settings:
                settings[key] = self._setting(width, selector)
            return self._search(query[None], k, width, settings[key])[0]

        return search

    def join(self, rows: np.ndarray, threshold: float, threads: int) -> int:
        if self.settings["kind"] != "flat":
            raise NotOffered("the range search is that of the flat index")
        faiss.omp_set_num_threads(threads)
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        found = 0
        for start in range(0, len(rows), JOIN_ROWS):
            block = rows[start : start + JOIN_ROWS]
            limits, _, near = index.range_search(block, threshold)
            asked = np.repeat(np.arange(start, start + len(block)), np.diff(limits).astype(np.int64))
            found += int((near > asked).sum())
        return found
