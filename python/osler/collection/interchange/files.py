"""What all exchanged files share: a list of keys beside one, and a write that leaves the old file or the whole new one.

Touches the files that are named and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

from osler.collection.rows import Array
from osler.errors import Error

__all__ = ["check_folder", "named_numbers", "replace", "write_names"]


def check_folder(target: Path) -> None:
    """Raise unless the folder of a file to be written is there."""
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder for {target.name} does not exist; make it first")


def write_names(path: Path, numbers: Array, names: Sequence[str]) -> None:
    """Write the key of each number beside an exported file."""
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
