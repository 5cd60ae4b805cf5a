"""hnswlib files, for collections and for `osler.Index`.

Reads and writes what hnswlib's save_index writes, without hnswlib, and a Parquet file of keys beside an exported one.
Vectors are float32 and come and go unchanged. What is lost: the file does not name its space, so it must be told on the
way in; deleted rows are not imported; nor is the graph, and that of an exported file is made for it. The file has no
checksum, so damage to the vectors themselves cannot be seen.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.interchange import layers
from osler.collection.interchange.files import (
    Metric,
    check_folder,
    export,
    made_of_numbers,
    numbered,
)
from osler.collection.interchange.reader import Reader, reading
from osler.collection.rows import Array
from osler.errors import CorruptIndexError

if TYPE_CHECKING:
    from osler.collection import Collection
    from osler.index import Index

__all__ = ["export_hnswlib", "import_hnswlib", "read_hnswlib"]

# offsetLevel0, max_elements, cur_element_count, size_data_per_element, label_offset, offsetData, maxlevel,
# enterpoint_node, maxM, maxM0, M, mult, ef_construction: as save_index writes them on a 64-bit machine.
_HEADER = "6QiI3QdQ"
_NONE = 2**32 - 1
_BATCH = 4_096
_M = 16
_EF_CONSTRUCTION = 200


@dataclass(frozen=True)
class _Header:
    """What of a header is needed: rows, and how a row and its links above layer 0 lie."""

    count: int
    dim: int
    room: int
    upper: int
    levels: int

    @property
    def row(self) -> Any:
        """A row in layer 0: count of links, mark of deletion, links, vector, label."""
        return np.dtype(
            [
                ("links", "<u2"),
                ("marks", "u1"),
                ("unused", "u1"),
                ("neighbours", "<u4", (self.room,)),
                ("vector", "<f4", (self.dim,)),
                ("label", "<u8"),
            ]
        )


def import_hnswlib(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, metric: Metric = "cosine"
) -> Collection:
    """Make a collection of the vectors of an hnswlib index, and return it open for writing.

    Keys are those of the ``.keys.parquet`` beside the file where an export of Osler left one, else hnswlib's labels as
    text. Rows that are marked as deleted are left out, with a warning that counts them. The graph is not kept.

    Parameters
    ----------
    path : path
        A file of hnswlib's save_index, with float32 vectors.
    out : path
        The directory of the collection, which must not exist.
    metric : {"cosine", "dot", "l2"}
        The space that the index was made in, which its file does not say: cosine, ip or l2 of hnswlib.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no hnswlib index, or has equal labels.
    CorruptIndexError
        It is damaged, which is a ValueError too.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> from osler.collection.interchange import export_hnswlib, import_hnswlib
    >>> folder = tempfile.mkdtemp()
    >>> cases = osler.Collection.create(f"{folder}/a.osler", dim=2)
    >>> _ = cases.add_vectors(["a", "b"], np.eye(2))
    >>> export_hnswlib(cases, f"{folder}/a.hnswlib")
    >>> import_hnswlib(f"{folder}/a.hnswlib", f"{folder}/b.osler").keys()
    ['a', 'b']
    """
    numbers, vectors = read_hnswlib(path)
    return made_of_numbers(path, out, numbers, vectors, metric)


def read_hnswlib(path: str | os.PathLike[str]) -> tuple[Array, Array]:
    """Read the labels and vectors of an hnswlib file, by which an `osler.Index` can be built.

    Returns
    -------
    keys : ndarray of uint64 (n,), ascending
    vectors : ndarray of float32 (n, dim)
    """
    with reading(path) as reader:
        header = _header(reader)
        labels, vectors, deleted = _rows(reader, header)
        _pass_upper(reader, header)
        reader.end()
    if deleted.any():
        warnings.warn(f"{deleted.sum():,} deleted rows of {reader.name} are not imported", stacklevel=2)
        labels, vectors = labels[~deleted], vectors[~deleted]
    order = np.argsort(labels, kind="stable")
    if (labels[order[1:]] == labels[order[:-1]]).any():
        raise ValueError(f"{reader.name} has several vectors under one label, which Osler cannot import")
    in_order = bool((order[1:] > order[:-1]).all())
    return labels[order], vectors if in_order else vectors[order]


def export_hnswlib(source: Collection | Index, path: str | os.PathLike[str]) -> None:
    """Write the vectors of a collection or an index as an hnswlib index, float32.

    It has a graph of 32 neighbours a row, made for the file; the width of search is set after loading, by `set_ef`.

    A collection's items become the labels 0, 1, 2, ... in order, one vector each as `Collection.vectors` gives them,
    and ``<path>.keys.parquet`` lists the label and key of each. Metadata is not exported. Locators never are. Load the
    file in the space of the source, which it does not say: cosine, ip (for dot) or l2.

    Parameters
    ----------
    source : Collection or Index
    path : path
        The file to write; an old one is replaced.
    """
    target = Path(path)
    check_folder(target)
    numbers, vectors, names = numbered(source)
    graph = layers.build(vectors, _M, source.metric)
    count, dim = vectors.shape
    header = _Header(count, dim, 2 * _M, _M, len(graph.links) - 1)
    links = graph.links[0][1] if count else np.empty((0, 2 * _M), np.int32)

    def write(draft: Path) -> None:
        with open(draft, "wb") as stream:
            stream.write(_packed_header(header, graph.entry))
            for start in range(0, count, _BATCH):
                part = slice(start, min(start + _BATCH, count))
                rows = np.zeros(part.stop - start, header.row)
                rows["links"] = (links[part] >= 0).sum(1)
                rows["neighbours"] = np.maximum(links[part], 0)
                rows["vector"], rows["label"] = vectors[part], numbers[part]
                stream.write(rows.tobytes())
            stream.write(_upper(graph).tobytes())

    export(target, write, numbers, names)


def _header(reader: Reader) -> _Header:
    other = ValueError(f"{reader.name} is not an hnswlib index; give a file that its save_index wrote")
    try:
        found = reader.values(_HEADER, "header")
    except CorruptIndexError:
        raise other from None
    start, most, count, row, label, vector, levels, entry, upper, room, m, _, _ = found
    # hnswlib has no mark of its own, so a header is known by how its numbers hang together.
    if (
        start != 0
        or vector != 4 * room + 4
        or label <= vector
        or (label - vector) % 4
        or row != label + 8
        or upper != m
    ):
        raise other
    if count > most or (count and not (0 <= levels < 64 and entry < count)):
        raise reader.damage("header", f"{count} rows do not fit their own limit, layers or entry")
    reader.need(count * row, "rows")
    return _Header(count, (label - vector) // 4, room, upper, levels)


def _rows(reader: Reader, header: _Header) -> tuple[Array, Array, Array]:
    """Return labels (n,), vectors (n, dim) and which rows are deleted (n,)."""
    labels, vectors = np.empty(header.count, np.uint64), np.empty((header.count, header.dim), np.float32)
    deleted = np.zeros(header.count, bool)
    for start in range(0, header.count, _BATCH):
        rows = reader.array(header.row, min(_BATCH, header.count - start), "rows")
        if (rows["links"] > header.room).any() or (rows["marks"] > 1).any() or rows["unused"].any():
            raise reader.damage("rows", f"one has more than {header.room} links, or an unknown mark")
        part = slice(start, start + len(rows))
        labels[part], vectors[part], deleted[part] = rows["label"], rows["vector"], rows["marks"] == 1
    return labels, vectors, deleted


def _pass_upper(reader: Reader, header: _Header) -> None:
    """Walk over the links above layer 0, which each row has or has not."""
    if reader.left % 4:
        raise reader.damage("links", f"{reader.left} bytes are no whole number of links")
    words = reader.array("<u4", reader.left // 4, "links")
    step, at, highest = 4 * header.upper + 4, 0, 0
    for _ in range(header.count):
        size = int(words[at]) if at < len(words) else 1
        if size % step or at + size // 4 >= len(words):
            raise reader.damage("links", "they are not of as many rows, or not of whole layers")
        highest = max(highest, size // step)
        at += 1 + size // 4
    if at != len(words) or (header.count and highest != header.levels):
        raise reader.damage("links", f"their layers end at {highest}, or bytes follow that belong to nothing")


def _packed_header(header: _Header, entry: int) -> bytes:
    row = header.row
    vector, label = row.fields["vector"][1], row.fields["label"][1]
    sizes = (0, header.count, header.count, row.itemsize, label, vector)
    links = (header.upper, header.room, header.upper, 1 / np.log(layers.RATIO), _EF_CONSTRUCTION)
    return pack("<" + _HEADER, *sizes, header.levels, entry if header.count else _NONE, *links)


def _upper(graph: layers.Layers) -> Array:
    """Return, for each row, the bytes of its links above layer 0, then a count and the links of each layer."""
    sizes = graph.levels.astype(np.int64) * (_M + 1)
    first = np.arange(len(sizes)) + np.append(0, np.cumsum(sizes))[: len(sizes)]
    words = np.zeros(len(sizes) + sizes.sum(), "<u4")
    words[first] = 4 * sizes
    for level, (rows, links) in enumerate(graph.links[1:]):
        place = first[rows] + 1 + level * (_M + 1)
        words[place] = (links >= 0).sum(1)
        words[place[:, None] + 1 + np.arange(_M)] = np.maximum(links, 0)
    return words
