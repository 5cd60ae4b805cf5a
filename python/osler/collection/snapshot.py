"""One state of a collection for reading: live items, their parts and columns, whatever is committed later.

Reads segments when they are needed and keeps what it derives; changes nothing on disk.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.rows import KEY, Array, dtype
from osler.collection.segment import Place, Segment, key_hashes, read_locators, tombstones
from osler.collection.store import Store
from osler.collection.where import Condition
from osler.errors import CorruptIndexError
from osler.items import Part

if TYPE_CHECKING:
    import polars as pl

    from osler.collection.batch import Batch

__all__ = ["Snapshot"]

_BLOCK_BYTES = 64 << 20


class Snapshot:
    """The rows of one commit.

    An *item row* is a position in the concatenation of all segments, a *part row* one in that of their vectors; both
    count deleted items too.

    Parameters
    ----------
    store : Store
    earlier : Snapshot, optional
        A state whose segments are used again.
    """

    def __init__(self, store: Store, earlier: Snapshot | None = None) -> None:
        self.manifest = store.manifest
        # Held, so that no writer removes a file that a search may still read.
        self.state = store.state
        known = {segment.id: segment for segment in earlier.segments} if earlier is not None else {}
        self.dim: int = self.manifest["dim"]
        self.metric: str = self.manifest["metric"]
        self.types: dict[str, str] = self.manifest["schema"]
        self.segments: list[Segment] = []
        for entry in self.manifest["segments"]:
            segment = known.get(entry["file"]) or Segment(self.state, entry, self.dim)
            # The state that it was first seen in would keep files that this one does without.
            segment.state, segment.locators = self.state, entry["locators"]
            self.segments.append(segment)
        # What searches derive from the rows alone, kept for the next one.
        self.memo: dict[Any, Any] = {}

    @cached_property
    def item_offsets(self) -> Array:
        """First item row of each segment, and their number."""
        return np.cumsum([0, *(segment.items for segment in self.segments)])

    @cached_property
    def part_offsets(self) -> Array:
        """First part row of each segment, and their number."""
        return np.cumsum([0, *(segment.parts for segment in self.segments)])

    @cached_property
    def live(self) -> Array:
        """Whether each item row is live; bool (items,)."""
        live = np.ones(self.item_offsets[-1], bool)
        for name in self.manifest["tombstones"]:
            ids = tombstones(self.state, name)
            for segment, offset in zip(self.segments, self.item_offsets, strict=False):
                first, stop = np.searchsorted(ids, [segment.first_item, segment.first_item + segment.span])
                if first < stop:
                    rows = np.searchsorted(segment.item_ids, ids[first:stop])
                    # An id that a segment passes over was removed from it for good.
                    rows = rows[segment.item_ids[np.minimum(rows, segment.items - 1)] == ids[first:stop]]
                    live[offset + rows] = False
        return live

    @cached_property
    def live_rows(self) -> Array:
        """Item rows that are live, in order of insertion."""
        return np.flatnonzero(self.live)

    @cached_property
    def keys(self) -> list[str]:
        """Keys of the live items, in order of insertion."""
        keys = [key for segment in self.segments for key in segment.keys]
        return keys if len(self.live_rows) == len(keys) else [keys[row] for row in self.live_rows]

    def find(self, keys: Iterable[Any]) -> Array:
        """Return the item row of each key, -1 where no live item has it; int64 (n,)."""
        names = list(keys)
        found = np.full(len(names), -1, np.int64)
        if not names or not self.segments:
            return found
        hashes = key_hashes(names)
        for segment, offset in zip(self.segments, self.item_offsets, strict=False):
            items = segment.find(names, hashes)
            there = np.flatnonzero(items >= 0)
            rows = offset + items[there]
            here = self.live[rows]
            found[there[here]] = rows[here]
        return found

    def row(self, key: object) -> int | None:
        """Return the item row of a key; None where no live item has it."""
        (row,) = self.find([key]).tolist()
        return row if row >= 0 else None

    @cached_property
    def part_items(self) -> Array:
        """Item row of each part row; int64 (parts,)."""
        pairs = zip(self.segments, self.item_offsets, strict=False)
        return _concat([segment.part_items + offset for segment, offset in pairs], np.int64)

    @cached_property
    def part_ids(self) -> Array:
        """The id of each part row, by which a graph knows it; uint64 (parts,), ascending."""
        return _concat([segment.part_ids for segment in self.segments], np.uint64)

    @cached_property
    def part_kinds(self) -> Array:
        """0 for an image, 1 for a text; int8 (parts,)."""
        return _concat([segment.part_kinds for segment in self.segments], np.int8)

    @cached_property
    def live_parts(self) -> Array:
        """Whether each part row belongs to a live item; bool (parts,)."""
        return np.asarray(self.live[self.part_items], bool)

    @cached_property
    def single(self) -> bool:
        """Whether no item has more than one part."""
        return all(segment.single for segment in self.segments) or bool((np.diff(self.part_items) > 0).all())

    @cached_property
    def table(self) -> pl.DataFrame:
        """``key`` and the metadata columns of the live items."""
        import polars as pl

        frames = [segment.frame(self.types) for segment in self.segments]
        if not frames:
            return pl.DataFrame(schema={KEY: pl.String} | {name: dtype(kind) for name, kind in self.types.items()})
        table = pl.concat(frames)
        table = table if self.live.all() else table.filter(pl.Series(self.live))
        keys = pl.Series(KEY, self.keys, pl.String)
        return table.insert_column(0, keys) if table.columns else pl.DataFrame([keys])

    def __len__(self) -> int:
        return len(self.live_rows)

    def emptied(self) -> Snapshot:
        """Return what is left when the collection is closed: its description, without files that it would hold."""
        other = copy.copy(self)
        other.__dict__ = {name: self.__dict__[name] for name in ("manifest", "dim", "metric", "types")}
        other.segments, other.memo = [], {}
        return other

    def under(self, store: Store) -> Snapshot:
        """Return the same rows under a newer state that changes none of them."""
        other = copy.copy(self)
        other.manifest, other.state = store.manifest, store.state
        return other

    def condition(self, where: Any) -> Condition:
        """Return a checked condition; ``key`` is a column too."""
        return Condition(where, {KEY: "text", **self.types})

    def select(self, condition: Condition) -> Array:
        """Return whether each item row is live and the condition is true of it; bool (items,)."""
        if condition.expression is None:
            return self.live
        found = np.zeros(len(self.live), bool)
        found[self.live_rows] = condition.mask(self.table)
        return found

    def locate(self, row: int) -> tuple[Segment, int]:
        """Return the segment of an item row and its row there."""
        at = int(np.searchsorted(self.item_offsets, row, "right")) - 1
        return self.segments[at], int(row - self.item_offsets[at])

    def item_ids(self, rows: Array) -> Array:
        """Return the ids of item rows; int64 (n,)."""
        owner = np.searchsorted(self.item_offsets, rows, "right") - 1
        found = np.empty(len(rows), np.int64)
        for at in np.flatnonzero(np.bincount(owner)).tolist():
            here = owner == at
            found[here] = self.segments[at].item_ids[rows[here] - self.item_offsets[at]]
        return found

    def key(self, row: int) -> str:
        """Return the key of an item row."""
        segment, item = self.locate(row)
        return segment.key(item)

    def content(self, row: int) -> str | None:
        """Return the digest of the file that an item was made of."""
        segment, item = self.locate(row)
        return segment.content(item)

    def metadata(self, row: int) -> dict[str, Any]:
        """Return the columns that were set for an item row."""
        segment, item = self.locate(row)
        found = segment.metadata(item)
        floats = [name for name, value in found.items() if isinstance(value, int) and self.types[name] == "float"]
        return {**found, **{name: float(found[name]) for name in floats}} if floats else found

    def part(self, row: int) -> Part:
        """Return the part of a part row."""
        return self.parts(np.array([row]))[0]

    def parts(self, rows: Array) -> list[Part]:
        """Return the parts of several part rows."""
        owner = np.searchsorted(self.part_offsets, rows, "right") - 1
        found: list[Part] = []
        for start, stop in _runs(owner):
            segment, offset = self.segments[owner[start]], self.part_offsets[owner[start]]
            found.extend(segment.parts_at(rows[start:stop] - offset))
        return found

    def parts_of(self, row: int) -> Array:
        """Return the part rows of an item row."""
        first, last = np.searchsorted(self.part_items, [row, row + 1])
        return np.arange(first, last)

    def vectors(self, part_rows: Array) -> Array:
        """Return the vectors of part rows, float32 (n, dim)."""
        owner = np.searchsorted(self.part_offsets, part_rows, "right") - 1
        if len(owner) and (owner == owner[0]).all():
            at = int(owner[0])
            return self.segments[at].vectors(part_rows - self.part_offsets[at])
        found = np.empty((len(part_rows), self.dim), np.float32)
        for at in np.flatnonzero(np.bincount(owner)).tolist():
            here = owner == at
            found[here] = self.segments[at].vectors(part_rows[here] - self.part_offsets[at])
        return found

    def damage(self, part_row: int, section: str, problem: str) -> CorruptIndexError:
        """Return the error for a section, of the segment that has a part, whose bytes are right and make no sense."""
        at = int(np.searchsorted(self.part_offsets, part_row, "right")) - 1
        return self.segments[at].file.damage(section, problem)

    def scores(self, queries: Array, part_rows: Array) -> Array:
        """Return the score of each query with each part row, from the full vectors; float32 (q, n)."""
        found = np.empty((len(queries), len(part_rows)), np.float32)
        step = max(1, _BLOCK_BYTES // (8 * self.dim))
        wide = queries.astype(np.float64)
        for start in range(0, len(part_rows), step):
            block = self.vectors(part_rows[start : start + step]).astype(np.float64)
            dots = wide @ block.T
            if self.metric == "l2":
                dots = 2 * dots - (wide * wide).sum(1)[:, None] - (block * block).sum(1)
            with np.errstate(over="ignore"):
                found[:, start : start + step] = dots
            if not np.isfinite(found[:, start : start + step]).all():
                # The longest one: a query may be a stored vector, too.
                at = start + int(np.argmax((block * block).sum(1)))
                raise self.damage(int(part_rows[at]), "vectors", "some cannot be scored")
        return found

    def searchable(self, wanted: int | None) -> Array:
        """Return whether each part row is live and of a kind, None for any; the same array each time."""
        name = ("searchable", wanted)
        if name not in self.memo:
            self.memo[name] = self.live_parts if wanted is None else self.live_parts & (self.part_kinds == wanted)
        return np.asarray(self.memo[name])

    def wanted_kind(self, kind: str | None) -> int | None:
        """Return the kind of part to search: images where there are any, else texts; None for both."""
        if kind is None:
            if "kind" not in self.memo:
                self.memo["kind"] = 0 if self.searchable(0).any() else 1
            return int(self.memo["kind"])
        if kind not in ("any", "image", "text"):
            raise ValueError(f"kind is {kind!r}; choose 'image', 'text' or 'any'")
        return {"any": None, "image": 0, "text": 1}[kind]

    def locator(self, row: int) -> Place | None:
        """Return where the file of an item row lies, if that is known."""
        segment, item = self.locate(row)
        return self.locators(segment.id).get(item)

    def copy_into(self, batch: Batch, row: int, metadata: dict[str, Any]) -> None:
        """Append an item row to a batch, with other metadata."""
        parts = self.parts_of(row)
        batch.append(
            self.key(row), metadata, self.parts(parts), self.vectors(parts), self.content(row), self.locator(row)
        )

    def first_with(self, column: str) -> str | None:
        """Return the key of a live item that has a value in a column."""
        found = self.table.filter(self.table[column].is_not_null())
        return str(found[KEY][0]) if len(found) else None

    def largest(self, column: str) -> int:
        """Return the greatest whole number in a column, without its sign; 0 where there is none."""
        if self.types.get(column) != "int":
            return 0
        found = self.table[column].drop_nulls().to_numpy()
        return max(-int(found.min()), int(found.max())) if len(found) else 0

    def locators(self, segment: str) -> dict[int, Place]:
        """Return where the files of a segment's items lie, as far as it is known."""
        cache = self.__dict__.setdefault("_located", {})
        if segment not in cache:
            (entry,) = (entry for entry in self.manifest["segments"] if entry["file"] == segment)
            cache[segment] = read_locators(self.state, entry["locators"])
        found: dict[int, Place] = cache[segment]
        return found


def _runs(values: Array) -> Iterator[tuple[int, int]]:
    """Yield the start and stop of each run of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    yield from (pair for pair in itertools.pairwise(edges) if pair[0] < pair[1])


def _concat(arrays: list[Array], kind: Any) -> Array:
    if len(arrays) == 1:
        return arrays[0].astype(kind, copy=False)
    return np.concatenate(arrays).astype(kind) if arrays else np.empty(0, kind)
