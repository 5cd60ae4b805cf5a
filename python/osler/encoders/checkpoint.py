"""Reads the tensors of a PyTorch checkpoint without PyTorch and without running anything from it.

Works on bytes in memory. ``torch.save`` writes two forms: before version 1.6 five pickles (magic number, protocol,
system, state dict, storage keys), then each storage as a count and its little-endian numbers; since then a zip file
with one pickle, data.pkl, and each storage as a member of its own, not compressed. The unpickler builds dicts, plain
values and notes about tensors; any other global is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from osler.errors import EncoderError

__all__ = ["BFLOAT16", "read_checkpoint", "widened"]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # NumPy has no such number: its bits, under a name that tells

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_BIGGEST_PICKLE = 1 << 24


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> _Tensor:
    """Take the place of torch._utils._rebuild_tensor_v2; nothing may lie outside the storage."""
    whole = (shape, stride, (offset,))
    if not (
        isinstance(storage, _Storage)
        and all(isinstance(part, tuple) and all(type(n) is int and n >= 0 for n in part) for part in whole)
        and len(shape) == len(stride)
        and math.prod(shape) <= storage.count
        and offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True)) < storage.count
    ):
        raise pickle.UnpicklingError
    return _Tensor(storage, offset, shape, stride)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch", "FloatStorage"): _StorageType(np.dtype("<f4")),
    ("torch", "HalfStorage"): _StorageType(np.dtype("<f2")),
    ("torch", "BFloat16Storage"): _StorageType(BFLOAT16),
    ("torch", "LongStorage"): _StorageType(np.dtype("<i8")),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            found = _ALLOWED[module, name]
        except KeyError:
            raise EncoderError(
                "the checkpoint asks for code beyond tensors and was refused; take it from its publisher again",
                code="refused_pickle",
            ) from None
        # a pickle may set attributes of what it is given, so it gets a function of its own
        return (lambda *arguments: _rebuild(*arguments)) if found is _rebuild else found

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _device, count, *_view = pid
        if (
            kind != "storage"
            or type(storage_type) is not _StorageType
            or type(key) is not str
            or type(count) is not int
        ):
            raise pickle.UnpicklingError
        return _Storage(key, storage_type.dtype, count)


def read_checkpoint(content: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a checkpoint by name.

    Parameters
    ----------
    content : bytes
        The whole file: a state dict, or a dict that holds one as "state_dict" beside plain values.

    Returns
    -------
    dict of str to ndarray
        float32, float16, int64 or `BFLOAT16`; views of `content`, read-only.

    Raises
    ------
    EncoderError
        The bytes are no such checkpoint, are cut short, or ask for anything but tensors (code ``refused_pickle``).
    """
    try:
        state, storage = _read_zip(content) if content[:4] == b"PK\3\4" else _read_pickles(content)
        tensors = {}
        for name, tensor in state.items():
            start, count = storage(tensor.storage)
            if count != tensor.storage.count:
                raise pickle.UnpicklingError
            flat = np.frombuffer(content, tensor.storage.dtype, count, start)[tensor.offset :]
            strides = [step * flat.itemsize for step in tensor.stride]
            tensors[str(name)] = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
    except EncoderError:
        raise
    except Exception:  # any damage shows as one of many exceptions of pickle, whose texts quote the file
        raise EncoderError(
            "the file is not a PyTorch checkpoint of the form this converter reads, or is damaged; install it again"
        ) from None
    return tensors


def widened(tensor: np.ndarray) -> np.ndarray:
    """Return a tensor of `read_checkpoint` with `BFLOAT16` as float32, exactly; any other unchanged."""
    if tensor.dtype != BFLOAT16:
        return tensor
    return np.asarray((tensor["bfloat16"].astype("<u4") << 16).view("<f4"))


# finds where the numbers of a storage begin, and how many there are
_Finder = Callable[[_Storage], tuple[int, int]]


def _read_pickles(content: bytes) -> tuple[dict[str, _Tensor], _Finder]:
    stream = io.BytesIO(content)
    magic, protocol, system, loaded, keys = (_Unpickler(stream).load() for _ in range(5))
    if magic != _MAGIC or protocol != _PROTOCOL or system["little_endian"] is not True:
        raise pickle.UnpicklingError
    state = _state_dict(loaded)
    widths = {tensor.storage.key: tensor.storage.dtype.itemsize for tensor in state.values()}
    storages: dict[str, tuple[int, int]] = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little")
        storages[key] = (stream.tell(), count)
        if stream.seek(count * widths[key], io.SEEK_CUR) > len(content):
            raise EOFError
    return state, lambda storage: storages[storage.key]


def _read_zip(content: bytes) -> tuple[dict[str, _Tensor], _Finder]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        (pickled,) = (name for name in members if name.count("/") == 1 and name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        order = members.get(f"{folder}byteorder")
        if order is not None and (order.file_size > 8 or archive.read(order) != b"little"):
            raise pickle.UnpicklingError
        start, size = _stored(members[pickled], content)
        if size > _BIGGEST_PICKLE:
            raise pickle.UnpicklingError
        state = _state_dict(_Unpickler(io.BytesIO(content[start : start + size])).load())

    def find(storage: _Storage) -> tuple[int, int]:
        start, size = _stored(members[f"{folder}data/{storage.key}"], content)
        return start, size // storage.dtype.itemsize

    return state, find


def _stored(member: zipfile.ZipInfo, content: bytes) -> tuple[int, int]:
    """Return start and size of a member's bytes, which are in the file as they are."""
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise pickle.UnpicklingError
    header = content[member.header_offset : member.header_offset + 30]
    start = (
        member.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    )
    if header[:4] != b"PK\3\4" or start + member.file_size > len(content):
        raise pickle.UnpicklingError
    return start, member.file_size


def _state_dict(loaded: Any) -> dict[str, _Tensor]:
    if not isinstance(loaded, dict):
        raise pickle.UnpicklingError
    state = loaded["state_dict"] if isinstance(loaded.get("state_dict"), dict) else loaded
    if not all(isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in state.items()):
        raise pickle.UnpicklingError
    return state
