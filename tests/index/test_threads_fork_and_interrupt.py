"""Any number of threads search while one writes; a fork has a working index; Ctrl-C stops a build and changes nothing.

What may hang runs in a process of its own with a time limit; nothing here asserts on a clock.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import oracle
import osler
import pytest


def run(program: str, *, timeout: float = 120) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_searches_during_writes_see_one_snapshot(rng: np.random.Generator) -> None:
    """Blocks of rows come and go whole: an answer that holds a part of a block saw a call half-applied."""
    dim, block = 16, 8
    anchor = rng.standard_normal((2_100, dim)).astype(np.float32)
    index = osler.Index.build(anchor, np.arange(2_100), metric="l2")
    far = np.full((1, dim), 50.0, np.float32)
    faults: list[str] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                found = index.search(far, block + 2, exact=True)
                keys = found.keys[0][found.keys[0] != oracle.NO_KEY]
                blocks = keys[keys >= 10_000] // block
                sizes = np.unique(blocks, return_counts=True)[1]
                if len(sizes) and (sizes[0] != block if len(sizes) == 1 else sizes.max() > block):
                    faults.append(f"a block was seen in part: {keys.tolist()}")
                listed = index.keys
                if (listed >= 10_000).sum() % block:
                    faults.append("keys show a part of a block")
                graph = index.search(anchor[:4], 3, threads=1)
                if not (graph.keys[:, 0] == np.arange(4)).all():
                    faults.append("an anchor was not found by its own vector")
        except Exception as error:
            faults.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for step in range(40):
            keys = np.arange(10_000 + step * block, 10_000 + (step + 1) * block)
            index.add(far + 0.01 * rng.standard_normal((block, dim)).astype(np.float32), keys)
            assert index.delete(keys) == block
    finally:
        done.set()
        for reader in readers:
            reader.join(60)
    assert not faults, faults[0]
    assert len(index) == 2_100


def test_two_writers_lose_nothing(rng: np.random.Generator) -> None:
    index = osler.Index(8)
    rows = rng.standard_normal((4, 400, 8)).astype(np.float32)
    failures: list[BaseException] = []

    def write(which: int) -> None:
        try:
            for at in range(0, 400, 20):
                index.add(rows[which, at : at + 20], np.arange(at, at + 20) + 1_000 * which)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(which,)) for which in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert not failures
    assert sorted(index.keys.tolist()) == sorted(at + 1_000 * which for which in range(4) for at in range(400))
    found = index.search(rows.reshape(-1, 8), 1)
    assert (found.scores > 1 - 1e-5).all()


@pytest.mark.parametrize("form", ["float32", "float16", "columns", "every other", "list"])
def test_other_threads_run_while_an_array_is_copied(form: str) -> None:
    """Each call is refused once it has copied what it was given: nothing else that it does gives others a turn."""
    index = osler.Index.build(np.eye(4, dtype=np.float32))
    rows = np.zeros((1 << 19, 32), np.float16 if form == "float16" else np.float32)
    rows = {"columns": rows.T, "every other": rows[::2]}.get(form, rows)
    wrong = [2**63] * (1 << 22) + [-1]
    turns, done = [0], threading.Event()

    def tick() -> None:
        while not done.is_set():
            turns[0] += 1
            time.sleep(1e-4)

    thread, interval = threading.Thread(target=tick), sys.getswitchinterval()
    thread.start()
    try:
        sys.setswitchinterval(1e-6)
        found = 0
        for _ in range(5):
            before = turns[0]
            with pytest.raises(ValueError, match=r"columns, this index has dim 4|keys must be"):
                index.delete(wrong) if form == "list" else index.add(rows)
            found = max(found, turns[0] - before)
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
    # 128 pieces are 127 turns, where the processors are free.
    assert found > 12


def test_other_threads_run_during_a_build(rng: np.random.Generator) -> None:
    """With the interpreter held the count could not rise; its rate does not matter."""
    ticks, done = [0], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        rows = rng.standard_normal((6_000, 64)).astype(np.float32)
        before = ticks[0]
        index = osler.Index.build(rows)
        during_build = ticks[0] - before
        before = ticks[0]
        index.search(rows, 10, exact=True)
        during_search = ticks[0] - before
    finally:
        done.set()
        thread.join()
    assert during_build >= 10
    assert during_search >= 5


FORK = """
import os, signal, sys, warnings
import numpy as np
import osler

warnings.simplefilter("ignore")
signal.alarm(100)
rng = np.random.default_rng(0)
rows = rng.standard_normal((2500, 16)).astype(np.float32)
index = osler.Index.build(rows, threads=2)
before = index.search(rows[:100], 5, threads=2)
for again in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        found = index.search(rows[:100], 5, threads=2)
        ok = (found.keys == before.keys).all() and (found.scores == before.scores).all()
        index.add(rows[:50] + 1)
        index.delete([0, 1])
        ok = ok and len(index) == 2548 and index.search(rows[5], 1).keys[0] == 5
        other = osler.Index.build(rows[:2200], threads=2)
        ok = ok and other.search(rows[7], 1).keys[0] == 7
        os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, again
found = index.search(rows[:100], 5, threads=2)
assert (found.keys == before.keys).all() and len(index) == 2500
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_fork() -> None:
    assert run(FORK) == "done\n"


POOL = """
import multiprocessing, sys
import numpy as np
import osler

def ask(arguments):
    index, query = arguments
    return index.search(query, 3).keys.tolist()

if __name__ == "__main__":
    rows = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    index = osler.Index.build(rows)
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        answers = pool.map(ask, [(index, row) for row in rows[:6]])
    assert [answer[0] for answer in answers] == list(range(6)), answers
    print("done")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, tmp_path: object) -> None:
    program = tmp_path / "program.py"  # type: ignore[operator]
    program.write_text(POOL)
    done = subprocess.run([sys.executable, str(program), method], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


INTERRUPT = """
import os, signal, sys, threading, time
import numpy as np
import osler

verb = sys.argv[1]
rng = np.random.default_rng(0)
rows = rng.standard_normal((60000, 96)).astype(np.float32)
index = osler.Index.build(rows[:2300])
index.search(rows[:5], 3)
before = index.keys, index.search(rows[:50], 5)

def interrupt():
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    if verb == "build":
        osler.Index.build(rows)
    elif verb == "add":
        index.add(rows[2300:])
    else:
        index.search(np.concatenate([rows] * 40), 10, exact=True)
except KeyboardInterrupt:
    print("interrupted")
else:
    print("ran to its end")
assert len(index) == 2300
now = index.keys, index.search(rows[:50], 5)
assert (now[0] == before[0]).all() and (now[1].keys == before[1].keys).all()
assert index.add(rows[2300:2310]).tolist() == list(range(2300, 2310))
assert index.verify() is None
print("unchanged")
"""


@pytest.mark.parametrize("verb", ["build", "add", "search"])
def test_ctrl_c_stops_the_work_and_changes_nothing(verb: str) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPT, verb], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "interrupted\nunchanged\n"


def test_a_progress_callback_counts_up_and_can_stop_the_build(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((4_000, 24)).astype(np.float32)
    seen: list[tuple[int, int]] = []
    index = osler.Index.build(rows, progress=lambda done, total: seen.append((done, total)))
    assert len(index) == 4_000
    assert seen
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == 4_000
    with pytest.raises(KeyboardInterrupt):
        osler.Index.build(rows, progress=lambda done, total: False)


def test_an_error_in_the_progress_callback_comes_out(rng: np.random.Generator) -> None:
    def fail(done: int, total: int) -> None:
        raise LookupError("from the callback")

    with pytest.raises(LookupError, match="from the callback"):
        osler.Index.build(rng.standard_normal((4_000, 8)), progress=fail)
