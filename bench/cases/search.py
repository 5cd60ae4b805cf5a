"""Queries per second against recall: every kind of query, one a call or all in one, on one thread or all.

Engine and control are asked in turns: in each round both run their whole sweep, every second round in reverse. A sweep
ends at the first width that finds everything, since a wider one only takes longer; widths of two knobs have no order.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import machine
import numpy as np
import truth
from measure import EngineFailed, EngineRefused, Worker
from visit import Visit

EVERYTHING = 0.9999
SETTINGS = ("k", "rounds", "thin", "queries", "ways")


def measure(visit: Visit, control: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return, for each way of asking and kind of query, the points of the engine and of the control."""
    keys = [visit.engine] + ([control] if control and control != visit.engine else [])
    found, refused = [], {}
    for way in settings["ways"]:
        mode, _, threads = way.partition("-")
        count = machine.cores() if threads == "all" else int(threads)
        try:
            with ExitStack() as stack:
                workers = [stack.enter_context(visit.opened(key, count)) for key in keys]
                for kind in visit.vectors.queries:
                    curves = sweep(visit, workers, kind, mode, settings)
                    found.append({"way": way, "mode": mode, "threads": count, "queries": kind, "curves": curves})
        except EngineRefused as reason:
            refused[way] = str(reason)
    if not found:
        raise EngineRefused("; ".join(dict.fromkeys(refused.values())))
    builds = {key: visit.store.built[visit.store.recipe(key)] for key in keys}
    return {"searches": found, "refused": refused, "builds": builds}


def sweep(visit: Visit, workers: list[Worker], kind: str, mode: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return one curve a worker: width, recall, and the speed in every round."""
    k, vectors = settings["k"], visit.vectors
    queries = vectors.asked(kind, settings["queries"])
    kth = truth.kth_scores(vectors.base, queries, k, cache=(vectors.digest, visit.store.cache))
    base = vectors.base
    curves: dict[str, list[dict[str, Any]]] = {}
    for worker in workers:
        worker.ask("load_queries", path=str(vectors.queries[kind]), count=len(queries))
        points = []
        for width in visit.sweep(worker, settings["thin"]):
            worker.ask("answers", k=k, width=width, mode=mode, path=str(visit.scratch))
            answers = np.load(visit.scratch)
            try:
                share = truth.recall(base, queries, answers, kth)
            except ValueError as error:
                raise EngineFailed(f"at {width}: {error}") from error
            points.append({"width": width, "recall": share, "speeds": []})
            if share >= EVERYTHING and not isinstance(width, list):
                break
        curves[worker.key] = points
    for turn in range(settings["rounds"]):
        for worker in workers[:: -1 if turn % 2 else 1]:
            for point in curves[worker.key]:
                speed = worker.ask("speed", k=k, width=point["width"], mode=mode)
                point["speeds"].append(round(speed, 1))
    return curves
