"""R17. Forks with live readers, pools and locks: a child answers as its parent or says that it cannot, and nothing
hangs."""

from __future__ import annotations

import os
import pickle
import select
import tempfile
import threading
import warnings
from collections import Counter
from typing import Any

import numpy as np
import osler

from reliability.kills import _ask

NAME, UNIT = "forks", "forks"
SIZES = {"quick": 30, "ci": 200, "full": 1_000}
FORKS = 15
PATIENCE = 60


def piece(seed: int) -> Counter[str]:
    problem = _ask(lambda: _parent(seed))
    assert problem is None, f"seed {seed}: {problem}"
    return Counter({UNIT: FORKS})


def _parent(seed: int) -> str | None:
    """Fork again and again while threads search, a collection is open for writing and an index is pickled."""
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2_600, 16)).astype(np.float32)
    index = osler.Index.build(vectors, metric="l2")
    right = index.search(vectors[:20], 5)
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            index.search(vectors[:50], 5)

    with tempfile.TemporaryDirectory() as folder, osler.Collection.create(f"{folder}/cases.osler", dim=16) as cases:
        cases.add_vectors([str(row) for row in range(50)], vectors[:50])
        cases.search(vector=vectors[0])
        threads = [threading.Thread(target=search) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(FORKS):
                said = _in_child(lambda: _child(index, vectors, right, cases))
                if said != "right":
                    return said
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        cases.add_vectors(["after"], vectors[:1])
    return None


def _child(index: osler.Index, vectors: Any, right: Any, cases: osler.Collection) -> str:
    found = index.search(vectors[:20], 5)
    if (found.keys != right.keys).any():
        return "the index answers otherwise in a child"
    again = pickle.loads(pickle.dumps(index))
    if (again.search(vectors[:20], 5).keys != right.keys).any():
        return "a pickled index answers otherwise"
    try:
        cases.search(vector=vectors[0])
    except osler.ForkedHandleError:
        pass
    else:
        return "a collection of the parent was used"
    with osler.Collection.open(cases.path) as own:
        if own.search(vector=vectors[3], k=1)[0].key != "3":
            return "a collection answers otherwise in a child"
    try:
        osler.Collection.open(cases.path, mode="a")
    except osler.LockedError:
        return "right"
    return "a child took the lock of its parent"


def _in_child(work: Any) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = work()
        except BaseException as error:
            said = repr(error)
        os.write(writing, said.encode()[:4_000])
        os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], PATIENCE)
    if not ready:
        os.kill(child, 9)
        os.waitpid(child, 0)
        return "the child hangs"
    said = os.read(reading, 4_096).decode()
    os.close(reading)
    os.waitpid(child, 0)
    return said or "the child died"
