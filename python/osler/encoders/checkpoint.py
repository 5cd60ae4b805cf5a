"""Reads the tensors of a PyTorch checkpoint without PyTorch and without running anything from it.

Works on bytes in memory. The file is the form that ``torch.save`` wrote before version 1.6: five pickles (magic
number, protocol, system, state dict, storage keys), then each storage as a count and its little-endian numbers.
The unpickler builds ordered dicts and notes about tensors; any other global is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from osler.errors import EncoderError

__all__ = ["read_checkpoint"]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: str
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
    ("torch", "FloatStorage"): _StorageType("<f4"),
    ("torch", "LongStorage"): _StorageType("<i8"),
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
        kind, storage_type, key, _device, count, _view = pid
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
        The whole file.

    Returns
    -------
    dict of str to ndarray
        float32 or int64; views of `content`, read-only.

    Raises
    ------
    EncoderError
        The bytes are no such checkpoint, are cut short, or ask for anything but tensors (code ``refused_pickle``).
    """
    stream = io.BytesIO(content)
    try:
        magic, protocol, system, state, keys = (_Unpickler(stream).load() for _ in range(5))
        if magic != _MAGIC or protocol != _PROTOCOL or system["little_endian"] is not True:
            raise pickle.UnpicklingError
        storages: dict[str, tuple[int, int]] = {}
        for key in keys:
            count = int.from_bytes(stream.read(8), "little")
            storages[key] = (stream.tell(), count)
            width = next(np.dtype(t.storage.dtype).itemsize for t in state.values() if t.storage.key == key)
            if stream.seek(count * width, io.SEEK_CUR) > len(content):
                raise EOFError
        tensors = {}
        for name, tensor in state.items():
            start, count = storages[tensor.storage.key]
            if count != tensor.storage.count:
                raise pickle.UnpicklingError
            flat = np.frombuffer(content, np.dtype(tensor.storage.dtype), count, start)[tensor.offset :]
            strides = [step * flat.itemsize for step in tensor.stride]
            tensors[str(name)] = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
    except EncoderError:
        raise
    except Exception:  # any damage shows as one of many exceptions of pickle, whose texts quote the file
        raise EncoderError(
            "the file is not a PyTorch checkpoint of the form this converter reads, or is damaged; install it again"
        ) from None
    return tensors
