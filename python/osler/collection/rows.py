"""What callers give, checked: keys, vectors, kinds, places, and metadata with the type of each column.

Pure functions of their arguments; an error names a column or a position, and no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from osler.config import LIMITS
from osler.items import WHOLE, Locator

if TYPE_CHECKING:
    from osler.items import Kind

__all__ = [
    "KEY",
    "Array",
    "Columns",
    "Stored",
    "accepts",
    "check_keys",
    "check_table",
    "dtype",
    "is_unicode",
    "merge_types",
    "table_rows",
    "unit_rows",
]

KEY = "key"
# Rows whose double-precision copies are in memory at a time.
_LARGEST_SQUARES = float(np.finfo(np.float32).max) / 16.0 * (1 - 1e-6)
_BLOCK_ROWS = 8_192
# Whole numbers beyond this have no place of their own among floating-point ones.
_EXACT = 2**53
_KINDS: tuple[Kind, ...] = ("image", "text")

# The columns that files themselves give, and their types.
BUILT_IN = {
    "modality": "text", "body_part": "text", "view": "text", "laterality": "text", "photometric": "text",
    "rows": "int", "columns": "int", "frames": "int", "spacing": "float", "slice_thickness": "float",
    "manufacturer": "text", "year": "int", "age": "int", "sex": "text", "encoding": "text", "format": "text",
}  # fmt: skip

Array = np.ndarray[Any, np.dtype[Any]]


class Stored(Protocol):
    """What is known of rows that are stored."""

    def first_with(self, column: str) -> str | None:
        """Return the key of a live item that has a value in a column."""

    def largest(self, column: str) -> int:
        """Return the greatest whole number in a column, without its sign."""


class Columns:
    """The columns of a collection and the type of each, grown row by row.

    Parameters
    ----------
    types : mapping of str to str
        Column name to ``bool``, ``int``, ``float``, ``text``, ``date``, ``datetime``, ``null`` or ``list`` of one.
    """

    def __init__(self, types: Mapping[str, str]) -> None:
        self.types = dict(types)
        self._first: dict[str, str] = {}
        self._largest: dict[str, int] = {}

    def accept(self, key: str, row: Mapping[str, Any], stored: Stored | None = None) -> dict[str, Any]:
        """Return `row` with plain Python values, after widening the types by it; nothing changes if it does not fit.

        Parameters
        ----------
        key : str
            The row's key, for the error.
        row : mapping of str to value
        stored : Stored, optional
            The rows that there are.

        Raises
        ------
        ValueError
            A value has another type than its column, or no type that can be stored; there are too many columns, or too
            many bytes in the row.
        """
        plain: dict[str, Any] = {}
        widened: dict[str, str] = {}
        largest: dict[str, int] = {}
        size = 0
        for name, value in row.items():
            check_column(name)
            plain[name] = value = _plain(value)
            found = _type_of(name, value)
            known = self.types.get(name, "null")
            merged = _merge(known, found)
            if merged is None:
                other = self._first.get(name) or (stored.first_with(name) if stored is not None else None)
                row_there = f"row {other!r}" if other is not None else "an earlier row"
                raise ValueError(
                    f"column {name!r} holds {known} in {row_there} and {found} in row {key!r}; "
                    "give one type to the whole column"
                )
            widened[name] = merged
            size += _size(value)
            if found == "int":
                largest[name] = max(self._largest.get(name, 0), abs(value))
            if (known, merged) == ("int", "float") and stored is not None:
                largest[name] = max(self._largest.get(name, 0), stored.largest(name))
            if merged == "float" and largest.get(name, self._largest.get(name, 0)) > _EXACT:
                raise ValueError(
                    f"column {name!r} holds a whole number beyond 2**53 and, in this row or another, a fraction; no "
                    "type holds both exactly, so store it as text"
                )
        if len(self.types.keys() | widened.keys()) > LIMITS.metadata_columns:
            raise ValueError(
                f"row {key!r} makes more than {LIMITS.metadata_columns} columns; store fewer, or set "
                "OSLER_LIMIT_METADATA_COLUMNS"
            )
        if size > LIMITS.metadata_row_bytes:
            raise ValueError(
                f"the metadata of row {key!r} exceeds {LIMITS.metadata_row_bytes} bytes; store less with each row"
            )
        for name, kind in widened.items():
            if self.types.get(name, "null") == "null" and kind != "null":
                self._first.setdefault(name, key)
        self.types.update(widened)
        self._largest.update(largest)
        return plain


def check_table(rows: Iterable[Mapping[str, Any]], types: Mapping[str, str], what: str) -> None:
    """Raise unless the cells of a user's table fit the columns of a collection and those that its files will give.

    Raises
    ------
    ValueError
        It names the column and the type that is expected, and no cell.
    """
    known = BUILT_IN | {name: kind for name, kind in types.items() if kind != "null"}
    theirs = dict.fromkeys(BUILT_IN, "for every file") | dict.fromkeys(types, "in this collection")
    for row in rows:
        for name, value in row.items():
            check_column(name)
            found = _type_of(name, _plain(value))
            merged = _merge(known.get(name, "null"), found)
            if merged is None:
                where = theirs.get(name, "in another row")
                raise ValueError(
                    f"column {name!r} of {what} holds {found}, and is {known[name]} {where}; "
                    "correct its cells or rename the column"
                )
            known[name] = merged


def table_rows(metadata: Any, count: int) -> list[dict[str, Any]]:
    """Return metadata as dicts, one a key, from a list of mappings or any table with the Arrow PyCapsule interface."""
    if metadata is None:
        return [{} for _ in range(count)]
    rows: list[dict[str, Any]]
    if isinstance(metadata, Sequence) and not isinstance(metadata, str | bytes):
        if not all(isinstance(row, Mapping) for row in metadata):
            raise TypeError("metadata must be a list of dicts or a table with the Arrow PyCapsule interface")
        rows = [dict(row) for row in metadata]
    elif hasattr(metadata, "__arrow_c_stream__") or hasattr(metadata, "__arrow_c_array__"):
        import polars as pl

        rows = pl.DataFrame(metadata).to_dicts()
    else:
        raise TypeError(
            f"metadata is a {type(metadata).__name__}; give a list of dicts or a table with the Arrow PyCapsule "
            "interface, such as a Polars or pandas frame"
        )
    if len(rows) != count:
        raise ValueError(f"metadata has {len(rows)} rows for {count} keys; give one row a key, in the same order")
    return rows


def unit_rows(vectors: Any, dim: int, metric: str, what: str = "vectors") -> Array:
    """Return a float32 copy (n, dim) of `vectors`, of unit rows under cosine, after checking every value."""
    found = np.asarray(vectors)
    if found.dtype.kind not in "fiu" or found.ndim != 2:
        raise ValueError(
            f"{what} has shape {found.shape} and dtype {found.dtype}; give real numbers of shape (n, {dim})"
        )
    if found.shape[1] != dim:
        raise ValueError(
            f"{what} has {found.shape[1]} columns, this collection has dim {dim}; "
            "use vectors of the encoder that the collection was made with"
        )
    units = np.empty(found.shape, np.float32)
    for start in range(0, len(found), _BLOCK_ROWS):
        _unit_rows(found[start : start + _BLOCK_ROWS], units[start : start + _BLOCK_ROWS], start, metric, what)
    return units


def _unit_rows(found: Array, units: Array, start: int, metric: str, what: str) -> None:
    """Fill `units` with some rows, of which `start` is the first one's number."""
    wide = found.astype(np.float64)
    if not np.isfinite(wide).all():
        row = start + int(np.argmax(~np.isfinite(wide).all(1)))
        raise ValueError(f"row {row} of {what} holds NaN or infinity; give finite numbers")
    if metric == "cosine":
        scale = np.abs(wide).max(1, initial=0.0)
        if (scale == 0).any():
            row = start + int(np.argmax(scale == 0))
            raise ValueError(f"row {row} of {what} is zero, which has no direction under cosine; remove it")
        wide /= scale[:, None]
        wide /= np.sqrt((wide * wide).sum(1))[:, None]
    else:
        # As in an index: the sum of squares bounds every score, and one that is not finite ranks nothing.
        with np.errstate(over="ignore"):
            too_large = (wide * wide).sum(1) > _LARGEST_SQUARES
        if too_large.any():
            row = start + int(np.argmax(too_large))
            raise ValueError(f"row {row} of {what} is too large to score in float32; scale the vectors down")
    units[:] = wide


def check_keys(keys: Iterable[str]) -> list[str]:
    """Return the keys as a list, refusing other types, empty ones and repetitions."""
    if isinstance(keys, str):
        raise TypeError("keys is one str; give a list of them")
    found = list(keys)
    for position, key in enumerate(found):
        if not isinstance(key, str):
            raise TypeError(f"key {position} is a {type(key).__name__}; keys of a collection are str")
        if not key or "\0" in key:
            raise ValueError(f"key {position} is empty or holds a NUL")
        if not is_unicode(key):
            raise ValueError(f"key {position} holds half of a surrogate pair, which is no text; decode it as UTF-8")
    seen: set[str] = set()
    for key in found:
        if key in seen:
            raise ValueError(f"key {key!r} is given twice; give each key once")
        seen.add(key)
    return found


def is_unicode(text: str) -> bool:
    """Say whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_column(name: Any) -> None:
    """Raise unless a column may have this name."""
    if not isinstance(name, str) or not name:
        raise ValueError("a metadata column needs a name of type str")
    if name == KEY or name.startswith("__"):
        raise ValueError(f"a metadata column cannot be named {name!r}; rename it")
    if not is_unicode(name):
        raise ValueError("the name of a metadata column holds half of a surrogate pair, which is no text; rename it")


def check_kind(kind: str) -> Kind:
    """Return `kind` if a part can be of it."""
    for known in _KINDS:
        if kind == known:
            return known
    raise ValueError(f"kind is {kind!r}; choose 'image' or 'text'")


def accepts(kind: str, column: str, value: Any) -> bool:
    """Say whether a value can stand in a column of this type."""
    return _merge(kind, _type_of(column, _plain(value))) is not None


def as_locator(value: Any) -> Locator:
    """Return a `Locator` from one, from a dict of its fields, or from None."""
    if value is None:
        return WHOLE
    if isinstance(value, Locator):
        return value
    if isinstance(value, Mapping):
        fields: dict[str, Any] = {
            name: tuple(entry) if isinstance(entry, list) else entry for name, entry in value.items()
        }
        return Locator(**fields)
    raise TypeError(
        f"a locator is a {type(value).__name__}; give an osler.items.Locator, a dict of its fields, or None"
    )


def dtype(kind: str) -> Any:
    """Return the Polars type of a column type."""
    import polars as pl

    if kind.startswith("list of "):
        return pl.List(dtype(kind.removeprefix("list of ")))
    return {
        "bool": pl.Boolean,
        "int": pl.Int64,
        "float": pl.Float64,
        "text": pl.String,
        "date": pl.Date,
        "datetime": pl.Datetime("us"),
        "null": pl.Null,
    }[kind]


def merge_types(known: Mapping[str, str], others: Mapping[str, str], what: str) -> dict[str, str]:
    """Return the types of columns that hold the values of two collections.

    Raises
    ------
    ValueError
        A column has types that no column can hold together.
    """
    merged = dict(known)
    for name, found in others.items():
        both = _merge(known.get(name, "null"), found)
        if both is None:
            raise ValueError(f"column {name!r} holds {found} in {what} and {known[name]} here; rename one of them")
        merged[name] = both
    return merged


def _size(value: Any) -> int:
    """Return the bytes that a value takes where it is stored."""
    if isinstance(value, str):
        return 4 + len(value.encode())
    return 8 + sum(map(_size, value)) if isinstance(value, list) else 8


def _plain(value: Any) -> Any:
    if isinstance(value, np.datetime64):
        # Of nanoseconds NumPy makes a number.
        value = value.astype("datetime64[us]").item()
    if isinstance(value, datetime) and value != value:
        # What pandas has for no time.
        return None
    if isinstance(value, np.generic) and not isinstance(value, np.timedelta64):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value


def _type_of(name: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"column {name!r} holds a whole number beyond 64 bits; store it as text")
        return "int"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        if not is_unicode(value):
            raise ValueError(
                f"column {name!r} holds half of a surrogate pair, which is no text; decode its source as UTF-8"
            )
        return "text"
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            raise ValueError(f"column {name!r} holds a time with a zone; convert it to UTC and drop the zone")
        return "datetime"
    if isinstance(value, date):
        return "date"
    if isinstance(value, list):
        inner = "null"
        for entry in value:
            merged = _merge(inner, _type_of(name, entry))
            if merged is None or merged.startswith("list"):
                raise ValueError(f"column {name!r} holds a list of several types; give its entries one plain type")
            inner = merged
        return f"list of {inner}"
    raise ValueError(
        f"column {name!r} holds a {type(value).__name__}; "
        "store bool, int, float, str, date, datetime or a list of one of them"
    )


def _merge(known: str, found: str) -> str | None:
    """Return the type that holds both, or None."""
    if known == found or found == "null":
        return known
    if known == "null":
        return found
    if {known, found} == {"int", "float"}:
        return "float"
    if known.startswith("list of ") and found.startswith("list of "):
        inner = _merge(known.removeprefix("list of "), found.removeprefix("list of "))
        return None if inner is None else f"list of {inner}"
    return None
