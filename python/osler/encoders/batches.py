"""Feeds a tower: reads inputs ahead in threads, runs them in batches, and halves a batch that memory does not hold.

Opens what the inputs name; holds at most two batches of prepared inputs beside the one that runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from osler.encoders.providers import thread_count
from osler.encoders.session import OutOfMemory
from osler.encoders.tower import OpenTower
from osler.progress import notice

__all__ = ["run_batches", "run_halved"]


def run_batches(
    tower: OpenTower, kind: str, values: Sequence[Any], size: int, run: Callable[[list[Any]], np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield the rows of `run` in the order of the inputs.

    Parameters
    ----------
    tower : OpenTower
        Prepares the inputs.
    kind : str
        What messages call an input.
    values : sequence
        Inputs as the user gave them; each is asked for once.
    size : int
        Inputs in a batch. One that does not fit into memory is halved, and the smaller size is kept and told.
    run : callable
        Takes prepared inputs, returns one row for each.

    Raises
    ------
    OutOfMemory
        A single input does not fit.
    """
    for batch, shrink in _prepared(tower, kind, values, size):
        yield from run_halved(batch, run, shrink)


def run_halved(
    batch: list[Any], run: Callable[[list[Any]], np.ndarray], shrink: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """Yield the rows of one batch, of parts of it where the whole does not fit into memory.

    Parameters
    ----------
    batch : list
        Prepared inputs.
    run : callable
        Takes prepared inputs, returns one row for each.
    shrink : callable
        Is told the size that later batches should have.

    Raises
    ------
    OutOfMemory
        A single input does not fit.
    """
    waiting = [batch]
    while waiting:
        now = waiting.pop()
        try:
            rows = run(now)
        except OutOfMemory:
            if len(now) == 1:
                raise
            half = (len(now) + 1) // 2
            notice(f"osler: a batch of {len(now)} does not fit into memory, going on with {half}")
            shrink(half)
            waiting += [now[half:], now[:half]]
            continue
        yield rows


def _prepared(
    tower: OpenTower, kind: str, values: Sequence[Any], size: int
) -> Iterator[tuple[list[Any], Callable[[int], None]]]:
    """Yield batches of prepared inputs, and what makes the next ones smaller."""
    total = len(values)
    width = size

    def shrink(to: int) -> None:
        nonlocal width
        width = min(width, to)

    if total == 1:
        yield [tower.prepare(values[0], f"{kind} 0")], shrink
        return
    kept: dict[int, Any] = {}
    pool = ThreadPoolExecutor(min(thread_count(), tower.readers), thread_name_prefix="osler-read")
    try:
        ahead: deque[Future[Any]] = deque()
        asked = done = 0
        while done < total:
            while asked < min(done + 2 * width, total):
                ahead.append(pool.submit(tower.prepare, values[asked], f"{kind} {asked}", kept))
                asked += 1
            batch = [ahead.popleft().result() for _ in range(min(width, total - done))]
            done += len(batch)
            yield batch, shrink
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
