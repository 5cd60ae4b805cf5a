"""R2. Simulated power cuts: what was synced lasts, of the rest any part does; what is left is the last call that
returned, or that and the whole interrupted one. Cuts again while that is opened."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import osler

from reliability import testing, workload

NAME, UNIT = "power cuts", "states"
SIZES = {"quick": 200_000, "ci": 200_000, "full": 1_000_000}
CHANGES = 24
CUTS = 1_500
OPENED = 12
PATH = "/data/cases.osler"


def piece(seed: int) -> Counter[str]:
    disk = testing.disk(seed)
    calls: dict[int, tuple[str, int]] = {}
    models: list[tuple[int, workload.Model]] = []

    def returned(cases: osler.Collection, model: workload.Model) -> None:
        state = cases._handle.store.state
        calls.setdefault(state.number, (state.id, disk.steps()))
        models.append((disk.steps(), model))

    with testing.small_graphs(), testing.mounted(disk):
        cases = workload.create(PATH)
        returned(cases, {})
        for change, model in workload.history(seed, CHANGES):
            cases = workload.apply(cases, change)
            returned(cases, model)
        states = disk.check_power_cuts(PATH, calls, CUTS, seed)
        steps, rng = disk.steps(), np.random.default_rng(seed)
        for cut in range(OPENED):
            at = int(rng.integers(models[0][0], steps + 1))
            _look(disk.after_power_cut(at, seed * OPENED + cut), at, models, f"seed {seed}, {at} steps, cut {cut}")
    return Counter({UNIT: states + OPENED, "changes": CHANGES, "opened as a collection": OPENED})


def _look(left: Any, steps: int, models: list[tuple[int, workload.Model]], where: str) -> None:
    before = [model for at, model in models if at <= steps]
    allowed = [before[-1], *(model for _, model in models[len(before) : len(before) + 1])]
    left.mount()
    with osler.Collection.open(PATH, mode="a") as cases:
        wrong = [workload.difference(cases, model, queries=0) for model in allowed]
        assert None in wrong, f"{where}: {wrong[0]}"
        problem = workload.difference(cases, allowed[wrong.index(None)])
        assert problem is None, f"{where}: {problem}"
