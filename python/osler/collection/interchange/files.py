"""What all exchanged files share: rows out of a source and into a collection, a list of keys beside a file, and a write
that leaves the old file or the whole new one.

Touches the files that are named and nothing else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from osler.collection.rows import Array
from osler.collection.store import Store
from osler.errors import CommitUnknownError, Error
from osler.sources.parquet import read_parquet

if TYPE_CHECKING:
    from osler.collection import Collection
    from osler.index import Index

__all__ = [
    "Metric",
    "check_folder",
    "existing",
    "export",
    "made",
    "made_of_numbers",
    "named_numbers",
    "numbered",
    "replace",
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
    """Make a collection, let `fill` add to it, and return it open for writing; where that fails none is left."""
    from osler.collection import Collection

    cases = Collection.create(out, dim=dim, metric=metric)
    try:
        fill(cases)
    except CommitUnknownError:
        cases.close()
        raise
    except BaseException:
        # So that the same call can be made again.
        cases.close()
        Store.remove(cases.path)
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


def export(target: Path, write: Callable[[Path], Any], numbers: Array, names: Sequence[str] | None) -> None:
    """Write a file, and beside it the key of each number, if they have names; of an older file no names are left."""
    _sidecar(target).unlink(missing_ok=True)
    replace(target, write)
    if names is None:
        return
    import polars as pl

    schema = {"number": pl.UInt64, "key": pl.String}
    table = pl.DataFrame({"number": numbers, "key": names}, schema=schema)
    # By this a list is told from one of another file of the name.
    table = table.with_columns(sha256=pl.lit(_digest(target)))
    replace(_sidecar(target), lambda draft: table.write_parquet(draft))


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def named_numbers(path: Path, numbers: Array) -> list[str]:
    """Return the key of each number, from beside the file where an export left them, else the numbers as text."""
    sidecar = _sidecar(path)
    if not sidecar.is_file():
        return [str(number) for number in numbers.tolist()]
    import polars as pl

    unfit = f"{sidecar.name} does not fit the file beside it; remove it to import the numbers"
    try:
        table = read_parquet(sidecar)
    except ValueError:
        raise ValueError(unfit) from None
    try:
        if "sha256" in table.columns and set(table["sha256"]) - {_digest(path)}:
            raise ValueError(
                f"{sidecar.name} names the rows of another file than {path.name} is now; remove it to import numbers"
            )
        names = dict(zip(table["number"].to_list(), table["key"].to_list(), strict=True))
        return [names[number] for number in numbers.tolist()]
    except (pl.exceptions.PolarsError, KeyError):
        raise ValueError(unfit) from None


def replace(target: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `target`, which its owner alone can read, then give it the name, durably."""
    draft = target.with_name(f".{target.name}.{token_hex(8)}")
    try:
        # Before there is anything in it to be read.
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        write(draft)
        _sync(draft)
        os.replace(draft, target)
        _sync(target.parent)
    except OSError as error:
        raise Error(
            f"{target.name} could not be written; check the space and the rights there", code="write_failed"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".keys.parquet")
