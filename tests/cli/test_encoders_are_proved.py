"""`osler encoder check` and `export` say in one sentence what is wrong, and prove what is right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from osler import EncoderError
from tiny_encoder import tiny_encoder


def test_check_reports_golden_vectors_device_and_speed(run: Any) -> None:
    found = run("encoder", "check", "minilm", "--json")
    assert found.exit_code == 0, found.stderr
    document = json.loads(found.stdout)
    assert document["passed"] and document["device"] == "cpu" and document["precision"] == "int8"
    assert len(document["cosines"]["text"]) == 8 and min(document["cosines"]["text"]) >= document["needed"]
    assert document["speed"]["text"] > 0


def test_vectors_that_differ_fail(run: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    tiny = tiny_encoder(tmp_path / "tiny", rng)
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    images[1] = 200
    vectors = np.eye(2, 5, dtype=np.float32)
    arrays = {"image_0": images[0] + 7, "image_1": images[1], "image_vectors": vectors}
    np.savez(
        tiny.folder / "golden.npz", **arrays, texts=np.array(["lung"]), text_vectors=np.eye(1, 5, dtype=np.float32)
    )
    tiny.manifest["golden"] = {"file": tiny.enter("golden.npz"), "cosine": 0.999}
    folder = tiny.save()
    found = run("encoder", "check", str(folder), "--json")
    assert found.exit_code == 1
    assert "does not give its golden vectors on cpu" in found.stderr and "export it again" in found.stderr
    assert json.loads(found.stdout)["passed"] is False


def golden(tiny: Any) -> Path:
    """Give the tiny encoder its own vectors as golden ones."""
    from osler import load_encoder

    pictures = [np.full((6, 5, 3), value, dtype=np.uint8) for value in (30, 90, 200)]
    pictures[1][:3] = 7
    texts = ["lung", "clear heart"]
    encoder = load_encoder(tiny.save())
    arrays = {f"image_{i}": picture for i, picture in enumerate(pictures)}
    arrays["image_vectors"] = encoder.encode_images(pictures)
    arrays["text_vectors"] = encoder.encode_texts(texts)
    np.savez(tiny.folder / "golden.npz", **arrays, texts=np.array(texts))
    tiny.manifest["golden"] = {"file": tiny.enter("golden.npz"), "cosine": 0.999}
    return tiny.save()


def test_vectors_that_depend_on_their_batch_are_found(run: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    tiny = tiny_encoder(tmp_path / "tiny", rng)
    model = onnx.load(tiny.folder / "image.onnx")
    model.graph.node.insert(0, onnx.helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[0], keepdims=1))
    model.graph.node.insert(1, onnx.helper.make_node("Sub", ["pixels", "half"], ["centred"]))
    model.graph.node.insert(1, onnx.helper.make_node("Mul", ["mean", "share"], ["half"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([0.5]), "share"))
    model.graph.node[-2].input[0] = "centred"
    onnx.save(model, str(tiny.folder / "image.onnx"))
    tiny.manifest["image"]["file"] = tiny.enter("image.onnx")
    for folder in (tiny.save(), golden(tiny)):
        found = run("encoder", "check", folder, "--json")
        document = json.loads(found.stdout)
        assert (found.exit_code, document["passed"], document["fault"]) == (1, False, "unsteady")
        assert document["steady"]["image"] < 0.9999 <= document["steady"]["text"]
        assert "gives an input alone another vector than among others on cpu; do not build" in found.stderr


def test_golden_vectors_are_proved_where_there_are_any(run: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    document = json.loads(run("encoder", "check", golden(tiny_encoder(tmp_path / "tiny", rng)), "--json").stdout)
    assert (document["passed"], document["note"], document["needed"]) == (True, None, 0.999)
    assert {kind: len(values) for kind, values in document["cosines"].items()} == {"image": 3, "text": 2}


def test_each_tower_names_its_device(tmp_path: Path, rng: np.random.Generator, monkeypatch: Any) -> None:
    from osler import load_encoder
    from osler.encoders.check import check_encoder

    encoder = load_encoder(tiny_encoder(tmp_path / "tiny", rng).save(), device="cpu")
    monkeypatch.setattr(encoder._tower("image").session, "device", "cuda")  # as where a graphics card takes one alone
    found = check_encoder(encoder)
    assert found.devices == {"image": "cuda", "text": "cpu"} and found.device == "cpu and cuda" and found.passed


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"cosines": {"image": (1.0, 0.98)}}, "golden_mismatch"),
        ({"cosines": {"image": (float("nan"),)}}, "golden_mismatch"),
        ({"lengths": {"image": 1.1}}, "not_unit"),
        ({"lengths": {"image": float("nan")}}, "not_unit"),
        ({"steady": {"image": 1.0, "text": 0.9}}, "unsteady"),
        ({"steady": {"image": float("nan")}}, "unsteady"),
    ],
)
def test_one_bad_number_is_a_fault(changes: dict[str, Any], fault: str | None) -> None:
    from osler.encoders.check import Check

    good: dict[str, Any] = {
        "name": "tiny",
        "needed": 0.99,
        "cosines": {"image": (1.0,)},
        "steady": {"image": 1.0},
        "lengths": {"image": 1.0},
        "devices": {"image": "cpu"},
    }
    found = Check(**(good | changes))
    assert (found.fault, found.passed) == (fault, fault is None)


def test_export_without_pytorch_says_what_to_install(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    found = run("encoder", "export", "biomedclip", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "out"))
    assert found.exit_code == 1 and 'pip install "osler[export]"' in found.stderr
    assert not (tmp_path / "out").exists() and "torch" not in sys.modules


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("biomedclp", 2, 'no encoder "biomedclp"'),
        ("rudolfv", 1, "no public weights were found"),
        ("minilm", 1, "the registry has no encoder 'minilm' to export"),
    ],
)
def test_what_cannot_be_exported_says_why(run: Any, tmp_path: Path, name: str, code: int, words: str) -> None:
    found = run("encoder", "export", name, "--checkpoint", str(tmp_path))
    assert found.exit_code == code and words in found.stderr
    assert len(found.stderr.strip().splitlines()) <= 2


def test_a_folder_that_is_not_empty_is_kept(run: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    found = run("encoder", "export", "biomedclip", "--checkpoint", str(tmp_path), "--out", str(tmp_path / "out"))
    assert found.exit_code == 2 and "exists and is not empty" in found.stderr
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_the_library_raises_for_a_precision_that_there_is_not(tmp_path: Path) -> None:
    from osler.encoders.export import export_encoder

    with pytest.raises(ValueError, match="must be 'fp32', 'fp16' or 'int8'"):
        export_encoder("biomedclip", tmp_path, precision="bf16")
    with pytest.raises(EncoderError, match="no encoder 'nobody'"):
        export_encoder("nobody", tmp_path)


def test_an_encoder_of_pictures_is_pooled_to_one_of_volumes(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pooled"
    arguments = ["encoder", "pool", "efficientnet-lite0", "--pooling", "max", "--window", -160, 240, "--out", folder]
    made = run(*arguments, "--json")
    assert made.exit_code == 0, made.stderr
    document = json.loads(made.stdout)
    assert document["dim"] == 1280 and document["folder"] == str(folder) and len(document["fingerprint"]) == 64
    proved = run("encoder", "check", folder, "--json")
    assert proved.exit_code == 0 and json.loads(proved.stdout)["passed"], proved.stderr
    again = run(*arguments)
    assert again.exit_code == 2 and "is not empty; name another" in again.stderr
