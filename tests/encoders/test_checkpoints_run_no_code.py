"""The checkpoint reader gives tensors, and refuses every file that asks for anything else."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from osler import EncoderError
from osler.encoders.checkpoint import read_checkpoint

MAGIC = 0x1950A86A20F9469CFC6C


class Global:
    """Pickles as a bare global, as "torch.FloatStorage" is in such a file."""

    def __init__(self, name: str) -> None:
        self.name = name


class Rebuilt:
    """Pickles as torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, False, OrderedDict())."""

    def __init__(self, key: str, count: int, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.key, self.count, self.offset, self.shape, self.stride = key, count, offset, shape, stride


class Writer(pickle._Pickler):  # the pure-Python pickler, whose opcodes can be written by hand
    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, Global):
            module, name = value.name.rsplit(".", 1)
            self.write(b"c" + f"{module}\n{name}\n".encode())
        elif isinstance(value, Rebuilt):
            self.save(Global("torch._utils._rebuild_tensor_v2"))
            self.write(b"(")
            super().save(("storage", Global("torch.FloatStorage"), value.key, "cpu", value.count, None))
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


def small() -> bytes:
    storages = {"a": np.arange(12, dtype=np.float32), "b": np.arange(3, dtype=np.float32)}
    state = OrderedDict(
        x=Rebuilt("a", 12, 0, (3, 4), (4, 1)), y=Rebuilt("a", 12, 2, (2, 3), (1, 4)), z=Rebuilt("b", 3, 1, (2,), (1,))
    )
    return checkpoint(state, storages)


def test_reads_tensors_with_offsets_and_strides() -> None:
    tensors = read_checkpoint(small())
    flat = np.arange(12, dtype=np.float32)
    np.testing.assert_array_equal(tensors["x"], flat.reshape(3, 4))
    np.testing.assert_array_equal(tensors["y"], flat[2:].reshape(-1)[[[0, 4, 8], [1, 5, 9]]])
    np.testing.assert_array_equal(tensors["z"], [1, 2])
    assert not tensors["x"].flags.writeable


def test_refuses_a_command(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    attack = checkpoint(OrderedDict(x=Payload()), {})
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
def test_refuses_tensors_outside_their_storage(tensor: Rebuilt) -> None:
    with pytest.raises(EncoderError, match="not a PyTorch checkpoint"):
        read_checkpoint(checkpoint(OrderedDict(x=tensor), {"a": np.zeros(12)}))


@given(st.data())
def test_damage_gives_an_error_or_tensors_of_the_file(data: st.DataObject) -> None:
    content = bytearray(small())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        tensors = read_checkpoint(bytes(content))
    except EncoderError:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) <= 4 * len(content)
