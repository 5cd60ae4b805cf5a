"""Tables: rows that name pictures, and rows of metadata that are joined to items.

Reads one CSV, TSV or Parquet file with Polars. A column whose name is that of an identifier is refused unless it was
named to be kept; patient_id, study_id, series_id and instance_id become pseudonyms. DICOM PS3.15, table E.1-1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from osler.sources.identifiers import IDENTIFYING
from osler.sources.images import Entry, relative, size_of
from osler.sources.parquet import is_parquet, read_parquet

if TYPE_CHECKING:
    import polars as pl

__all__ = ["PSEUDONYMISED", "Join", "is_table", "read_table", "table_entries"]

PSEUDONYMISED = ("patient_id", "study_id", "series_id", "instance_id")
_PATHS = ("path", "file", "filename")
_JOINS = ("key", *_PATHS, "sopinstanceuid")


def is_table(path: Path) -> bool:
    """Tell whether a file named as a source is a table: Parquet by its bytes, CSV and TSV by their names.

    Examples
    --------
    >>> from pathlib import Path
    >>> from osler.sources.tables import is_table
    >>> is_table(Path("cases.csv"))
    True
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        return True
    try:
        return path.is_file() and is_parquet(path)
    except OSError:
        return False


def read_table(table: Any, what: str = "the table") -> pl.DataFrame:
    """Return a CSV, TSV or Parquet file, a data frame, a list of dicts or a dict of columns as a Polars frame.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It cannot be read; the message quotes none of it.

    Examples
    --------
    >>> from osler.sources.tables import read_table
    >>> read_table([{"file": "a.png", "label": "effusion"}]).columns
    ['file', 'label']
    """
    import polars as pl

    if isinstance(table, str | os.PathLike):
        return _read_file(Path(table), what)
    if isinstance(table, pl.DataFrame):
        return table
    try:
        if isinstance(table, pl.LazyFrame):
            return table.collect()
        if hasattr(table, "__arrow_c_stream__"):
            return pl.DataFrame(table)
        if isinstance(table, Mapping | Sequence):
            return pl.DataFrame(table, infer_schema_length=None)
        return pl.from_pandas(table)
    except (Exception, pl.exceptions.PanicException):
        raise ValueError(f"{what} is no file, data frame or list of rows that can be read; give one of these") from None


def _read_file(path: Path, what: str) -> pl.DataFrame:
    import polars as pl

    if not path.is_file():
        raise FileNotFoundError(f"{what} {path.name!r} is not there; check its path")
    if is_parquet(path):
        return read_parquet(path)
    try:
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        names = pl.read_csv(path, separator=separator, n_rows=0).columns
        # Numbers that are names keep their leading zeros.
        texts = {name: pl.String for name in names if _plain(name) in _JOINS or name in PSEUDONYMISED}
        texts |= {name: pl.String for name in names if _plain(name) in IDENTIFYING}
        return pl.read_csv(path, separator=separator, infer_schema_length=None, schema_overrides=texts)
    except OSError:
        raise
    # A panic is no Exception.
    except (Exception, pl.exceptions.PanicException):
        raise ValueError(
            f"{what} {path.name!r} cannot be read as CSV, TSV or Parquet; save it as UTF-8 with commas"
        ) from None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _column(frame: pl.DataFrame, names: Iterable[str]) -> str | None:
    """Return the first column that has one of the names, in the names' order, whatever its case."""
    lower = {re.sub(r"_", "", name.lower()): name for name in reversed(frame.columns)}
    return next((lower[name] for name in names if name in lower), None)


def _refuse_identifiers(frame: pl.DataFrame, keep: Sequence[str], what: str) -> None:
    for name in frame.columns:
        if name in keep or name in PSEUDONYMISED or _plain(name) not in IDENTIFYING:
            continue
        alias = {"patientid": "patient_id", "studyinstanceuid": "study_id", "seriesinstanceuid": "series_id"}
        alias["sopinstanceuid"] = "instance_id"
        instead = f", rename it to {alias[_plain(name)]} to store a pseudonym" if _plain(name) in alias else ""
        raise ValueError(
            f"{what} has the column {name!r}, which may identify a person; leave it out{instead}, or name it in keep"
        )


def _cells(frame: pl.DataFrame, left_out: Iterable[str | None], what: str) -> list[dict[str, Any]]:
    """Return rows as dicts of plain values, without the columns that name the row."""
    skipped = set(left_out)
    names = [name for name in frame.columns if name not in skipped]
    for name in names:
        if frame.schema[name].base_type().__name__ in ("Struct", "Object", "Binary"):
            raise ValueError(f"{what} has the column {name!r} of type {frame.schema[name]}; give text or numbers")
    return [{name: _cell(value) for name, value in row.items()} for row in frame.select(names).to_dicts()]


def _cell(value: Any) -> Any:
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return float(value) if isinstance(value, Decimal) else value


def _unique(values: Sequence[Any], column: str, what: str) -> None:
    seen: dict[Any, int] = {}
    for row, value in enumerate(values, start=1):
        if value is not None and seen.setdefault(value, row) != row:
            raise ValueError(f"{what} has the same {column!r} in rows {seen[value]} and {row}; each may occur once")


def table_entries(path: Path, keep: Sequence[str]) -> tuple[list[Entry], list[str | None], list[dict[str, Any]]]:
    """Return the pictures that a table names, the key of each row or None, and the other cells of each row.

    Raises
    ------
    ValueError
        There is no column path, file or filename; a row names no picture; two rows have one key, or one picture and
        no key; a column may identify a person and is not to be kept.
    """
    what = f"the table {path.name!r}"
    frame = read_table(path, "the table")
    column, keyed = _column(frame, _PATHS), _column(frame, ("key",))
    if column is None:
        raise ValueError(f"{what} has no column path, file or filename that names the pictures; add one")
    _refuse_identifiers(frame, keep, what)
    texts = [None if value is None else str(value) for value in frame[column].to_list()]
    keys: list[str | None] = [None] * len(frame)
    if keyed:
        keys = [None if value is None else str(value) for value in frame[keyed].to_list()]
    for row, (text, key) in enumerate(zip(texts, keys, strict=True), start=1):
        if not text or "\0" in text or (keyed and not key):
            raise ValueError(f"{what} has an empty {column!r} or 'key' in row {row}; fill it in")
    _unique(keys if keyed else texts, keyed or column, what)
    root = path.parent
    entries = []
    for number, text in enumerate(texts):
        picture = Path(os.path.normpath(root / str(text)))
        entries.append(Entry(relative(picture, root), picture, size_of(picture), number))
    return entries, keys, _cells(frame, (column, keyed), what)


class Join:
    """Rows of metadata, found for an item by its key, its path, its file name or its SOPInstanceUID.

    Parameters
    ----------
    table : path or data frame
    entries : sequence of Entry
    keys : sequence of str or None
        The key of each entry, where a table gave it.
    keep : sequence of str
        Columns that are kept although their names are those of identifiers.

    Raises
    ------
    ValueError
        There is no column to join on, two rows have one value in it, a row's file name fits several entries, or no
        row fits any entry by the first such column while some would by another.
    """

    def __init__(self, table: Any, entries: Sequence[Entry], keys: Sequence[str | None], keep: Sequence[str]) -> None:
        what = "the metadata"
        frame = read_table(table, what)
        column = _column(frame, _JOINS)
        if column is None:
            raise ValueError(f"{what} has no column key, path, file, filename or SOPInstanceUID to join on; add one")
        self.kind = _plain(column)
        left_out = {name for name in frame.columns if _plain(name) in _JOINS}
        _refuse_identifiers(frame.drop(left_out - set(keep)), keep, what)
        self._cells = _cells(frame, left_out - (set(keep) - {column}), what)
        self.columns = {name for name in frame.columns if name not in left_out - set(keep)}
        values = [None if value is None else str(value).strip() for value in frame[column].to_list()]
        if self.kind in _PATHS:
            values = [None if value is None else _posix(value) for value in values]
        _unique(values, column, what)
        self._rows = {value: row for row, value in enumerate(values) if value}
        self._matched: set[int] = set()
        self._of_entry: dict[int, int] = {}
        if self.kind != "sopinstanceuid":
            self._match(entries, keys, column)
            if entries and not self._matched:
                self._refuse_the_wrong_column(frame, entries, keys, column)

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The cells of every row, matched or not."""
        return self._cells

    @property
    def unmatched(self) -> int:
        """Rows that no entry has matched; under SOPInstanceUID, none of those read so far."""
        return len(self._cells) - len(self._matched)

    def cells(self, entry: Entry, uids: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Return the cells of the row of an entry, or of each of its files, as far as there are any."""
        if self.kind == "sopinstanceuid":
            rows = [self._rows[uid] for uid in uids if uid in self._rows]
        else:
            numbers = entry.numbers or (entry.number,)
            rows = [self._of_entry[number] for number in numbers if number in self._of_entry]
        self._matched.update(rows)
        return [self._cells[row] for row in rows]

    def _match(self, entries: Sequence[Entry], keys: Sequence[str | None], column: str) -> None:
        owners: dict[int, int] = {}
        for entry in entries:
            if self.kind == "key":
                key = keys[entry.number] if entry.number < len(keys) else None
                row = self._rows.get(entry.locator if key is None else key)
            else:
                row = self._rows.get(entry.locator)
                if row is None and self.kind != "path":
                    row = self._rows.get(PurePosixPath(entry.locator).name)
            if row is None:
                continue
            if row in owners:
                raise ValueError(
                    f"row {row + 1} of the metadata fits more than one file by its {column!r}; "
                    "give paths in a column path"
                )
            owners[row] = entry.number
            self._of_entry[entry.number] = row
        self._matched = set(owners)

    def _refuse_the_wrong_column(
        self, frame: pl.DataFrame, entries: Sequence[Entry], keys: Sequence[str | None], column: str
    ) -> None:
        locators = {entry.locator for entry in entries}
        bare = {PurePosixPath(locator).name for locator in locators}
        targets = {"key": {key for key in keys if key} or locators, "path": locators}
        for other in frame.columns:
            kind = _plain(other)
            if other == column or kind not in ("key", *_PATHS):
                continue
            texts = [str(value).strip() for value in frame[other].to_list() if value is not None]
            values = set(texts if kind == "key" else map(_posix, texts))
            if values & targets.get(kind, locators | bare):
                raise ValueError(
                    f"the metadata is joined on its column {column!r}, which fits no file, while {other!r} would; "
                    f"leave {column!r} out or correct it"
                )


def _posix(text: str) -> str:
    return os.path.normpath(text.replace("\\", "/"))
