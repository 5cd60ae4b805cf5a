"""R18. While the engine works, the interpreter does not stand still: the longest time that another thread waits for it,
and how soon Ctrl-C is obeyed.

What is not ours is kept out: the interpreter's interval between turns, its search for cycles, and the thread's wait for
a processor. Asserts on a clock, so it is in `make soak` and not in `make test`.
"""

from __future__ import annotations

import _thread
import gc
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import osler

NAME, UNIT = "responsiveness", "calls"
SIZES = {"quick": 10, "ci": 40, "full": 400}
ROWS, DIM = 30_000, 96
LONGEST_MS = 10.0
INTERRUPTED_MS = 200.0
TRIES = 4


def piece(seed: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.index"
        index = osler.Index.build(vectors)
        calls: dict[str, Callable[[], Any]] = {
            "build": lambda: osler.Index.build(vectors),
            "search": lambda: index.search(vectors[:2_000], 10),
            "exact search": lambda: index.search(vectors[:100], 10, exact=True),
            "add": lambda: osler.Index(DIM).add(vectors[:4_000]),
            "save": lambda: index.save(path),
            "open": lambda: osler.Index.open(path, mmap=False),
            "verify": lambda: osler.Index.open(path).verify(),
            "join": lambda: osler.curate.near_duplicates(vectors[:6_000], threshold=0.9),
        }
        names = [f"k{row}" for row in range(ROWS)]
        cases = osler.Collection.create(f"{folder}/cases.osler", dim=DIM)
        # In this order: each makes what the next one reads.
        calls |= {
            "add_vectors": lambda: cases.add_vectors(names, vectors, on_duplicate="replace"),
            "vectors": cases.vectors,
            "part_vectors": cases.part_vectors,
            "keys": lambda: osler.Collection.open(cases.path).keys(),
            "search of a collection": lambda: cases.search(vector=vectors[0]),
            "delete": lambda: cases.delete(names[:300]),
            "verify of a collection": cases.verify,
            "compact": cases.compact,
        }
        for name, call in calls.items():
            # The least of a few: what is the machine's doing is not the same each time.
            gap = min(_longest_gap(call) for _ in range(TRIES))
            assert gap <= LONGEST_MS, f"seed {seed}: during {name} another thread waited {gap:.1f} ms"
            counts[UNIT] += 1
        waited = min(_interrupt(vectors, float(rng.uniform(0.05, 0.3))) for _ in range(TRIES))
        assert waited <= INTERRUPTED_MS, f"seed {seed}: Ctrl-C was obeyed after {waited:.0f} ms"
        counts["interruptions"] += 1
    return counts


def _longest_gap(call: Callable[[], Any]) -> float:
    """Milliseconds between two turns of a thread that does nothing but take turns."""
    longest = 0.0
    stop = threading.Event()

    def tick() -> None:
        nonlocal longest
        statistics = None
        if os.path.exists("/proc/thread-self/schedstat"):
            statistics = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        last = time.perf_counter() - _delay(statistics)
        while not stop.is_set():
            time.sleep(0.0005)
            now = time.perf_counter() - _delay(statistics)
            longest, last = max(longest, now - last), now
        if statistics is not None:
            os.close(statistics)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    gc.disable()
    try:
        thread = threading.Thread(target=tick)
        thread.start()
        time.sleep(0.01)
        longest = 0.0
        call()
        stop.set()
        thread.join()
    finally:
        gc.enable()
        sys.setswitchinterval(interval)
    assert longest > 0, "the thread that takes turns took none"
    return 1e3 * longest


def _delay(statistics: int | None) -> float:
    """Seconds that a thread could have run and had no processor, as far as the system says."""
    if statistics is None:
        return 0.0
    return int(os.pread(statistics, 64, 0).split()[1]) / 1e9


def _interrupt(vectors: np.ndarray[Any, Any], after: float) -> float:
    """Milliseconds from an interruption of a build to its end."""
    sent = 0.0

    def send() -> None:
        nonlocal sent
        sent = time.perf_counter()
        _thread.interrupt_main()

    timer = threading.Timer(after, send)
    # A shell lets the programs that it runs in the background ignore interruptions.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        while not sent or time.perf_counter() < sent + 60:
            osler.Index.build(vectors)
    except KeyboardInterrupt:
        return 1e3 * (time.perf_counter() - sent)
    finally:
        signal.signal(signal.SIGINT, former)
    raise AssertionError("an interruption was not obeyed within a minute")
