"""What a commit, a deletion and `compact` write, and the memory they take, follow the change and not the collection."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import osler
import pytest

ROWS, DIM = 120_000, 128
SCRIPT = """
import resource, sys
import numpy as np, osler
from osler.collection import graph
graph._OUTSIDE_ROWS = 10**9
cases = osler.Collection.open(sys.argv[1], mode="a")
# What is imported and prepared once is not what a change takes.
cases.update("0", metadata={"n": -1}); cases.compact()
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
room = (size << 10) + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
rng = np.random.default_rng(1)
for start in range(0, 1_000, 100):
    cases.add_vectors([f"new-{start + row}" for row in range(100)], rng.normal(size=(100, 128)))
cases.delete([str(row) for row in range(0, 120_000, 100)])
cases.compact()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
cases.verify()
print(len(cases), cases.info().segments)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "cases.osler"
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM), dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        # No graph: that of so many rows takes longer to make than all that is tested here.
        patch.setattr("osler.collection.graph._OUTSIDE_ROWS", 10**9)
        patch.setattr("osler.collection.handle._WORTH_SAVING", 10**9)
        with osler.Collection.create(path, dim=DIM) as cases:
            cases.add_vectors([str(row) for row in range(ROWS)], vectors, metadata=[{"n": row} for row in range(ROWS)])
    return path


def test_memory_beside_the_map_is_a_share_of_the_collection(large: Path) -> None:
    vectors = ROWS * DIM * 4 >> 20
    assert vectors > 55
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(large), str(vectors // 2)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    items, segments = map(int, done.stdout.split())
    assert items == ROWS + 1_000 - ROWS // 100
    assert segments < 10


def test_a_large_segment_is_not_written_again_for_small_changes(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osler.collection.graph._OUTSIDE_ROWS", 10**9)
    monkeypatch.setattr("osler.collection.handle._WORTH_SAVING", 10**9)
    sizes = {file: file.stat().st_size for file in (large / "segments").iterdir()}
    (largest,) = (file for file, size in sizes.items() if size > ROWS * DIM * 4)
    with osler.Collection.open(large, mode="a") as cases:
        for number in range(40):
            cases.add_vectors([f"one-{number}"], np.ones((1, DIM)))
        cases.delete([f"one-{number}" for number in range(20)])
        cases.compact()
        assert largest.exists()
        written = [file for file in (large / "segments").iterdir() if file not in sizes]
        assert sum(file.stat().st_size for file in written) < ROWS * DIM * 4 // 10
        cases.delete(where="n >= 0 AND n < 30000")
        cases.compact()
        assert largest.name not in str(cases._handle.store.state.files), "a quarter of it was deleted, and it stays"
        cases.verify()
        without_n = 20 + (1_000 if "new-0" in cases else 0)
        assert cases.count("n >= 0") == len(cases) - without_n
