"""NumPy and Parquet files: vectors as a matrix, and parts with their columns as a table that Lance and others read.

In Parquet the parts and columns of every item are kept. Where files lie is never exported, nor the secret of
pseudonyms. Lost are which encoder made the vectors, which policy was in force, the digests of files, and what tells
null from a value that was never set. A matrix has one vector an item and no columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.interchange.files import (
    Metric,
    check_folder,
    existing,
    export,
    made,
    named_numbers,
    numbered,
    replace,
)
from osler.items import WHOLE, Locator
from osler.sources.parquet import read_parquet

if TYPE_CHECKING:
    import polars as pl

    from osler.collection import Collection

__all__ = ["export_npy", "export_parquet", "import_npy", "import_parquet"]

# Columns of the table that are not metadata.
_OWN = ("key", "part", "kind", "frame", "box", "span", "vector")
_PREFIX = "metadata."
# What columns that say what a part is must hold.
_SHAPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "kind": ("text", lambda dtype: str(dtype) == "String"),
    "frame": ("whole numbers", lambda dtype: bool(dtype.is_integer())),
    "box": ("lists of whole numbers", lambda dtype: _is_list_of_whole_numbers(dtype)),
    "span": ("lists of whole numbers", lambda dtype: _is_list_of_whole_numbers(dtype)),
}


def export_npy(cases: Collection, path: str | os.PathLike[str]) -> None:
    """Write one vector an item, float32 (n, dim), as `Collection.vectors` gives them; items without any are left out.

    ``<path>.keys.parquet`` lists the row and key of each. Metadata, parts and places are not exported.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> from osler.collection.interchange import export_npy, import_npy
    >>> folder = tempfile.mkdtemp()
    >>> cases = osler.Collection.create(f"{folder}/a.osler", dim=2)
    >>> _ = cases.add_vectors(["a", "b"], np.eye(2))
    >>> export_npy(cases, f"{folder}/a.npy")
    >>> import_npy(f"{folder}/a.npy", f"{folder}/b.osler").keys()
    ['a', 'b']
    """
    target = Path(path)
    check_folder(target)
    numbers, vectors, names = numbered(cases)

    def write(draft: Path) -> None:
        with open(draft, "wb") as stream:
            np.save(stream, vectors, allow_pickle=False)

    export(target, write, numbers, names)


def import_npy(path: str | os.PathLike[str], out: str | os.PathLike[str], *, metric: Metric = "cosine") -> Collection:
    """Make a collection of the rows of a matrix, and return it open for writing.

    Keys are those of the ``.keys.parquet`` beside the file where an export left one, else the numbers of the rows.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no matrix of real numbers.
    """
    file = existing(path)
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise ValueError(f"{file.name} is no .npy file of numbers; save it with numpy.save") from None
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not vectors.size:
        raise ValueError(f"{file.name} is no matrix of real numbers with at least one row")
    names = named_numbers(file, np.arange(len(vectors), dtype=np.uint64))
    return made(out, vectors.shape[1], metric, lambda cases: cases.add_vectors(names, np.asarray(vectors)))


def export_parquet(cases: Collection, path: str | os.PathLike[str]) -> None:
    """Write a table with a row a part: key, part, kind, frame, box, span, vector, and the metadata columns.

    An item without vectors has one row without a vector. A metadata column of one of the first names is called
    ``metadata.`` and its name.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> from osler.collection.interchange import export_parquet, import_parquet
    >>> folder = tempfile.mkdtemp()
    >>> cases = osler.Collection.create(f"{folder}/a.osler", dim=2)
    >>> _ = cases.add_vectors(["a"], [[1, 0], [0, 1]], parts=[0, 0], metadata=[{"age": 61}])
    >>> export_parquet(cases, f"{folder}/a.parquet")
    >>> again = import_parquet(f"{folder}/a.parquet", f"{folder}/b.osler")
    >>> again["a"].metadata, again.part_vectors().vectors.shape
    ({'age': 61}, (2, 2))
    """
    import polars as pl

    target = Path(path)
    check_folder(target)
    snapshot = cases.snapshot()
    found = snapshot.part_vectors(kind="any")
    bare = np.setdiff1d(np.arange(len(found.keys)), found.owner)
    rows = np.concatenate([found.owner, bare])
    order = np.argsort(rows, kind="stable")
    parts = [found.parts[at] if at < len(found.parts) else None for at in order.tolist()]
    places = [WHOLE if part is None else part.locator for part in parts]
    vectors = np.concatenate([found.vectors, np.zeros((len(bare), cases.dim), np.float32)])[order]
    table = snapshot.to_polars()[rows[order]]
    metadata = table.drop("key")
    metadata = metadata.rename({name: _PREFIX + name for name in metadata.columns if name in _OWN})
    own = pl.DataFrame(
        [
            table["key"],
            pl.Series("part", [None if part is None else part.position for part in parts], pl.Int64),
            pl.Series("kind", [None if part is None else part.kind for part in parts], pl.String),
            pl.Series("frame", [place.frame for place in places], pl.Int64),
            pl.Series("box", [place.box for place in places], pl.List(pl.Int64)),
            pl.Series("span", [place.span for place in places], pl.List(pl.Int64)),
            pl.Series("vector", vectors, pl.Array(pl.Float32, cases.dim)),
        ]
    ).with_columns(pl.when(pl.Series(order < len(found.parts))).then("vector").alias("vector"))
    replace(target, lambda draft: own.hstack(metadata).write_parquet(draft))


def import_parquet(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    key: str = "key",
    vector: str = "vector",
    metric: Metric = "cosine",
) -> Collection:
    """Make a collection of a Parquet table of vectors, and return it open for writing.

    Parameters
    ----------
    path : path
        A table with a column of keys, text or whole numbers, and one of vectors, lists or arrays of numbers. Rows of
        one key are the parts of one item. ``kind``, ``frame``, ``box`` and ``span``, where they are there, say what a
        part is, and whole numbers in ``part`` are passed over, as is the index that pandas writes; every other column
        is metadata, of the first row of its key.
    out : path
    key, vector : str
    metric : {"cosine", "dot", "l2"}

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no such table.
    """
    import polars as pl

    file = existing(path)
    table = read_parquet(file)
    for name in (key, vector):
        if name not in table.columns:
            raise ValueError(f"{file.name} has no column {name!r}; name the columns of keys and vectors")
    if not len(table) or table[key].has_nulls():
        raise ValueError(f"{file.name} has no row, or a row without a key")
    if not (table.schema[key] == pl.String or table.schema[key].is_integer()):
        raise ValueError(f"column {key!r} of {file.name} must hold text or whole numbers, to be keys")
    for name, (what, fits) in _SHAPES.items():
        if name in table.columns and not (table.schema[name] == pl.Null or fits(table.schema[name])):
            raise ValueError(f"column {name!r} of {file.name} must hold {what}; rename it if it is something else")
    table = table.with_columns(pl.col(key).cast(pl.String))
    names = table[key].unique(maintain_order=True).to_list()
    number = {name: at for at, name in enumerate(names)}
    there = table.filter(table[vector].is_not_null())
    matrix = _matrix(there[vector], file.name)
    own = {key, vector, *_SHAPES, *(name for name in table.columns if name.startswith("__index_level_"))}
    own |= {name for name in ("part",) if name in table.columns and table.schema[name].is_integer()}
    first = table.unique(key, keep="first", maintain_order=True)
    metadata = first.drop([name for name in first.columns if name in own])
    metadata = metadata.rename(
        {name: name.removeprefix(_PREFIX) for name in metadata.columns if name.removeprefix(_PREFIX) in _OWN}
    )
    rows = [{name: value for name, value in row.items() if value is not None} for row in metadata.to_dicts()]
    options: dict[str, Any] = {"metadata": rows or None}
    if len(there):
        owner = np.array([number[name] for name in there[key].to_list()])
        options |= {"parts": owner, "kind": _kinds(there), "locators": _places(there)}
    vectors = matrix if len(there) else None
    dim = matrix.shape[1] if len(there) else 1
    return made(out, dim, metric, lambda cases: cases.add_vectors(names, vectors, **options))


def _is_list_of_whole_numbers(dtype: Any) -> bool:
    inner = getattr(dtype, "inner", None)
    return inner is not None and (inner.is_integer() or str(inner) == "Null")


def _matrix(column: pl.Series, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    try:
        found = np.array(column.to_list(), np.float32)
    except (ValueError, TypeError):
        found = np.empty(0, np.float32)
    if len(column) and found.ndim != 2:
        raise ValueError(f"{name} has vectors of several lengths, or of something else than numbers")
    return found


def _kinds(table: pl.DataFrame) -> list[str]:
    if "kind" not in table.columns:
        return ["image"] * len(table)
    return ["image" if kind is None else str(kind) for kind in table["kind"].to_list()]


def _places(table: pl.DataFrame) -> list[Locator]:
    columns = [table[name].to_list() if name in table.columns else [None] * len(table) for name in _OWN[3:6]]
    return [
        Locator(frame, tuple(box) if box else None, tuple(span) if span else None)
        for frame, box, span in zip(*columns, strict=True)
    ]
