"""The changes that need no encoder: add vectors, update metadata, delete, compact; each is one commit.

Turns arguments into a batch and a list of deletions for the handle to publish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from osler.collection import compaction
from osler.collection.batch import Batch
from osler.collection.handle import Handle
from osler.collection.outcome import AddReport
from osler.collection.rows import Array, as_locator, check_keys, check_kind, table_rows, unit_rows
from osler.collection.segment import distinct
from osler.items import Part

__all__ = ["add_vectors", "compact", "delete", "update"]

_ON_DUPLICATE = ("error", "skip", "replace")


def add_vectors(
    handle: Handle,
    keys: Iterable[str],
    vectors: Any,
    *,
    metadata: Any,
    parts: Any,
    locators: Any,
    kind: str | Sequence[str],
    on_duplicate: str,
) -> AddReport:
    """Add items with the vectors of their parts, all or none of them."""
    if on_duplicate not in _ON_DUPLICATE:
        raise ValueError(f"on_duplicate is {on_duplicate!r}; choose one of {', '.join(_ON_DUPLICATE)}")
    names = check_keys(keys)
    rows = table_rows(metadata, len(names))
    with handle.writing() as snapshot:
        owner, found, made = _parts(names, vectors, parts, locators, kind, snapshot.dim, snapshot.metric)
        rows_there = snapshot.find(names)
        present = np.flatnonzero(rows_there >= 0).tolist()
        if present and on_duplicate == "error":
            raise ValueError(
                f"key {names[present[0]]!r} is in the collection already, and nothing was added; "
                "use on_duplicate='skip' or 'replace'"
            )
        left_out = set(present) if on_duplicate == "skip" else set()
        columns = handle.columns()
        batch = Batch(snapshot.dim)
        ends = np.searchsorted(owner, np.arange(len(names) + 1))
        for position, key in enumerate(names):
            if position in left_out:
                continue
            row = columns.accept(key, rows[position], snapshot)
            first, last = ends[position], ends[position + 1]
            batch.append(key, row, made[first:last], found[first:last])
        dead = rows_there[present]
        handle.publish(batch, dead if on_duplicate == "replace" else None, columns)
        handle.tidy()
        return AddReport(added=len(batch), duplicates=len(left_out))


def update(handle: Handle, key: str, metadata: Mapping[str, Any]) -> None:
    """Set columns of one item; its vectors stay as they are."""
    if not isinstance(metadata, Mapping):
        raise TypeError("metadata must be a dict of columns and values")
    with handle.writing() as snapshot:
        row = snapshot.row(key)
        if row is None:
            raise KeyError(f"there is no item {key!r} in this collection")
        columns = handle.columns()
        accepted = columns.accept(key, metadata, snapshot)
        batch = Batch(snapshot.dim)
        snapshot.copy_into(batch, row, {**snapshot.metadata(row), **accepted})
        handle.publish(batch, np.array([row]), columns)
        handle.tidy()


def delete(handle: Handle, keys: Iterable[str] | None, where: Any) -> int:
    """Delete items by key or condition, and return how many were there."""
    if (keys is None) == (where is None):
        raise ValueError("give exactly one of keys= and where=; nothing was deleted")
    with handle.writing() as snapshot:
        if keys is None:
            dead = np.flatnonzero(snapshot.select(snapshot.condition(where)))
        else:
            names = [keys] if isinstance(keys, str) else list(keys)
            dead = distinct(snapshot.find(names))
            dead = dead[dead >= 0]
        handle.publish(dead=dead)
        handle.tidy()
        return len(dead)


def compact(handle: Handle) -> None:
    """Write small segments together, and those with many deleted items without them."""
    with handle.writing() as snapshot:
        runs = compaction.runs(snapshot)
        if runs or compaction.surviving_tombstones(snapshot, []) is not None:
            handle.rewrite(runs)
        handle.tidy()


def _parts(
    keys: Sequence[str], vectors: Any, parts: Any, locators: Any, kind: Any, dim: int, metric: str
) -> tuple[Array, Array, list[Part]]:
    """Return, in order of the keys, each part's position in `keys`, its vector, and the part."""
    if vectors is None:
        if parts is not None or locators is not None:
            raise ValueError("parts and locators say where vectors lie; without vectors leave them out")
        return np.empty(0, np.int64), np.empty((0, dim), np.float32), []
    found = unit_rows(vectors, dim, metric)
    owner = np.arange(len(keys)) if parts is None else np.asarray(parts)
    if owner.ndim != 1 or (len(owner) and owner.dtype.kind not in "iu"):
        raise ValueError("parts must be whole numbers of shape (n,), each vector's position in keys")
    if len(owner) != len(found):
        what = "keys" if parts is None else "entries of parts"
        raise ValueError(f"there are {len(found)} vectors for {len(owner)} {what}; give one each")
    if len(owner) and (owner.min() < 0 or owner.max() >= len(keys)):
        raise ValueError(f"parts holds a position outside the {len(keys)} keys")
    kinds = [kind] * len(found) if isinstance(kind, str) else list(kind)
    places = [None] * len(found) if locators is None else list(locators)
    for name, given in (("kind", kinds), ("locators", places)):
        if len(given) != len(found):
            raise ValueError(f"{name} has {len(given)} entries for {len(found)} vectors; give one each")
    order = np.argsort(owner, kind="stable")
    owner = owner[order].astype(np.int64)
    starts = np.searchsorted(owner, owner)
    made = [
        Part(int(at - start), check_kind(kinds[row]), as_locator(places[row]))
        for at, (row, start) in enumerate(zip(order.tolist(), starts.tolist(), strict=True))
    ]
    in_order = bool((order[1:] > order[:-1]).all())
    return owner, found if in_order else found[order], made
