"""Ctrl-C ends with 130 and one line that says what is kept; the same command goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import osler
import pytest

# Commits every two items, says when the given number of items is durable, then waits in the middle of the work.
HOLD = """
import sys, time
import osler.collection.ingest as ingest
from osler.collection.handle import Handle
ingest._ENCODE_FRAMES, ingest._COMMIT_ITEMS = 1, 2
publish = Handle.publish
def held(self, *arguments, **options):
    if len(self.snapshot) >= {items}:
        sys.stderr.write("READY\\n"); sys.stderr.flush()
        time.sleep(600)
    publish(self, *arguments, **options)
Handle.publish = held
"""


def interrupted(process: subprocess.Popen[str]) -> list[str]:
    """Wait until the work is under way, press Ctrl-C, and return what was said after it."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip() == "READY":
            break
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    return stderr.splitlines()


def test_what_was_committed_stays_and_resume_goes_on(
    spawn: Callable[..., Any], run: Any, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.osler"
    said = interrupted(spawn("index", "build", pictures, "-o", out, before=HOLD.format(items=2)))
    assert said == [
        f'interrupted: 2 items were added and are safe in "{out}"; run the same command with --resume to go on'
    ]
    with osler.Collection.open(out) as cases:
        kept = cases.keys()
        cases.verify()
    assert len(kept) == 2
    result = run("index", "build", pictures, "-o", out, "--resume", "--format", "csv")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[1].split(",")[:3] == ["5", "2", "2"]
    with osler.Collection.open(out) as cases:
        assert len(cases) == 7 and cases.keys()[:2] == kept


def test_nothing_committed_leaves_nothing(spawn: Callable[..., Any], pictures: Path, tmp_path: Path) -> None:
    said = interrupted(spawn("index", "build", pictures, "-o", tmp_path / "a.osler", before=HOLD.format(items=0)))
    assert said == ["interrupted: nothing was committed, and nothing was left behind"]
    assert not list(tmp_path.iterdir())


def test_an_interrupted_add_keeps_the_collection(
    spawn: Callable[..., Any], copy: Path, pictures: Path, tmp_path: Path
) -> None:
    import shutil

    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(pictures / "grey.png", more / "another.png")
    said = interrupted(spawn("index", "add", copy, more, before=HOLD.format(items=7)))
    assert said == [f'interrupted: 0 items were added and are safe in "{copy}"; run the same command again to go on']
    with osler.Collection.open(copy) as cases:
        assert len(cases) == 7
        cases.verify()


def test_an_interrupted_question_changed_nothing(spawn: Callable[..., Any], cases: Path) -> None:
    hold = """
import sys, time, osler
def search(*_, **__):
    sys.stderr.write("READY\\n"); sys.stderr.flush()
    time.sleep(600)
osler.Collection.search = search
"""
    assert interrupted(spawn("query", cases, "--text", "x", before=hold)) == ["interrupted: nothing was changed"]


@pytest.mark.parametrize("times", [1, 2])
def test_building_again_changes_nothing(run: Any, copy: Path, pictures: Path, times: int) -> None:
    before = run("query", copy, "--text", "magnetic resonance", "--format", "csv").stdout
    for _ in range(times):
        result = run("index", "build", pictures, "-o", copy, "--resume", "--format", "csv")
        assert result.stdout.splitlines()[1].split(",")[:3] == ["0", "2", "7"]
    assert run("query", copy, "--text", "magnetic resonance", "--format", "csv").stdout == before
    assert run("index", "verify", copy).exit_code == 0


def test_a_build_does_not_touch_what_another_made_meanwhile(
    run: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from osler.cli import index

    out = tmp_path / "a.osler"
    load = index.load_encoder

    def slow(*arguments: Any) -> Any:
        # Between the look whether there is something and the making of it another process makes it.
        osler.Collection.create(out, dim=4).close()
        return load(*arguments)

    monkeypatch.setattr(index, "load_encoder", slow)
    result = run("index", "build", pictures, "-o", out)
    assert result.exit_code != 0 and "exists" in result.stderr
    with osler.Collection.open(out) as cases:
        assert len(cases) == 0 and cases.dim == 4


def test_a_secret_is_not_ignored_where_there_is_one(run: Any, copy: Path, pictures: Path, tmp_path: Path) -> None:
    result = run("index", "build", pictures, "-o", copy, "--resume", "--secret", tmp_path / "other.secret")
    assert result.exit_code == 2 and "--secret is for a new collection" in result.stderr
