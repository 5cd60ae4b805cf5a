"""A folder that pools the slices of an encoder of pictures is an encoder of volumes, with a space of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnx
import osler
import pytest
from onnx import TensorProto, helper
from osler.encoders.check import check_encoder
from osler.encoders.slice_encoder import make_slice_encoder
from osler.errors import EncoderError
from osler.items import Volume
from tiny_encoder import TinyEncoder, tiny_volume_encoder


def scan(rng: np.random.Generator) -> Volume:
    return Volume(rng.integers(-1000, 1000, (9, 8, 5)).astype(np.int16), np.diag([-0.8, -0.8, 3.0, 1.0]), units="HU")


def network(path: Path, kind: str = "ReduceMax", keep: int = 5) -> Path:
    """(n, 5) to (keep,): the greatest of each number, or fewer of them."""
    nodes = [helper.make_node(kind, ["vectors"], ["all"], axes=[0], keepdims=0)]
    nodes.append(helper.make_node("Slice", ["all", "start", "end"], ["pooled"]))
    graph = helper.make_graph(
        nodes,
        "pooler",
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["slices", 5])],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [keep])],
        [onnx.numpy_helper.from_array(np.array([at]), name) for name, at in (("start", 0), ("end", keep))],
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )
    return path


@pytest.mark.parametrize("pooling", ["mean", "median", "max", "std", "learned"])
def test_vectors_are_those_of_encode_volumes(
    pooling: str, tiny: TinyEncoder, tmp_path: Path, rng: np.random.Generator
) -> None:
    flat = osler.load_encoder(tiny.save())
    rule: Any = network(tmp_path / "net.onnx") if pooling == "learned" else pooling
    folder = make_slice_encoder(tiny.folder, tmp_path / "pooled", rule, axis="coronal", window=(-160, 240))
    shutil.rmtree(tiny.folder)
    (tmp_path / "net.onnx").unlink(missing_ok=True)
    pooled = osler.load_encoder(folder)
    assert pooled.takes == "volume" and pooled.modalities == ("image", "text") and not pooled.gives_tokens
    volumes = [scan(rng), scan(rng)]
    shutil.copytree(folder, tiny.folder)
    document = json.loads((tiny.folder / "manifest.json").read_text())
    del document["slices"]
    (tiny.folder / "manifest.json").write_text(json.dumps(document))
    again: Any = network(tmp_path / "net.onnx") if pooling == "learned" else pooling
    expected = osler.load_encoder(tiny.folder).encode_volumes(volumes, again, axis="coronal", window=(-160, 240))
    np.testing.assert_array_equal(pooled.encode_images(volumes), expected)
    assert check_encoder(pooled).passed
    assert flat.fingerprint != pooled.fingerprint


def test_each_rule_is_a_space_of_its_own(tiny: TinyEncoder, tmp_path: Path) -> None:
    flat = osler.load_encoder(tiny.save())
    rules: list[tuple[Any, dict[str, Any]]] = [
        ("mean", {}),
        ("max", {}),
        ("mean", {"axis": "sagittal"}),
        ("mean", {"window": (0, 80)}),
        (network(tmp_path / "a.onnx"), {}),
        (network(tmp_path / "b.onnx", "ReduceMin"), {}),
    ]
    prints = {
        osler.load_encoder(make_slice_encoder(tiny.folder, tmp_path / f"{number}", rule, **options)).fingerprint
        for number, (rule, options) in enumerate(rules)
    }
    assert len(prints | {flat.fingerprint}) == len(rules) + 1


def test_a_collection_has_one_vector_for_a_scan_and_is_asked_in_words(
    tiny: TinyEncoder, tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = make_slice_encoder(tiny.save(), tmp_path / "pooled", "mean")
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a", "b"):
        volume = scan(rng)
        nibabel.save(nibabel.Nifti1Image(volume.array, volume.affine), scans / f"{name}.nii.gz")
    with osler.Collection.create(tmp_path / "cases.osler", encoder=folder) as cases:
        assert cases.add(scans, progress=False).added == 2
        assert len(cases.part_vectors().vectors) == 2
    with osler.Collection.open(tmp_path / "cases.osler") as again:
        hit = again.search(image=scans / "b.nii.gz", k=1)[0]
        assert hit.key == "b.nii.gz" and hit.score > 0.9999
        assert len(again.search(text="lung", k=2)) == 2
    other = osler.load_encoder(make_slice_encoder(tiny.folder, tmp_path / "other", "max"))
    with pytest.raises(osler.Error, match="encoder"):
        osler.Collection.open(tmp_path / "cases.osler", encoder=other)


def test_one_that_ships_keeps_its_golden_pictures(tmp_path: Path) -> None:
    folder = make_slice_encoder("efficientnet-lite0", tmp_path / "pooled", "median", window=(-160, 240))
    found = check_encoder(osler.load_encoder(folder))
    assert found.passed and found.needed == 0.9999 and len(found.cosines["image"]) >= 3
    assert not (folder / "golden.npz").is_symlink()


def test_what_cannot_be_made_is_one_sentence(tiny: TinyEncoder, tmp_path: Path, rng: np.random.Generator) -> None:
    tiny.save()
    pooled = make_slice_encoder(tiny.folder, tmp_path / "pooled")
    with pytest.raises(EncoderError, match="has no tower of pictures whose slices could be pooled"):
        make_slice_encoder(pooled, tmp_path / "twice")
    with pytest.raises(EncoderError, match="has no tower of pictures"):
        make_slice_encoder("minilm", tmp_path / "text")
    three = tiny_volume_encoder(tmp_path / "three", rng).save()
    with pytest.raises(EncoderError, match="has no tower of pictures"):
        make_slice_encoder(three, tmp_path / "volumes")
    with pytest.raises(FileExistsError, match="is not empty"):
        make_slice_encoder(tiny.folder, pooled)
    with pytest.raises(ValueError, match="pooling is neither one of 'mean'"):
        make_slice_encoder(tiny.folder, tmp_path / "no", "sum")
    with pytest.raises(EncoderError, match="the pooler gives 3 numbers, and the encoder's vectors have 5"):
        make_slice_encoder(tiny.folder, tmp_path / "no", network(tmp_path / "few.onnx", keep=3))
    with pytest.raises(EncoderError, match="the window's first value must be below its second"):
        make_slice_encoder(tiny.folder, tmp_path / "no", window=(5, 5))
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["pooled", "three", "tiny"]
    document = json.loads((pooled / "manifest.json").read_text())
    document["slices"]["pooler"] = document["image"]["file"]
    (pooled / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(EncoderError, match="name either a pooling or a pooler"):
        osler.load_encoder(pooled)


def test_a_hostile_manifest_reaches_no_file_outside(tiny: TinyEncoder, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("mine")
    (tiny.folder / "s").symlink_to(tmp_path / "tiny")
    tiny.manifest["uncertain"] = {"path": "s/../../profile", "sha256": "0" * 64, "size": "1"}
    make_slice_encoder(tiny.save(), tmp_path / "pooled")
    assert (tmp_path / "profile").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "pooled").iterdir()) == [
        "image.onnx",
        "manifest.json",
        "text.onnx",
        "tokenizer.json",
    ]
    (tiny.folder / "image.onnx").rename(tmp_path / "elsewhere.onnx")
    (tiny.folder / "image.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(EncoderError, match="symbolic link"):
        make_slice_encoder(tiny.folder, tmp_path / "linked")


def test_a_network_may_have_the_name_of_a_weight_file(tiny: TinyEncoder, tmp_path: Path) -> None:
    (tiny.folder / "image.onnx").rename(tiny.folder / "pooler.onnx")
    tiny.manifest["image"]["file"] = tiny.enter("pooler.onnx")
    folder = make_slice_encoder(tiny.save(), tmp_path / "pooled", network(tmp_path / "net.onnx"))
    assert check_encoder(osler.load_encoder(folder)).passed


def test_a_stop_is_heard_within_a_volume(tiny: TinyEncoder, tmp_path: Path, rng: np.random.Generator) -> None:
    pooled = osler.load_encoder(make_slice_encoder(tiny.save(), tmp_path / "pooled"))
    long = Volume(rng.integers(0, 9, (4, 4, 400)).astype(np.int16), np.eye(4))
    calls = iter(range(10))
    with pytest.raises(KeyboardInterrupt):
        pooled.encode_images([long], progress=lambda done, total: next(calls) < 2)
    assert next(calls) == 3
