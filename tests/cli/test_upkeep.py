"""`osler index erase`, `audit`, `recover` and `verify --repair`: what they do, print and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest


@pytest.fixture
def copy(cases: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cases, tmp_path / "copy.osler"))


def test_erase_says_first_what_it_would_do(run: Any, copy: Path) -> None:
    before = len(osler.Collection.open(copy))
    said = json.loads(run("index", "erase", copy, "--key", "grey.png", "--dry-run", "--json").stdout)
    assert said == {"would_erase": 1, "items": before}
    done = json.loads(run("index", "erase", copy, "--key", "grey.png", "--json").stdout)
    assert (done["items"], done["versions"]) == (1, 1)
    with osler.Collection.open(copy) as cases:
        assert len(cases) == before - 1
        cases.verify()
    assert not [file for file in copy.rglob("*") if file.is_file() and b"grey.png" in file.read_bytes()]
    wrong = run("index", "erase", copy)
    assert wrong.exit_code == 2 and "either --key, once or more, or --where" in wrong.stderr


def test_audit_shows_columns_and_no_value(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.osler"
    with osler.Collection.create(path, dim=2) as cases:
        cases.add_vectors(["a"], None, metadata=[{"note": "Doe^Jane"}])
    plain = run("index", "audit", path)
    assert plain.exit_code == 0 and "person_name" in plain.stdout and "note" in plain.stdout
    assert "Jane" not in plain.stdout + plain.stderr
    assert json.loads(run("index", "audit", path, "--json").stdout)["findings"][0]["column"] == "note"


def test_recover_lists_states_and_puts_one_in_force(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "cases.osler"
    with osler.Collection.create(path, dim=2) as cases:
        cases.add_vectors(["a"], np.eye(2)[:1])
        cases.add_vectors(["b"], np.eye(2)[1:])
    newest = max((path / "manifests").iterdir())
    data = bytearray(newest.read_bytes())
    data[4_200] ^= 1
    newest.write_bytes(bytes(data))
    assert run("index", "info", path).exit_code == 1
    states = json.loads(run("index", "recover", path, "--json").stdout)["states"]
    assert [(state["commit"], state["items"], bool(state["findings"])) for state in states] == [
        (2, None, True),
        (1, 1, False),
        (0, 0, False),
    ]
    assert json.loads(run("index", "recover", path, "--to", "1", "--json").stdout) == {"commit": 3, "from": 1}
    assert osler.Collection.open(path).keys() == ["a"]


def test_verify_repairs_graphs_alone(run: Any, tmp_path: Path, copy: Path) -> None:
    path = tmp_path / "cases.osler"
    with osler.Collection.create(path, dim=8) as cases:
        cases.add_vectors([str(row) for row in range(2_100)], np.random.default_rng(0).normal(size=(2_100, 8)))
    (graph,) = (path / "graphs").iterdir()
    graph.write_bytes(b"")
    assert run("index", "verify", path).exit_code == 1
    assert run("index", "verify", path, "--repair").exit_code == 0
    assert run("index", "verify", path).exit_code == 0
    index = tmp_path / "a.index"
    osler.Index.build(np.eye(3, dtype=np.float32)).save(index)
    assert run("index", "verify", index, "--repair").exit_code == 2
