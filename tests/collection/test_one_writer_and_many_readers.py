"""Locks, snapshots, forks, pickles and permissions."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path: Path, cases: osler.Collection) -> None:
    with pytest.raises(osler.LockedError, match=str(os.getpid())):
        osler.Collection.open(tmp_path / "cases.osler", mode="a")
    script = (
        "import osler, sys\ntry: osler.Collection.open(sys.argv[1], mode='a')\nexcept osler.LockedError as e: print(e)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "cases.osler")], capture_output=True, text=True, check=True
    )
    assert f"process {os.getpid()}" in found.stdout
    cases.close()
    osler.Collection.open(tmp_path / "cases.osler", mode="a").close()


def test_a_dead_writer_leaves_no_lock(tmp_path: Path, cases: osler.Collection) -> None:
    cases.close()
    script = "import osler, os, sys\nc = osler.Collection.open(sys.argv[1], mode='a')\nos.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "cases.osler")], check=False)
    osler.Collection.open(tmp_path / "cases.osler", mode="a").close()


def test_a_writer_that_lost_its_lock_replaces_nothing(tmp_path: Path, cases: osler.Collection) -> None:
    cases.add_vectors(["a"], np.eye(8)[:1])
    manifests = tmp_path / "cases.osler" / "manifests"
    newest = max(manifests.iterdir())
    other = manifests / f"{int(newest.stem) + 1:020d}.manifest"
    other.write_text("of another writer")
    with pytest.raises(osler.LockedError, match="another process wrote"):
        cases.add_vectors(["b"], np.eye(8)[:1])
    assert other.read_text() == "of another writer"
    other.unlink()
    cases.close()
    with osler.Collection.open(tmp_path / "cases.osler", mode="a") as again:
        assert again.keys() == ["a"]


def test_a_reader_keeps_its_snapshot_while_a_writer_goes_on(tmp_path: Path, cases: osler.Collection) -> None:
    cases.add_vectors(["a", "b"], np.eye(8)[:2])
    with osler.Collection.open(tmp_path / "cases.osler") as reader:
        for number in range(10):
            cases.add_vectors([f"k{number}"], np.eye(8)[2:3])
            cases.delete(["a"])
        cases.compact()
        assert reader.keys() == ["a", "b"]
        assert [hit.key for hit in reader.search(vector=np.eye(8)[0])] == ["a", "b"]
    with osler.Collection.open(tmp_path / "cases.osler") as reader:
        assert reader.keys() == ["b", *(f"k{number}" for number in range(10))]


def test_a_reader_keeps_the_files_of_its_snapshot(tmp_path: Path, cases: osler.Collection) -> None:
    path = tmp_path / "cases.osler"
    cases.add_vectors(["a"], np.eye(8)[:1])
    cases.add_vectors(["b"], np.eye(8)[1:2])

    def go_on(start: int) -> None:
        cases.compact()
        for number in range(start, start + 6):
            cases.add_vectors([f"k{number}"], np.eye(8)[2:3])

    with osler.Collection.open(path) as reader:
        before = set((path / "segments").iterdir())
        go_on(0)
        assert before <= set((path / "segments").iterdir()), "a file of a reader is gone"
        assert [hit.key for hit in reader.search(vector=np.eye(8)[1], recall=1)] == ["b", "a"]
        assert (reader.vectors() == np.eye(8, dtype=np.float32)[:2]).all()
        hits = reader.search(vector=np.eye(8)[1], recall=1)
        reader.verify()
    assert repr(reader) == "<osler.Collection 'cases.osler', closed>"
    go_on(6)
    assert before <= set((path / "segments").iterdir()), "an answer still needs its files"
    assert hits[0].key == "b"
    del hits
    go_on(12)
    assert not before & set((path / "segments").iterdir()), "the writer removed nothing"


def test_a_reader_keeps_the_graph_of_its_snapshot(
    tmp_path: Path, cases: osler.Collection, rng: np.random.Generator
) -> None:
    path = tmp_path / "cases.osler"
    vectors = rng.normal(size=(2_100, 8))
    cases.add_vectors([str(row) for row in range(2_100)], vectors)
    cases.close()
    (graph,) = (path / "graphs").iterdir()
    with osler.Collection.open(path) as reader, osler.Collection.open(path, mode="a") as writer:
        writer.delete([str(row) for row in range(1_000)])
        for number in range(6):
            writer.add_vectors([f"k{number}"], vectors[:1])
        assert graph.name not in str(writer._handle.store.state.files), "the writer kept the graph"
        assert graph.exists()
        assert reader.search(vector=vectors[0], k=1)[0].key == "0"
        assert writer.search(vector=vectors[0], k=1)[0].key == "k0"


def test_an_answer_of_a_writer_outlives_its_cleaning_up(cases: osler.Collection) -> None:
    cases.add_vectors(["a"], np.eye(8)[:1])
    cases.add_vectors(["b"], np.eye(8)[1:2])
    snapshot = cases._handle.snapshot
    cases.compact()
    for number in range(6):
        cases.delete([f"k{number}"])
        cases.add_vectors([f"k{number}"], np.eye(8)[2:3])
    assert (snapshot.vectors(np.arange(2)) == np.eye(8, dtype=np.float32)[:2]).all()


def test_a_reader_cannot_write(tmp_path: Path, cases: osler.Collection) -> None:
    cases.add_vectors(["a"], np.eye(8)[:1])
    cases.close()
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "cases.osler").rglob("*"))
    with osler.Collection.open(tmp_path / "cases.osler") as reader:
        reader.search(vector=np.eye(8)[0])
        for write in (
            lambda: reader.add_vectors(["b"], np.eye(8)[:1]),
            lambda: reader.delete(["a"]),
            lambda: reader.update("a", metadata={"x": 1}),
            lambda: reader.compact(),
        ):
            with pytest.raises(osler.ReadOnlyError, match="mode='a'"):
                write()
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "cases.osler").rglob("*")) == before


def test_a_closed_handle_says_so(cases: osler.Collection) -> None:
    cases.close()
    cases.close()
    for use in (cases.keys, cases.info, lambda: len(cases), lambda: cases.search(vector=np.ones(8))):
        with pytest.raises(osler.Error) as caught:
            use()
        assert caught.value.code == "closed"


def test_hits_say_what_to_pass_on(cases: osler.Collection) -> None:
    cases.add_vectors(["a", "b"], np.eye(8)[:2])
    hits = cases.search(vector=np.eye(8)[0], k=2)
    with pytest.raises(TypeError, match=r"pass list\(hits\) or hits\.to_polars\(\) on"):
        pickle.dumps(hits)
    assert pickle.loads(pickle.dumps(list(hits))) == list(hits)


def test_a_pickle_is_an_address(tmp_path: Path, cases: osler.Collection) -> None:
    cases.add_vectors(["a"], np.eye(8)[:1])
    with pickle.loads(pickle.dumps(cases)) as again:
        assert again.keys() == ["a"]
        with pytest.raises(osler.ReadOnlyError):
            again.delete(["a"])


def test_a_fork_cannot_use_the_handle_nor_keep_the_lock(tmp_path: Path, cases: osler.Collection) -> None:
    script = """
import os, sys, numpy as np, osler
cases = osler.Collection.open(sys.argv[1], mode="a")
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    try:
        cases.add_vectors(["a"], np.eye(8)[:1])
    except osler.ForkedHandleError as error:
        print("child:", error, flush=True)
    with osler.Collection.open(sys.argv[1]) as again:
        print("child reads", len(again), flush=True)
    os.close(writing)
    os.read(reading, 1)
    os._exit(0)
cases.close()
with osler.Collection.open(sys.argv[1], mode="a") as again:
    again.add_vectors(["b"], np.eye(8)[:1])
    print("parent writes", len(again), flush=True)
os.close(writing)
os.waitpid(child, 0)
"""
    cases.close()
    found = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, str(tmp_path / "cases.osler")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "opened before a fork" in found.stdout
    assert "child reads" in found.stdout
    assert "parent writes 1" in found.stdout


def test_threads_read_while_one_writes(tmp_path: Path, cases: osler.Collection, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(400, 8))
    cases.add_vectors([str(row) for row in range(100)], vectors[:100])
    problems: list[Any] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                assert cases.search(vector=vectors[5], k=1)[0].key == "5"
                hits = cases.search(vector=vectors[50], k=400)
                keys = [hit.key for hit in hits]
                assert len(set(keys)) == len(keys)
                assert len(keys) >= 80
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(100, 400, 20):
        cases.add_vectors([str(row) for row in range(start, start + 20)], vectors[start : start + 20])
        cases.delete([str(start - 1), str(start - 2)])
    done.set()
    for thread in threads:
        thread.join()
    assert not problems, problems[0]
    assert len(cases) == 400 - 30


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_files_are_private_whatever_the_umask(
    umask: int, tmp_path: Path, pictures: Callable[..., Path], tiny: Any, rng: np.random.Generator
) -> None:
    from pydicom.data import get_testdata_file

    folder = pictures(3)
    before = os.umask(umask)
    try:
        with osler.Collection.create(tmp_path / "cases.osler", encoder=tiny) as cases:
            cases.add(folder, progress=False)
            cases.add(get_testdata_file("CT_small.dcm", download=False), progress=False)
            cases.add_vectors([str(n) for n in range(2_100)], rng.normal(size=(2_100, 16)))
            cases.delete(["0.png"])
            cases.search(text="a").to_html(tmp_path / "hits.html")
    finally:
        os.umask(before)
    assert list((tmp_path / "cases.osler" / "graphs").iterdir()), "no graph was saved"
    paths = [tmp_path / "cases.osler", *(tmp_path / "cases.osler").rglob("*")]
    paths += [tmp_path / "cases.secret", tmp_path / "hits.html"]
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path.name


def test_an_interrupt_after_a_commit_loses_nothing(cases: osler.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    from osler.collection.handle import Handle

    def interrupted(self: Handle) -> None:
        if self.snapshot.state is not self.store.state:
            raise KeyboardInterrupt

    path = cases.path
    for number in range(4):
        cases.add_vectors([f"first-{number}"], np.eye(8)[number : number + 1])
    changes = (
        lambda: cases.add_vectors(["Doe, late"], np.eye(8)[4:5]),
        lambda: cases.compact(),
        lambda: cases.delete("first-0"),
        lambda: cases.erase("first-1"),
    )
    for number, change in enumerate(changes):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Handle, "_take_up", interrupted)
            change()
        # What was committed is the ground for what comes next, and every listed file is named by it.
        cases.add_vectors([f"after-{number}"], np.eye(8)[5:6])
        state = cases._handle.store.state
        named = {entry["file"] for entry in cases._handle.store.manifest["segments"]}
        assert named == {name for name in state.files if name.startswith("segments/")}
    cases.erase("Doe, late")
    cases.close()
    files = b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())
    assert b"Doe, late" not in files and b"first-1" not in files
    with osler.Collection.open(path) as again:
        again.verify()
        assert again.keys() == ["first-2", "first-3", *(key for key in again if key.startswith("after"))]


def test_closing_waits_for_a_change_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osler.collection.handle._WORTH_SAVING", 4)
    for trial in range(8):
        path = tmp_path / f"{trial}.osler"
        cases = osler.Collection.create(path, dim=8)
        cases.add_vectors([f"k{number}" for number in range(6)], np.eye(8)[:6])
        done: list[str] = []

        def add(cases: osler.Collection = cases, done: list[str] = done) -> None:
            try:
                for number in range(20):
                    cases.add_vectors([f"new-{number}"], np.eye(8)[6:7])
                    done.append(f"new-{number}")
            except osler.Error as error:
                assert error.code == "closed"

        thread = threading.Thread(target=add)
        thread.start()
        while len(done) < trial % 5:
            pass
        cases.close()
        thread.join()
        with osler.Collection.open(path) as again:
            again.verify()
            assert set(done) <= set(again.keys())


def test_a_read_while_it_is_closed_is_whole_or_says_closed(tmp_path: Path) -> None:
    for trial in range(8):
        cases = osler.Collection.create(tmp_path / f"{trial}.osler", dim=8)
        cases.add_vectors(["a", "b"], np.eye(8)[:2])
        seen: list[Any] = []

        def read(cases: osler.Collection = cases, seen: list[Any] = seen) -> None:
            try:
                while True:
                    seen.append((len(cases), cases.keys(), len(cases.search(vector=np.eye(8)[0])), cases.info().items))
            except osler.Error as error:
                seen.append(error.code)

        thread = threading.Thread(target=read)
        thread.start()
        while len(seen) < 1 + trial % 4:
            pass
        cases.close()
        thread.join()
        assert seen.pop() == "closed"
        assert all(one == (2, ["a", "b"], 2, 2) for one in seen)


def test_a_failed_opening_keeps_no_lock(cases: osler.Collection) -> None:
    path = cases.path
    cases.close()
    with pytest.raises(ValueError, match="takes no encoder") as failure:
        osler.Collection.open(path, mode="a", encoder="reference")
    # The error is held, and with it whatever its traceback holds.
    osler.Collection.open(path, mode="a").close()
    assert failure.value
