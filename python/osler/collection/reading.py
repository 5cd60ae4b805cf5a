"""What can be read of a snapshot without a query: items by key, vectors, and what the collection is.

Pure functions of one snapshot.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from osler.collection.rows import Array
from osler.collection.snapshot import Snapshot
from osler.items import Hit, Part

__all__ = ["Info", "PartVectors", "State", "get", "info", "item_vectors", "keys", "part_vectors", "states"]

_BLOCK_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class Info:
    """What a collection holds and how it was made.

    Attributes
    ----------
    items, parts, dim, commit, segments, bytes, deleted : int
        Live items and parts, the vectors' width, the number of the commit, and what the directory takes.
    metric : str
    encoder, fingerprint : str or None
    policy : mapping
        The privacy policy in force: allowed columns, pseudonyms, and what was kept by name.
    graph : mapping or None
        What the index says of itself, with the recall it measured; None where none was needed yet.
    columns : mapping of str to str

    Examples
    --------
    >>> import tempfile, osler
    >>> info = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2).info()
    >>> info.to_dict()["policy"]["keep"], info.items
    ([], 0)
    """

    items: int
    parts: int
    dim: int
    metric: str
    encoder: str | None
    fingerprint: str | None
    commit: int
    segments: int
    deleted: int
    bytes: int
    policy: Mapping[str, Any]
    columns: Mapping[str, str]
    graph: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class State:
    """One state that a directory still has.

    Attributes
    ----------
    commit : int
    items : int or None
        Items that were stored, deleted ones included; None where the manifest cannot be read.
    findings : tuple of dict
        Its damage, as of `osler.CorruptIndexError`; none: it can be put in force.

    Examples
    --------
    >>> import tempfile, osler
    >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
    >>> [state.to_dict() for state in osler.Collection.states(cases.path)]
    [{'commit': 0, 'items': 0, 'findings': []}]
    """

    commit: int
    items: int | None
    findings: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {"commit": self.commit, "items": self.items, "findings": list(self.findings)}


def states(found: Iterable[tuple[int, Mapping[str, Any] | None, list[dict[str, Any]]]]) -> list[State]:
    """Return the states that a store has, of the number, manifest and damage of each."""
    return [
        State(commit, None if said is None else sum(entry["items"] for entry in said["segments"]), tuple(damage))
        for commit, said, damage in found
    ]


@dataclass(frozen=True, slots=True, eq=False)
class PartVectors:
    """Vectors part by part.

    Attributes
    ----------
    keys : list of str
        The items, those without parts included.
    vectors : ndarray of float32 (p, dim)
    owner : ndarray of int64 (p,)
        Position in `keys` of each vector's item, ascending.
    parts : list of Part
    """

    keys: list[str]
    vectors: np.ndarray[Any, np.dtype[np.float32]]
    owner: np.ndarray[Any, np.dtype[np.int64]]
    parts: list[Part]


def keys(snapshot: Snapshot, where: Any) -> list[str]:
    """Return the keys of the items for which `where` holds."""
    if where is None:
        return list(snapshot.keys)
    return [snapshot.keys[at] for at in _holding(snapshot, where).tolist()]


def _holding(snapshot: Snapshot, where: Any) -> Array:
    """Return the places among the live items of those for which a condition holds."""
    return np.flatnonzero(snapshot.condition(where).mask(snapshot.table))


def get(snapshot: Snapshot, names: str | Iterable[str], missing: str) -> list[Hit]:
    """Return items by key."""
    if missing not in ("raise", "skip"):
        raise ValueError(f"missing is {missing!r}; choose 'raise' or 'skip'")
    found = []
    wanted = [names] if isinstance(names, str) else list(names)
    for key, row in zip(wanted, snapshot.find(wanted).tolist(), strict=True):
        if row >= 0:
            parts = snapshot.parts_of(row)
            part = snapshot.part(int(parts[0])) if len(parts) else Part()
            found.append(Hit(key, float("nan"), snapshot.metadata(row), part))
        elif missing == "raise":
            raise KeyError(f"there is no item {key!r} in this collection")
    return found


def part_vectors(snapshot: Snapshot, chosen: Iterable[str] | None, where: Any, kind: str | None) -> PartVectors:
    """Return the vectors of items, part by part."""
    names, rows, owner = _part_rows(snapshot, chosen, where, kind)
    return PartVectors(names, snapshot.vectors(rows), owner, snapshot.parts(rows))


def _part_rows(
    snapshot: Snapshot, chosen: Iterable[str] | None, where: Any, kind: str | None
) -> tuple[list[str], Array, Array]:
    """Return the keys of items, their part rows in that order, and the place of each row's item among the keys."""
    if chosen is not None and where is not None:
        raise ValueError("give keys= or where=, not both")
    if chosen is None:
        at = np.arange(len(snapshot)) if where is None else _holding(snapshot, where)
        names, items = [snapshot.keys[row] for row in at.tolist()], snapshot.live_rows[at]
    else:
        names = [chosen] if isinstance(chosen, str) else list(chosen)
        items = snapshot.find(names)
        if (items < 0).any():
            raise KeyError(f"there is no item {names[int(np.argmax(items < 0))]!r} in this collection")
    wanted = snapshot.wanted_kind(kind)
    first = np.searchsorted(snapshot.part_items, items)
    sizes = np.searchsorted(snapshot.part_items, items + 1) - first
    owner = np.repeat(np.arange(len(names)), sizes)
    rows = np.arange(len(owner)) + np.repeat(first - np.cumsum(sizes) + sizes, sizes)
    if wanted is not None:
        right = snapshot.part_kinds[rows] == wanted
        rows, owner = rows[right], owner[right]
    return names, rows, owner


def item_vectors(snapshot: Snapshot, chosen: Iterable[str] | None, where: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return one vector an item: the mean of its parts, NaN where it has none."""
    names, rows, owner = _part_rows(snapshot, chosen, where, None)
    counts = np.bincount(owner, minlength=len(names))
    firsts = np.cumsum(counts) - counts
    found = np.full((len(names), snapshot.dim), np.nan, np.float32)
    # Items with so many parts together at a time: memory beyond the answer is bounded by them.
    edges = np.searchsorted(firsts, np.arange(0, len(rows), _BLOCK_ROWS))
    for start, stop in itertools.pairwise(sorted({*edges.tolist(), len(names)})):
        first = int(firsts[start])
        parts = snapshot.vectors(rows[first : first + int(counts[start:stop].sum())])
        found[start:stop] = _means(parts, firsts[start:stop] - first, counts[start:stop], snapshot.metric)
    return found


def _means(parts: Array, firsts: Array, counts: Array, metric: str) -> Array:
    """Return the mean of each item's parts, which lie together from the first one on, in float64; NaN for none."""
    sums = np.zeros((len(counts), parts.shape[1]))
    sums[counts == 0] = np.nan
    # One part of every item at a time: sums along rows would keep other threads waiting.
    for at in range(int(counts.max(initial=0))):
        more = np.flatnonzero(counts > at)
        sums[more] += parts[firsts[more] + at]
    sums /= np.maximum(counts, 1)[:, None]
    several = counts > 1
    if metric == "cosine" and several.any():
        with np.errstate(invalid="ignore"):
            sums[several] /= np.linalg.norm(sums[several], axis=1, keepdims=True)
    return sums


def info(snapshot: Snapshot, stats: Mapping[str, Any] | None) -> Info:
    """Return what the collection holds and how it was made."""
    manifest = snapshot.manifest
    named = manifest["encoder"] or {"name": None, "fingerprint": None}
    return Info(
        items=len(snapshot),
        parts=int(snapshot.live_parts.sum()),
        dim=snapshot.dim,
        metric=snapshot.metric,
        encoder=named["name"],
        fingerprint=named["fingerprint"],
        commit=snapshot.state.number,
        segments=len(snapshot.segments),
        deleted=int(len(snapshot.live) - len(snapshot)),
        bytes=sum(snapshot.state.files.values()),
        policy=MappingProxyType(manifest["policy"]),
        columns=MappingProxyType(dict(snapshot.types)),
        graph=None if stats is None else MappingProxyType(dict(stats)),
    )
