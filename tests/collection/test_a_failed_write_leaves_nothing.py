"""Every system call of a commit fails once: the state is the old one or the new one, and the handle says so."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler.collection import store

CALLS = ("open", "write", "fsync", "rename", "link", "chmod")


class FailingOs:
    """The module `os`, whose nth call that changes something fails."""

    def __init__(self, at: int, code: int) -> None:
        self.at, self.code, self.calls = at, code, 0
        self.failed_after_link = False
        self._linked = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                self.failed_after_link = self._linked
                raise OSError(self.code, os.strerror(self.code))
            found = real(*arguments, **options)
            self._linked = self._linked or name == "link"
            return found

        return call


def listing(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*")}


def made(path: Path) -> osler.Collection:
    cases = osler.Collection.create(path, dim=4)
    cases.add_vectors(["a", "b"], np.eye(4)[:2], metadata=[{"n": 1}, {"n": 2}])
    return cases


def change(cases: osler.Collection) -> None:
    cases.add_vectors(["c", "a"], np.eye(4)[2:], metadata=[{"n": 3}, {"n": 4}], on_duplicate="replace")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_fault_at_any_call_leaves_the_old_state_or_the_whole_new_one(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, unknown = 0, 0
    while True:
        at += 1
        path = tmp_path / f"{at}.osler"
        with made(path) as cases:
            before = listing(path)
            failing = FailingOs(at, code)
            with monkeypatch.context() as patch:
                patch.setattr(store, "os", failing)
                try:
                    change(cases)
                    break
                except osler.CommitUnknownError:
                    unknown += 1
                    assert failing.failed_after_link
                except osler.Error as error:
                    assert not failing.failed_after_link
                    assert error.code == ("disk_full" if code == errno.ENOSPC else "write_failed")
                    assert "nothing" in str(error)
                    assert cases.keys() == ["a", "b"]
                    assert listing(path) == before
            with pytest.raises(osler.Error) as refused:
                cases.add_vectors(["z"], np.eye(4)[:1])
            assert refused.value.code == "write_failed"
            assert len(cases.search(vector=[1, 0, 0, 0])) == 2
        with osler.Collection.open(path, mode="a") as cases:
            cases.verify()
            whole = [("b", 2), ("c", 3), ("a", 4)]
            found = [(hit.key, hit.metadata["n"]) for hit in cases.get(cases.keys())]
            assert found == (whole if failing.failed_after_link else [("a", 1), ("b", 2)])
            cases.add_vectors(["z"], np.eye(4)[:1])
        assert not list((path / "tmp").iterdir())
    assert at > 15, "the commit makes fewer calls than it must"
    assert unknown, "no fault came after the publication"


@pytest.mark.parametrize("at", range(1, 20))
def test_a_fault_while_creating_leaves_no_directory(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "os", FailingOs(at, errno.ENOSPC))
    with pytest.raises(osler.Error) as caught:
        osler.Collection.create(tmp_path / "cases.osler", dim=4)
    assert caught.value.code == "disk_full"
    assert os.listdir(tmp_path) in ([], ["cases.osler"])
    monkeypatch.undo()
    if os.listdir(tmp_path):
        osler.Collection.open(tmp_path / "cases.osler").verify()


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

    monkeypatch.setattr(type(cases._handle.graph), "save", fail)
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
