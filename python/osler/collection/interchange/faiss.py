"""faiss files, for collections and for `osler.Index`: flat, HNSW over flat, IVF flat, and these under ids.

Reads and writes what faiss.write_index writes, without faiss, and a Parquet file of keys beside an exported one.
Vectors are float32 in all of these, and come and go unchanged. What is lost: faiss has no cosine, so unit vectors go
out under the inner product, and come back as dot unless the metric is named; graphs and lists are not imported, and
those of an exported file are made for it. A faiss file has no checksum, so damage to the vectors cannot be seen.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np

from osler.collection.interchange import layers, lists
from osler.collection.interchange.files import (
    Metric,
    check_folder,
    existing,
    export,
    made_of_numbers,
    numbered,
)
from osler.collection.interchange.reader import Reader, reading
from osler.collection.rows import Array

if TYPE_CHECKING:
    from osler.collection import Collection
    from osler.index import Index

__all__ = ["export_faiss", "import_faiss", "is_faiss", "read_faiss"]

# faiss's numbers of metrics and ours.
_METRICS: dict[int, Metric] = {0: "dot", 1: "l2"}
_KINDS = ("flat", "hnsw", "ivf")
_FLAT = {b"IxFI": 0, b"IxF2": 1, b"IxFl": None}
_UNDER_IDS = (b"IxMp", b"IxM2")
# The first four bytes of what can be read.
_MARKS = (*_FLAT, b"IHNf", b"IwFl", *_UNDER_IDS)
# An ID map, in it an IVF index, in it a quantizer with a graph, in it vectors: the deepest that makes sense.
_DEEPEST = 4
# Neighbours a row above layer 0, and open rows of a search: the file says how many, and faiss's own default is narrow.
_M = 16
_EF_CONSTRUCTION = 40
_EF_SEARCH = 64


@dataclass(frozen=True)
class _Held:
    """What an index of a file holds: int64 ids (n,), float32 vectors (n, dim), faiss's number of the metric."""

    ids: Array
    vectors: Array
    metric: int


def import_faiss(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, metric: Metric | None = None
) -> Collection:
    """Make a collection of the vectors of a faiss index, and return it open for writing.

    Keys are those of the ``.keys.parquet`` beside the file where an export of Osler left one, else faiss's ids as text.
    The graph or the lists of the file are not kept: a collection makes its own graph.

    Parameters
    ----------
    path : path
        A file of faiss.write_index: IndexFlat, IndexHNSWFlat or IndexIVFFlat under the inner product or L2, or one of
        these in an IndexIDMap or IndexIDMap2.
    out : path
        The directory of the collection, which must not exist.
    metric : {"cosine", "dot", "l2"}, optional
        By default what the file says, dot or l2. faiss has no cosine: name it for unit vectors under the inner product.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no faiss index, or of a kind that Osler does not read, or has negative or equal ids.
    CorruptIndexError
        It is damaged, which is a ValueError too.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> from osler.collection.interchange import export_faiss, import_faiss
    >>> folder = tempfile.mkdtemp()
    >>> cases = osler.Collection.create(f"{folder}/a.osler", dim=2)
    >>> _ = cases.add_vectors(["a", "b"], np.eye(2))
    >>> export_faiss(cases, f"{folder}/a.faiss")
    >>> import_faiss(f"{folder}/a.faiss", f"{folder}/b.osler", metric="cosine").keys()
    ['a', 'b']
    """
    numbers, vectors, own = read_faiss(path)
    return made_of_numbers(path, out, numbers, vectors, metric or own)


def is_faiss(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins like a faiss index that can be read.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> from osler.collection.interchange import export_faiss, is_faiss
    >>> path = tempfile.mkdtemp() + "/vectors.index"
    >>> export_faiss(osler.Index.build(np.eye(3)), path)
    >>> is_faiss(path)
    True
    """
    with open(existing(path), "rb") as stream:
        return stream.read(4) in _MARKS


def read_faiss(path: str | os.PathLike[str]) -> tuple[Array, Array, Metric]:
    """Read the ids, vectors and metric of a faiss file, by which an `osler.Index` can be built.

    Returns
    -------
    keys : ndarray of uint64 (n,), ascending
    vectors : ndarray of float32 (n, dim)
    metric : {"dot", "l2"}
    """
    with reading(path) as reader:
        held = _index(reader)
        reader.end()
    order = np.argsort(held.ids, kind="stable")
    ids = held.ids[order]
    if len(ids) and ids[0] < 0:
        raise ValueError(f"{reader.name} has negative ids, which Osler cannot import; give it others with IndexIDMap")
    if (ids[1:] == ids[:-1]).any():
        raise ValueError(f"{reader.name} has several vectors under one id, which Osler cannot import")
    in_order = bool((order[1:] > order[:-1]).all())
    return ids.astype(np.uint64), held.vectors if in_order else held.vectors[order], _METRICS[held.metric]


def export_faiss(
    source: Collection | Index, path: str | os.PathLike[str], *, kind: Literal["flat", "hnsw", "ivf"] = "flat"
) -> None:
    """Write the vectors of a collection or an index as a faiss index, float32.

    A collection's items become the ids 0, 1, 2, ... in order, one vector each as `Collection.vectors` gives them, and
    ``<path>.keys.parquet`` lists the id and key of each. Metadata is not exported. Locators never are. Cosine becomes
    the inner product of unit vectors: normalise queries before you ask faiss.

    Parameters
    ----------
    source : Collection or Index
    path : path
        The file to write; an old one is replaced.
    kind : {"flat", "hnsw", "ivf"}
        flat is searched exactly. hnsw has a graph of 32 neighbours a row, ivf as many lists as the square root of the
        rows; both are made for the file, with a width of search in it that `faiss.ParameterSpace` can change.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind is {kind!r}; choose flat, hnsw or ivf")
    target = Path(path)
    check_folder(target)
    numbers, vectors, names = numbered(source)
    vectors = np.ascontiguousarray(vectors, "<f4")
    if len(numbers) and numbers.max() >= 2**63:
        raise ValueError("an id of faiss is at most 2**63 - 1, and this index has greater keys; give it others")
    number = 1 if source.metric == "l2" else 0
    ids = numbers.astype("<i8")
    plain = bool((ids == np.arange(len(ids))).all())
    graph = layers.build(vectors, _M, source.metric) if kind == "hnsw" else None
    cells = lists.build(vectors, inner=number == 0) if kind == "ivf" else None

    def write(draft: Path) -> None:
        with open(draft, "wb") as stream:
            if cells is not None:
                _write_ivf(stream, vectors, ids, number, cells)
                return
            if not plain:
                _write_header(stream, b"IxM2", vectors, number)
            if graph is not None:
                _write_graph(stream, vectors, number, graph)
            _write_flat(stream, vectors, number)
            if not plain:
                _write_vector(stream, ids)

    export(target, write, numbers, names)


def _index(reader: Reader, depth: int = 0, marks: tuple[bytes, ...] = _MARKS) -> _Held:
    """Read an index with all that it holds, from its mark on, which is one of `marks`."""
    (mark,) = reader.values("4s", "mark") if reader.left >= 4 or depth else (b"",)
    if mark not in marks:
        raise _unknown(reader, mark, depth)
    if depth == _DEEPEST:
        raise ValueError(f"{reader.name} is a faiss index inside of others, deeper than Osler reads")
    dim, count, metric = _header(reader)
    if mark in _FLAT:
        own = _FLAT[mark]
        if own is not None and own != metric:
            raise reader.damage("header", f"{mark.decode()} is not of metric {metric}")
        return _flat(reader, dim, count, metric)
    if mark == b"IwFl":
        return _ivf(reader, dim, count, metric, depth)
    if mark == b"IHNf":
        _pass_graph(reader, count)
    held = _index(reader, depth + 1, tuple(_FLAT) if mark == b"IHNf" else _MARKS)
    if held.vectors.shape != (count, dim) or held.metric != metric:
        raise reader.damage("storage", f"it holds {held.vectors.shape} numbers and the header says {(count, dim)}")
    if mark == b"IHNf":
        return held
    ids = reader.array("<i8", _count(reader, 8, "ids"), "ids")
    if len(ids) != count or (held.ids < 0).any() or (held.ids >= count).any():
        raise reader.damage("ids", f"there are {len(ids)} for {count} vectors, or some name no vector")
    return _Held(ids[held.ids], held.vectors, metric)


def _unknown(reader: Reader, mark: bytes, depth: int) -> Exception:
    what = mark.decode("ascii", "replace")
    if depth and not what.isalnum():
        return reader.damage("mark", "no index of faiss begins so")
    if len(mark) < 4 or not what.isalnum() or mark[:1] != b"I":
        return ValueError(f"{reader.name} is not a faiss index; give a file that faiss.write_index wrote")
    return ValueError(
        f"{reader.name} is or holds a faiss index of kind {what}; Osler reads flat, HNSW over flat and IVF flat, also "
        "in an IndexIDMap"
    )


def _header(reader: Reader) -> tuple[int, int, int]:
    dim, count, _, _, trained, metric = reader.values("iqqqBi", "header")
    if dim < 1 or count < 0 or trained > 1:
        raise reader.damage("header", "its numbers cannot be")
    if metric not in _METRICS:
        raise ValueError(
            f"{reader.name} is a faiss index under metric {metric}; Osler has the inner product (0) and L2 (1)"
        )
    return dim, count, metric


def _count(reader: Reader, size: int, what: str) -> int:
    """Read how many elements of so many bytes follow, and see that they do."""
    (count,) = reader.values("Q", what)
    reader.need(count * size, what)
    return int(count)


def _flat(reader: Reader, dim: int, count: int, metric: int) -> _Held:
    numbers = _count(reader, 4, "vectors")
    if numbers != count * dim:
        raise reader.damage("vectors", f"there are {numbers} numbers for {count} vectors of {dim}")
    vectors = reader.array("<f4", numbers, "vectors").reshape(count, dim)
    return _Held(np.arange(count, dtype=np.int64), vectors, metric)


def _pass_graph(reader: Reader, count: int) -> None:
    """Pass over a graph: probabilities, sizes of layers, levels, offsets, neighbours, and five numbers."""
    for what, size, wanted in (
        ("probabilities", 8, None),
        ("layers", 4, None),
        ("levels", 4, count),
        ("offsets", 8, count + 1),
        ("neighbours", 4, None),
    ):
        found = _count(reader, size, what)
        if wanted is not None and found != wanted:
            raise reader.damage(what, f"there are {found} where {wanted} belong")
        reader.skip(found * size, what)
    reader.skip(5 * 4, "graph")


def _ivf(reader: Reader, dim: int, count: int, metric: int, depth: int) -> _Held:
    """Read vectors and ids out of inverted lists."""
    cells, _ = reader.values("QQ", "lists")
    quantizer = _index(reader, depth + 1)
    if quantizer.vectors.shape != (cells, dim):
        raise reader.damage("quantizer", f"it holds {quantizer.vectors.shape} numbers for {cells} lists of {dim}")
    (mapped,) = reader.values("B", "direct map")
    reader.skip(8 * _count(reader, 8, "direct map"), "direct map")
    if mapped == 2:
        reader.skip(16 * _count(reader, 16, "direct map"), "direct map")
    elif mapped > 2:
        raise reader.damage("direct map", "there is no such kind")
    (mark,) = reader.values("4s", "lists")
    if mark != b"ilar":
        if mark.isalnum() and mark[:2] == b"il":
            raise ValueError(
                f"{reader.name} has no lists in it ({mark.decode()}); save it again with its lists in memory"
            )
        raise reader.damage("lists", "no lists of faiss begin so")
    own, code, form = reader.values("QQ4s", "lists")
    if own != cells or code != 4 * dim or form not in (b"full", b"sprs"):
        raise reader.damage("lists", f"{own} lists of {code} bytes a vector do not fit the header")
    sizes = _sizes(reader, form == b"sprs", cells)
    reader.need(count * (code + 8), "lists")
    if (sizes > count).any() or sizes.sum() != count:
        raise reader.damage("lists", f"they do not hold the {count} vectors of the header")
    vectors, ids = np.empty((count, dim), "<f4"), np.empty(count, "<i8")
    start = 0
    for size in sizes[sizes > 0].tolist():
        reader.fill(vectors[start : start + size], "lists")
        reader.fill(ids[start : start + size], "lists")
        start += size
    return _Held(ids, vectors, metric)


def _sizes(reader: Reader, sparse: bool, cells: int) -> Array:
    """Read how many vectors are in each list, or, if `sparse`, in each list that has any."""
    found = reader.array("<u8", _count(reader, 8, "lists"), "lists")
    if not sparse and len(found) == cells:
        return found
    pairs = found[: len(found) // 2 * 2].reshape(-1, 2)
    numbers = pairs[:, 0]
    if not sparse or len(found) % 2 or (numbers[1:] <= numbers[:-1]).any() or (numbers >= cells).any():
        raise reader.damage("lists", f"there are {len(found)} numbers that are no sizes of {cells} lists")
    return pairs[:, 1]


def _write_header(stream: BinaryIO, mark: bytes, vectors: Array, metric: int) -> None:
    count, dim = vectors.shape
    stream.write(mark + pack("<iqqqBi", dim, count, 1 << 20, 1 << 20, 1, metric))


def _write_vector(stream: BinaryIO, numbers: Array, dtype: str | None = None) -> None:
    """Write how many numbers there are, then them."""
    found = np.ascontiguousarray(numbers, dtype)
    stream.write(pack("<Q", found.size))
    stream.write(found.reshape(-1).view(np.uint8).data)


def _write_flat(stream: BinaryIO, vectors: Array, metric: int) -> None:
    _write_header(stream, b"IxF2" if metric else b"IxFI", vectors, metric)
    _write_vector(stream, vectors)


def _write_graph(stream: BinaryIO, vectors: Array, metric: int, graph: layers.Layers) -> None:
    """Write all of an HNSW index but its storage, which follows."""
    _write_header(stream, b"IHNf", vectors, metric)
    shares = [(1 - 1 / layers.RATIO) / layers.RATIO**level for level in range(layers.MOST_LAYERS)]
    rooms = np.array([0, *(2 * _M + _M * level for level in range(len(shares)))], np.int64)
    offsets = np.append(0, np.cumsum(rooms[graph.levels + 1]))
    neighbours: Any = np.full(offsets[-1], -1, "<i4")
    for level, (rows, links) in enumerate(graph.links):
        first = offsets[rows] + rooms[level]
        neighbours[first[:, None] + np.arange(links.shape[1])] = links
    _write_vector(stream, np.array(shares), "<f8")
    _write_vector(stream, rooms, "<i4")
    _write_vector(stream, graph.levels + 1, "<i4")
    _write_vector(stream, offsets, "<u8")
    _write_vector(stream, neighbours)
    stream.write(pack("<5i", graph.entry, len(graph.links) - 1, _EF_CONSTRUCTION, _EF_SEARCH, 1))


def _write_ivf(stream: BinaryIO, vectors: Array, ids: Array, metric: int, cells: lists.Lists) -> None:
    _write_header(stream, b"IwFl", vectors, metric)
    count = len(cells.centroids)
    stream.write(pack("<QQ", count, cells.probes))
    _write_flat(stream, cells.centroids.astype("<f4"), metric)
    # No direct map, and none of its entries.
    stream.write(pack("<BQ", 0, 0))
    stream.write(pack("<4sQQ4s", b"ilar", count, 4 * vectors.shape[1], b"full"))
    sizes = np.bincount(cells.owner, minlength=count)
    _write_vector(stream, sizes, "<u8")
    for rows in np.split(np.argsort(cells.owner, kind="stable"), np.cumsum(sizes)[:-1]):
        stream.write(vectors[rows].tobytes())
        stream.write(ids[rows].tobytes())
