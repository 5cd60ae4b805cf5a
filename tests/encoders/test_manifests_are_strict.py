"""A manifest that says too little, too much or something false ends in one clear error, before a model is opened."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler import EncoderError
from osler.encoders.manifest import read_manifest
from osler.encoders.registry import shipped

MODELS = Path(__file__).resolve().parents[2] / "models"
PICTURE = [np.zeros((4, 4), dtype=np.uint8)]


def changed(manifest: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy with one value set, or taken out where `value` is ..."""
    copied = copy.deepcopy(manifest)
    *parents, last = path.split(".")
    inner: Any = copied
    for key in parents:
        inner = inner[int(key) if key.isdigit() else key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copied


WRONG = [
    ("surprise", 1, "surprise: extra inputs"),
    ("title", ..., "title: field required"),
    ("dim", 0, "dim: "),
    ("dim", "5", "dim: "),
    ("name", "Tiny!", "name: "),
    ("image.surprise", 1, "image.surprise: extra inputs"),
    ("image.layout", "CHWN", "image.layout: "),
    ("image.pooling", "median", "image.pooling: "),
    ("image.recipe", [], "image.recipe: "),
    ("image.recipe.0.op", "sharpen", "image.recipe.0: "),
    ("image.recipe.2.height", 0, "image.recipe.2"),
    ("image.recipe.3.std", [0.0], "scale and std must not be zero"),
    ("image.file.sha256", "abc", "image.file.sha256: "),
    ("image.file.path", "../image.onnx", "plain relative path"),
    ("image.file.path", "/etc/passwd", "plain relative path"),
    ("image.file.path", "a//image.onnx", "plain relative path"),
    ("image.file.path", "a\\image.onnx", "plain relative path"),
    ("image.converter", {"name": "efficientnet-lite0", "version": 1}, "needs golden vectors"),
    ("image.converter", {"name": "other", "version": 1}, "image.converter.name: "),
    ("text.max_length", 2, "text.max_length: "),
    ("text.inputs.ids", ..., "text.inputs.ids: field required"),
    ("logit_scale", -1.0, "logit_scale: "),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_wrong_values_are_named(tiny, path: str, value: Any, message: str) -> None:
    osler.load_encoder(tiny.save())
    tiny.manifest = changed(tiny.manifest, path, value)
    with pytest.raises(EncoderError) as caught:
        osler.load_encoder(tiny.save())
    text = str(caught.value)
    assert message in text and text.startswith("manifest.json: ")
    assert "\n" not in text and not text.endswith(".")


def test_modes_that_keep_the_shape_need_one_side(tiny) -> None:
    step = {"op": "resize", "mode": "shortest", "height": 4, "width": 5, "filter": "bicubic"}
    tiny.manifest["image"]["recipe"][2] = step
    with pytest.raises(EncoderError, match="needs height equal to width"):
        osler.load_encoder(tiny.save())


def test_no_tower_is_no_encoder(tiny) -> None:
    del tiny.manifest["image"], tiny.manifest["text"]
    with pytest.raises(EncoderError, match="needs an image tower, a text tower or both"):
        osler.load_encoder(tiny.save())


@pytest.mark.parametrize("version", [0, 2, 99, "1", True, None, 1.5])
def test_other_versions_are_refused(tiny, version: Any) -> None:
    tiny.manifest["version"] = version
    with pytest.raises(EncoderError, match="reads version 1"):
        osler.load_encoder(tiny.save())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"name": 1}', b"[" * 100_000])
def test_what_is_no_manifest_is_refused(tiny, content: bytes) -> None:
    (tiny.folder / "manifest.json").write_bytes(content)
    with pytest.raises(EncoderError, match="not a JSON object with a version"):
        osler.load_encoder(tiny.folder)


def test_a_missing_or_huge_manifest_is_refused(tiny) -> None:
    with pytest.raises(EncoderError, match=r"no manifest\.json"):
        osler.load_encoder(tiny.folder)
    (tiny.folder / "manifest.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(EncoderError, match="larger than 1 MiB"):
        osler.load_encoder(tiny.folder)


def test_a_missing_file_is_named(tiny) -> None:
    (tiny.folder / "image.onnx").unlink()
    with pytest.raises(EncoderError, match=r"image\.onnx is missing") as caught:
        osler.load_encoder(tiny.save())
    assert caught.value.code == "file_missing"


def test_another_size_is_found_at_once(tiny) -> None:
    with (tiny.folder / "image.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(EncoderError, match="bytes, the manifest says") as caught:
        osler.load_encoder(tiny.save())
    assert caught.value.code == "hash_mismatch"


@pytest.mark.parametrize(("name", "kind"), [("image.onnx", "image"), ("text.onnx", "text"), ("tokenizer.json", "text")])
def test_one_changed_bit_is_found_before_use(tiny, name: str, kind: str) -> None:
    encoder = osler.load_encoder(tiny.save())
    content = bytearray((tiny.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tiny.folder / name).write_bytes(content)
    with pytest.raises(EncoderError, match="does not have the SHA-256 of the manifest") as caught:
        encoder.encode_images(PICTURE) if kind == "image" else encoder.encode_texts(["lung"])
    assert caught.value.code == "hash_mismatch" and name in str(caught.value)


def test_symbolic_links_are_refused(tiny, tmp_path: Path) -> None:
    tiny.save()
    (tmp_path / "elsewhere.onnx").write_bytes((tiny.folder / "image.onnx").read_bytes())
    (tiny.folder / "image.onnx").unlink()
    (tiny.folder / "image.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(EncoderError, match="symbolic link"):
        osler.load_encoder(tiny.folder)


def test_links_in_the_path_are_refused(tiny, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    os.rename(tiny.folder / "image.onnx", outside / "image.onnx")
    (tiny.folder / "inside").symlink_to(outside)
    tiny.manifest["image"]["file"]["path"] = "inside/image.onnx"
    with pytest.raises(EncoderError, match="symbolic link"):
        osler.load_encoder(tiny.save())


def test_a_linked_manifest_is_refused(tiny, tmp_path: Path) -> None:
    os.rename(tiny.save() / "manifest.json", tmp_path / "manifest.json")
    (tiny.folder / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(EncoderError, match=r"no manifest\.json"):
        osler.load_encoder(tiny.folder)


def test_a_missing_package_is_named_with_its_installation(tiny) -> None:
    tiny.manifest["image"]["file"] = {
        "package": "osler-no-such-weights",
        "version": "1.0",
        "path": "weights/model.onnx",
        "sha256": "0" * 64,
        "size": 1,
    }
    with pytest.raises(EncoderError, match="pip install") as caught:
        osler.load_encoder(tiny.save())
    assert caught.value.code == "package_missing" and "osler-no-such-weights" in str(caught.value)


def test_an_unknown_name_gets_the_nearest_and_the_way_out() -> None:
    with pytest.raises(EncoderError, match=r"did you mean 'minilm'\?.*or pass a folder") as caught:
        osler.load_encoder("minilmm")
    assert caught.value.code == "unknown_encoder"
    with pytest.raises(EncoderError, match="folder does not exist") as caught:
        osler.load_encoder("/no/such/folder-of-mrs-smith")
    assert "smith" not in str(caught.value)
    with pytest.raises(TypeError, match="named by a str or a path"):
        osler.load_encoder(3)  # type: ignore[arg-type]


def test_borrowing_needs_a_tower_to_borrow(tiny) -> None:
    tiny.manifest["image"] = {"encoder": "minilm"}
    with pytest.raises(EncoderError, match="has none of its own"):
        osler.load_encoder(tiny.save())
    tiny.manifest["image"] = {"encoder": "nobody"}
    with pytest.raises(EncoderError, match="does not ship"):
        osler.load_encoder(tiny.save())


def test_shipped_manifests_have_current_hashes_and_no_stray_file() -> None:
    for name, folder in shipped().items():
        manifest = read_manifest(folder)
        assert manifest.name == name
        text = (folder / "manifest.json").read_text()
        named = {"manifest.json", *_paths(json.loads(text))}
        for path in named - {"manifest.json"}:
            content = (folder / path).read_bytes()
            assert hashlib.sha256(content).hexdigest() in text and f'"size": {len(content)}' in text, path
        assert {path.name for path in folder.iterdir() if path.suffix in (".npz", ".json", ".onnx")} == named


def _paths(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["path"]} if "path" in value and not {"package", "parts"} & set(value) else set()
        return own.union(*(_paths(inner) for inner in value.values()))
    return set().union(*(_paths(inner) for inner in value)) if isinstance(value, list) else set()


def test_sealing_enters_sizes_and_hashes(tiny) -> None:
    before = copy.deepcopy(tiny.manifest)
    for entry in (tiny.manifest["image"]["file"], tiny.manifest["text"]["file"], tiny.manifest["text"]["tokenizer"]):
        entry |= {"sha256": "0" * 64, "size": 1}
    subprocess.run([sys.executable, str(MODELS / "seal.py"), str(tiny.save())], check=True, capture_output=True)
    assert json.loads((tiny.folder / "manifest.json").read_text()) == before
    assert osler.load_encoder(tiny.folder).encode_images(PICTURE).shape == (1, 5)
