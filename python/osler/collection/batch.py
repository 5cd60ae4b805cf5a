"""Items on their way into a segment's file: new ones as a batch, and those that are written again.

Pure translation into sections; the store writes them. FORMAT.md, "Segments".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from osler.collection.columns import Table
from osler.collection.rows import Array
from osler.collection.segment import NOWHERE, TABLE_ITEMS, WHOLE_PLACE, Place, hashed, usual_places
from osler.collection.store import Sections
from osler.items import WHOLE, Part

__all__ = ["Batch", "locator_sections", "merge_tables", "pack"]

_BLOCK_ROWS = 4_096
_LOCATOR_TYPES = {"item": "int", "root": "text", "files": "list of text"}


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

    def sections(self, types: Mapping[str, str]) -> tuple[Sections, int]:
        """Return the sections of a segment with these items, and how many of their parts are images."""
        # From generators, as an array of a whole list is made in one go, in which no other thread runs.
        count = len(self.parts)
        vectors = _stacked(self.vectors, count, self.dim)
        items = np.fromiter((item for item, _ in self.parts), np.int64, count)
        kinds = np.fromiter((part.kind == "text" for _, part in self.parts), np.uint8, count)
        places = np.fromiter((_place(part) for _, part in self.parts), np.dtype((np.int64, 8)), count)
        contents = np.zeros((len(self), 2), np.uint64)
        for row, content in enumerate(self.contents):
            if content is not None:
                contents[row] = np.frombuffer(bytes.fromhex(content), np.uint64)
        starts = range(0, len(self), TABLE_ITEMS)
        tables = [Table.of(self.rows[start : start + TABLE_ITEMS], types) for start in starts]
        found = pack(
            keys=self.keys,
            tables=tables,
            contents=contents,
            part_items=items,
            part_kinds=kinds,
            part_places=places,
            vectors=vectors,
        )
        return found, int(len(kinds) - kinds.sum())

    def places(self) -> dict[int, Place]:
        """Return where the files of the items lie, of those that came from files."""
        return {item: place for item, place in enumerate(self.locators) if place is not None}


def pack(
    *,
    keys: Sequence[str],
    tables: Iterable[Table],
    contents: Array,
    part_items: Array,
    part_kinds: Array,
    part_places: Array | None,
    vectors: Any,
    item_ids: Array | None = None,
    part_ids: Array | None = None,
) -> Sections:
    """Return the sections of a segment; those that say only what is the rule are left out.

    Parameters
    ----------
    keys : sequence of str
    tables : iterable of Table
        `TABLE_ITEMS` items each but for the last.
    contents : ndarray of uint64 (n, 2)
        Zeros where an item came from no file.
    part_items, part_kinds, part_places : ndarray (p,), (p,), int64 (p, 8)
        No places: they lie one after another in their items, and nothing more is known.
    vectors : ndarray of float32 (p, dim), or list of (File, rows)
    item_ids, part_ids : ndarray, optional
        By default one after another from those of the manifest's entry.
    """
    found: list[tuple[str, Any]] = [*_key_sections(keys), *_table_sections(tables)]
    if contents.any():
        found.append(("item-contents", contents))
    for name, ids in (("item-ids", item_ids), ("part-ids", part_ids)):
        if ids is not None and len(ids) and int(ids[-1] - ids[0]) + 1 != len(ids):
            found.append((name, ids.astype(np.uint64)))
    if len(part_items) != len(keys) or (part_items != np.arange(len(keys))).any():
        found.append(("part-items", part_items.astype(np.uint32)))
    if part_kinds.any():
        found.append(("part-kinds", part_kinds.astype(np.uint8)))
    if (
        part_places is not None
        and len(part_places)
        and (part_places != usual_places(part_items, np.arange(len(part_items)))).any()
    ):
        found.append(("part-places", part_places.view(np.uint64)))
    if len(vectors):
        found.append(("vectors", vectors))
    return found


def locator_sections(places: Mapping[int, Place]) -> Sections:
    """Return the sections of a file that says where the items of a segment lie."""
    rows = [{"item": item, "root": root, "files": files} for item, (root, files) in sorted(places.items())]
    return [("locators", Table.of(rows, _LOCATOR_TYPES).to_bytes()), ("locator-rows", np.array([len(rows)], np.uint64))]


def merge_tables(tables: Iterable[Table], types: Mapping[str, str]) -> Iterator[Table]:
    """Yield the rows of tables as tables of `TABLE_ITEMS` items."""
    waiting: list[Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.rows
        if count >= TABLE_ITEMS:
            whole = Table.joined(waiting, types)
            cut = count - count % TABLE_ITEMS
            for start in range(0, cut, TABLE_ITEMS):
                yield whole.take(np.arange(start, start + TABLE_ITEMS))
            waiting, count = [whole.take(np.arange(cut, count))], count - cut
    if count:
        yield Table.joined(waiting, types)


def _stacked(blocks: Sequence[Array], rows: int, dim: int) -> Array:
    given = sum(map(len, blocks))
    if given != rows:
        raise ValueError(f"there are {given} vectors for {rows} parts")
    found, end = np.empty((rows, dim), np.float32), 0
    for start in range(0, len(blocks), _BLOCK_ROWS):
        some = blocks[start : start + _BLOCK_ROWS]
        first, end = end, end + sum(map(len, some))
        np.concatenate(some, out=found[first:end])
    return found


def _key_sections(keys: Sequence[str]) -> Sections:
    text, ends, hashes = hashed(keys)
    order = np.argsort(hashes, kind="stable").astype(np.uint64)
    table = np.stack([hashes[order], order], axis=1)
    return [("item-keys", text), ("item-key-ends", ends), ("item-key-hashes", table)]


def _table_sections(tables: Iterable[Table]) -> Sections:
    written, ends, there = [], [], False
    for table in tables:
        there = there or bool(table.columns)
        written.append(table.to_bytes())
        ends.append(len(written[-1]))
    if not there:
        return []
    return [("item-tables", b"".join(written)), ("item-table-ends", np.cumsum(ends, dtype=np.uint64))]


def _place(part: Part) -> tuple[int, ...]:
    locator = part.locator
    if locator is WHOLE:
        return (part.position, *WHOLE_PLACE)
    numbers = (locator.frame, *(locator.box or (None,) * 4), *(locator.span or (None,) * 2))
    return (part.position, *(NOWHERE if number is None else number for number in numbers))
