"""Rows to a segment's files and back: keys, metadata, parts, vectors and locators as Parquet and NumPy bytes.

Pure translation between tables and bytes; the store writes them. A value that was never set is told from null by the
row's own list of unset columns.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.store import Store, corrupt
from osler.config import LIMITS
from osler.items import Locator, Part

if TYPE_CHECKING:
    import polars as pl

    from osler.items import Kind

__all__ = ["Batch", "Columns", "Segment", "check_table", "locator_bytes", "locators_name", "read_locators", "unit_rows"]

CONTENT = "__content"
UNSET = "__unset"
KEY = "key"
_FIELDS = ("frame", "left", "top", "right", "bottom", "start", "end")
_KINDS: tuple[Kind, ...] = ("image", "text")
# NumPy pads the header of a matrix to this many bytes.
_NPY_HEADER = 128

# The columns that files themselves give, and their types.
BUILT_IN = {
    "modality": "text", "body_part": "text", "view": "text", "laterality": "text", "photometric": "text",
    "rows": "int", "columns": "int", "frames": "int", "spacing": "float", "slice_thickness": "float",
    "manufacturer": "text", "year": "int", "age": "int", "sex": "text", "encoding": "text", "format": "text",
}  # fmt: skip

Array = np.ndarray[Any, np.dtype[Any]]
# The root of a source, and below it the file of an item, or the files of a series in order.
Place = tuple[str, list[str]]


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

    def accept(self, key: str, row: Mapping[str, Any], earlier: Any = None) -> dict[str, Any]:
        """Return `row` with plain Python values, after widening the types by it; nothing changes if it does not fit.

        Parameters
        ----------
        key : str
            The row's key, for the error.
        row : mapping of str to value
        earlier : callable, optional
            Gives the key of a stored row that has a value in a column.

        Raises
        ------
        ValueError
            A value has another type than its column, or no type that can be stored.
        """
        plain: dict[str, Any] = {}
        widened: dict[str, str] = {}
        size = 0
        for name, value in row.items():
            check_column(name)
            plain[name] = value = _plain(value)
            found = _type_of(name, value)
            known = self.types.get(name, "null")
            merged = _merge(known, found)
            if merged is None:
                other = self._first.get(name) or (earlier(name) if earlier is not None else None)
                row_there = f"row {other!r}" if other is not None else "an earlier row"
                raise ValueError(
                    f"column {name!r} holds {known} in {row_there} and {found} in row {key!r}; "
                    "give one type to the whole column"
                )
            widened[name] = merged
            size += len(value) if isinstance(value, str) else 8 * (len(value) if isinstance(value, list) else 1)
        if size > LIMITS.metadata_row_bytes:
            raise ValueError(
                f"the metadata of row {key!r} exceeds {LIMITS.metadata_row_bytes} bytes; store less with each row"
            )
        for name, kind in widened.items():
            if self.types.get(name, "null") == "null" and kind != "null":
                self._first.setdefault(name, key)
        self.types.update(widened)
        return plain


@dataclass
class Batch:
    """Items on their way into a segment.

    `parts` holds, for each row of `vectors`, its item's position in `keys` and its part; an item's parts lie together.
    """

    dim: int
    keys: list[str] = field(default_factory=list)
    contents: list[str | None] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    parts: list[tuple[int, Part]] = field(default_factory=list)
    vectors: list[Array] = field(default_factory=list)
    locators: list[Place | None] = field(default_factory=list)

    def append(
        self,
        key: str,
        row: dict[str, Any],
        parts: Iterable[Part] = (),
        vectors: Array | None = None,
        content: str | None = None,
        locator: Place | None = None,
    ) -> None:
        """Add one item with the vectors (p, dim) of its p parts."""
        self.parts.extend((len(self.keys), part) for part in parts)
        self.keys.append(key)
        self.rows.append(row)
        self.contents.append(content)
        self.locators.append(locator)
        if vectors is not None and len(vectors):
            self.vectors.append(vectors)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def vector_bytes(self) -> int:
        """Bytes of the vectors."""
        return len(self.parts) * self.dim * 4

    def files(self, identity: str, types: Mapping[str, str]) -> dict[str, bytes]:
        """Return the segment's files by their name in the directory."""
        import polars as pl

        names = [name for name in types if any(name in row for row in self.rows)]
        unset = [[name for name in names if name not in row] for row in self.rows]
        columns = [pl.Series(KEY, self.keys, pl.String), pl.Series(CONTENT, self.contents, pl.String)]
        columns.append(pl.Series(UNSET, unset, pl.List(pl.String)))
        for name in names:
            values = [row.get(name) for row in self.rows]
            columns.append(pl.Series(name, values, dtype(types[name]), strict=False))
        located = [(position, *pair) for position, pair in enumerate(self.locators) if pair is not None]
        vectors = np.concatenate(self.vectors) if self.vectors else np.empty((0, self.dim), np.float32)
        if len(vectors) != len(self.parts):
            raise ValueError(f"there are {len(vectors)} vectors for {len(self.parts)} parts")
        files = {
            f"segments/{identity}/rows.parquet": _parquet(pl.DataFrame(columns)),
            f"segments/{identity}/parts.parquet": _parquet(self._part_table()),
            f"segments/{identity}/vectors.npy": _npy(np.ascontiguousarray(vectors, np.float32)),
        }
        if located:
            files[f"locators/{identity}.parquet"] = _located_bytes(located)
        return files

    def _part_table(self) -> pl.DataFrame:
        import polars as pl

        schema = pl.Schema([("item", pl.UInt32()), ("position", pl.UInt32()), ("kind", pl.String())])
        schema.update((name, pl.Int64()) for name in _FIELDS)
        rows = [(item, part.position, part.kind, *_flat(part.locator)) for item, part in self.parts]
        return pl.DataFrame(rows, schema=schema, orient="row")


class Segment:
    """One immutable segment as it was read.

    Attributes
    ----------
    id : str
    rows : polars.DataFrame
        ``key``, ``__content``, ``__unset`` and the metadata columns; one row an item.
    part_items, part_positions, part_kinds : ndarray (p,)
        Item (row of `rows`), position in the item, and index into ``("image", "text")``.
    """

    def __init__(self, store: Store, entry: Mapping[str, Any], dim: int, hold: bool = False) -> None:
        self.id: str = entry["id"]
        self.first_item: int = entry["first_item"]
        self.first_part: int = entry["first_part"]
        self._store = store
        self._dim = dim
        self.rows = self._read("rows")
        self.part_table = self._read("parts")
        if len(self.rows) != entry["items"] or len(self.part_table) != entry["parts"]:
            raise corrupt(store.path, self._name("rows.parquet"), "its rows are not those that the manifest counts")
        self.part_items = self.part_table["item"].to_numpy().astype(np.int64)
        self.part_positions = self.part_table["position"].to_numpy()
        self.part_kinds = (self.part_table["kind"] == "text").to_numpy().astype(np.int8)
        if len(self.part_items) and (self.part_items.max() >= len(self.rows) or (np.diff(self.part_items) < 0).any()):
            raise corrupt(store.path, self._name("parts.parquet"), "its parts name items that are not there")
        self.columns = [name for name in self.rows.columns if name not in (KEY, CONTENT, UNSET)]
        # Mapped now and read later: a writer may remove the file in between.
        self._held = store.mapped(self._name("vectors.npy")) if hold else None

    @cached_property
    def vectors(self) -> Array:
        """The parts' vectors, float32 (p, dim), mapped; every byte is checked on first use."""
        name = self._name("vectors.npy")
        data = (self._held or self._store.mapped(name)).checked()
        header = io.BytesIO(data[:_NPY_HEADER])
        try:
            version = np.lib.format.read_magic(header)
            if version != (1, 0):
                raise ValueError
            shape, fortran, kind = np.lib.format.read_array_header_1_0(header)
        except ValueError:
            raise corrupt(self._store.path, name, "it cannot be read") from None
        if shape != (len(self.part_items), self._dim) or fortran or kind != np.float32:
            raise corrupt(self._store.path, name, "its shape is not that of the parts")
        found = np.frombuffer(data, np.float32, offset=header.tell())
        if found.size != shape[0] * shape[1]:
            raise corrupt(self._store.path, name, "its length is not that of its shape")
        return found.reshape(shape)

    def metadata(self, item: int) -> dict[str, Any]:
        """Return the columns that were set for one item."""
        values = self.rows.row(item, named=True)
        unset = set(values[UNSET] or ())
        return {name: values[name] for name in self.columns if name not in unset}

    def part(self, row: int) -> Part:
        """Return the part of one row of the vectors."""
        return _part(self.part_table.row(row))

    def parts(self, rows: Array) -> list[Part]:
        """Return the parts of several rows of the vectors."""
        return [_part(values) for values in self.part_table[rows].iter_rows()]

    def _name(self, file: str) -> str:
        return f"segments/{self.id}/{file}"

    def _read(self, table: str) -> pl.DataFrame:
        name = self._name(f"{table}.parquet")
        return _table(self._store, name)


def read_locators(store: Store, entry: Mapping[str, Any]) -> dict[int, Place]:
    """Return where the items of a segment lie, of those that came from files."""
    name = locators_name(entry)
    if name not in store.manifest["files"]:
        return {}
    return {item: (root, files) for item, root, files in _table(store, name).iter_rows()}


def locators_name(entry: Mapping[str, Any]) -> str:
    """Return the file that says where a segment's items lie: its own, or a later one if their files were moved."""
    return str(entry.get("locators", f"locators/{entry['id']}.parquet"))


def locator_bytes(places: Mapping[int, Place]) -> bytes:
    """Return the bytes of a file that says where the items of a segment lie."""
    return _located_bytes([(item, *place) for item, place in sorted(places.items())])


def _located_bytes(located: list[tuple[int, str, list[str]]]) -> bytes:
    import polars as pl

    schema = pl.Schema([("item", pl.UInt32()), ("root", pl.String()), ("files", pl.List(pl.String()))])
    return _parquet(pl.DataFrame(located, schema=schema, orient="row"))


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
    wide = found.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError(
            f"row {int(np.argmax(~np.isfinite(wide).all(1)))} of {what} holds NaN or infinity; give finite numbers"
        )
    if metric == "cosine":
        scale = np.abs(wide).max(1, initial=0.0)
        if (scale == 0).any():
            raise ValueError(
                f"row {int(np.argmax(scale == 0))} of {what} is zero, which has no direction under cosine; remove it"
            )
        wide /= scale[:, None]
        wide /= np.sqrt((wide * wide).sum(1))[:, None]
    narrow = wide.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise ValueError(
            f"row {int(np.argmax(~np.isfinite(narrow).all(1)))} of {what} is too large for float32; scale it down"
        )
    return narrow


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
        if not _is_unicode(key):
            raise ValueError(f"key {position} holds half of a surrogate pair, which is no text; decode it as UTF-8")
    seen: set[str] = set()
    for key in found:
        if key in seen:
            raise ValueError(f"key {key!r} is given twice; give each key once")
        seen.add(key)
    return found


def _is_unicode(text: str) -> bool:
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
        return Locator()
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


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
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


def _part(values: tuple[Any, ...]) -> Part:
    _, position, kind, frame, *places = values
    box, span = tuple(places[:4]), tuple(places[4:])
    locator = Locator(frame, None if box[0] is None else box, None if span[0] is None else span)
    return Part(position, kind, locator)


def _flat(locator: Locator) -> tuple[int | None, ...]:
    return (locator.frame, *(locator.box or (None,) * 4), *(locator.span or (None,) * 2))


def _parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _table(store: Store, name: str) -> pl.DataFrame:
    import polars as pl

    data = store.read(name)
    try:
        return pl.read_parquet(io.BytesIO(data), use_pyarrow=False)
    except pl.exceptions.PolarsError:
        raise corrupt(store.path, name, "it cannot be read as Parquet") from None
