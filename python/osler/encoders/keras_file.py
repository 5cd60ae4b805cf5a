"""Reads the network and the weights of a .keras file (Keras 3) without Keras and without running anything from it.

Works on bytes in memory; needs `h5py`. The file is a zip, not compressed, of config.json and model.weights.h5. Weights
are looked up by path in the HDF5 file, which may hold plain arrays and hard links only.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from osler.errors import EncoderError

__all__ = ["Weights", "open_keras", "refused"]

_BIGGEST_CONFIG = 1 << 23
_MEMBERS = frozenset({"metadata.json", "config.json", "model.weights.h5"})
_TYPES = (np.dtype("<f4"), np.dtype("<i8"))

# takes the path of a group, returns the arrays of its "vars" in order
Weights = Callable[[str], list[np.ndarray]]


@contextmanager
def open_keras(content: bytes) -> Iterator[tuple[dict[str, Any], Weights]]:
    """Open a file of Keras 3.

    Parameters
    ----------
    content : bytes
        The whole file.

    Yields
    ------
    config : dict
        The model's config.json, as it stands.
    weights : callable
        Takes the path of a group, as "layers/conv2d_1", and returns the arrays of its "vars": float32 or int64.

    Raises
    ------
    EncoderError
        The bytes are no such file or are damaged; they hold compressed members, links, or arrays kept elsewhere (code
        ``refused_keras``); or `h5py` is not installed.
    """
    config, stored = _members(content)
    try:
        import h5py
    except ImportError:
        raise EncoderError(
            'reading this encoder needs the package h5py; pip install "osler[models-more]"', code="package_missing"
        ) from None
    with _explained(), h5py.File(io.BytesIO(stored), "r") as file:
        budget = [len(stored)]  # hard links may name one array many times
        yield config, lambda path: _read(file, path, budget)


def refused(what: str) -> EncoderError:
    """Return the error for a file that holds what it need not."""
    return EncoderError(
        f"the .keras file {what} and was refused; take it from its publisher again", code="refused_keras"
    )


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except EncoderError:
        raise
    except Exception:  # damage shows as one of many exceptions, whose texts quote the file
        raise EncoderError(
            "the file is not a .keras model of the form this converter reads, or is damaged; install it again"
        ) from None


def _members(content: bytes) -> tuple[dict[str, Any], bytes]:
    with _explained(), zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(names) != len(_MEMBERS) or set(names) != _MEMBERS:
            raise refused("holds other files than a model's three")
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
            raise refused("is compressed or encrypted, as Keras does not write it,")
        if archive.getinfo("config.json").file_size > _BIGGEST_CONFIG:
            raise refused("has a config.json of more than 8 MiB")
        config = json.loads(archive.read("config.json"))
        if not isinstance(config, dict):
            raise ValueError
        return config, archive.read("model.weights.h5")


def _read(file: Any, path: str, budget: list[int]) -> list[np.ndarray]:
    group = _follow(file, f"{path}/vars")
    return [_array(_follow(group, str(number)), budget) for number in range(len(group))]


def _follow(group: Any, path: str) -> Any:
    """Go down a path by hard links; a soft or external link could lead anywhere, another file included."""
    import h5py

    for name in path.split("/"):
        if not isinstance(group, h5py.Group):
            raise ValueError
        link = group.get(name, getlink=True)
        if type(link) is not h5py.HardLink:
            raise ValueError if link is None else refused("holds links to elsewhere")
        group = group[name]
    return group


def _array(dataset: Any, budget: list[int]) -> np.ndarray:
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.dtype not in _TYPES or dataset.shape is None:
        raise ValueError
    plan = dataset.id.get_create_plist()
    # a filter may be a library that HDF5 would load; external and virtual arrays lie in other files
    if plan.get_nfilters() or plan.get_external_count() or dataset.is_virtual or dataset.chunks is not None:
        raise refused("holds arrays that are compressed or kept elsewhere")
    budget[0] -= dataset.nbytes
    if budget[0] < 0:
        raise ValueError
    return np.asarray(dataset[()])
