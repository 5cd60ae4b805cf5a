"""What all exchanged files share: rows out of a source and into a collection, a list of keys beside a file, and a write
that leaves the old file or the whole new one.

Touches the files that are named and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from osler.collection.rows import Array
from osler.errors import Error

if TYPE_CHECKING:
    from osler.collection import Collection
    from osler.index import Index

__all__ = [
    "Metric",
    "check_folder",
    "existing",
    "made",
    "made_of_numbers",
    "named_numbers",
    "numbered",
    "replace",
    "write_names",
]

Metric = Literal["cosine", "dot", "l2"]


def existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file to be read, if it is one."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is not there; check its path")
    return file


def check_folder(target: Path) -> None:
    """Raise unless the folder of a file to be written is there."""
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder for {target.name} does not exist; make it first")


def numbered(source: Collection | Index) -> tuple[Array, Array, list[str] | None]:
    """Return uint64 keys (n,), float32 vectors (n, dim), and for a collection the key of each number.

    The items of a collection that have vectors are numbered from 0, in order.
    """
    from osler.index import Index

    if isinstance(source, Index):
        numbers = np.asarray(source.keys, np.uint64)
        return numbers, source.get(numbers), None
    vectors = source.vectors()
    there = ~np.isnan(vectors).any(1)
    names = [name for name, has in zip(source.keys(), there, strict=True) if has]
    return np.arange(len(names), dtype=np.uint64), vectors[there], names


def made(out: str | os.PathLike[str], dim: int, metric: Metric, fill: Callable[[Collection], Any]) -> Collection:
    """Make a collection, let `fill` add to it, and return it open for writing."""
    from osler.collection import Collection

    cases = Collection.create(out, dim=dim, metric=metric)
    try:
        fill(cases)
    except BaseException:
        cases.close()
        raise
    return cases


def made_of_numbers(
    path: str | os.PathLike[str], out: str | os.PathLike[str], numbers: Array, vectors: Array, metric: Metric
) -> Collection:
    """Make a collection of the vectors of an index file, under the names of its numbers."""
    if not len(numbers):
        raise ValueError(f"{Path(path).name} holds no vectors; there is nothing to import")
    names = named_numbers(Path(path), numbers)
    return made(out, vectors.shape[1], metric, lambda cases: cases.add_vectors(names, vectors))


def write_names(path: Path, numbers: Array, names: Sequence[str] | None) -> None:
    """Write the key of each number beside an exported file; without names none of an older file are left there."""
    if names is None:
        _sidecar(path).unlink(missing_ok=True)
        return
    import polars as pl

    table = pl.DataFrame({"number": numbers, "key": names}, schema={"number": pl.UInt64, "key": pl.String})
    replace(_sidecar(path), lambda draft: table.write_parquet(draft))


def named_numbers(path: Path, numbers: Array) -> list[str]:
    """Return the key of each number, from beside the file where an export left them, else the numbers as text."""
    sidecar = _sidecar(path)
    if not sidecar.is_file():
        return [str(number) for number in numbers.tolist()]
    import polars as pl

    try:
        table = pl.read_parquet(sidecar)
        names = dict(zip(table["number"].to_list(), table["key"].to_list(), strict=True))
        return [names[number] for number in numbers.tolist()]
    except (pl.exceptions.PolarsError, KeyError):
        raise ValueError(f"{sidecar.name} does not fit the file beside it; remove it to import the numbers") from None


def replace(target: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `target`, of mode 0600, then give it the name."""
    draft = target.with_name(f".{target.name}.{token_hex(8)}")
    try:
        write(draft)
        os.chmod(draft, 0o600)
        os.replace(draft, target)
    except OSError as error:
        raise Error(
            f"{target.name} could not be written; check the space and the rights there", code="write_failed"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".keys.parquet")
