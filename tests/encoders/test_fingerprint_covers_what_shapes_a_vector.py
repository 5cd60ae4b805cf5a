"""The fingerprint changes with everything that can change a vector, and with nothing else."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import numpy as np
import osler
import pytest


def fingerprint(tiny: Any) -> str:
    return osler.load_encoder(tiny.save()).fingerprint


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("image", "recipe", 2, "filter"), "bicubic"),
        (("image", "recipe", 2, "antialias"), False),
        (("image", "recipe", 3, "mean"), [0.4]),
        (("image", "recipe", 0, "rule"), "minmax"),
        (("image", "pooling"), "cls"),
        (("image", "output"), "other"),
        (("image", "layout"), "NHWC"),
        (("text", "max_length"), 7),
        (("text", "pooling"), "cls"),
        (("text", "pad_to_max"), True),
    ],
)
def test_changes_with_what_shapes_a_vector(tiny, where: tuple[Any, ...], value: Any) -> None:
    before = fingerprint(tiny)
    inner = tiny.manifest
    for key in where[:-1]:
        inner = inner[key]
    assert inner.get(where[-1]) != value
    inner[where[-1]] = value
    assert fingerprint(tiny) != before


def test_changes_with_files_and_steps(tiny) -> None:
    seen = {fingerprint(tiny)}
    (tiny.folder / "other.onnx").write_bytes((tiny.folder / "image.onnx").read_bytes() + b"\x08\x08")
    tiny.manifest["image"]["file"] = tiny.enter("other.onnx")
    seen.add(fingerprint(tiny))
    (tiny.folder / "tokenizer.json").write_text((tiny.folder / "tokenizer.json").read_text() + " ")
    tiny.manifest["text"]["tokenizer"] = tiny.enter("tokenizer.json")
    seen.add(fingerprint(tiny))
    steps = tiny.manifest["image"]["recipe"]
    steps[1], steps[2] = steps[2], steps[1]
    seen.add(fingerprint(tiny))
    np.savez(tiny.folder / "map.npz", centre=np.zeros(5))
    tiny.manifest["image"]["projection"] = {"file": tiny.enter("map.npz")}
    seen.add(fingerprint(tiny))
    np.savez(tiny.folder / "map.npz", centre=np.ones(5))
    tiny.manifest["image"]["projection"] = {"file": tiny.enter("map.npz")}
    seen.add(fingerprint(tiny))
    del tiny.manifest["text"]
    seen.add(fingerprint(tiny))
    assert len(seen) == 7


def test_stays_with_names_places_and_speed(tiny, tmp_path) -> None:
    before = fingerprint(tiny)
    shutil.copytree(tiny.folder, tmp_path / "elsewhere")
    tiny.folder = tmp_path / "elsewhere"
    tiny.manifest = copy.deepcopy(tiny.manifest)
    tiny.manifest |= {"title": "another", "name": "other", "purpose": "none", "citation": "x", "logit_scale": 3.0}
    tiny.manifest["image"] |= {"batch_size": 3}
    (tiny.folder / "image.onnx").rename(tiny.folder / "renamed.onnx")
    tiny.manifest["image"]["file"]["path"] = "renamed.onnx"
    assert fingerprint(tiny) == before


def test_a_borrowed_tower_counts_as_the_lenders(tiny) -> None:
    del tiny.manifest["image"]
    tiny.manifest |= {"dim": 384, "text": {"encoder": "minilm"}}
    assert fingerprint(tiny) == osler.load_encoder("minilm").fingerprint
    names = ("efficientnet-lite0", "minilm", "reference")
    assert len({osler.load_encoder(name).fingerprint for name in names}) == 3
