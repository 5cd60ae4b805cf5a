"""Feeds a tower: reads inputs ahead in threads, runs batches, side by side where that is faster, and halves one that
memory does not hold.

Opens what the inputs name; holds at most three batches of prepared inputs beside those that run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import Any

import numpy as np

from osler.encoders.providers import thread_count
from osler.encoders.session import OutOfMemory, Session
from osler.encoders.tower import OpenTower
from osler.progress import notice

__all__ = ["prepared_batches", "run_batches"]

Shrink = Callable[[int], None]
Batches = Generator[tuple[list[Any], Shrink], None, None]
Run = Callable[[list[Any]], np.ndarray]
# Fewer inputs are over before a session for runs side by side is open.
_MANY = 64
# What runs side by side may hold together, as far as it can be told beforehand: a session keeps what it once took.
_BESIDE_BYTES = 2 << 30
# Of DenseNet-121 four runs took 23 and one took 39 times their pictures.
_BYTES_OF_PICTURE = 40
# An attention map of 16 heads in float32, for each pair of tokens.
_BYTES_OF_PAIR = 64


def run_batches(session: Session, batches: Batches, run: Run, total: int, size: int) -> Iterator[np.ndarray]:
    """Yield the rows of `run` in the order of the batches.

    Parameters
    ----------
    session : Session
        What `run` runs.
    batches : generator of (list, callable)
        Prepared inputs, and what is told the size that later batches should have. A batch that does not fit into
        memory is halved, and that is said. Closed when this ends, however it ends.
    run : callable
        Takes prepared inputs, returns one row for each; called in several threads at once where `session` has lanes.
    total, size : int
        How many inputs there are about, and how many in a batch.

    Raises
    ------
    OutOfMemory
        A single input does not fit.
    """
    with closing(batches):
        begun = [one for one in [next(batches, None)] if one is not None]
        lanes = 1
        if begun and total >= _MANY:
            fit = _BESIDE_BYTES // max(1, _bytes_of(begun[0][0]))
            lanes = session.beside(min(fit, total // size))
        with closing(_resumed(begun, batches)) as every:
            if lanes == 1:
                yield from _run_each(every, run)
                return
            pool = ThreadPoolExecutor(lanes, thread_name_prefix="osler-run", initializer=session.enter_lane)
            try:
                yield from _run_beside(every, run, lanes, pool)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _resumed(begun: list[tuple[list[Any], Shrink]], batches: Batches) -> Batches:
    while begun:
        yield begun.pop()  # and not kept here
    yield from batches


def _bytes_of(batch: list[Any]) -> int:
    """Return about what a run of a batch takes."""
    longest = max(len(getattr(one, "ids", ())) for one in batch)
    pictures = sum(getattr(one, "nbytes", 0) for one in batch)
    return _BYTES_OF_PICTURE * pictures + _BYTES_OF_PAIR * len(batch) * longest**2


def _run_each(batches: Batches, run: Run) -> Iterator[np.ndarray]:
    for batch, shrink in batches:
        yield from _run_halved(batch, run, shrink)


def _run_beside(batches: Batches, run: Run, lanes: int, pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
    """Yield rows as `run_batches`; once memory is short, batches run one after another."""
    running: deque[tuple[list[Any], Shrink, Future[np.ndarray]]] = deque()
    held = 0
    short = False

    def first() -> Iterator[np.ndarray]:
        nonlocal held, short
        batch, shrink, future = running.popleft()
        held -= _bytes_of(batch)
        try:
            rows = future.result()
        except (OutOfMemory, MemoryError):
            short = True
            wait([one[2] for one in running])
            yield from _run_halved(batch, run, shrink)
        else:
            yield rows
        finally:
            del future  # whose exception has this frame in its traceback

    for batch, shrink in batches:
        # one more than there are lanes, for the one that is free next
        while running and (len(running) > lanes or held + _bytes_of(batch) > _BESIDE_BYTES):
            yield from first()
        if short:
            while running:
                yield from first()
            yield from _run_halved(batch, run, shrink)
            break
        held += _bytes_of(batch)
        running.append((batch, shrink, pool.submit(run, batch)))
    while running:
        yield from first()
    yield from _run_each(batches, run)


def _run_halved(batch: list[Any], run: Run, shrink: Shrink) -> Iterator[np.ndarray]:
    waiting = [batch]
    while waiting:
        now = waiting.pop()
        try:
            rows = run(now)
        except (OutOfMemory, MemoryError):
            if len(now) == 1:
                raise
            half = (len(now) + 1) // 2
            notice(f"osler: a batch of {len(now)} does not fit into memory, going on with {half}")
            shrink(half)
            waiting += [now[half:], now[:half]]
            continue
        yield rows


def prepared_batches(tower: OpenTower, kind: str, values: Sequence[Any], size: int) -> Batches:
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
