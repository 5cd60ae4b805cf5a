"""zvec: HNSW over 8-bit rows, opened read-only and asked for its internal numbers, its fastest call.

Its internal numbers count rows in the order of insertion, which `open` checks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import filters
import numpy as np
import zvec
from engine import BUILD_WIDTH, GRAPH_LINKS, NotOffered, Peer

STEP = 1_000


class Engine(Peer):
    package = "zvec"
    variants = {"int8": {}}

    def title(self) -> str:
        return "zvec HNSW int8"

    def parameters(self) -> str:
        return f"INT8, m={GRAPH_LINKS}, ef_construction={BUILD_WIDTH}, query_internal_ids"

    def _start(self, threads: int) -> None:
        zvec.init(log_level=zvec.LogLevel.ERROR, query_threads=threads, optimize_threads=threads)

    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        self._start(threads)
        setting = zvec.HnswIndexParam(
            metric_type=zvec.MetricType.IP,
            m=GRAPH_LINKS,
            ef_construction=BUILD_WIDTH,
            quantize_type=zvec.QuantizeType.INT8,
        )
        ranks = {name: column.tolist() for name, column in filters.columns(rows).items()}
        schema = zvec.CollectionSchema(
            name="rows",
            fields=[zvec.FieldSchema(name, zvec.DataType.INT64, index_param=zvec.InvertIndexParam()) for name in ranks],
            vectors=zvec.VectorSchema("vector", zvec.DataType.VECTOR_FP32, rows.shape[1], setting),
        )
        self.index = zvec.create_and_open(str(folder / "rows"), schema)
        for start in range(0, len(rows), STEP):
            part = rows[start : start + STEP]
            self.index.insert(
                [
                    zvec.Doc(
                        id=str(row),
                        vectors={"vector": vector},
                        fields={name: column[row] for name, column in ranks.items()},
                    )
                    for row, vector in enumerate(part, start)
                ]
            )
        self.index.optimize(zvec.OptimizeOption(concurrency=threads))

    def save(self, folder: Path) -> None:
        self.index.flush()
        self.index.close()
        self.index = None

    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        self.threads = threads
        self._start(threads)
        self.index = zvec.open(str(folder / "rows"), zvec.CollectionOption(read_only=True, enable_mmap=True))
        if self.index.resolve_internal_ids([0, 7]) != ["0", "7"]:
            raise NotOffered("its internal numbers are not the order of insertion")

    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        search, setting = self.index.query_internal_ids, zvec.HnswQueryParam(ef=width)
        return lambda query: search(zvec.Query("vector", vector=query, param=setting), topk=k)

    def filtered(self, mask: np.ndarray, k: int, where: list[Any]) -> Callable[[np.ndarray, Any], Any]:
        search, column = self.index.query_internal_ids, f"{where[0]} < {where[1]}"

        def one(query: np.ndarray, width: Any) -> Any:
            setting = zvec.HnswQueryParam(ef=width)
            return search(zvec.Query("vector", vector=query, param=setting), topk=k, filter=column)

        return one
