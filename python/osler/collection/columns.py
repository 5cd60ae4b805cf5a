"""Metadata of some items as columns, and back: arrays in Arrow's layout, with a third state for what was never set.

Pure translation between values, arrays and bytes. Every length that bytes state is checked before it is used, so bytes
of any origin give a table or `ValueError`. FORMAT.md, "Metadata".
"""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.rows import Array, dtype

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Column", "Table"]

UNSET, NULL, VALUE = 0, 1, 2
_FIXED = {"bool": "|u1", "int": "<i8", "float": "<f8", "date": "<i4", "datetime": "<i8"}
_ALIGN = 8
# Fastest: most of what is stored are pseudonyms, which no level makes much smaller.
_LEVEL = 1
# Bytes of a table, written or read: its rows, each as large as it may be by default, in as many columns.
_MOST_BYTES = 512 << 20
# Days and microseconds since 1970 that a date and a time of Python's can be.
_DAYS = (date.min.toordinal() - date(1970, 1, 1).toordinal(), date.max.toordinal() - date(1970, 1, 1).toordinal())
_TIMES = tuple((end - datetime(1970, 1, 1)) // timedelta(microseconds=1) for end in (datetime.min, datetime.max))
_EPOCH, _START = date(1970, 1, 1), datetime(1970, 1, 1)
_LIST = "list of "


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column.

    Attributes
    ----------
    kind : str
        Its type, as in `osler.collection.rows.Columns`.
    states : ndarray of uint8 (n,)
        `UNSET`, `NULL` or `VALUE`.
    values : ndarray, or tuple of ndarray and (ndarray or Column)
        Numbers, zero where there is no value: days or microseconds since 1970 for dates and times; of texts and lists
        where each ends, and their bytes or entries; of ``null`` nothing.
    """

    kind: str
    states: Array
    values: Any

    @classmethod
    def of(cls, kind: str, values: Sequence[Any], states: Array | None = None) -> Column:
        """Make a column of Python values; None is null."""
        if states is None:
            states = np.fromiter((NULL if value is None else VALUE for value in values), np.uint8, len(values))
        if kind == "null":
            return cls(kind, states, None)
        if kind == "text":
            raw = [value.encode() if value is not None else b"" for value in values]
            return cls(kind, states, (_ends(raw), np.frombuffer(b"".join(raw), np.uint8)))
        if kind.startswith(_LIST):
            lists = [value if value is not None else [] for value in values]
            entries = [entry for value in lists for entry in value]
            return cls(kind, states, (_ends(lists), cls.of(kind.removeprefix(_LIST), entries)))
        plain = [0 if value is None else _number(kind, value) for value in values]
        return cls(kind, states, np.array(plain, _FIXED[kind]))

    @classmethod
    def empty(cls, kind: str, rows: int, state: int = UNSET) -> Column:
        """Make a column without a value."""
        return cls.of(kind, [None] * rows, np.full(rows, state, np.uint8))

    def __len__(self) -> int:
        return len(self.states)

    def value(self, row: int) -> Any:
        """Return the value of a row as Python has it; None for null."""
        if self.states[row] != VALUE or self.kind == "null":
            return None
        if self.kind == "text" or self.kind.startswith(_LIST):
            ends, inner = self.values
            start, end = int(ends[row - 1]) if row else 0, int(ends[row])
            if self.kind == "text":
                return inner[start:end].tobytes().decode()
            return [inner.value(at) for at in range(start, end)]
        return _python(self.kind, self.values[row].item())

    def to_list(self) -> list[Any]:
        """Return the values as Python has them; None for null and for what was never set."""
        if self.kind == "null":
            return [None] * len(self)
        if self.kind == "text":
            ends, data = self.values[0].tolist(), self.values[1].tobytes()
            text = data.decode()
            if len(text) == len(data):
                found: list[Any] = [text[start:end] for start, end in itertools.pairwise([0, *ends])]
            else:
                found = [data[start:end].decode() for start, end in itertools.pairwise([0, *ends])]
        elif self.kind.startswith(_LIST):
            entries = self.values[1].to_list()
            found = [entries[start:end] for start, end in itertools.pairwise([0, *self.values[0].tolist()])]
        else:
            found = [_python(self.kind, value) for value in self.values.tolist()]
        for row in np.flatnonzero(self.states != VALUE).tolist():
            found[row] = None
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        parts = self.values if isinstance(self.values, tuple) else () if self.values is None else (self.values,)
        return int(self.states.nbytes) + sum(int(part.nbytes) for part in parts)

    def take(self, rows: Array) -> Column:
        """Return the column of some rows."""
        if self.kind == "null":
            return Column(self.kind, self.states[rows], None)
        if self.kind == "text" or self.kind.startswith(_LIST):
            ends, inner = self.values
            starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
            lengths = ends[rows] - starts[rows]
            own = np.cumsum(lengths)
            at = np.arange(int(own[-1]) if len(own) else 0) + np.repeat(starts[rows] - (own - lengths), lengths)
            return Column(self.kind, self.states[rows], (own, inner[at] if self.kind == "text" else inner.take(at)))
        return Column(self.kind, self.states[rows], self.values[rows])

    def as_kind(self, kind: str) -> Column:
        """Return the column as a wider type: that of the collection, which has seen more values."""
        if kind == self.kind:
            return self
        if self.kind == "null":
            return Column.empty(kind, len(self)).with_states(self.states)
        if kind == "float":
            return Column(kind, self.states, self.values.astype("<f8"))
        ends, inner = self.values
        return Column(kind, self.states, (ends, inner.as_kind(kind.removeprefix(_LIST))))

    def with_states(self, states: Array) -> Column:
        """Return the same values in other states."""
        return Column(self.kind, states, self.values)

    def series(self, name: str) -> pl.Series:
        """Return the column for Polars; what was never set is null there."""
        import polars as pl

        kind = dtype(self.kind)
        there = self.states == VALUE
        if self.kind in ("text", "null"):
            return pl.Series(name, self.to_list(), kind)
        if self.kind.startswith(_LIST):
            ends, inner = self.values
            rows = np.arange(len(self), dtype=np.uint32)
            entries = pl.DataFrame([pl.Series("row", np.repeat(rows, np.diff(ends, prepend=0))), inner.series("entry")])
            lists = entries.group_by("row", maintain_order=True).agg("entry")
            all_rows = pl.DataFrame({"row": rows, "there": there}).join(lists, "row", "left", maintain_order="left")
            listed = pl.when("there").then(pl.col("entry").fill_null(pl.lit([], kind))).alias(name)
            return all_rows.select(listed)[name].cast(kind)
        # Dates and times are numbers to Polars too.
        found = pl.Series(name, self.values.astype(bool) if self.kind == "bool" else self.values).cast(kind)
        return found if there.all() else pl.select(pl.when(pl.Series(there)).then(found).alias(name))[name]

    @staticmethod
    def joined(columns: Sequence[Column]) -> Column:
        """Return columns of one type one after another."""
        kind, states = columns[0].kind, np.concatenate([column.states for column in columns])
        if kind == "null":
            return Column(kind, states, None)
        if kind == "text" or kind.startswith(_LIST):
            ends = [column.values[0] for column in columns]
            before = np.cumsum([0, *(int(one[-1]) if len(one) else 0 for one in ends)])
            inner = [column.values[1] for column in columns]
            whole = np.concatenate([one + shift for one, shift in zip(ends, before, strict=False)])
            return Column(kind, states, (whole, np.concatenate(inner) if kind == "text" else Column.joined(inner)))
        return Column(kind, states, np.concatenate([column.values for column in columns]))

    def buffers(self) -> list[Array]:
        """Return the arrays of the column, in the order of the format."""
        states = self.states if (self.states != VALUE).any() else self.states[:0]
        if self.kind == "null":
            return [states]
        if self.kind == "text":
            return [states, self.values[0].astype("<u4"), self.values[1]]
        if self.kind.startswith(_LIST):
            return [states, self.values[0].astype("<u4"), *self.values[1].buffers()]
        return [states, self.values]

    @classmethod
    def read(cls, kind: str, rows: int, buffers: list[bytes]) -> Column:
        """Make a column of the next buffers, which it takes from the list."""
        states = np.frombuffer(buffers.pop(0), np.uint8)
        # Of nothing but states every row is there: rows that no byte stands for cost nothing to state.
        _check(kind != "null" or len(states) == rows, "states")
        states = np.full(rows, VALUE, np.uint8) if not len(states) else states
        _check(len(states) == rows and (not rows or states.max() <= VALUE), "states")
        if kind == "null":
            return cls(kind, states, None)
        if kind == "text" or kind.startswith(_LIST):
            ends = np.frombuffer(buffers.pop(0), "<u4").astype(np.int64)
            _check(len(ends) == rows and (np.diff(ends, prepend=0) >= 0).all(), "ends")
            size = int(ends[-1]) if rows else 0
            if kind == "text":
                inner: Any = np.frombuffer(buffers.pop(0), np.uint8)
                # Each text by itself: a whole that is UTF-8 may be cut inside a character.
                _check(len(inner) == size and _is_text(inner.tobytes(), ends), "text")
            else:
                inner = cls.read(kind.removeprefix(_LIST), size, buffers)
            return cls(kind, states, (ends, inner))
        _check(kind in _FIXED, "type")
        data = buffers.pop(0)
        _check(len(data) == rows * np.dtype(_FIXED[kind]).itemsize, "values")
        values = np.frombuffer(data, _FIXED[kind])
        for named, (first, last) in (("date", _DAYS), ("datetime", _TIMES)):
            _check(kind != named or not rows or (first <= values.min() and values.max() <= last), f"{named}s")
        return cls(kind, states, values)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The columns of some items; one that no item has set is not there."""

    rows: int
    columns: dict[str, Column]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> Table:
        """Make a table of items, each with the columns that it sets."""
        columns = {}
        for name, kind in types.items():
            states = np.fromiter((_state(row, name) for row in rows), np.uint8, len(rows))
            if states.any():
                columns[name] = Column.of(kind, [row.get(name) for row in rows], states)
        return cls(len(rows), columns)

    def row(self, at: int) -> dict[str, Any]:
        """Return the columns that one item has set."""
        return {name: column.value(at) for name, column in self.columns.items() if column.states[at] != UNSET}

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(column.nbytes for column in self.columns.values())

    def take(self, rows: Array) -> Table:
        """Return the table of some items."""
        return Table(len(rows), {name: column.take(rows) for name, column in self.columns.items()})

    def frame(self, types: Mapping[str, str]) -> pl.DataFrame:
        """Return these columns for Polars, in this order."""
        import polars as pl

        found = [self._column(name, kind).series(name) for name, kind in types.items()]
        return pl.DataFrame(found) if found else pl.DataFrame(height=self.rows)

    def _column(self, name: str, kind: str) -> Column:
        found = self.columns.get(name)
        return Column.empty(kind, self.rows) if found is None else found.as_kind(kind)

    @staticmethod
    def joined(tables: Sequence[Table], types: Mapping[str, str]) -> Table:
        """Return tables one after another, with columns of these types."""
        columns = {}
        for name, kind in types.items():
            if any(name in table.columns for table in tables):
                column = Column.joined([table._column(name, kind) for table in tables])
                if (column.states != UNSET).any():
                    columns[name] = column
        return Table(sum(table.rows for table in tables), columns)

    def to_bytes(self) -> bytes:
        """Return the table compressed, as it is stored.

        Raises
        ------
        ValueError
            It is larger than what can be read again.
        """
        heads, parts = [], []
        for name, column in self.columns.items():
            buffers = [array.tobytes() for array in column.buffers()]
            heads.append({"name": name, "type": column.kind, "buffers": [len(one) for one in buffers]})
            parts += [one + bytes(-len(one) % _ALIGN) for one in buffers]
        head = json.dumps({"rows": self.rows, "columns": heads}, ensure_ascii=False).encode()
        head += b" " * (-(len(head) + 4) % _ALIGN)
        plain = b"".join([struct.pack("<I", len(head)), head, *parts])
        if len(plain) > _MOST_BYTES:
            raise ValueError(
                f"the metadata of {self.rows} rows together is {len(plain)} bytes, more than {_MOST_BYTES}; store less "
                "with each row, or fewer columns"
            )
        return zlib.compress(plain, _LEVEL)

    @classmethod
    def read(cls, data: bytes, rows: int) -> Table:
        """Read a table of so many items.

        Raises
        ------
        ValueError
            The bytes are no table, or one of other items.
        """
        try:
            stream = zlib.decompressobj()
            plain = stream.decompress(data, _MOST_BYTES)
            _check(stream.eof and not stream.unused_data, "stream")
            (size,) = struct.unpack_from("<I", plain)
            head = json.loads(plain[4 : 4 + size])
            at, columns = 4 + size, {}
            _check(head["rows"] == rows, "rows")
            for entry in head["columns"]:
                buffers = []
                for length in entry["buffers"]:
                    _check(type(length) is int and 0 <= length <= len(plain) - at, "buffers")
                    buffers.append(plain[at : at + length])
                    at += length + -length % _ALIGN
                name = entry["name"]
                _check(isinstance(name, str) and name not in columns, "name")
                columns[name] = Column.read(entry["type"], rows, buffers)
                _check(not buffers, "buffers")
            _check(at == len(plain), "length")
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError, struct.error, zlib.error) as error:
            raise ValueError(f"a table cannot be read: {type(error).__name__}") from None
        return cls(rows, columns)


def _check(sound: Any, what: str) -> None:
    if not sound:
        raise ValueError(f"a table has wrong {what}")


def _state(row: Mapping[str, Any], name: str) -> int:
    return UNSET if name not in row else NULL if row[name] is None else VALUE


def _ends(values: Sequence[Any]) -> Array:
    return np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))


def _is_text(data: bytes, ends: Array) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    cuts = ends[ends < len(data)]
    return not ((np.frombuffer(data, np.uint8)[cuts] & 0xC0) == 0x80).any()


def _number(kind: str, value: Any) -> Any:
    if kind == "date":
        return (value - _EPOCH).days
    if kind == "datetime":
        return (value - _START) // timedelta(microseconds=1)
    return value


def _python(kind: str, value: Any) -> Any:
    if kind == "bool":
        return bool(value)
    if kind == "date":
        return _EPOCH + timedelta(days=value)
    if kind == "datetime":
        return _START + timedelta(microseconds=value)
    return value
