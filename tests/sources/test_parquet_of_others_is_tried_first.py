"""Parquet files that make their reader panic or end its process, in the version of it that they were found with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import osler
import polars as pl
import pytest
from osler.curate import Decisions
from osler.sources.parquet import is_parquet, read_parquet
from osler.sources.tables import read_table

FILES = sorted((Path(__file__).parents[1] / "fixtures" / "polars-2.1.0").glob("*.parquet"))
NAMES = [file.stem for file in FILES]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_the_program_lives_and_says_which_file_it_was(file: Path, tmp_path: Path) -> None:
    # In a program of its own, as it would end this one.
    lines = [
        "import pathlib, sys",
        "from osler.collection.interchange import import_parquet",
        "from osler.curate import Decisions",
        "from osler.sources.tables import read_table",
        "file = pathlib.Path(sys.argv[1])",
        "def imported(): import_parquet(file, sys.argv[2] + '/out.osler')",
        "for call in (lambda: read_table(file), lambda: Decisions.load(file), imported):",
        "    try: call()",
        "    except ValueError as error: print(error)",
        "print(sorted(pathlib.Path(sys.argv[2]).iterdir()))",
    ]
    command = [sys.executable, "-c", "\n".join(lines), str(file), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.splitlines()
    assert [line.startswith(f"{file.name} is no Parquet file, is damaged") for line in said] == [True] * 3 + [False]
    assert said[3] == "[]"
    # What the reader says of itself, and of the file, is not shown.
    assert ended.stderr == ""


def test_a_panic_in_this_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSLER_DECODE_IN_PROCESS", "1")
    (panics,) = (file for file in FILES if file.stem == "panics")
    with pytest.raises(ValueError, match=r"panics\.parquet is no Parquet file"):
        read_table(panics)


def test_no_process_is_told_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "cases.parquet"
    pl.DataFrame({"key": ["a"]}).write_parquet(file)
    for missing in (tmp_path / "python", None):
        monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda missing=missing: missing and str(missing))
        with pytest.raises(osler.Error, match="no Python process can be started") as caught:
            read_parquet(file)
        assert caught.value.code == "no_worker"
    monkeypatch.setenv("OSLER_DECODE_IN_PROCESS", "1")
    assert read_parquet(file)["key"].to_list() == ["a"]


def test_more_memory_than_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "cases.parquet"
    # A few kilobytes, and 1.2 gigabytes once they are read.
    pl.concat([pl.LazyFrame({"key": np.zeros(1_500_000, np.int64)})] * 100).sink_parquet(file)
    assert file.stat().st_size < 1 << 20
    monkeypatch.setattr(
        "osler.sources.parquet._PROGRAM",
        "import os; known = os.sysconf; os.sysconf = lambda name: 1 << 18 if name == 'SC_PHYS_PAGES' else known(name); "
        "from osler.sources.parquet import _try; _try(json.loads(sys.stdin.buffer.readline()))",
    )
    with pytest.raises(ValueError, match="needs more memory or time than it may have"):
        read_parquet(file)


def test_a_reader_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "cases.parquet"
    pl.DataFrame({"key": ["a"]}).write_parquet(file)
    monkeypatch.setattr("osler.sources.parquet._PROGRAM", "import time; time.sleep(3_600)")
    monkeypatch.setattr("osler.sources.parquet._PATIENCE", 0.01)
    with pytest.raises(ValueError, match="needs more memory or time than it may have"):
        read_parquet(file)


@pytest.mark.parametrize("name", ["a b.parquet", "*.parquet", "[x].parquet", "é.parquet", "\udcff.parquet"])
def test_names_are_taken_as_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / name
    with file.open("wb") as stream:
        pl.DataFrame({"key": ["a"]}).write_parquet(stream)
    monkeypatch.chdir(tmp_path)
    assert is_parquet(Path(name))
    assert read_parquet(Path(name))["key"].to_list() == ["a"]
    assert read_table(file)["key"].to_list() == ["a"]
    Decisions.of(["a"], keep=[True]).save(tmp_path / "kept.parquet")
    assert Decisions.load(tmp_path / "kept.parquet").kept == ["a"]
