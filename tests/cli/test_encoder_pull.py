"""`osler encoder pull` shows terms and sizes before a file comes, asks or wants to be told, and ends in one line."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from hub_entry import FILES, HUB, NEWER, REVISION, checkpoint_entry, enter, program, tiny_entry, tiny_hub
from hub_server import Fault, HubServer, Repository
from osler.encoders.registry import home_folder
from tiny_encoder import TinyEncoder, tiny_encoder

pytestmark = pytest.mark.sockets


@pytest.fixture
def tiny(tmp_path: Path, rng: np.random.Generator) -> TinyEncoder:
    return tiny_encoder(tmp_path / "tiny", rng)


@pytest.fixture
def hub(tiny: TinyEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with tiny_hub(tiny, tmp_path / "home", monkeypatch) as server:
        yield server


@pytest.fixture
def again(tiny: TinyEncoder) -> Callable[[dict[str, Any]], None]:
    return lambda entry: enter(entry, tiny.manifest["image"]["recipe"])


def failed(result: Any, code: int, *said: str) -> None:
    """Assert that the last line is one of error with these words, and that stdout has nothing."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    for words in said:
        assert words in lines[-1]
    assert not lines[-1].endswith(".")


def test_terms_and_sizes_come_first_and_the_encoder_is_ready(run: Any, hub: HubServer) -> None:
    result = run("encoder", "pull", "tiny-hub", "--json")
    assert result.exit_code == 0, result.stderr
    said = result.stderr.splitlines()
    assert said[:3] == ["tiny-hub: tiny encoder of known arithmetic", "licence: MIT", "cite: none"]
    assert said[3] == f"from: {hub.endpoint}/{HUB} at commit {REVISION}, of the registry"
    sizes = [len(hub.repositories[HUB].commits[REVISION][path]) for path in FILES]
    assert said[4:8] == [f"file: {path}, {size:,} bytes" for path, size in zip(FILES, sizes, strict=True)]
    assert said[8] == f"all: {sum(sizes):,} bytes"
    assert said[9:] == ["these files do not tell the logit scale, so classification needs one from you"]
    document = json.loads(result.stdout)
    assert (document["encoder"], document["state"], document["fetched"]) == ("tiny-hub", "ready", 4)
    assert document["folder"] == str(home_folder("tiny-hub")) and set(document["sha256"]) == set(FILES)
    assert document["fingerprint"] == osler.load_encoder("tiny-hub").fingerprint
    listed = json.loads(run("encoder", "list", "--json").stdout)["encoders"]
    assert {one["name"]: one["state"] for one in listed}["tiny-hub"] == "ready"
    assert json.loads(run("encoder", "info", "tiny-hub", "--json").stdout)["state"] == "here"


def test_the_table_names_what_was_done(run: Any, hub: HubServer, tmp_path: Path) -> None:
    result = run("encoder", "pull", "tiny-hub", "--out", tmp_path / "out")
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert (rows["state"], rows["fetched"], rows["folder"]) == ("ready", "4", str(tmp_path / "out"))
    assert osler.load_encoder(tmp_path / "out").dim == 5


def test_a_dry_run_fetches_no_file(run: Any, hub: HubServer) -> None:
    document = json.loads(run("encoder", "pull", "tiny-hub", "--dry-run", "--json", "--revision", "main").stdout)
    assert [one["path"] for one in document["files"]] == list(FILES)
    assert {(one["revision"], one["revision_from"]) for one in document["files"]} == {(NEWER, "asked")}
    assert document["bytes"] == sum(one["bytes"] for one in document["files"]) > 0
    assert document["licence"] == "MIT" and document["must_accept"] is None
    assert not home_folder("tiny-hub").exists() and len(hub.requests) == 1
    rows = run("encoder", "pull", "tiny-hub", "--dry-run").stdout.splitlines()
    assert rows[0].split() == ["path", "bytes", "repository", "revision", "sha256"] and len(rows) == 5


def test_the_newest_commit_is_told_where_the_registry_names_none(run: Any, hub: HubServer, again: Any) -> None:
    entry = tiny_entry()
    del entry["sources"][0]["revision"]
    again(entry)
    said = run("encoder", "pull", "tiny-hub").stderr
    assert f"at commit {NEWER}, the newest, for the registry names none" in said
    said = run("encoder", "pull", "tiny-hub", "--revision", "v1").stderr
    assert f"at commit {REVISION}, as asked" in said


@pytest.mark.parametrize("changes", [{"licence": {"id": "CC-BY-NC-4.0"}}, {"gate": "ask its owners"}])
def test_without_a_terminal_terms_are_accepted_by_an_option(
    run: Any, hub: HubServer, again: Any, changes: dict[str, Any]
) -> None:
    again(tiny_entry(**changes))
    failed(run("encoder", "pull", "tiny-hub"), 2, "read its terms, then give --accept-licence")
    assert not home_folder("tiny-hub").exists() and len(hub.requests) == 1
    for option in ("--accept-licence", "--yes"):
        assert run("encoder", "pull", "tiny-hub", option).exit_code == 0
    assert json.loads((home_folder("tiny-hub") / "source.json").read_text())["accepted"] is True


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("\x04", 130)])
def test_on_a_terminal_it_asks(hub: HubServer, tiny: TinyEncoder, answer: str, code: int) -> None:
    entry = tiny_entry(licence={"id": "CC-BY-NC-4.0", "note": "no commercial use"})
    body = "sys.argv = ['osler', 'encoder', 'pull', 'tiny-hub']\nfrom osler.cli import main\nmain()"
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", program(entry, tiny.manifest["image"]["recipe"], body)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(keyboard, answer.encode())
    out, err = process.communicate(timeout=60)
    os.close(keyboard)
    os.close(terminal)
    assert process.returncode == code, err
    assert "licence: CC-BY-NC-4.0 (no commercial use)" in err.splitlines()
    assert "tiny-hub has the licence CC-BY-NC-4.0; do you accept its terms? [y/N]:" in err
    assert (home_folder("tiny-hub") / "manifest.json").exists() == (code == 0)
    if code == 1:
        assert err.endswith("error: the terms were not accepted, so nothing was fetched\n") and out == ""


def test_a_gated_repository_names_the_page_and_the_token(run: Any, hub: HubServer) -> None:
    hub.repositories[HUB].gated = "manual"
    page = f"{hub.endpoint}/{HUB}"
    result = run("encoder", "pull", "tiny-hub", "--yes")
    assert f"gate: accept the terms at {page}" in result.stderr.splitlines()
    failed(result, 1, f"accept them at {page}, then set HF_TOKEN")


@pytest.mark.parametrize("name", ["OSLER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_it_refuses(run: Any, hub: HubServer, name: str) -> None:
    failed(run("encoder", "pull", "tiny-hub", **{name: "1"}), 1, "is set, so nothing is downloaded; unset it, or copy")
    assert not hub.requests


def test_what_cannot_be_pulled_is_told_in_one_line(run: Any, hub: HubServer, again: Any, tmp_path: Path) -> None:
    again(tiny_entry(impossible="its weights were never published"))
    result = run("encoder", "pull", "tiny-hub")
    failed(result, 1, "cannot be pulled (not possible: its weights were never published)")
    assert len(result.stderr.splitlines()) == 1
    failed(run("encoder", "pull", "tiny-hab"), 2, 'no encoder "tiny-hab" (did you mean "tiny-hub"?)')
    failed(run("encoder", "pull", "minilm"), 1, "comes with osler; there is nothing to pull")
    again(tiny_entry())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    failed(run("encoder", "pull", "tiny-hub", "--out", tmp_path / "mine"), 2, "holds files that no pull of it put")
    assert not hub.requests


def test_without_the_extra_it_says_what_to_install(run: Any, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    failed(run("encoder", "pull", "tiny-hub"), 1, 'needs the package huggingface_hub; pip install "osler[hub]"')


def test_wrong_bytes_end_in_one_line(run: Any, hub: HubServer) -> None:
    hub.plant("storage", FILES[2], Fault(body=bytes(len(hub.repositories[HUB].commits[REVISION][FILES[2]]))))
    failed(run("encoder", "pull", "tiny-hub"), 1, f"{FILES[2]} does not have the SHA-256 that is expected")
    assert not (home_folder("tiny-hub") / "manifest.json").exists()


def test_the_command_that_is_left_to_run_is_told(run: Any, hub: HubServer, again: Any, monkeypatch: Any) -> None:
    again(checkpoint_entry("tokenizer.json"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("encoder", "pull", "tiny-hub", "--json")
    document = json.loads(result.stdout)
    place = home_folder("tiny-hub") / "checkpoint"
    assert document["state"] == "checkpoint"
    assert document["next"] == f"osler encoder export tiny-hub --checkpoint {place}"
    assert result.stderr.splitlines()[-1].endswith(document["next"])


def test_a_tokenizer_to_bring_is_told_before_anything_comes_and_in_the_command_that_is_left(
    run: Any, hub: HubServer, again: Any
) -> None:
    entry = checkpoint_entry(uncertain={"text.tokenizer.files": "it lies in the package of its authors"})
    again(entry)
    dry = run("encoder", "pull", "tiny-hub", "--dry-run", "--json")
    told = "bring: tokenizer.json of the tokenizer, which no repository has (it lies in the package of its authors)"
    assert json.loads(dry.stdout)["bring"] == ["tokenizer.json"] and told in dry.stderr.splitlines()
    assert not home_folder("tiny-hub").exists()
    result = run("encoder", "pull", "tiny-hub", "--json")
    document = json.loads(result.stdout)
    place = home_folder("tiny-hub") / "checkpoint"
    assert (result.exit_code, document["state"], document["bring"]) == (0, "checkpoint", ["tokenizer.json"])
    assert document["next"] == f"osler encoder export tiny-hub --checkpoint {place} --tokenizer FOLDER"
    said = result.stderr.splitlines()
    assert told in said and said[-1].endswith(
        f"where the extra export is installed and FOLDER holds tokenizer.json: {document['next']}"
    )


def test_where_a_tokenizer_comes_from_is_told(run: Any, hub: HubServer, again: Any) -> None:
    hub.repositories["osler-tests/words"] = Repository({REVISION: {"vocab.txt": b"lung\n"}}, {"main": REVISION})
    for revision, why in ((REVISION, "of the registry"), (None, "the newest, for the registry names none")):
        entry = checkpoint_entry()
        words = {"kind": "wordpiece", "files": ["vocab.txt"], "hub": "osler-tests/words", "revision": revision}
        entry["text"]["tokenizer"] = words
        again(entry)
        said = run("encoder", "pull", "tiny-hub", "--dry-run").stderr.splitlines()
        assert f"from: {hub.endpoint}/osler-tests/words at commit {REVISION}, {why}" in said


def test_what_is_uncertain_stays_told_once_it_is_here(run: Any, hub: HubServer, again: Any) -> None:
    doubts = {"image.recipe": "mean not seen"}
    again(tiny_entry(uncertain=doubts, anchor={"figure": "recall 0.5", "source": "its paper"}))
    told = {"anchor": "recall 0.5 (its paper)", "citation": "none", "uncertain": doubts}
    before = json.loads(run("encoder", "info", "tiny-hub", "--json").stdout)
    assert run("encoder", "pull", "tiny-hub").exit_code == 0
    after = json.loads(run("encoder", "info", "tiny-hub", "--json").stdout)
    assert before["state"].startswith("downloadable") and (after["state"], after["entry"]) == ("here", "tiny-hub")
    listed = json.loads(run("encoder", "list", "--json").stdout)["encoders"]
    row = next(one for one in listed if one["name"] == "tiny-hub")
    for document in (before, after, row):
        assert {key: document[key] for key in told} == told
    assert "image.recipe: mean not seen" in run("encoder", "info", "tiny-hub").stdout


def test_an_encoder_without_golden_vectors_is_checked_and_that_is_said(run: Any, hub: HubServer) -> None:
    assert run("encoder", "pull", "tiny-hub").exit_code == 0
    note = "no golden vectors came with it: nothing says that its vectors are the authors'"
    result = run("encoder", "check", "tiny-hub", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["passed"], document["fault"], document["note"]) == (True, None, note)
    assert (document["needed"], document["cosines"]) == (None, {})
    assert document["devices"] == {"image": "cpu", "text": "cpu"} and document["device"] == "cpu"
    for field in ("steady", "lengths"):
        assert document[field] == pytest.approx({"image": 1.0, "text": 1.0}, abs=1e-4)
    assert set(document["speed"]) == {"image", "text"} and min(document["speed"].values()) > 0
    assert result.stderr.splitlines()[-1] == f"tiny-hub: {note}"
    table = run("encoder", "check", "tiny-hub", "--device", "cpu").stdout
    assert note in table and "text: device" in table


def test_the_commands_of_the_page_run(
    run: Any, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
    commands = [line.split()[1:] for line in page.splitlines() if line.startswith("osler encoder pull")]
    assert len(commands) == 3
    for command in commands:
        result = run(*["tiny-hub" if word == "biomedclip" else word for word in command])
        assert result.exit_code == 0, result.stderr
    assert osler.load_encoder("encoders/biomedclip").name == "tiny-hub"


def test_ctrl_c_keeps_what_came(run: Any, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("osler.encoders.fetch.pull_encoder", stop)
    result = run("encoder", "pull", "tiny-hub")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "interrupted: what came so far is kept; the same command goes on from there"
    )
