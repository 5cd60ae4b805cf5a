"""The graphs of a collection: an `osler.Index` over each range of its parts, derived from the rows and never needed to
read them.

Saved graphs are mapped and stay as they are; a small one in memory covers the parts that none of them has. Holds one
lock, taken to bring them up to a snapshot, never during a search.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection.rows import Array
from osler.collection.snapshot import Snapshot
from osler.collection.store import Store
from osler.errors import CorruptIndexError, Error, FormatVersionError
from osler.index import Index, rank_items

if TYPE_CHECKING:
    from osler.index import Bitmap, Groups

__all__ = ["Ask", "Graphs", "Ranked", "affected_graphs", "graph_without"]

# Rows outside the graphs that are cheaper to add on opening than to have saved: storage.md, "Two shapes on disk".
_OUTSIDE_ROWS = 10_000
_OUTSIDE_SHARE = 0.05
# A graph is written again with the rows outside it as long as it is at most so many times their number.
_TAKEN_ALONG = 2
# A graph of which this share was deleted is written again.
_DEAD_SHARE = 0.25
# Parts among which the score "count" counts: api.md, "Scores of items".
_COUNTED = 20

# The item rows, scores and best part rows of one query.
Ranked = tuple[Array, Array, Array]


@dataclass(frozen=True, eq=False)
class Ask:
    """What a search asks of the graphs.

    Attributes
    ----------
    sets : sequence of ndarray (q, dim)
        The vectors of each query.
    k : int
        Items wanted of each.
    admitted : ndarray of bool (parts,)
        Part rows that may be returned. What is prepared for an array is kept while the same one comes again.
    items : ndarray of int64 (parts,)
        The item row of each part row.
    groups : ndarray of int64 (items,) or None
        The group of each item row, of which the best item is returned; None: each item is its own.
    excluded : sequence of int or None
        For each query, an item row that it does not find; -1: none.
    score : str
    recall : float
    """

    sets: Sequence[Array]
    k: int
    admitted: Array
    items: Array
    groups: Array | None
    excluded: Sequence[int] | None
    score: str
    recall: float


@dataclass(eq=False)
class _Covered:
    """An index, and where its keys are in one snapshot.

    `exact` says that it has all live parts of a range and no other. `part_rows` has the part row of each key, -1 where
    the snapshot has none.
    """

    index: Index
    snapshot: Snapshot
    exact: bool
    name: str = ""
    _rows: Array | None = None
    _allowed: tuple[Array, Bitmap | None] | None = None
    # By the identity of an array, which is held here so that no other has it.
    _grouped: dict[int, tuple[Array, Groups]] = field(default_factory=dict)

    @property
    def part_rows(self) -> Array:
        if self._rows is None:
            keys, ids = self.index.keys, self.snapshot.part_ids
            rows = np.searchsorted(ids, keys).astype(np.int64)
            known = rows < len(ids)
            known[known] = ids[rows[known]] == keys[known]
            self._rows = np.where(known, rows, -1)
        return self._rows

    def rows_of(self, keys: Array) -> Array:
        """Return the part rows of keys that a search found."""
        ids = self.snapshot.part_ids
        rows = np.searchsorted(ids, keys)
        if (rows == len(ids)).any() or (ids[rows] != keys).any():
            raise CorruptIndexError(
                "a graph of this collection has parts that its rows do not have; restore it from a copy",
                findings=[{"file": self.name, "section": "keys", "offset": 0, "problem": "it names no part"}],
            )
        return rows

    def allow(self, admitted: Array) -> Bitmap | None:
        """Return the keys that may be returned; None for all."""
        if self._allowed is None or self._allowed[0] is not admitted:
            if self.exact and admitted.all():
                bitmap = None
            else:
                chosen = (self.part_rows >= 0) & admitted[self.part_rows]
                bitmap = None if chosen.all() else self.index.bitmap(chosen)
            self._allowed = (admitted, bitmap)
        return self._allowed[1]

    def groupings(self, ask: Ask) -> tuple[Groups, Groups | None]:
        """Return the item of each key and, where there are groups, its group."""
        items, groups = ask.items, ask.groups
        own = self._grouping(items, lambda rows: items[rows])
        return own, None if groups is None else self._grouping(groups, lambda rows: groups[items[rows]])

    def _grouping(self, named: Array, of_rows: Callable[[Array], Array]) -> Groups:
        """Return the group of each key, prepared once while the same array comes again."""
        known = self._grouped.get(id(named))
        if known is None:
            rows = self.part_rows
            known = self._grouped[id(named)] = (named, self.index.groups(np.where(rows >= 0, of_rows(rows), -1)))
        return known[1]


@dataclass(frozen=True, eq=False)
class _Ready:
    """What answers for one snapshot: no part is in two of them."""

    snapshot: Snapshot
    covered: list[_Covered]


class Graphs:
    """The indexes of a collection, brought up to a snapshot when a search needs them.

    Parameters
    ----------
    store : Store
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._saved: dict[str, Index] = {}
        self._lost: set[str] = set()
        self._tail: Index | None = None
        self._warned = False
        self._ready_one: _Ready | None = None

    def search(self, snapshot: Snapshot, ask: Ask) -> list[Ranked] | None:
        """Return the item rows, scores and best part rows of each query's k best items; None if rows must be scanned.

        A saved graph that is found damaged on the way is done without.
        """
        while True:
            try:
                return self._search(snapshot, ask)
            except CorruptIndexError as error:
                if not self._without(error):
                    raise

    def _search(self, snapshot: Snapshot, ask: Ask) -> list[Ranked] | None:
        with self._lock:
            ready = self._ready(snapshot)
            if ready is None:
                return None
            pairs = [(one, one.allow(ask.admitted)) for one in ready.covered if len(one.index)]
            by_items = not _is_plain(snapshot, ask) and not (ask.score == "count" and len(pairs) > 1)
            prepared = [one.groupings(ask) for one, _ in pairs] if by_items else []
        if by_items:
            found = zip(pairs, prepared, strict=True)
            answers = [_by_items(one, bitmap, ask, *groupings) for (one, bitmap), groupings in found]
        elif ask.score == "count":
            return [_counted(pairs, ask, query) for query in range(len(ask.sets))]
        else:
            answers = [_plain(one, bitmap, ask) for one, bitmap in pairs]
        if len(answers) == 1:
            return answers[0]
        if not answers:
            nothing = np.empty(0, np.int64)
            return [(nothing, np.empty(0, np.float32), nothing)] * len(ask.sets)
        return [_merged([answer[at] for answer in answers], ask) for at in range(len(ask.sets))]

    def _without(self, error: CorruptIndexError) -> bool:
        """Go on without the saved graph that is damaged; False if the damage is elsewhere."""
        with self._lock:
            damaged = Path(error.findings[0]["file"]).name
            names = [name for name in self._saved if Path(name).name == damaged]
            for name in names:
                del self._saved[name]
                self._lost.add(name)
                self._ready_one = None
                self._warn("has a damaged graph, which is built again from its rows")
            return bool(names)

    def outside(self, snapshot: Snapshot) -> int:
        """Return how many live parts no saved graph has."""
        saved = snapshot.manifest["graphs"]
        within = sum(_count_live(snapshot, entry["first_part"], entry["end_part"]) for entry in saved)
        return _count_live(snapshot, 0, snapshot.manifest["next_part"]) - within

    def due(self, snapshot: Snapshot) -> bool:
        """Say whether so many parts are outside the saved graphs, or dead in one, that graphs must be written again."""
        if self.outside(snapshot) > _allowed_outside(snapshot):
            return True
        return any(_is_stale(snapshot, entry) for entry in snapshot.manifest["graphs"])

    def save(self, snapshot: Snapshot) -> bool:
        """Write graphs for what is outside the saved ones, and again for those with many dead parts, and publish them.

        Returns
        -------
        bool
            Whether there was anything to write.
        """
        kept = [entry for entry in snapshot.manifest["graphs"] if not _is_stale(snapshot, entry)]
        outside = self.outside(snapshot)
        # Of the graphs after the last that stays, each is written again while it is small beside what is new.
        while kept and outside and kept[-1]["parts"] <= _TAKEN_ALONG * outside:
            outside += kept.pop()["parts"]
        made: list[tuple[dict[str, Any], Index]] = []
        start = 0
        for stop in [*(entry["first_part"] for entry in kept), snapshot.manifest["next_part"]]:
            rows = _live_rows(snapshot, start, stop)
            if len(rows):
                ids = snapshot.part_ids[rows]
                tail = self._tail
                if tail is None or len(tail) != len(ids) or (tail.keys != ids).any():
                    tail = _built(snapshot, rows, ids)
                made.append(({"first_part": start, "end_part": stop, "parts": len(rows)}, tail))
            start = next((entry["end_part"] for entry in kept if entry["first_part"] == stop), stop)
        gone = [entry["file"] for entry in snapshot.manifest["graphs"] if entry not in kept]
        if not made and not gone:
            return False
        entries, new = list(kept), {}
        for entry, index in made:
            path = self._store.draft_path()
            index.save(str(path))
            name = self._store.new_name("graphs", "index")
            new[name] = path
            entries.append({"file": name, **entry})
        entries.sort(key=lambda entry: int(entry["first_part"]))
        self._store.commit(snapshot.state, {"graphs": entries}, new)
        return True

    def stats(self, snapshot: Snapshot) -> dict[str, Any] | None:
        """Return what the largest index says of itself; None where none was saved and no search has needed one yet."""
        with self._lock:
            found = [index for entry in snapshot.manifest["graphs"] if (index := self._load(snapshot, entry))]
            if self._tail is not None:
                found.append(self._tail)
            return dict(max(found, key=len).stats()) | {"graphs": len(found)} if found else None

    def follow(self, snapshot: Snapshot) -> None:
        """Take a snapshot of the same rows, whose graphs may have been written again."""
        with self._lock:
            listed = {entry["file"] for entry in snapshot.manifest["graphs"]}
            self._saved = {name: index for name, index in self._saved.items() if name in listed}
            self._ready_one = None

    def _ready(self, snapshot: Snapshot) -> _Ready | None:
        if self._ready_one is None or self._ready_one.snapshot is not snapshot:
            covered = self._bring_up(snapshot)
            if covered is None:
                return None
            self._ready_one = _Ready(snapshot, covered)
        return self._ready_one

    def _bring_up(self, snapshot: Snapshot) -> list[_Covered] | None:
        found, gaps, start = [], [], 0
        for entry in snapshot.manifest["graphs"]:
            index = self._load(snapshot, entry)
            if index is None:
                continue
            live = _count_live(snapshot, entry["first_part"], entry["end_part"])
            found.append(_Covered(index, snapshot, live == len(index), entry["file"]))
            gaps.append((start, entry["first_part"]))
            start = entry["end_part"]
        gaps.append((start, snapshot.manifest["next_part"]))
        outside = sum(_count_live(snapshot, *gap) for gap in gaps)
        if outside > _allowed_outside(snapshot) and not self._store.writable:
            if snapshot.manifest["graphs"] and not self._lost:
                self._warn("has many rows outside its graph, so every search scans all rows; open it with mode='a'")
            else:
                self._warn("has no usable graph, so every search scans all rows; open it with mode='a' to rebuild it")
            return None
        if not outside:
            self._tail = None
        else:
            rows = np.concatenate([_live_rows(snapshot, *gap) for gap in gaps])
            found.append(_Covered(self._tail_of(snapshot, rows), snapshot, True))
        return found

    def _tail_of(self, snapshot: Snapshot, rows: Array) -> Index:
        """Return an index over the parts at these rows, made from the last one where that saves work."""
        wanted = snapshot.part_ids[rows]
        if self._tail is None:
            self._tail = _built(snapshot, rows, wanted)
            return self._tail
        # Searches of earlier snapshots go on with the one they have.
        tail = copy.copy(self._tail)
        present = tail.keys
        missing = ~np.isin(wanted, present, assume_unique=True)
        gone = present[~np.isin(present, wanted, assume_unique=True)]
        if len(gone) == len(present):
            self._tail = None
            return self._tail_of(snapshot, rows)
        if not len(gone) and not missing.any():
            return self._tail
        if len(gone):
            tail.delete(gone)
        if missing.any():
            tail.add(snapshot.vectors(rows[missing]), keys=wanted[missing])
        self._tail = tail
        return tail

    def _load(self, snapshot: Snapshot, entry: Mapping[str, Any]) -> Index | None:
        name = entry["file"]
        if name in self._saved:
            return self._saved[name]
        if name in self._lost:
            return None
        try:
            # Checks that it is the file that was listed; opened by its path, it would be any.
            snapshot.state.file(name)
            index = Index.open(str(self._store.path / name))
        except (CorruptIndexError, FormatVersionError, OSError):
            index = None
        except Error as error:
            if error.code != "stale":
                raise
            index = None
        if index is None or index.dim != snapshot.dim or index.metric != snapshot.metric:
            self._warn("has a missing or damaged graph, which is built again from its rows")
            self._lost.add(name)
            return None
        self._saved[name] = index
        return index

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{self._store.path.name} {what}", stacklevel=7)


def affected_graphs(store: Store, snapshot: Snapshot, gone: Array) -> list[dict[str, Any]]:
    """Return the entries of graphs that have parts of these item rows, or parts that no segment has any more.

    Whose those were is not known: a deleted item that compaction has dropped may still be in a graph.
    """
    kept = snapshot.part_ids[~gone[snapshot.part_items]]
    found = []
    for entry in snapshot.manifest["graphs"]:
        try:
            keys = Index.open(str(store.path / entry["file"])).keys
        except (CorruptIndexError, FormatVersionError, OSError):
            found.append(entry)
            continue
        if not np.isin(keys, kept, assume_unique=True).all():
            found.append(entry)
    return found


def graph_without(path: Path, draft: Path, snapshot: Snapshot, gone: Array) -> int:
    """Write a saved graph again without the parts of these item rows and without dead ones; return how many it has."""
    index = Index.open(str(path), mmap=False)
    kept = snapshot.part_ids[(snapshot.live & ~gone)[snapshot.part_items]]
    present = index.keys
    index.delete(present[~np.isin(present, kept, assume_unique=True)])
    if len(index):
        index.save(str(draft))
    return len(index)


def _built(snapshot: Snapshot, rows: Array, ids: Array) -> Index:
    vectors = snapshot.vectors(rows)
    try:
        return Index.build(vectors, keys=ids, metric=snapshot.metric)
    except ValueError:
        # What was stored was checked when it came.
        raise snapshot.damage(int(rows[0]), "vectors", "some cannot be scored") from None


def _is_plain(snapshot: Snapshot, ask: Ask) -> bool:
    """Whether a part found is an item found: one part an item, one vector a query, nothing else asked."""
    return (
        ask.score == "max"
        and ask.groups is None
        and ask.excluded is None
        and all(len(vectors) == 1 for vectors in ask.sets)
        and snapshot.single
    )


def _plain(covered: _Covered, bitmap: Bitmap | None, ask: Ask) -> list[Ranked]:
    k = min(ask.k, len(covered.index))
    found = covered.index.search(np.concatenate(ask.sets), k=k, recall=ask.recall, filter=bitmap)
    columns = zip(found.keys, found.scores, found.counts, strict=True)
    rows = [(covered.rows_of(keys[:count]), scores[:count]) for keys, scores, count in columns]
    return [(ask.items[own], scores, own) for own, scores in rows]


def _by_items(covered: _Covered, bitmap: Bitmap | None, ask: Ask, parts: Groups, groups: Groups | None) -> list[Ranked]:
    found = covered.index.search_items(
        np.concatenate(ask.sets),
        parts,
        ask.k,
        score=ask.score,
        offsets=np.cumsum([0, *(len(vectors) for vectors in ask.sets)]),
        recall=ask.recall,
        filter=bitmap,
        groups=groups,
        exclude_groups=None if ask.excluded is None else np.asarray(ask.excluded, np.int64),
        exclude_by=None if ask.excluded is None else parts,
    )
    columns = zip(found.items, found.scores, found.parts, found.counts, strict=True)
    return [(own[:count], scores[:count], covered.rows_of(best[:count])) for own, scores, best, count in columns]


def _counted(covered: Sequence[tuple[_Covered, Bitmap | None]], ask: Ask, query: int) -> Ranked:
    """Rank by how many parts of an item are among the nearest of all, which no single index knows."""
    vectors, items = ask.sets[query], ask.items
    excluded = -1 if ask.excluded is None else ask.excluded[query]
    near: list[Array] = []
    for one, bitmap in covered:
        if excluded >= 0:
            kept = one.index.bitmap((one.part_rows >= 0) & (items[one.part_rows] != excluded))
            bitmap = kept if bitmap is None else bitmap & kept
        found = one.index.search(vectors, k=min(_COUNTED, len(one.index)), recall=ask.recall, filter=bitmap)
        near.extend(keys[:count] for keys, count in zip(found.keys, found.counts, strict=True))
    first = covered[0][0]
    rows = first.rows_of(np.unique(np.concatenate(near)))
    scores = first.snapshot.scores(vectors, rows)
    of_group = None if ask.groups is None else ask.groups[items[rows]]
    ranked = rank_items(scores, items[rows], ask.k, score="count", groups=of_group)
    return ranked.items, ranked.scores, rows[ranked.parts.astype(np.int64)]


def _merged(answers: Sequence[Ranked], ask: Ask) -> Ranked:
    """Return the best of several answers about different items; of those of one group the best."""
    items, scores, parts = (np.concatenate(column) for column in zip(*answers, strict=True))
    order = np.argsort(-scores, kind="stable")
    if ask.groups is not None:
        _, first = np.unique(ask.groups[items[order]], return_index=True)
        order = order[np.sort(first)]
    order = order[: ask.k]
    return items[order], scores[order], parts[order]


def _bounds(snapshot: Snapshot, start: int, stop: int) -> tuple[int, int]:
    """Return the first and last part row with ids from `start` up to `stop`."""
    low, high = np.searchsorted(snapshot.part_ids, np.array([start, stop], np.uint64)).tolist()
    return low, high


def _count_live(snapshot: Snapshot, start: int, stop: int) -> int:
    low, high = _bounds(snapshot, start, stop)
    return int(np.count_nonzero(snapshot.live_parts[low:high]))


def _live_rows(snapshot: Snapshot, start: int, stop: int) -> Array:
    low, high = _bounds(snapshot, start, stop)
    return low + np.flatnonzero(snapshot.live_parts[low:high])


def _is_stale(snapshot: Snapshot, entry: Mapping[str, Any]) -> bool:
    live = _count_live(snapshot, entry["first_part"], entry["end_part"])
    return live < (1 - _DEAD_SHARE) * int(entry["parts"])


def _allowed_outside(snapshot: Snapshot) -> int:
    return max(_OUTSIDE_ROWS, int(_OUTSIDE_SHARE * int(snapshot.part_offsets[-1])))
