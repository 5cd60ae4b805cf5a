"""Erasing: items, their former versions and what was derived of them leave every file of the collection, in one commit.

Finds the rows, live and deleted ones, and has the handle publish a state without them.
storage.md, "Promises", 5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.outcome import EraseReport
from osler.collection.rows import KEY, Array
from osler.collection.segment import distinct, key_hashes
from osler.collection.snapshot import Snapshot

if TYPE_CHECKING:
    from osler.collection.handle import Handle

__all__ = ["erase"]


def erase(handle: Handle, keys: Iterable[str] | None, where: Any) -> EraseReport:
    """Erase items by key or condition; see `osler.Collection.erase`."""
    if (keys is None) == (where is None):
        raise ValueError("give exactly one of keys= and where=; nothing was erased")
    with handle.writing() as snapshot:
        gone = np.zeros(len(snapshot.live), bool)
        if keys is None:
            rows = _matching(snapshot, where) if isinstance(where, str) else _live_matching(snapshot, where)
            gone[rows] = True
            # A former version may be what is meant where the item of today is not: then it alone goes.
            found = _keys_of(snapshot, rows)
            today = snapshot.find(found)
            names = [key for key, row in zip(found, today.tolist(), strict=True) if row < 0 or gone[row]]
        else:
            names = [keys] if isinstance(keys, str) else list(keys)
        gone[_every_version(snapshot, names)] = True
        names = _keys_of(snapshot, np.flatnonzero(gone))
        today = snapshot.find(names)
        items = int(np.count_nonzero((today < 0) | gone[today]))
        parts = int(np.count_nonzero(gone[snapshot.part_items]))
        before = snapshot.state.files
        handle.publish_without(gone)
        after = handle.snapshot
        removed = before.keys() - after.state.files.keys()
        return EraseReport(
            items=items,
            versions=int(np.count_nonzero(gone)),
            parts=parts,
            files=len(removed),
            bytes=sum(before[name] for name in removed),
            commit=after.state.number,
        )


def _matching(snapshot: Snapshot, where: Any) -> Array:
    """Return the item rows, of deleted items too, for which a condition holds."""
    import polars as pl

    condition = snapshot.condition(where)
    found = []
    for segment, offset in zip(snapshot.segments, snapshot.item_offsets, strict=False):
        keys = pl.Series(KEY, segment.keys, pl.String)
        frame = segment.frame(snapshot.types)
        table = frame.insert_column(0, keys) if frame.columns else pl.DataFrame([keys])
        found.append(offset + np.flatnonzero(condition.mask(table)))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _live_matching(snapshot: Snapshot, where: Any) -> Array:
    """Return the item rows that a Polars expression selects, which may depend on all rows: the live ones, as ever."""
    return np.flatnonzero(snapshot.select(snapshot.condition(where)))


def _keys_of(snapshot: Snapshot, rows: Array) -> list[str]:
    return list(dict.fromkeys(snapshot.key(row) for row in rows.tolist()))


def _every_version(snapshot: Snapshot, names: list[str]) -> Array:
    """Return the item rows, of deleted items too, that have one of these keys."""
    if not names:
        return np.empty(0, np.int64)
    hashes = key_hashes(names)
    found = []
    for segment, offset in zip(snapshot.segments, snapshot.item_offsets, strict=False):
        items = segment.find(names, hashes)
        found.append(offset + items[items >= 0])
    return distinct(np.concatenate(found)) if found else np.empty(0, np.int64)
