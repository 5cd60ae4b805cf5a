"""Results go to stdout and all else to stderr; a terminal gets a table that it can show, a pipe plain text."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler.cli import output
from osler.cli.output import show


def test_the_default_encoder_is_said_once_on_stderr(built: tuple[Path, Any]) -> None:
    _, result = built
    assert result.stderr.count("reference") == 1 and "no medical model" in result.stderr
    assert result.stdout.splitlines()[0].split() == ["added", "skipped", "duplicates", "collection"]
    assert result.stdout.splitlines()[1].split()[:3] == ["7", "2", "0"]
    assert "skipped 1 (no_pixels): " in result.stderr and "skipped 1 (not_an_image): " in result.stderr


def test_no_name_of_a_file_is_said_unless_asked(built: tuple[Path, Any]) -> None:
    _, result = built
    for name in ("notes", "rtplan", "CT_small", "grey"):
        assert name not in result.stderr and name not in result.stdout


def test_strict_turns_skipped_files_into_three(run: Any, copy: Path, pictures: Path) -> None:
    assert run("index", "build", pictures, "-o", copy, "--resume", "--strict").exit_code == 3
    assert run("index", "add", copy, pictures / "grey.png", "--strict").exit_code == 0


def test_html_is_written_beside_the_result(run: Any, cases: Path, pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "hits.html"
    result = run("query", cases, "--image", pictures / "CT_small.dcm", "-k", 2, "--html", page, "--json")
    assert result.exit_code == 0 and result.stdout.startswith("{") and "wrote " in result.stderr
    text = page.read_text()
    assert text.count("data:image/") >= 2 and "http" not in text.replace("http-equiv", "")


def test_help_and_version_load_nothing_heavy() -> None:
    program = """
import sys
from osler.cli import app
for arguments in (["--version"], ["--help"], ["index", "--help"], ["query", "--help"]):
    try:
        app.main(arguments)
    except SystemExit as end:
        assert end.code == 0
heavy = {"polars", "pydantic", "onnxruntime", "pydicom", "PIL", "rich", "pandas", "usearch"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    import osler
    from osler.index import simd_level

    assert done.stdout.splitlines()[0].startswith(f"osler {osler.__version__} (simd {simd_level()}, onnxruntime ")


def test_a_terminal_gets_a_table_and_no_colour_is_obeyed(cases: Path) -> None:
    command = [sys.executable, "-m", "osler.cli", "query", str(cases), "--like", "grey.png", "-k", "2"]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "\x1b" not in plain
    for environment, coloured in (({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False)):
        leader, follower = pty.openpty()
        clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        process = subprocess.Popen(
            command, stdout=follower, stderr=subprocess.PIPE, env={**clean, "COLUMNS": "100", **environment}
        )
        os.close(follower)
        shown = b""
        while True:
            try:
                piece = os.read(leader, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        process.communicate(timeout=60)
        os.close(leader)
        text = shown.decode()
        assert process.returncode == 0 and "rank" in text and "score" in text
        assert bool(re.search(r"\x1b\[[0-9;]*3[0-7]m", text)) is False
        assert ("\x1b[" in text) == coloured


def test_a_reader_that_has_seen_enough_is_no_error(cases: Path) -> None:
    command = f"{sys.executable} -m osler.cli index info {cases} --json | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "{\n0\n" and done.stderr == ""


def test_a_warning_is_one_line(spawn: Callable[..., Any], cases: Path) -> None:
    process = spawn("query", cases, "--text", "chest " * 2_000, "-k", 1)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0 and len(stdout.splitlines()) == 2
    first, second = stderr.splitlines()
    assert first.startswith("warning: 1 of 1 texts are longer than ") and "site-packages" not in first
    assert second.startswith("searched 7 items; answered in ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, *arguments: Any, **options: Any) -> str:
    page = options.pop("page", None) or io.StringIO()
    monkeypatch.setattr(output.sys, "stdout", page)
    show(*arguments, **options)
    return page.getvalue()


def test_cells_cannot_steer_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, "table", {}, ["key", "n"], [["\x1b[2Jevil\x07\u202e", 1], ["two\nlines", None]])
    assert text == "key         n\n?[2Jevil??  1\ntwo lines\n"


@pytest.mark.parametrize("style", ["csv", "json"])
def test_a_terminal_is_not_steered_and_a_program_gets_every_byte(monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    evil = "a\x1b[2J\x9b\u202e\r\x7fé"
    arguments = (style, {"key": evil}, ["key"], [[evil]])
    exact = printed(monkeypatch, *arguments)
    shown = printed(monkeypatch, *arguments, page=Terminal())
    assert all(one.isprintable() or one == "\n" for one in shown) and "é" in shown
    if style == "json":
        assert json.loads(shown) == json.loads(exact) == {"key": evil}
    else:
        assert shown == 'key\n"a?[2J????é"\n'
        assert list(csv.reader(io.StringIO(exact, newline="")))[1] == [evil]


def test_keep_speaks_of_new_items(run: Any, copy: Path, pictures: Path) -> None:
    said = "--keep applies to new items only; the 7 that are there stay as they are"
    for command in (("add", copy, pictures / "CT_small.dcm"), ("build", pictures, "-o", copy, "--resume")):
        result = run("index", *command, "--keep", "PatientID", "--json")
        assert result.exit_code == 0 and said in result.stderr.splitlines()
        assert said not in run("index", *command, "--json").stderr


def test_the_first_build_has_nothing_to_say_of_keep(run: Any, pictures: Path, tmp_path: Path) -> None:
    more = ("--encoder", "efficientnet-lite0", "--keep", "PatientID")
    result = run("index", "build", pictures / "CT_small.dcm", "-o", tmp_path / "a.osler", *more)
    assert result.exit_code == 0 and result.stderr == ""


def test_help_says_how_keys_are_made(run: Any, pictures: Path, tmp_path: Path) -> None:
    said = " ".join(run("index", "build", "--help").stdout.split())
    assert "relative to the folder that was given" in said and "the folder that they have in common" in said
    for name in ("a/x/1.png", "a/y/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(pictures / f"{'grey' if '1' in name else 'inverse'}.png", tmp_path / name)
    given = {
        ("a",): ["x/1.png", "y/2.png"],
        ("a/x", "a/y"): ["x/1.png", "y/2.png"],
        ("a/x",): ["1.png"],
        ("a/x/1.png",): ["1.png"],
    }
    for number, (sources, keys) in enumerate(given.items()):
        out = tmp_path / f"{number}.osler"
        paths = [tmp_path / source for source in sources]
        assert run("index", "build", *paths, "-o", out, "--encoder", "efficientnet-lite0").exit_code == 0
        with osler.Collection.open(out) as cases:
            assert cases.keys() == keys


def test_numbers_lean_right_and_nothing_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["a", 1.23456, True], ["bb", None, False], ["c", float("nan"), None]]
    assert printed(monkeypatch, "table", {}, ["k", "score", "keep"], rows) == (
        "k   score  keep\na   1.235  true\nbb         false\nc\n"
    )
    assert printed(monkeypatch, "csv", {}, ["k", "score", "keep"], rows) == (
        "k,score,keep\na,1.23456,true\nbb,,false\nc,,\n"
    )


def test_json_holds_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {
        "a": float("nan"),
        "b": np.float32(0.5),
        "c": np.arange(2),
        "d": datetime.date(2020, 1, 2),
        "e": (None,),
    }
    text = printed(monkeypatch, "json", document, [], [])
    assert "NaN" not in text and text.endswith("}\n")
    assert json.loads(text) == {"a": None, "b": 0.5, "c": [0, 1], "d": "2020-01-02", "e": [None]}


@pytest.fixture(scope="module")
def tagged(run: Any, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A collection whose metadata has the names of a hit's own columns, its table, and what building it said."""
    folder = tmp_path_factory.mktemp("tagged")
    table = folder / "more.csv"
    table.write_text(
        "file,score,rank,part,frame\ngrey.png,9.5,gold,left,7\ninverse.png,7.5,silver,right,8\nno,1,x,y,9\n"
    )
    built = run(
        "index", "build", pictures / "grey.png", pictures / "inverse.png", "-o", folder / "a.osler",
        "--encoder", "efficientnet-lite0", "--metadata", table,
    )  # fmt: skip
    assert built.exit_code == 0, built.stderr
    return folder / "a.osler", table, built


def test_a_column_named_like_one_of_a_hit_keeps_its_value(run: Any, tagged: tuple[Path, Path, Any]) -> None:
    path = tagged[0]
    (row,) = csv.DictReader(io.StringIO(run("query", path, "--like", "grey.png", "--format", "csv").stdout))
    names, values = (line.split() for line in run("query", path, "--like", "grey.png").stdout.splitlines())
    shown = dict(zip(names, values, strict=True))
    own = {"rank": "silver", "score": 7.5, "part": "right", "frame": 8}
    with osler.Collection.open(path) as cases:
        (hit,) = cases.search(like="grey.png").to_polars().to_dicts()
    for name, value in own.items():
        assert row[f"metadata.{name}"] == str(value) == str(hit[f"metadata.{name}"])
    assert (row["rank"], row["key"], row["part"], row["score"]) == ("1", "inverse.png", "0", repr(hit["score"]))
    assert (shown["rank"], shown["key"], shown["score"]) == ("1", "inverse.png", f"{hit['score']:.3f}")
    assert {name: shown[f"metadata.{name}"] for name in ("rank", "part")} == {
        "rank": "silver",
        "part": "right",
    }
    assert float(shown["metadata.score"]) == 7.5


def test_labels_may_be_named_like_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(monkeypatch, "table", {}, ["key", "score", "score"], [["a", 1, 2]])
    assert text.splitlines()[1].split() == ["a", "1", "2"]


@pytest.mark.parametrize("style", ["table", "csv"])
def test_metadata_rows_without_a_file_are_counted(
    run: Any, tagged: tuple[Path, Path, Any], pictures: Path, style: str
) -> None:
    path, table, built = tagged
    assert "1 of 3 metadata rows matched no file" in built.stderr.splitlines()
    again = run("index", "add", path, pictures / "grey.png", "--metadata", table, "--format", style)
    assert again.exit_code == 0 and "2 of 3 metadata rows matched no file" in again.stderr.splitlines()
    none = run("index", "add", path, pictures / "CT_small.dcm", "--metadata", table, "--format", style)
    (line,) = [line for line in none.stderr.splitlines() if "metadata rows" in line]
    assert line.startswith("3 of 3 metadata rows matched no file; name the files ")
    assert "metadata rows" not in run("index", "add", path, pictures / "grey.png", "--format", style).stderr


def test_a_join_on_uids_says_what_it_did_not_look_at(run: Any, copy: Path, pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "more.csv"
    table.write_text("SOPInstanceUID,grade\n1.2.3,4\n")
    result = run("index", "add", copy, pictures / "CT_small.dcm", "--metadata", table)
    assert result.stderr.splitlines() == [
        "1 of 1 metadata rows matched no file that is new; files that were there already were not read again"
    ]
