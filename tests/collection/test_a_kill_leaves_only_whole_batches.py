"""A process is killed while it adds; what is there afterwards is what it was told was committed, or one batch more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import osler
import pytest
from format_reader import read

WRITER = """
import sys
import numpy as np, osler
cases = osler.Collection.open(sys.argv[1], mode="a")
batch = len(cases) // 7
while True:
    keys = [f"{batch}-{row}" for row in range(7)]
    cases.add_vectors(keys, np.random.default_rng(batch).normal(size=(7, 8)), metadata=[{"batch": batch}] * 7)
    if batch % 3 == 2:
        cases.delete([f"{batch}-0"])
        cases.add_vectors([f"{batch}-0"], np.random.default_rng(batch).normal(size=(7, 8))[:1],
                          metadata=[{"batch": batch}])
    batch += 1
    print(batch, flush=True)
"""


def state_files(manifest: Path) -> list[str]:
    return read(manifest.read_bytes())[23, 0].tobytes().decode().splitlines()


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_is_half_there(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "cases.osler"
    osler.Collection.create(path, dim=8).close()
    acknowledged = 0
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(int(rng.integers(1, 6))):
            acknowledged = int(writer.stdout.readline())
        # Spin a random, short while inside the next commit, so that kills fall on every step of it.
        sum(range(int(rng.integers(0, 400_000))))
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        acknowledged = int(rest[-1]) if rest else acknowledged
        with osler.Collection.open(path) as cases:
            cases.verify()
            batches = cases.to_polars()["batch"].to_list()
            counts = [batches.count(batch) for batch in range(acknowledged)]
            assert counts == [7] * acknowledged
            extra = [batch for batch in batches if batch >= acknowledged]
            assert set(extra) <= {acknowledged}
            assert len(extra) in ((0, 7) if acknowledged % 3 != 2 else (0, 6, 7))
            for batch in range(acknowledged):
                expected = np.random.default_rng(batch).normal(size=(7, 8))
                hit = cases.search(vector=expected[0], k=1)[0]
                assert hit.key == f"{batch}-0"
                assert hit.score == pytest.approx(1.0, abs=1e-5)
        with osler.Collection.open(path, mode="a") as cases:
            assert not list((path / "tmp").iterdir())
            held = {file for folder in (path / "manifests").iterdir() for file in state_files(folder)}
            present = {f"segments/{file.name}" for file in (path / "segments").iterdir()}
            assert present <= held
            if len(cases) % 7 or (len(cases) // 7 > acknowledged and acknowledged % 3 == 2):
                cases.delete(where=f"batch = {acknowledged}")
    assert acknowledged > 8
