"""Segments: items, their parts and vectors, read from the sections of one file.

Pure translation of sections into rows; `batch` goes the other way. FORMAT.md, "Segments".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from osler import _native
from osler.collection.columns import UNSET, Table
from osler.collection.rows import Array
from osler.items import WHOLE, Locator, Part

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "NOWHERE",
    "TABLE_ITEMS",
    "WHOLE_PLACE",
    "Place",
    "Segment",
    "distinct",
    "hashed",
    "key_hashes",
    "read_locators",
    "tombstones",
    "usual_places",
]

# Items whose metadata is one table, the least that is read of it.
TABLE_ITEMS = 4_096
_BLOCK_ROWS = 4_096
NOWHERE = np.iinfo(np.int64).min
WHOLE_PLACE = (NOWHERE,) * 7
# Of the tables that were read last.
_HELD_BYTES = 64 << 20

# The root of a source, and below it the file of an item, or the files of a series in order.
Place = tuple[str, list[str]]


class Segment:
    """One immutable segment; nothing of it is read before it is asked for.

    Parameters
    ----------
    state : _native.State
        A state that lists the segment's file.
    entry : mapping
        What the manifest says of it.
    dim : int

    Attributes
    ----------
    id : str
        The file's name in the directory.
    items, parts, images : int
        How many there are; `images` of the parts are images.
    first_item, first_part : int
        Ids of the first ones.
    """

    def __init__(self, state: _native.State, entry: Mapping[str, Any], dim: int) -> None:
        self.id: str = entry["file"]
        self.items: int = entry["items"]
        self.parts: int = entry["parts"]
        self.images: int = entry["images"]
        self.first_item: int = entry["first_item"]
        self.first_part: int = entry["first_part"]
        self.locators: str | None = entry["locators"]
        # Ids from the first item to the end, those that no item has any more included.
        self.span: int = entry["end_item"] - entry["first_item"]
        self._dim = dim
        self.state = state
        self._tables: dict[int, Table] = {}
        self._held_bytes = 0

    @cached_property
    def file(self) -> _native.File:
        """The file, mapped, after checking that its sections fit the manifest and each other."""
        file = self.state.file(self.id)
        _check_rows(file, "item-key-ends", self.items)
        _check_rows(file, "item-key-hashes", self.items)
        for name, rows in (("item-contents", self.items), ("item-ids", self.items), ("part-ids", self.parts)):
            if name in file:
                _check_rows(file, name, rows)
        for name in ("part-kinds", "part-places", "part-items"):
            if name in file:
                _check_rows(file, name, self.parts)
        if "part-items" not in file and self.parts != self.items:
            raise file.damage("part-items", "it is missing")
        if "item-table-ends" in file:
            _check_rows(file, "item-table-ends", -(-self.items // TABLE_ITEMS))
        if self.parts and file.shape("vectors") != (self.parts, self._dim):
            raise file.damage("vectors", "its shape is not that of the parts")
        return file

    @cached_property
    def item_ids(self) -> Array:
        """Ids of the items, ascending; int64 (items,)."""
        return self._ids("item-ids", self.first_item, self.items)

    @cached_property
    def part_ids(self) -> Array:
        """Ids of the parts, ascending; int64 (parts,)."""
        return self._ids("part-ids", self.first_part, self.parts)

    def _ids(self, name: str, first: int, count: int) -> Array:
        if name not in self.file:
            return np.arange(first, first + count)
        ids: Array = self.file.read(name).astype(np.int64)
        if ids[0] != first or (np.diff(ids) <= 0).any():
            raise self.file.damage(name, "its numbers do not ascend from the first one")
        return ids

    @property
    def single(self) -> bool:
        """Whether every item has one part."""
        return self.items == self.parts and "part-items" not in self.file

    @cached_property
    def part_items(self) -> Array:
        """The item of each part; int64 (parts,)."""
        if "part-items" not in self.file:
            return np.arange(self.items)
        found: Array = self.file.read("part-items").astype(np.int64)
        if len(found) and (found.max() >= self.items or (np.diff(found) < 0).any()):
            raise self.file.damage("part-items", "it names items that are not there, or in another order")
        return found

    @cached_property
    def part_kinds(self) -> Array:
        """0 for an image, 1 for a text; int8 (parts,)."""
        if self.images == self.parts:
            return np.zeros(self.parts, np.int8)
        if "part-kinds" not in self.file:
            raise self.file.damage("part-kinds", "it is missing")
        return np.asarray(self.file.read("part-kinds"), np.int8)

    @cached_property
    def keys(self) -> list[str]:
        """Keys of the items."""
        text, ends = self.file.read("item-keys").tobytes(), self.file.read("item-key-ends")
        starts = np.concatenate([np.zeros(min(len(ends), 1), np.uint64), ends[:-1]])
        if len(ends) and (int(ends[-1]) != len(text) or (starts > ends).any()):
            raise self.file.damage("item-key-ends", "it names bytes that are not there")
        hashes, items = self._hashes
        if (np.asarray(_native.blake3_each(text, ends))[items.astype(np.int64)] != hashes).any():
            raise self.file.damage("item-key-hashes", "it does not stand for these keys")
        pairs = zip(starts.tolist(), ends.tolist(), strict=True)
        try:
            return [text[start:end].decode() for start, end in pairs]
        except UnicodeDecodeError:
            raise self.file.damage("item-keys", "it is no text") from None

    def key(self, item: int) -> str:
        """Return the key of an item."""
        first = max(item - 1, 0)
        ends = [0, *self.file.read("item-key-ends", first, item + 1).tolist()][-2:]
        start, end = ends
        if not start <= end <= self.file.shape("item-keys")[0]:
            raise self.file.damage("item-key-ends", "it names bytes that are not there")
        try:
            return str(self.file.read("item-keys", start, end).tobytes().decode())
        except UnicodeDecodeError:
            raise self.file.damage("item-keys", "it is no text") from None

    def find(self, names: Sequence[str], hashes: Array) -> Array:
        """Return the item of each key, -1 where there is none; `hashes` are those of `key_hashes`."""
        known, items = self._hashes
        at = np.searchsorted(known, hashes)
        found = np.full(len(hashes), -1, np.int64)
        for row in np.flatnonzero(at < len(known)).tolist():
            place = int(at[row])
            while place < len(known) and known[place] == hashes[row]:
                item = int(items[place])
                if item < self.items and self.key(item) == names[row]:
                    found[row] = item
                    break
                place += 1
        return found

    @cached_property
    def _hashes(self) -> tuple[Array, Array]:
        both = self.file.read("item-key-hashes")
        hashes, items = np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])
        if (hashes[:-1] > hashes[1:]).any() or (np.sort(items) != np.arange(self.items)).any():
            raise self.file.damage("item-key-hashes", "it is in no order, or does not name each item once")
        return hashes, items

    def content(self, item: int) -> str | None:
        """Return the digest, in hex, of the file that an item was made of."""
        if "item-contents" not in self.file:
            return None
        found = self.file.read("item-contents", item, item + 1)
        return found.tobytes().hex() if found.any() else None

    @cached_property
    def contents(self) -> Array:
        """Digests of all items; uint64 (items, 2), zeros for none."""
        if "item-contents" not in self.file:
            return np.zeros((self.items, 2), np.uint64)
        return np.asarray(self.file.read("item-contents"))

    def metadata(self, item: int) -> dict[str, Any]:
        """Return the columns that were set for one item."""
        return self._table(item // TABLE_ITEMS).row(item % TABLE_ITEMS)

    def tables(self) -> Iterator[Table]:
        """Yield the tables of metadata, in order."""
        for number in range(-(-self.items // TABLE_ITEMS)):
            yield self._tables.get(number) or self._read_table(number)

    def columns_of(self, items: Array) -> set[str]:
        """Return the columns that any of some items, a bool for each, has set, to null too."""
        found: set[str] = set()
        for number, table in enumerate(self.tables()):
            own = items[number * TABLE_ITEMS : (number + 1) * TABLE_ITEMS]
            found |= {name for name, column in table.columns.items() if (column.states[own] != UNSET).any()}
        return found

    def frame(self, types: Mapping[str, str]) -> pl.DataFrame:
        """Return the columns of all items as these types; null where they were not set."""
        return Table.joined(list(self.tables()), types).frame(types)

    def _table(self, number: int) -> Table:
        held = self._tables.get(number)
        if held is None:
            held = self._read_table(number)
            self._held_bytes += held.nbytes
            if self._held_bytes > _HELD_BYTES:
                self._tables, self._held_bytes = {}, held.nbytes
            self._tables[number] = held
        return held

    def _read_table(self, number: int) -> Table:
        rows = min(TABLE_ITEMS, self.items - number * TABLE_ITEMS)
        if "item-tables" not in self.file:
            return Table(rows, {})
        ends = [0, *self.file.read("item-table-ends", max(number - 1, 0), number + 1).tolist()][-2:]
        start, end = ends
        if not start <= end <= self.file.shape("item-tables")[0]:
            raise self.file.damage("item-table-ends", "it names bytes that are not there")
        try:
            return Table.read(self.file.read("item-tables", start, end).tobytes(), rows)
        except ValueError as error:
            raise self.file.damage("item-tables", str(error)) from None

    def parts_at(self, rows: Array) -> list[Part]:
        """Return the parts of several rows of the vectors."""
        found: list[Part] = []
        # Lists of numbers are made in one go, in which no other thread runs.
        for start in range(0, len(rows), _BLOCK_ROWS):
            some = rows[start : start + _BLOCK_ROWS]
            kinds, places = self.part_kinds[some].tolist(), self.all_places(some).tolist()
            found.extend(_part(kind, place) for kind, place in zip(kinds, places, strict=True))
        return found

    @property
    def has_places(self) -> bool:
        """Whether more is known of some part than that it is the next of its item."""
        return "part-places" in self.file

    def all_places(self, rows: Array) -> Array:
        """Return the position of parts in their items and where they lie there; int64 (n, 8)."""
        if self.has_places:
            return np.asarray(self.file.rows("part-places", rows).view(np.int64))
        return usual_places(self.part_items, rows)

    def vectors(self, rows: Array) -> Array:
        """Return the vectors of parts, float32 (n, dim)."""
        if not len(rows):
            return np.empty((0, self._dim), np.float32)
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows) and (len(rows) < 3 or (np.diff(rows) == 1).all()):
            return np.asarray(self.file.read("vectors", first, last + 1))
        return np.asarray(self.file.rows("vectors", rows))


def distinct(ids: Array) -> Array:
    """Return ids in order, each once; other threads run meanwhile, as they do not in `np.unique`."""
    ids = np.sort(ids)
    return np.asarray(ids[np.append(True, ids[1:] != ids[:-1])[: len(ids)]])


def key_hashes(keys: Sequence[str]) -> Array:
    """Return the first 64 bits of the BLAKE3 of each key; uint64 (n,)."""
    return hashed(keys)[2]


def read_locators(state: _native.State, name: str | None) -> dict[int, Place]:
    """Return where the items of a segment lie, of those that came from files."""
    if name is None:
        return {}
    file = state.file(name)
    try:
        (rows,) = file.read("locator-rows").tolist()
        table = Table.read(file.read("locators").tobytes(), rows)
        found = [table.row(at) for at in range(rows)]
        return {row["item"]: (row["root"], row["files"]) for row in found}
    except (ValueError, KeyError):
        raise file.damage("locators", "it does not say where items lie") from None


def tombstones(state: _native.State, name: str) -> Array:
    """Return the ids of deleted items that a file lists, ascending; int64."""
    return np.asarray(state.file(name).read("tombstones").astype(np.int64))


def hashed(keys: Sequence[str]) -> tuple[bytes, Array, Array]:
    """Return keys as UTF-8, one after another, where each ends, and what `key_hashes` does; uint64 (n,) both."""
    # What is no key of ours is looked up as one that nobody has.
    raw = [key.encode("utf-8", "surrogatepass") if isinstance(key, str) else b"" for key in keys]
    blocks = [b"".join(raw[start : start + _BLOCK_ROWS]) for start in range(0, len(raw), _BLOCK_ROWS)]
    text = b"".join(blocks)
    ends = np.cumsum(np.fromiter((len(one) for one in raw), np.uint64, len(raw)), dtype=np.uint64)
    return text, ends, np.asarray(_native.blake3_each(text, ends))


def usual_places(part_items: Array, rows: Array) -> Array:
    """Return the places of parts that lie one after another in their items, and of which nothing more is known."""
    places = np.full((len(rows), 8), NOWHERE, np.int64)
    places[:, 0] = rows - np.searchsorted(part_items, part_items[rows])
    return places


def _part(kind: int, place: Sequence[int]) -> Part:
    position, frame, *rest = place
    if (frame, *rest) == WHOLE_PLACE:
        return Part(position, "text" if kind else "image", WHOLE)
    box, span = tuple(rest[:4]), tuple(rest[4:])
    locator = Locator(
        None if frame == NOWHERE else frame,
        None if box[0] == NOWHERE else (box[0], box[1], box[2], box[3]),
        None if span[0] == NOWHERE else (span[0], span[1]),
    )
    return Part(position, "text" if kind else "image", locator)


def _check_rows(file: _native.File, section: str, rows: int) -> None:
    if file.shape(section)[0] != rows:
        raise file.damage(section, "its rows are not those that the manifest counts")
