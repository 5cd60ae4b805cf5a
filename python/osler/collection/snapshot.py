"""One state of a collection for reading: live items, their parts and columns, whatever is committed later.

Reads segments through the store and keeps what it derives; changes nothing on disk.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.rows import KEY, Array, Batch, Place, Segment, dtype, read_locators
from osler.collection.store import Store, corrupt
from osler.collection.where import Condition
from osler.items import Part

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Snapshot", "tombstone_bytes"]


# A mapped file takes one of the process's descriptors, of which there may be 1,024 in all.
_HELD_SEGMENTS = 256


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
        self.store = store
        known = {segment.id: segment for segment in earlier.segments} if earlier is not None else {}
        self.dim: int = self.manifest["dim"]
        self.metric: str = self.manifest["metric"]
        self.types: dict[str, str] = self.manifest["schema"]
        self.segments: list[Segment] = [
            known.get(entry["id"]) or Segment(store, entry, self.dim, hold=at < _HELD_SEGMENTS)
            for at, entry in enumerate(self.manifest["segments"])
        ]
        dead = earlier._dead if earlier is not None else {}
        # What searches derive from the rows alone, kept for the next one.
        self.memo: dict[Any, Any] = {}
        self._dead: dict[str, Array] = {
            name: dead[name] if name in dead else _read_tombstones(store, name) for name in self._tombstones
        }

    @property
    def _tombstones(self) -> list[str]:
        return list(self.manifest["tombstones"])

    @cached_property
    def item_offsets(self) -> Array:
        """First item row of each segment, and their number."""
        return np.cumsum([0, *(len(segment.rows) for segment in self.segments)])

    @cached_property
    def part_offsets(self) -> Array:
        """First part row of each segment, and their number."""
        return np.cumsum([0, *(len(segment.part_items) for segment in self.segments)])

    @cached_property
    def live(self) -> Array:
        """Whether each item row is live; bool (items,)."""
        live = np.ones(self.item_offsets[-1], bool)
        if self._dead:
            ids = _concat([segment.first_item + np.arange(len(segment.rows)) for segment in self.segments], np.int64)
            live &= ~np.isin(ids, np.concatenate(list(self._dead.values())))
        return live

    @cached_property
    def live_rows(self) -> Array:
        """Item rows that are live, in order of insertion."""
        return np.flatnonzero(self.live)

    @cached_property
    def keys(self) -> list[str]:
        """Keys of the live items, in order of insertion."""
        keys = [key for segment in self.segments for key in segment.rows[KEY].to_list()]
        return keys if len(self.live_rows) == len(keys) else [keys[row] for row in self.live_rows]

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Item row of each live key."""
        return dict(zip(self.keys, self.live_rows.tolist(), strict=True))

    @cached_property
    def part_items(self) -> Array:
        """Item row of each part row; int64 (parts,)."""
        pairs = zip(self.segments, self.item_offsets, strict=False)
        return _concat([segment.part_items + offset for segment, offset in pairs], np.int64)

    @cached_property
    def part_ids(self) -> Array:
        """The id of each part row, by which a graph knows it; uint64 (parts,), ascending."""
        ids = [segment.first_part + np.arange(len(segment.part_items)) for segment in self.segments]
        return _concat(ids, np.uint64)

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
        return bool((np.diff(self.part_items) > 0).all())

    @cached_property
    def table(self) -> pl.DataFrame:
        """``key`` and the metadata columns of the live items."""
        import polars as pl

        frames = []
        for segment in self.segments:
            columns = [segment.rows[KEY]]
            for name, kind in self.types.items():
                there = name in segment.columns
                values = segment.rows[name] if there else pl.Series(name, [None]).new_from_index(0, len(segment.rows))
                columns.append(values.cast(dtype(kind)))
            frames.append(pl.DataFrame(columns))
        if not frames:
            return pl.DataFrame(schema={KEY: pl.String} | {name: dtype(kind) for name, kind in self.types.items()})
        table = pl.concat(frames)
        return table if self.live.all() else table.filter(pl.Series(self.live))

    def __len__(self) -> int:
        return len(self.live_rows)

    def under(self, manifest: dict[str, Any]) -> Snapshot:
        """Return the same rows under a manifest that changes none of them."""
        other = copy.copy(self)
        other.manifest = manifest
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

    def key(self, row: int) -> str:
        """Return the key of an item row."""
        segment, item = self.locate(row)
        return str(segment.rows[KEY][item])

    def metadata(self, row: int) -> dict[str, Any]:
        """Return the columns that were set for an item row."""
        segment, item = self.locate(row)
        found = segment.metadata(item)
        floats = [name for name, value in found.items() if isinstance(value, int) and self.types[name] == "float"]
        return {**found, **{name: float(found[name]) for name in floats}} if floats else found

    def part(self, row: int) -> Part:
        """Return the part of a part row."""
        at = int(np.searchsorted(self.part_offsets, row, "right")) - 1
        return self.segments[at].part(int(row - self.part_offsets[at]))

    def parts(self, rows: Array) -> list[Part]:
        """Return the parts of several part rows."""
        owner = np.searchsorted(self.part_offsets, rows, "right") - 1
        found: list[Part] = []
        for start, stop in _runs(owner):
            segment, offset = self.segments[owner[start]], self.part_offsets[owner[start]]
            found.extend(segment.parts(rows[start:stop] - offset))
        return found

    def parts_of(self, row: int) -> Array:
        """Return the part rows of an item row."""
        first, last = np.searchsorted(self.part_items, [row, row + 1])
        return np.arange(first, last)

    def vectors(self, part_rows: Array) -> Array:
        """Return the vectors of part rows, float32 (n, dim)."""
        found = np.empty((len(part_rows), self.dim), np.float32)
        owner = np.searchsorted(self.part_offsets, part_rows, "right") - 1
        for at in np.unique(owner):
            here = owner == at
            found[here] = self.segments[at].vectors[part_rows[here] - self.part_offsets[at]]
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

    def copy_into(self, batch: Batch, row: int, metadata: dict[str, Any] | None = None) -> None:
        """Append an item row to a batch, with other metadata if given."""
        segment, item = self.locate(row)
        parts = self.parts_of(row)
        batch.append(
            self.key(row),
            self.metadata(row) if metadata is None else metadata,
            [self.part(int(part)) for part in parts],
            self.vectors(parts),
            segment.rows["__content"][item],
            self.locator(row),
        )

    def first_with(self, column: str) -> str | None:
        """Return the key of a live item that has a value in a column."""
        found = self.table.filter(self.table[column].is_not_null())
        return str(found[KEY][0]) if len(found) else None

    def contents(self) -> Iterable[tuple[str, str]]:
        """Yield the key and the content's digest of each live item that came from a file."""
        for segment, offset in zip(self.segments, self.item_offsets, strict=False):
            pairs: Sequence[Any] = segment.rows.select(KEY, "__content").rows()
            for item, (key, content) in enumerate(pairs):
                if content is not None and self.live[offset + item]:
                    yield key, content

    def locators(self, segment: str) -> dict[int, Place]:
        """Return where the files of a segment's items lie, as far as it is known."""
        cache = self.__dict__.setdefault("_located", {})
        if segment not in cache:
            (entry,) = (entry for entry in self.manifest["segments"] if entry["id"] == segment)
            cache[segment] = read_locators(self.store, entry)
        found: dict[int, Place] = cache[segment]
        return found


def tombstone_bytes(ids: Array) -> bytes:
    """Return the bytes of a file that marks items as deleted."""
    buffer = io.BytesIO()
    np.save(buffer, np.sort(ids.astype(np.int64)), allow_pickle=False)
    return buffer.getvalue()


def _read_tombstones(store: Store, name: str) -> Array:
    try:
        found = np.load(io.BytesIO(store.read(name)), allow_pickle=False)
    except (ValueError, OSError):
        raise corrupt(store.path, name, "it cannot be read") from None
    return np.asarray(found, np.int64)


def _runs(values: Array) -> Iterator[tuple[int, int]]:
    """Yield the start and stop of each run of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    yield from (pair for pair in itertools.pairwise(edges) if pair[0] < pair[1])


def _concat(arrays: list[Array], kind: Any) -> Array:
    return np.concatenate(arrays).astype(kind) if arrays else np.empty(0, kind)
