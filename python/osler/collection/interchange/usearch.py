"""usearch files, for collections and for `osler.Index`.

Reads and writes ``.usearch`` files through the usearch package, and a Parquet file of keys beside an exported one.
f32 and f16 are kept as they are; i8 holds vectors of unit length times 127, cut to whole numbers, so it loses precision
and, under ip and l2sq, the lengths.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from osler.collection.interchange.files import check_folder, existing, export, made_of_numbers, numbered
from osler.collection.rows import Array

if TYPE_CHECKING:
    from osler.collection import Collection
    from osler.index import Index

__all__ = ["export_usearch", "import_usearch", "read_usearch"]

# usearch's names of metrics and ours; its inner product is a distance, 1 - x·y, and its l2sq is squared.
_METRICS = {"cos": "cosine", "ip": "dot", "l2sq": "l2"}
_CODES = ("f32", "f16", "i8")
_BATCH = 4_096


def import_usearch(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Collection:
    """Make a collection of the vectors of a usearch index, and return it open for writing.

    Keys are those of the ``.keys.parquet`` beside the file where an export of Osler left one, else usearch's integers
    as text. Vectors stored as i8 come back as usearch rounded them.

    Parameters
    ----------
    path : path
        A ``.usearch`` file of f32, f16 or i8 vectors under cos, ip or l2sq.
    out : path
        The directory of the collection, which must not exist.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no usearch index, or of a kind that Osler has no metric or type for.
    """
    numbers, vectors, metric = read_usearch(path)
    return made_of_numbers(path, out, numbers, vectors, metric)


def _usearch() -> Any:
    """Return usearch's class of indexes, with ONNX Runtime loaded before it where that is installed.

    The other way round ONNX Runtime's import ends the process on Linux: usearch's wheel exports its own C++ library.
    """
    with suppress(ImportError):
        import onnxruntime  # noqa: F401
    from usearch.index import Index

    return Index


def export_usearch(
    source: Collection | Index, path: str | os.PathLike[str], *, dtype: Literal["f32", "f16", "i8"] = "f32"
) -> None:
    """Write the vectors of a collection or an index as a usearch index.

    A collection's items become the integers 0, 1, 2, ... in order, one vector each as `Collection.vectors` gives them,
    and ``<path>.keys.parquet`` lists the integer and key of each. Metadata is not exported. Locators never are.

    Parameters
    ----------
    source : Collection or Index
    path : path
        The file to write; an old one is replaced.
    dtype : {"f32", "f16", "i8"}
        Precision in the file. i8 is lossy, and only for cosine.
    """
    usearch = _usearch()
    if dtype not in _CODES:
        raise ValueError(f"dtype is {dtype!r}; choose f32, f16 or i8")
    target = Path(path)
    check_folder(target)
    metric = {ours: theirs for theirs, ours in _METRICS.items()}[source.metric]
    if dtype == "i8" and metric != "cos":
        raise ValueError("dtype='i8' holds unit vectors only, so it is for cosine; use f32 or f16")
    numbers, vectors, names = numbered(source)
    index = usearch(ndim=source.dim, metric=metric, dtype=dtype)
    for start in range(0, len(numbers), _BATCH):
        index.add(numbers[start : start + _BATCH], np.ascontiguousarray(vectors[start : start + _BATCH], np.float32))
    export(target, lambda draft: index.save(str(draft)), numbers, names)


def read_usearch(path: str | os.PathLike[str]) -> tuple[Array, Array, Any]:
    """Read the keys, vectors and metric of a usearch file, by which an `osler.Index` can be built.

    Returns
    -------
    keys : ndarray of uint64 (n,), ascending
    vectors : ndarray of float32 (n, dim)
    metric : {"cosine", "dot", "l2"}
    """
    usearch = _usearch()
    file = existing(path)
    try:
        found: Any = usearch.metadata(str(file))
        described = None if found is None else (found["kind_metric"].name.lower(), found["kind_scalar"].name.lower())
    except Exception:
        described = None
    if described is None:
        raise ValueError(f"{file.name} is not a usearch index; give a file that usearch saved")
    metric, code = described
    if metric not in _METRICS or code not in _CODES:
        raise ValueError(
            f"{file.name} is a usearch index of {code} vectors under {metric}; Osler reads f32, f16 and i8 under cos, "
            "ip and l2sq"
        )
    try:
        index = usearch.restore(str(file), view=False)
    except Exception:
        index = None
    if index is None or index.multi:
        what = "is damaged" if index is None else "has several vectors under one key, which Osler cannot import"
        raise ValueError(f"{file.name} {what}")
    numbers = np.sort(np.asarray(index.keys, np.uint64))
    if not len(numbers):
        return numbers, np.empty((0, index.ndim), np.float32), _METRICS[metric]
    return numbers, np.asarray(index.get(numbers, dtype="f32"), np.float32), _METRICS[metric]
