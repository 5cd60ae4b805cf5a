"""The graph of a collection: an `osler.Index` over its parts, derived from the rows and never needed to read them.

Holds one lock, taken to change the index or to line masks up with it, never during a search.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.rows import Array
from osler.collection.snapshot import Snapshot
from osler.collection.store import Store
from osler.errors import CorruptIndexError, Error, FormatVersionError

if TYPE_CHECKING:
    from osler.index import Bitmap, Groups, Index

__all__ = ["Graph", "save_graph"]

# Rows outside the graph that are cheaper to add on opening than to have saved: storage.md, "Two shapes on disk".
_OUTSIDE_ROWS = 10_000
_OUTSIDE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Ready:
    """An index that covers one snapshot, and the part row of each of its keys, -1 where the snapshot has none."""

    index: Index
    part_rows: Array


class Graph:
    """The index in memory, brought up to a snapshot when a search needs it.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._index: Index | None = None
        self._mapped = False
        self._warned = False
        self._state: tuple[Snapshot, Ready] | None = None
        self._allowed: tuple[Array, Bitmap | None] | None = None
        # By the identity of an array, which is held here so that no other has it.
        self._grouped: dict[int, tuple[Array, Groups]] = {}

    def search(
        self,
        snapshot: Snapshot,
        sets: Sequence[Array],
        k: int,
        *,
        admitted: Array,
        items: Array,
        groups: Array | None,
        excluded: Sequence[int] | None,
        score: str,
        recall: float,
    ) -> list[tuple[Array, Array, Array]] | None:
        """Return the item rows, scores and best part rows of each query's k best items; None if rows must be scanned.

        Parameters
        ----------
        sets : sequence of ndarray (q, dim)
            The vectors of each query.
        admitted : ndarray of bool (parts,)
            Part rows that may be returned. What is prepared for an array is kept while the same one comes again.
        items : ndarray of int64 (parts,)
            The item row of each part row.
        groups : ndarray of int64 (items,), optional
            The group of each item row, of which the best item is returned; by default each item is its own.
        excluded : sequence of int, optional
            For each query, an item row that it does not find; -1: none.
        """
        with self._lock:
            ready = self._ready(snapshot)
            if ready is None:
                return None
            index = ready.index
            if not len(index) or not len(snapshot.part_ids):
                nothing = np.empty(0, np.int64)
                return [(nothing, np.empty(0, np.float32), nothing)] * len(sets)
            if self._allowed is None or self._allowed[0] is not admitted:
                self._allowed = (admitted, _bitmap(ready, admitted))
            bitmap = self._allowed[1]
            parts = self._grouping(ready, items, lambda rows: items[rows])
            prepared = None if groups is None else self._grouping(ready, groups, lambda rows: groups[items[rows]])
        offsets = np.cumsum([0, *(len(vectors) for vectors in sets)])
        found = index.search_items(
            np.concatenate(sets),
            parts,
            k,
            score=score,
            offsets=offsets,
            recall=recall,
            filter=bitmap,
            groups=prepared,
            exclude_groups=None if excluded is None else np.asarray(excluded, np.int64),
            exclude_by=None if excluded is None else parts,
        )
        rows = np.searchsorted(snapshot.part_ids, found.parts)
        columns = zip(found.items, found.scores, rows, found.counts, strict=True)
        return [(own[:count], scores[:count], best[:count]) for own, scores, best, count in columns]

    def _grouping(self, ready: Ready, named: Array, of_rows: Callable[[Array], Array]) -> Groups:
        """Return the group of each of the index's keys, prepared once while the same array comes again."""
        known = self._grouped.get(id(named))
        if known is None:
            rows = ready.part_rows
            known = (named, ready.index.groups(np.where(rows >= 0, of_rows(rows), -1)))
            self._grouped[id(named)] = known
        return known[1]

    def outside(self, snapshot: Snapshot) -> int:
        """Return how many live parts the saved graph lacks."""
        saved = snapshot.manifest["index"]
        covered = set(saved["segments"]) if saved else set()
        parts = sum(len(segment.part_items) for segment in snapshot.segments if segment.id not in covered)
        return int(parts)

    def due(self, snapshot: Snapshot) -> bool:
        """Say whether so many parts are outside the saved graph that it must be written again."""
        return self.outside(snapshot) > _allowed_outside(snapshot)

    def save(self, snapshot: Snapshot, path: Path) -> dict[str, Any] | None:
        """Write the index to `path` and return what it covers; None where there is nothing to write."""
        with self._lock:
            ready = self._ready(snapshot)
        if ready is None or not len(ready.index):
            return None
        ready.index.save(str(path))
        return {
            "segments": [segment.id for segment in snapshot.segments],
            "tombstones": list(snapshot.manifest["tombstones"]),
        }

    def stats(self, snapshot: Snapshot) -> dict[str, Any] | None:
        """Return what the index says of itself; None where none was saved and no search has needed one yet."""
        with self._lock:
            if self._index is None:
                self._index = self._load(snapshot)
            return None if self._index is None else dict(self._index.stats())

    def follow(self, snapshot: Snapshot) -> None:
        """Take `snapshot` as the one that the index is up to: its rows are the same."""
        with self._lock:
            if self._state is not None:
                self._state = (snapshot, self._state[1])

    def _ready(self, snapshot: Snapshot) -> Ready | None:
        if self._state is None or self._state[0] is not snapshot:
            index = self._refresh(snapshot)
            if index is None:
                return None
            keys, ids = index.keys, snapshot.part_ids
            rows = np.searchsorted(ids, keys).astype(np.int64)
            known = rows < len(ids)
            known[known] = ids[rows[known]] == keys[known]
            self._state = (snapshot, Ready(index, np.where(known, rows, -1)))
            self._allowed = None
            self._grouped = {}
        return self._state[1]

    def _refresh(self, snapshot: Snapshot) -> Index | None:
        from osler.index import Index

        wanted_rows = np.flatnonzero(snapshot.live_parts)
        wanted = snapshot.part_ids[wanted_rows]
        if self._index is None:
            self._index = self._load(snapshot)
        if self._index is None:
            if not self._store.writable and len(wanted) > _OUTSIDE_ROWS:
                self._warn("has no usable graph, so every search scans all rows; open it with mode='a' to rebuild it")
                return None
            self._index = (
                Index.build(snapshot.vectors(wanted_rows), keys=wanted, metric=snapshot.metric)
                if len(wanted)
                else Index(dim=snapshot.dim, metric=snapshot.metric)
            )
            return self._index
        present = self._index.keys
        missing = ~np.isin(wanted, present, assume_unique=True)
        gone = present[~np.isin(present, wanted, assume_unique=True)]
        if not missing.any() and not len(gone):
            return self._index
        if not self._store.writable and int(missing.sum()) > _allowed_outside(snapshot):
            self._warn("has many rows outside its graph, so every search scans all rows; open it with mode='a'")
            return None
        if self._mapped:
            self._index = self._load(snapshot, mutable=True)
            return self._refresh(snapshot)
        if len(gone):
            self._index.delete(gone)
        if missing.any():
            self._index.add(snapshot.vectors(wanted_rows[missing]), keys=wanted[missing])
        return self._index

    def _load(self, snapshot: Snapshot, mutable: bool = False) -> Index | None:
        """Open the saved graph: mapped where it covers the snapshot exactly and nothing will be added."""
        from osler.index import Index

        saved = snapshot.manifest["index"]
        if saved is None:
            return None
        exact = saved["tombstones"] == snapshot.manifest["tombstones"] and not self.outside(snapshot)
        self._mapped = exact and not mutable and not self._store.writable
        path = self._store.path / saved["file"]
        try:
            index = Index.open(str(path), mmap=self._mapped)
        except (CorruptIndexError, FormatVersionError, OSError):
            if self._store.superseded(saved["file"]):
                self._warn("has been changed since it was opened, and its former graph is gone; open it again")
            else:
                self._warn("has a missing or damaged graph, which is built again from its rows")
            self._mapped = False
            return None
        if index.dim != snapshot.dim or index.metric != snapshot.metric:
            self._warn("has a graph of another collection, which is built again from its rows")
            self._mapped = False
            return None
        return index

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self._store.path.name} {what}", stacklevel=6)


def save_graph(store: Store, graph: Graph, snapshot: Snapshot) -> bool:
    """Write the graph and publish it; False where that failed, which costs time later and no row."""
    from secrets import token_hex

    path = store.stage_path()
    try:
        covers = graph.save(snapshot, path)
    except (OSError, Error):
        path.unlink(missing_ok=True)
        warnings.warn(
            f"the graph of {store.path.name} could not be saved; its rows are safe, and opening it takes longer",
            stacklevel=4,
        )
        return False
    if covers is None:
        return False
    name = f"index/{token_hex(16)}.index"
    former = snapshot.manifest["index"]
    drop = frozenset((former["file"],)) if former else frozenset()
    store.commit({"index": {"file": name, **covers}}, {name: path}, drop)
    return True


def _bitmap(ready: Ready, admitted: Array) -> Bitmap | None:
    """Return the keys of the index that may be returned; None for all."""
    chosen = (ready.part_rows >= 0) & admitted[ready.part_rows]
    return None if chosen.all() else ready.index.bitmap(chosen)


def _allowed_outside(snapshot: Snapshot) -> int:
    return max(_OUTSIDE_ROWS, int(_OUTSIDE_SHARE * int(snapshot.part_offsets[-1])))
