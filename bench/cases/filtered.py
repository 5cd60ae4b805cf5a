"""Filtered search: shares of the rows allowed at random, and along the main axis with queries from both ends.

A sweep ends at the first width that finds everything: a wider one only takes longer.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import filters
import numpy as np
import truth
from measure import EngineFailed
from visit import Visit

EVERYTHING = 0.9995
SETTINGS = ("k", "rounds", "shares", "filtered_queries", "filtered_thin")


def measure(visit: Visit, control: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return, for each kind of filter and share, the points of the engine and of the control."""
    vectors, k = visit.vectors, settings["k"]
    base = np.asarray(vectors.base)
    ranks, along = filters.columns(base), filters.axis(base)
    kind = next(iter(vectors.queries))
    found = []
    with ExitStack() as stack:
        keys = [visit.engine] + ([control] if control and control != visit.engine else [])
        workers = [stack.enter_context(visit.opened(key, 1)) for key in keys]
        for name in filters.KINDS:
            queries = filters.choose_queries(name, vectors.asked(kind), along, settings["filtered_queries"])
            asked = visit.saved(queries, "asked")
            for share in settings["shares"]:
                limit = max(1, round(share * vectors.count))
                mask = ranks[filters.column(name)] < limit
                allowed = visit.saved(mask, "mask")
                kth = truth.kth_scores(base, queries, k, mask=mask)
                curves: dict[str, list[dict[str, Any]]] = {}
                prepared = {}
                for worker in workers:
                    worker.ask("load_queries", path=asked, count=len(queries))
                    prepared[worker.key] = worker.ask("filter", mask=allowed, where=[filters.column(name), limit], k=k)
                    curves[worker.key] = []
                    for width in visit.sweep(worker, settings["filtered_thin"]):
                        worker.ask("filtered_answers", k=k, width=width, path=str(visit.scratch))
                        try:
                            reached = truth.recall(base, queries, np.load(visit.scratch), kth, mask=mask)
                        except ValueError as error:
                            raise EngineFailed(f"{name} {share}: {error}") from error
                        curves[worker.key].append({"width": width, "recall": reached, "speeds": []})
                        if reached >= EVERYTHING and not isinstance(width, list):
                            break
                for turn in range(settings["rounds"]):
                    for worker in workers[:: -1 if turn % 2 else 1]:
                        for point in curves[worker.key]:
                            speed = worker.ask("filtered_speed", width=point["width"])
                            point["speeds"].append(round(speed, 1))
                found.append({"kind": name, "share": share, "prepare_seconds": prepared, "curves": curves})
    return {"filters": found}
