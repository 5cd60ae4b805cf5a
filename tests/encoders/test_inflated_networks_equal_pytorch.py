"""The converter of I3ResNets gives what PyTorch gives, on a small network of the same structure with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from osler import EncoderError
from osler.encoders.checkpoint import read_checkpoint, widened
from osler.encoders.convert import i3resnet
from osler.encoders.manifest import JoinedFile, PackageFile, read_manifest
from osler.encoders.registry import shipped

# i3resnet.pt is in bfloat16 with blocks (1, 2, 2, 1); i3resnet.npz has volumes and the vectors that PyTorch 2.15.0 gave
WRITTEN = Path(__file__).resolve().parents[1] / "fixtures" / "torch-2.15.0"
CONTENT = (WRITTEN / "i3resnet.pt").read_bytes()


def test_vectors_equal_those_of_pytorch() -> None:
    expected = np.load(WRITTEN / "i3resnet.npz")
    model = i3resnet.convert(CONTENT, "i3resnet152")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    volumes = expected["volumes"].astype(np.float32) / 255
    (vectors,) = session.run(["embedding"], {"volume": volumes})
    assert vectors.shape == expected["vectors"].shape == (2, 64)
    np.testing.assert_allclose(vectors, expected["vectors"], rtol=1e-4, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    # the axes are not interchangeable
    (turned,) = session.run(["embedding"], {"volume": volumes.transpose(0, 1, 4, 3, 2)})
    assert np.abs(turned - vectors).max() > 1e-2


def test_weights_stay_in_bfloat16() -> None:
    model = onnx.load_from_string(i3resnet.convert(CONTENT, "i3resnet152"))
    onnx.checker.check_model(model, full_check=True)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds["layer3.0.conv2.weight"] == onnx.TensorProto.BFLOAT16
    assert kinds["layer3.0.bn2.running_var"] == onnx.TensorProto.FLOAT
    assert model.ByteSize() < 1.3 * len(CONTENT)


def test_other_tensors_than_the_networks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = read_checkpoint(CONTENT)
    assert widened(state["conv1.weight"]).shape == (2, 3, 3, 7, 7)
    changed = {
        "one missing": {key: value for key, value in state.items() if key != "layer2.1.bn3.bias"},
        "one more": {**state, "classifier.weight": np.zeros((2, 64), dtype=np.float32)},
        "a stage missing": {key: value for key, value in state.items() if not key.startswith("layer4")},
        "no shortcut": {key: value for key, value in state.items() if ".downsample." not in key},
        "another kernel": {**state, "layer1.0.conv2.weight": np.zeros((2, 2, 1, 1, 1), dtype=np.float32)},
        "another width": {**state, "layer1.0.bn1.weight": np.zeros(3, dtype=np.float32)},
    }
    for case, tensors in changed.items():
        monkeypatch.setattr(i3resnet, "read_checkpoint", lambda content, tensors=tensors: tensors)
        with pytest.raises(EncoderError, match="does not hold the tensors of an I3ResNet"):
            pytest.fail(f"{case}: {len(i3resnet.convert(CONTENT, 'i3resnet152'))} bytes")


def test_astra_is_joined_from_three_packages() -> None:
    image = read_manifest(shipped()["astra-chest-ct"]).image
    file = getattr(image, "file", None)
    assert isinstance(file, JoinedFile) and len(file.parts) == 3
    for number, part in enumerate(file.parts, 1):
        assert isinstance(part, PackageFile) and part.package.endswith(f"-p{number}")
        assert part.install is not None and all(other.package in part.install for other in file.parts)
