"""The tiny encoder as a repository of a hub and as an entry of the registry, for tests of `pull`.

Changes the registry of this process only, and only inside a fixture or a program of a test's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hub_server import HubServer, Repository, hub_server
from osler.encoders.entry import Entry, _recipes, entries, recipe
from osler.encoders.volume_recipe import AnyStep
from pydantic import TypeAdapter
from tiny_encoder import TinyEncoder, image_model

__all__ = [
    "FILES",
    "HUB",
    "NEWER",
    "REVISION",
    "checkpoint_entry",
    "enter",
    "program",
    "tiny_entry",
    "tiny_hub",
    "tiny_repository",
    "with_hashes",
]

HUB = "osler-tests/tiny"
REVISION, NEWER = "1" * 39 + "a", "2" * 39 + "b"
FILES = ("onnx/image.onnx", "onnx/image.onnx_data", "onnx/text.onnx", "tokenizer.json")


def tiny_repository(tiny: TinyEncoder, *, pad: int = 0) -> Repository:
    """Return a repository with the encoder's graphs in a sub-folder and the weights of one as external data.

    Its newer commit, which `main` names, has other image weights. `pad` makes the external data so many bytes longer.
    """
    commits = {}
    for revision, weights in ((REVISION, tiny.image_weights), (NEWER, tiny.image_weights[::-1].copy())):
        folder = tiny.folder.parent / f"graph-{revision}"
        folder.mkdir()
        model = image_model(weights)
        onnx.save(
            model,
            str(folder / "image.onnx"),
            save_as_external_data=True,
            location="image.onnx_data",
            size_threshold=0,
        )
        noise = np.random.default_rng(0).bytes(pad)
        commits[revision] = {
            "onnx/image.onnx": (folder / "image.onnx").read_bytes(),
            "onnx/image.onnx_data": (folder / "image.onnx_data").read_bytes() + noise,
            "onnx/text.onnx": (tiny.folder / "text.onnx").read_bytes(),
            "tokenizer.json": (tiny.folder / "tokenizer.json").read_bytes(),
            "weights.bin": weights.tobytes(),
            "README.md": b"a tiny encoder",
        }
    return Repository(commits, {"main": NEWER, "v1": REVISION}, licence="mit")


@contextlib.contextmanager
def tiny_hub(tiny: TinyEncoder, home: Path, monkeypatch: pytest.MonkeyPatch, *, pad: int = 0) -> Iterator[HubServer]:
    """Run a hub with the repository, and have the entry in the registry until the end; pauses take no time."""
    from huggingface_hub import close_session

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "OSLER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("osler.encoders.hub._pause", lambda seconds: None)
    monkeypatch.setitem(entries(), "tiny-hub", entries()["biomedclip"])  # so that what `enter` puts there goes again
    monkeypatch.setitem(_recipes(), "tiny-4", recipe("open_clip-224"))
    enter(tiny_entry(), tiny.manifest["image"]["recipe"])
    with hub_server() as server:
        server.repositories[HUB] = tiny_repository(tiny, pad=pad)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("OSLER_HOME", str(home))
        yield server
        close_session()


def tiny_entry(**changes: Any) -> dict[str, Any]:
    """Return the entry as plain values, pinned to the older commit and without hashes."""
    entry: dict[str, Any] = {
        "version": 1,
        "name": "tiny-hub",
        "title": "tiny encoder of known arithmetic",
        "purpose": "tests",
        "domain": "general",
        "licence": {"id": "MIT"},
        "citation": "none",
        "dim": 5,
        "image": {"recipe": "tiny-4"},
        "text": {"tokenizer": {"kind": "tokenizer.json", "files": ["tokenizer.json"]}, "max_length": 6},
        "logit_scale": "checkpoint",
        "architecture": {"builder": "open_clip"},
        "sources": [
            {
                "kind": "onnx",
                "hub": HUB,
                "revision": REVISION,
                "files": [{"path": path} for path in FILES],
                "image": {
                    "file": "onnx/image.onnx",
                    "external": ["onnx/image.onnx_data"],
                    "input": "pixels",
                    "output": "vector",
                },
                "text": {
                    "file": "onnx/text.onnx",
                    "inputs": {"ids": "ids"},
                    "output": "states",
                    "pooling": "mean",
                    "tokenizer": "tokenizer.json",
                },
            }
        ],
    }
    return {**entry, **changes}


def checkpoint_entry(*beside: str, **changes: Any) -> dict[str, Any]:
    """Return the entry with a checkpoint as its only source; `beside` are files beside the weights."""
    files = [{"path": path} for path in ("weights.bin", *beside)]
    source = {"kind": "checkpoint", "hub": HUB, "revision": REVISION, "files": files}
    return tiny_entry(sources=[source], **changes)


def with_hashes(entry: dict[str, Any], repository: Repository, revision: str = REVISION) -> dict[str, Any]:
    """Return the entry with size and SHA-256 of every file of its first source."""
    contents = repository.commits[revision]
    source = entry["sources"][0]
    files = [
        {
            "path": one["path"],
            "size": len(contents[one["path"]]),
            "sha256": hashlib.sha256(contents[one["path"]]).hexdigest(),
        }
        for one in source["files"]
    ]
    return {**entry, "sources": [{**source, "files": files}, *entry["sources"][1:]]}


def enter(entry: dict[str, Any], steps: list[dict[str, Any]]) -> None:
    """Put an entry and its recipe into the registry of this process."""
    entries()[entry["name"]] = Entry.model_validate_json(json.dumps(entry))
    adapter: TypeAdapter[tuple[AnyStep, ...]] = TypeAdapter(tuple[AnyStep, ...])
    _recipes()["tiny-4"] = adapter.validate_json(json.dumps(steps))


def program(entry: dict[str, Any], steps: list[dict[str, Any]], body: str) -> str:
    """Return a Python program that does `body` with the entry in its registry."""
    tests = str(Path(__file__).parent)
    return (
        f"import json, sys\nsys.path.insert(0, {tests!r})\nfrom hub_entry import enter\n"
        f"enter(json.loads({json.dumps(entry)!r}), json.loads({json.dumps(steps)!r}))\n{body}\n"
    )
