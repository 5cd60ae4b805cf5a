"""Which segments are written together, and how: what a change costs is bounded by the change, not by the collection.

Reads a snapshot and gives sections and entries for the handle to publish. Segments that are written together are
neighbours, so items keep their ids and their order, and graphs stay valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from osler.collection.batch import locator_sections, merge_tables, pack
from osler.collection.columns import Table
from osler.collection.rows import Array
from osler.collection.segment import Place, distinct, read_locators, tombstones
from osler.collection.snapshot import Snapshot
from osler.collection.store import Sections

__all__ = ["Merged", "due", "merge", "runs", "surviving_tombstones"]

# Neighbours of one size class that are written together, and the items of the smallest class: each row is written again
# about once a class, and there are at most `_FANOUT` segments of each.
_FANOUT = 8
_SMALLEST = 64
# A segment of this many items or bytes of vectors is not written together with others any more.
_MOST_ITEMS = 1 << 20
_MOST_BYTES = 4 << 30
# A segment is written without its deleted items once they are this share of it, or where it is small anyway.
_DEAD_SHARE = 0.1
_CHEAP_ITEMS = 4_096
_MOST_TOMBSTONES = 16


class Merged(NamedTuple):
    """What takes the place of some neighbouring segments: nothing, if no item of theirs is live."""

    sections: Sections
    locators: Sections | None
    entry: dict[str, Any] | None


def due(snapshot: Snapshot) -> tuple[int, int] | None:
    """Return the start and stop of segments that must be written together now, the newest `_FANOUT` of a class."""
    classes = [_class(segment.items) for segment in snapshot.segments]
    for size in sorted(set(classes)):
        start = len(classes)
        while start and classes[start - 1] <= size and _fits(snapshot, start - 1, len(classes)):
            start -= 1
        items = [segment.items for segment in snapshot.segments[start:]]
        # A large one is not written again for a few small ones, though all together are many.
        if len(items) >= _FANOUT and max(items) <= _FANOUT * (sum(items) - max(items)):
            return start, len(classes)
    return None


def runs(snapshot: Snapshot, everything: bool = False) -> list[tuple[int, int]]:
    """Return the runs of segments that `compact` writes together, the last one first.

    A segment joins its newer neighbours while it is at most `_FANOUT` times as large as they are together; one with
    many deleted items is written again alone.
    """
    found: list[tuple[int, int]] = []
    dead = _dead(snapshot)
    stop = len(snapshot.segments)
    while stop:
        start, items = stop - 1, snapshot.segments[stop - 1].items
        while start and _fits(snapshot, start - 1, stop):
            before = snapshot.segments[start - 1].items
            if before > max(_FANOUT * items, _CHEAP_ITEMS):
                break
            start, items = start - 1, items + before
        if stop - start > 1 or (dead[start] and (everything or _worth(snapshot.segments[start].items, dead[start]))):
            found.append((start, stop))
        stop = start
    return found


def merge(
    snapshot: Snapshot,
    start: int,
    stop: int,
    wanted: Array,
    types: Mapping[str, str] | None = None,
    ids: bool = True,
) -> Merged:
    """Return the items of neighbouring segments that are `wanted`, a bool for each item row, as one segment.

    Their columns are of these `types`, by default of those of the snapshot; without `ids` they get new ones.
    """
    keys: list[str] = []
    contents, item_ids, part_ids, items, kinds, vectors = [], [], [], [], [], []
    located: dict[int, Place] = {}
    some_place = False
    for segment, offset in zip(snapshot.segments[start:stop], snapshot.item_offsets[start:], strict=False):
        live = wanted[offset : offset + segment.items]
        parts = np.flatnonzero(live[segment.part_items])
        number = np.cumsum(live) - 1
        places = read_locators(segment.state, segment.locators)
        located |= {int(number[item]) + len(keys): place for item, place in places.items() if live[item]}
        items.append(number[segment.part_items[parts]] + len(keys))
        keys.extend(segment.keys if live.all() else (segment.keys[row] for row in np.flatnonzero(live)))
        contents.append(segment.contents[live])
        item_ids.append(segment.item_ids[live])
        part_ids.append(segment.part_ids[parts])
        kinds.append(segment.part_kinds[parts])
        some_place = some_place or segment.has_places
        if len(parts):
            vectors.append((segment.file, parts.astype(np.uint64)))
    if not keys:
        return Merged([], None, None)
    part_items = np.concatenate(items)
    of_items, of_parts = np.concatenate(item_ids), np.concatenate(part_ids)
    images = int(sum(len(one) - np.count_nonzero(one) for one in kinds))
    entry = {
        "items": len(keys),
        "parts": len(part_items),
        "images": images,
        "first_item": int(of_items[0]),
        "end_item": int(of_items[-1]) + 1,
        "first_part": int(of_parts[0]) if len(of_parts) else snapshot.segments[start].first_part,
    }
    sections = pack(
        keys=keys,
        tables=merge_tables(_tables(snapshot, start, stop, wanted), types or snapshot.types),
        contents=np.concatenate(contents),
        part_items=part_items,
        part_kinds=np.concatenate(kinds),
        part_places=_all_places(snapshot, start, stop, wanted) if some_place else None,
        vectors=vectors,
        item_ids=of_items if ids else None,
        part_ids=of_parts if ids else None,
    )
    return Merged(sections, locator_sections(located) if located else None, entry)


def surviving_tombstones(snapshot: Snapshot, gone: Sequence[tuple[int, int]]) -> Array | None:
    """Return the ids that still have to be marked as deleted when these runs of segments are written without them.

    None where the files that there are may stay.
    """
    names = snapshot.manifest["tombstones"]
    dead = _dead(snapshot)
    without = any(dead[start:stop].any() for start, stop in gone)
    if not names or not (without or len(names) > _MOST_TOMBSTONES):
        return None
    ids = distinct(np.concatenate([tombstones(snapshot.state, name) for name in names]))
    for start, stop in gone:
        last = snapshot.segments[stop - 1]
        first = snapshot.segments[start].first_item
        ids = ids[(ids < first) | (ids >= last.first_item + last.span)]
    return ids


def _class(items: int) -> int:
    size, limit = 0, _SMALLEST
    while items > limit:
        size, limit = size + 1, limit * _FANOUT
    return size


def _fits(snapshot: Snapshot, start: int, stop: int) -> bool:
    items = snapshot.item_offsets[stop] - snapshot.item_offsets[start]
    parts = snapshot.part_offsets[stop] - snapshot.part_offsets[start]
    return bool(items <= _MOST_ITEMS and parts * snapshot.dim * 4 <= _MOST_BYTES)


def _dead(snapshot: Snapshot) -> Array:
    """Return how many items of each segment are deleted."""
    sums = np.concatenate([[0], np.cumsum(~snapshot.live)])
    return np.diff(sums[snapshot.item_offsets])


def _worth(items: int, dead: int) -> bool:
    return items <= _CHEAP_ITEMS or dead >= _DEAD_SHARE * items


def _tables(snapshot: Snapshot, start: int, stop: int, wanted: Array) -> Iterator[Table]:
    for segment, offset in zip(snapshot.segments[start:stop], snapshot.item_offsets[start:], strict=False):
        first = offset
        for table in segment.tables():
            live = wanted[first : first + table.rows]
            first += table.rows
            yield table if live.all() else table.take(np.flatnonzero(live))


def _all_places(snapshot: Snapshot, start: int, stop: int, wanted: Array) -> Array:
    found = []
    for segment, offset in zip(snapshot.segments[start:stop], snapshot.item_offsets[start:], strict=False):
        live = wanted[offset : offset + segment.items]
        found.append(segment.all_places(np.flatnonzero(live[segment.part_items])))
    return np.concatenate(found)
