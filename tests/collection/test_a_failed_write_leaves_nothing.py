"""A full disk, a graph that cannot be saved, and a stop in the middle lose nothing that was committed."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest


def test_a_limit_on_file_sizes_is_one_sentence_and_leaves_the_committed_rows(tmp_path: Path) -> None:
    script = """
import resource, sys
import numpy as np, osler
cases = osler.Collection.create(sys.argv[1], dim=512)
cases.add_vectors(["a"], np.ones((1, 512)))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    cases.add_vectors([str(n) for n in range(1000)], np.random.default_rng(0).normal(size=(1000, 512)))
except osler.Error as error:
    print(error.code, error)
cases.close()
"""
    path = tmp_path / "cases.osler"
    found = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("disk_full the disk is full or a size limit was reached, and nothing")
    assert found.stdout.count("\n") == 1
    assert not found.stderr
    with osler.Collection.open(path) as cases:
        cases.verify()
        assert cases.keys() == ["a"]
    assert not list((path / "tmp").iterdir())


def test_a_graph_that_cannot_be_saved_costs_a_warning_and_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    vectors = rng.normal(size=(2_100, 8))
    cases = osler.Collection.create(tmp_path / "cases.osler", dim=8)
    cases.add_vectors([str(number) for number in range(2_100)], vectors)
    cases.search(vector=vectors[0])

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(type(cases._handle.graphs), "save", fail)
    with pytest.warns(UserWarning, match="graph of cases.osler could not be saved; its rows are safe"):
        cases.close()
    with osler.Collection.open(tmp_path / "cases.osler") as again:
        assert again.search(vector=vectors[7], k=1)[0].key == "7"


def test_a_callback_that_stops_ingest_keeps_what_was_encoded(
    tmp_path: Path, pictures: Callable[..., Path], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osler.collection.ingest._COMMIT_ITEMS", 5)
    monkeypatch.setattr("osler.collection.ingest._ENCODE_FRAMES", 1)
    cases = osler.Collection.create(tmp_path / "cases.osler", encoder=tiny)
    with pytest.raises(KeyboardInterrupt):
        cases.add(pictures(23), progress=lambda done, total: done < 13)
    assert len(cases) == 13
    cases.close()
    with osler.Collection.open(tmp_path / "cases.osler", mode="a", encoder=tiny) as again:
        again.verify()
        assert len(again) == 13
        report = again.add(tmp_path / "pictures", progress=False)
        assert (report.added, report.duplicates, len(again)) == (10, 13, 23)
        assert tiny.pictures == 23
