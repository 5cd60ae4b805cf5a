"""A checkpoint is read from archives and past what training programs put beside its tensors, and runs nothing."""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tarfile
import types
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from osler import EncoderError
from osler.encoders.export.weights import load_into, read_weights
from safetensors.torch import save_file

STATE = {"stem.weight": torch.arange(6.0).reshape(2, 3), "stem.bias": torch.ones(2)}


def read(path: Path, *expected: str) -> dict[str, Any]:
    return read_weights(path, expected).tensors


def is_state(found: dict[str, Any]) -> bool:
    return set(found) == set(STATE) and all(torch.equal(found[key], STATE[key]) for key in STATE)


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A class of settings under the name of Lightning's, which is gone when the file is read."""
    module = types.ModuleType("lightning_fabric.utilities.data")
    kind = type("AttributeDict", (dict,), {"__module__": module.__name__})
    module.AttributeDict = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning_fabric", types.ModuleType("lightning_fabric"))
    monkeypatch.setitem(sys.modules, "lightning_fabric.utilities", types.ModuleType("lightning_fabric.utilities"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return kind


@pytest.mark.parametrize("wrapped", [
    STATE,
    {"state_dict": STATE, "epoch": 3},
    {"model": {f"module.{key}": value for key, value in STATE.items()}, "optimizer": {"lr": 0.1}},
    {"model_state_dict": collections.OrderedDict(STATE)},
])  # fmt: skip
def test_what_is_wrapped_is_found(wrapped: Any, tmp_path: Path) -> None:
    torch.save(wrapped, tmp_path / "weights.pt")
    assert is_state(read(tmp_path / "weights.pt"))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_network_takes_tensors_and_does_not_copy_them(name: str, tmp_path: Path) -> None:
    if name.endswith(".pt"):
        torch.save(STATE, tmp_path / name)
    else:
        save_file(STATE, tmp_path / name)
    network = torch.nn.Module()
    network.stem = torch.nn.Linear(3, 2)
    tensors = read(tmp_path / name)
    load_into(network, tensors, "x")
    assert is_state(network.state_dict())
    for key, value in network.state_dict().items():
        assert value.data_ptr() == tensors[key].data_ptr()
    with torch.no_grad():
        network.stem.weight.add_(1)
    # what is changed in the network is not changed in the file
    assert is_state(read(tmp_path / name))
    half = {key: value.half() for key, value in STATE.items()}
    load_into(network, half, "x")
    assert is_state(network.state_dict()) and network.stem.weight.dtype == torch.float32


def test_settings_of_training_programs_are_passed_over(lightning: Any, tmp_path: Path) -> None:
    content = {
        "state_dict": STATE,
        "hyper_parameters": lightning(lr=1, sizes=[1, 2]),
        "args": argparse.Namespace(batch=3),
        "folder": Path("somewhere"),
        "counts": collections.defaultdict(dict, {1: 2}),
    }
    torch.save(content, tmp_path / "last.ckpt")
    del sys.modules["lightning_fabric.utilities.data"]
    assert is_state(read(tmp_path / "last.ckpt"))


class Hostile:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def test_anything_else_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "args": Hostile(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(EncoderError, match="asks for code beyond tensors") as caught:
        read(tmp_path / "weights.pt")
    assert caught.value.code == "refused_pickle" and not (tmp_path / "ran").exists()
    with zipfile.ZipFile(tmp_path / "weights.zip", "w") as archive:
        archive.write(tmp_path / "weights.pt", "weights.pt")
    with pytest.raises(EncoderError, match="asks for code beyond tensors"):
        read(tmp_path / "weights.zip")
    assert not (tmp_path / "ran").exists()


def test_archives_of_one_file_and_of_several(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE}, tmp_path / "one.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "two.pth")
    with zipfile.ZipFile(tmp_path / "one.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "one.pth", "folder/one.pth")
        archive.writestr("folder/README.txt", "weights")
    with tarfile.open(tmp_path / "both.tar", "w:gz") as both:
        both.add(tmp_path / "one.pth", "one.pth")
        both.add(tmp_path / "two.pth", "two.pth")
    assert is_state(read(tmp_path / "one.zip"))
    assert is_state(read(tmp_path / "both.tar", "one.pth"))
    with pytest.raises(EncoderError, match=r"both\.tar holds several weight files \(one\.pth, two\.pth\); unpack it"):
        read(tmp_path / "both.tar")


def test_a_member_cannot_leave_the_folder_that_it_is_unpacked_into(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "one.pth")
    (tmp_path / "inner").mkdir()
    with zipfile.ZipFile(tmp_path / "inner" / "evil.zip", "w") as archive:
        archive.write(tmp_path / "one.pth", "../../escaped.pth")
    before = set(tmp_path.rglob("*"))
    assert is_state(read(tmp_path / "inner" / "evil.zip"))
    assert set(tmp_path.rglob("*")) == before and not (tmp_path.parent / "escaped.pth").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"not a checkpoint at all"])
def test_damage_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(EncoderError) as caught:
        read(tmp_path / "weights.pt")
    assert "weights.pt" in str(caught.value) and str(tmp_path) not in str(caught.value)
