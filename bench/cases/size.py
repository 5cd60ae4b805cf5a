"""Bytes a row: on disk, and in memory after all queries were answered at the recall wanted.

Memory is counted from before the index is opened. Pages of mapped files count apart from the process's own, because the
system may take the first back and not the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import truth
from visit import Visit

SETTINGS = ("k", "queries", "size_recall")


def measure(visit: Visit, control: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return bytes, and the width and recall at which the memory was read."""
    vectors, k = visit.vectors, settings["k"]
    kind = next(iter(vectors.queries))
    queries = vectors.asked(kind, settings["queries"])
    kth = truth.kth_scores(vectors.base, queries, k, cache=(vectors.digest, visit.store.cache))
    with visit.opened(visit.engine, 1) as worker:
        worker.ask("load_queries", path=str(vectors.queries[kind]), count=len(queries))
        for width in visit.sweep(worker):
            worker.ask("answers", k=k, width=width, mode="single", path=str(visit.scratch))
            share = truth.recall(vectors.base, queries, np.load(visit.scratch), kth)
            if share >= settings["size_recall"]:
                break
        before, after = worker.opening["before"], worker.ask("resident")
        said = worker.ask("ram")
    return {
        "rows": vectors.count,
        "disk_bytes": visit.store.built[visit.store.recipe(visit.engine)]["disk_bytes"],
        "private_bytes": after["private"] - before["private"],
        "file_bytes": after["file"] - before["file"],
        "said_bytes": said,
        "open_seconds": worker.opening["seconds"],
        "width": width,
        "recall": share,
    }
