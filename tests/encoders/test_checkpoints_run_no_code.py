"""The checkpoint reader gives tensors, and refuses every file that asks for anything else."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler import EncoderError
from osler.encoders.checkpoint import BFLOAT16, read_checkpoint, widened

MAGIC = 0x1950A86A20F9469CFC6C
# written by torch.save of PyTorch 2.15.0; the zip file holds {"state_dict": ..., "meta": ...}
WRITTEN = Path(__file__).resolve().parents[1] / "fixtures" / "torch-2.15.0"


class Global:
    """Pickles as a bare global, as "torch.FloatStorage" is in such a file."""

    def __init__(self, name: str) -> None:
        self.name = name


class Rebuilt:
    """Pickles as torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, False, OrderedDict())."""

    def __init__(self, key: str, count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.key, self.count, self.offset, self.shape, self.stride = key, count, offset, shape, stride


class Writer(pickle._Pickler):  # the pure-Python pickler, whose opcodes can be written by hand
    zipped = False

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, Global):
            module, name = value.name.rsplit(".", 1)
            self.write(b"c" + f"{module}\n{name}\n".encode())
        elif isinstance(value, Rebuilt):
            self.save(Global("torch._utils._rebuild_tensor_v2"))
            self.write(b"(")
            view = () if self.zipped else (None,)
            super().save(("storage", Global("torch.FloatStorage"), value.key, "cpu", value.count, *view))
            self.write(b"Q")
            for part in (value.offset, value.shape, value.stride, False, OrderedDict()):
                super().save(part)
            self.write(b"tR")
        else:
            super().save(value, save_persistent_id)


def checkpoint(state: Any, storages: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    for value in (MAGIC, 1001, {"little_endian": True}, state, list(storages)):
        writer = Writer(stream, protocol=2)
        writer.fast = True
        writer.dump(value)
    for values in storages.values():
        stream.write(struct.pack("<q", values.size) + values.astype("<f4").tobytes())
    return stream.getvalue()


def zipped(
    state: Any, storages: dict[str, np.ndarray], compression: int = zipfile.ZIP_STORED, order: bytes = b"little"
) -> bytes:
    stream, pickled = io.BytesIO(), io.BytesIO()
    writer = Writer(pickled, protocol=2)
    writer.fast = writer.zipped = True
    writer.dump(state)
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled.getvalue())
        archive.writestr("model/byteorder", order)
        for key, values in storages.items():
            archive.writestr(f"model/data/{key}", values.astype("<f4").tobytes())
    return stream.getvalue()


def small(form: Any = checkpoint) -> bytes:
    storages = {"a": np.arange(12, dtype=np.float32), "b": np.arange(3, dtype=np.float32)}
    state = OrderedDict(
        x=Rebuilt("a", 12, 0, (3, 4), (4, 1)), y=Rebuilt("a", 12, 2, (2, 3), (1, 4)), z=Rebuilt("b", 3, 1, (2,), (1,))
    )
    return form(state, storages)


@pytest.mark.parametrize("name", ["zip.pt", "pickles.pt"])
def test_reads_what_pytorch_writes(name: str) -> None:
    tensors = read_checkpoint((WRITTEN / name).read_bytes())
    assert list(tensors) == ["plain", "turned", "shared", "half", "brain", "count"]
    np.testing.assert_array_equal(tensors["plain"], np.arange(12, dtype=np.float32).reshape(3, 4))
    np.testing.assert_array_equal(tensors["turned"], [[2, 6, 10], [3, 7, 11]])
    np.testing.assert_array_equal(tensors["shared"], [1, 2])
    np.testing.assert_array_equal(tensors["half"], np.array([0.5, -2], dtype=np.float16))
    assert tensors["brain"].dtype == BFLOAT16 and tensors["half"].dtype == np.float16
    # as PyTorch 2.15.0 itself prints these bfloat16 numbers
    np.testing.assert_array_equal(widened(tensors["brain"]), [[1, -3.140625], [2**-126, 3.00405527047391e38]])
    assert tensors["count"].shape == () and tensors["count"] == 7
    assert widened(tensors["plain"]) is tensors["plain"]


@pytest.mark.parametrize("form", [checkpoint, zipped])
def test_reads_tensors_with_offsets_and_strides(form: Any) -> None:
    tensors = read_checkpoint(small(form))
    flat = np.arange(12, dtype=np.float32)
    np.testing.assert_array_equal(tensors["x"], flat.reshape(3, 4))
    np.testing.assert_array_equal(tensors["y"], flat[2:].reshape(-1)[[[0, 4, 8], [1, 5, 9]]])
    np.testing.assert_array_equal(tensors["z"], [1, 2])
    assert not tensors["x"].flags.writeable


@pytest.mark.parametrize("form", [checkpoint, zipped])
def test_refuses_a_command(tmp_path: Path, form: Any) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    attack = form(OrderedDict(x=Payload()), {})
    pickle.loads(pickle.dumps(Payload()))
    assert marker.exists()  # the payload works where nothing stops it
    marker.unlink()
    with pytest.raises(EncoderError, match="asks for code beyond tensors") as caught:
        read_checkpoint(attack)
    assert caught.value.code == "refused_pickle"
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "osler.encoders.checkpoint.read_checkpoint", "torch.DoubleStorage"]
)
def test_refuses_other_globals(name: str) -> None:
    with pytest.raises(EncoderError, match="refused"):
        read_checkpoint(checkpoint(OrderedDict(x=Global(name)), {}))


@pytest.mark.parametrize(
    "tensor",
    [
        Rebuilt("a", 12, 0, (13,), (1,)),
        Rebuilt("a", 12, 11, (2,), (1,)),
        Rebuilt("a", 12, -1, (2,), (1,)),
        Rebuilt("a", 12, 0, (2, 2), (1, 11)),
        Rebuilt("a", 12, 0, (2,), (1, 1)),
        Rebuilt("a", 12, 0, (1 << 40,), (0,)),
        Rebuilt("a", 1 << 40, 0, (1 << 30,), (1,)),
        Rebuilt("missing", 12, 0, (2,), (1,)),
    ],
)
@pytest.mark.parametrize("form", [checkpoint, zipped])
def test_refuses_tensors_outside_their_storage(tensor: Rebuilt, form: Any) -> None:
    with pytest.raises(EncoderError, match="not a PyTorch checkpoint"):
        read_checkpoint(form(OrderedDict(x=tensor), {"a": np.zeros(12)}))


def test_refuses_zip_files_of_another_kind() -> None:
    state, storages = OrderedDict(x=Rebuilt("a", 4000, 0, (4000,), (1,))), {"a": np.zeros(4000)}
    read_checkpoint(zipped(state, storages))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    wrong = [
        zipped(state, storages, zipfile.ZIP_DEFLATED),
        zipped(state, storages, order=b"big"),
        zipped([1, 2], {}),
        zipped({"x": 1}, {}),
        zipped({"state_dict": {"x": {"y": 1}}}, {}),
        stream.getvalue(),
    ]
    for content in wrong:
        with pytest.raises(EncoderError, match="not a PyTorch checkpoint"):
            read_checkpoint(content)


@pytest.mark.parametrize("form", [checkpoint, zipped])
@given(st.data())
def test_damage_gives_an_error_or_tensors_of_the_file(form: Any, data: st.DataObject) -> None:
    content = bytearray(small(form))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        tensors = read_checkpoint(bytes(content))
    except EncoderError:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) <= 4 * len(content)
