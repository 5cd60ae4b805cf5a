"""Feeds a tower: reads inputs ahead in threads, runs batches, side by side where that is faster, and halves one that
memory does not hold.

Opens what the inputs name; holds at most two batches of prepared inputs beside those that run.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from osler.encoders.providers import thread_count
from osler.encoders.session import OutOfMemory, Session
from osler.encoders.tower import OpenTower
from osler.progress import notice

__all__ = ["prepared_batches", "run_batches"]

Shrink = Callable[[int], None]
# Fewer inputs are over before a session for runs side by side is open.
_MANY = 64
# Inputs of all runs side by side: what a network holds of them while it runs is some ten times as much.
_BESIDE_BYTES = 64 << 20


def run_batches(
    session: Session,
    batches: Iterable[tuple[list[Any], Shrink]],
    run: Callable[[list[Any]], np.ndarray],
    total: int,
    size: int,
) -> Iterator[np.ndarray]:
    """Yield the rows of `run` in the order of the batches.

    Parameters
    ----------
    session : Session
        What `run` runs.
    batches : iterable of (list, callable)
        Prepared inputs, and what is told the size that later batches should have. A batch that does not fit into
        memory is halved, and that is said.
    run : callable
        Takes prepared inputs, returns one row for each.
    total, size : int
        How many inputs there are about, and how many in a batch.

    Raises
    ------
    OutOfMemory
        A single input does not fit.
    """
    source = iter(batches)
    begun = list(itertools.islice(source, 1))
    held = sum(getattr(one, "nbytes", 0) for batch, _ in begun for one in batch)
    every = itertools.chain(begun, source)
    if session.lanes == 1 or total < max(_MANY, size * session.lanes) or held * session.lanes > _BESIDE_BYTES:
        for batch, shrink in every:
            yield from _run_halved(batch, run, shrink)
        return
    with session.side_by_side() as lanes:
        pool = ThreadPoolExecutor(lanes, thread_name_prefix="osler-run")
        try:
            yield from _run_beside(every, run, lanes, pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _run_beside(
    batches: Iterable[tuple[list[Any], Shrink]],
    run: Callable[[list[Any]], np.ndarray],
    lanes: int,
    pool: ThreadPoolExecutor,
) -> Iterator[np.ndarray]:
    """Yield rows as `run_batches`; once memory is short, batches run one after another."""
    running: deque[tuple[list[Any], Shrink, Future[np.ndarray]]] = deque()

    def first() -> Iterator[np.ndarray]:
        nonlocal lanes
        batch, shrink, rows = running.popleft()
        try:
            yield rows.result()
        except OutOfMemory:
            lanes = 1
            wait([one[2] for one in running])
            yield from _run_halved(batch, run, shrink)

    for batch, shrink in batches:
        # one is ready for the lane that is free next
        while len(running) > lanes:
            yield from first()
        running.append((batch, shrink, pool.submit(run, batch)))
        while lanes == 1 and running:
            yield from first()
    while running:
        yield from first()


def _run_halved(batch: list[Any], run: Callable[[list[Any]], np.ndarray], shrink: Shrink) -> Iterator[np.ndarray]:
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


def prepared_batches(
    tower: OpenTower, kind: str, values: Sequence[Any], size: int
) -> Iterator[tuple[list[Any], Shrink]]:
    """Yield batches of prepared inputs in their order, and what makes the next ones smaller.

    Parameters
    ----------
    tower : OpenTower
        Prepares the inputs, a few at once, while the batches before are run.
    kind : str
        What messages call an input.
    values : sequence
        Inputs as the user gave them; each is asked for once.
    size : int
        Inputs in a batch.
    """
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
