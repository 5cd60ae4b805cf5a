"""One search over items: what is asked, which parts may answer, and an item's score from those of its parts.

Reads a snapshot and asks its graph; encodes through the collection's encoder. Scores over parts: best part, and the
sums and counts of 3D-MIR (Abacha et al. 2023); MaxSim of ColBERT; median of minima of Yottixel (Kalra et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from osler.collection.graph import Graph
from osler.collection.privacy import IDENTIFIERS
from osler.collection.rows import Array, accepts, unit_rows
from osler.collection.snapshot import Snapshot
from osler.collection.where import unknown_column

if TYPE_CHECKING:
    from osler.collection.handle import Handle

__all__ = ["SCORES", "Answer", "Question", "ask", "check_options", "only_one", "questions"]

SCORES = ("max", "mean", "sum", "count", "maxsim", "median_min")

# Parts that each vector of a query retrieves to be counted: 3D-MIR, section "Retrieval".
_COUNTED = 20
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class Question:
    """One query: a vector for each of its frames or texts, and what is known of it.

    Attributes
    ----------
    vectors : ndarray (q, dim)
    shown : object
        What a person asked with: a path, an array, a picture, a text, or None.
    row : int or None
        Item row of the item it is about, which is never its own answer.
    columns : mapping or None
        Its own values, for `exclude`; None where it has none.
    """

    vectors: Array
    shown: Any = None
    row: int | None = None
    columns: Mapping[str, Any] | None = field(default=None)


class Answer(NamedTuple):
    """An item row, its score, and the part row that matched best."""

    row: int
    score: float
    part: int


def ask(
    snapshot: Snapshot,
    graph: Graph,
    questions: Sequence[Question],
    *,
    k: int,
    condition: Any,
    group_by: str | None,
    exclude: str | Mapping[str, Any] | None,
    kind: str | None,
    score: str,
    recall: float,
) -> tuple[list[list[Answer]], int]:
    """Return the k best items for each question, and how many items could have been answers.

    An item counts once; under `group_by`, so does a value of that column, and items without one are on their own. A
    query of several frames takes, for each item, the best score that any frame gives it, but under ``maxsim`` the sum,
    and under ``median_min`` the median, of each frame's best.
    """
    wanted = snapshot.wanted_kind(kind)
    groups = _groups(snapshot, group_by)
    admitted = snapshot.searchable(wanted)
    if condition.expression is not None:
        admitted = admitted & snapshot.select(condition)[snapshot.part_items]
    if isinstance(exclude, Mapping):
        admitted = admitted & ~_excluded(snapshot, exclude)[snapshot.part_items]
    searched = _items(snapshot, admitted)
    if score == "max" and not isinstance(exclude, str) and all(question.row is None for question in questions):
        return _best(snapshot, graph, questions, k, admitted, groups, recall), searched
    answers = []
    for question in questions:
        here = admitted
        if question.row is not None:
            here = here & (snapshot.part_items != question.row)
        if isinstance(exclude, str):
            own = _own_value(snapshot, question, exclude)
            if own is not None:
                here = here & ~_excluded(snapshot, {exclude: own})[snapshot.part_items]
        if score == "max":
            answers.extend(_best(snapshot, graph, [question], k, here, groups, recall))
        else:
            answers.append(_ranked(snapshot, question, k, here, groups, score))
    return answers, searched


def check_options(snapshot: Snapshot, k: Any, group_by: Any, exclude: Any, score: Any, recall: Any) -> None:
    """Raise for options that no search can have, before anything is encoded."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError("k must be a whole number of at least 1")
    if score not in SCORES:
        raise ValueError(f"score is {score!r}; choose one of {', '.join(SCORES)}")
    if not isinstance(recall, int | float) or not 0 < recall <= 1:
        raise ValueError("recall must be above 0 and at most 1, which is exact")
    if exclude is not None and not isinstance(exclude, str | Mapping):
        raise TypeError("exclude must be a column, or a dict of columns and values")
    columns = [group_by] if group_by is not None else []
    columns += [exclude] if isinstance(exclude, str) else list(exclude or ())
    for column in columns:
        if column not in snapshot.types:
            raise unknown_column(str(column), snapshot.types)
    if group_by is not None and snapshot.types[group_by].startswith("list"):
        raise ValueError(f"column {group_by!r} holds lists, which cannot be grouped by")
    if isinstance(exclude, Mapping):
        for column, value in exclude.items():
            for entry in value if isinstance(value, list | tuple | set) else [value]:
                if not accepts(snapshot.types[column], column, entry):
                    raise ValueError(f"exclude gives column {column!r} a value that is not {snapshot.types[column]}")


def questions(
    handle: Handle, snapshot: Snapshot, name: str, plural: Any, given: Any, key: str | None, kind: str | None
) -> list[Question]:
    """Return the questions of a call whose one query argument is `name`."""
    if name in ("image", "images"):
        return image_question(handle, plural)
    if name in ("text", "texts"):
        if isinstance(plural, str):
            raise TypeError("texts is one str; give a list of them")
        return text_question(handle, plural)
    if name == "like":
        return [like_question(snapshot, str(key), kind)]
    found = np.asarray(given)
    if name == "vectors" and found.ndim != 2:
        raise ValueError(f"vectors has shape {found.shape}; give one row a query, as (m, {snapshot.dim})")
    rows = unit_rows(found[None] if found.ndim == 1 else found, snapshot.dim, snapshot.metric, name)
    return [Question(rows)] if name == "vector" else [Question(rows[at : at + 1]) for at in range(len(rows))]


def text_question(handle: Handle, texts: Sequence[str]) -> list[Question]:
    """Encode texts, one question each."""
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError("a text query must be a str that is not blank")
    encoder = handle.encoder_for("text")
    vectors = unit_rows(encoder.encode_texts(list(texts)), handle.snapshot.dim, handle.snapshot.metric, "the encoding")
    return [Question(vectors[at : at + 1], text) for at, text in enumerate(texts)]


def image_question(handle: Handle, images: Sequence[Any]) -> list[Question]:
    """Encode pictures, one question each: paths of any file that a collection can be made of, PIL images or arrays."""
    encoder = handle.encoder_for("image")
    values: list[Any] = []
    spans: list[tuple[int, int]] = []
    columns: list[Mapping[str, Any] | None] = []
    for image in images:
        first = len(values)
        if isinstance(image, str) or hasattr(image, "__fspath__"):
            frames, own = _read_image(handle, image)
            values.extend(frames)
            columns.append(own)
        else:
            values.append(image)
            columns.append(None)
        spans.append((first, len(values)))
    found = encoder.encode_images(values)
    vectors = unit_rows(found, handle.snapshot.dim, handle.snapshot.metric, "the encoding")
    return [
        Question(vectors[first:last], image, None, own)
        for image, (first, last), own in zip(images, spans, columns, strict=True)
    ]


def like_question(snapshot: Snapshot, key: str, kind: str | None) -> Question:
    """Return the question that an item of the collection asks with its own vectors."""
    row = snapshot.row_of.get(key)
    if row is None:
        raise KeyError(f"there is no item {key!r} in this collection")
    parts = snapshot.parts_of(row)
    wanted = snapshot.wanted_kind(kind)
    # An item that has no part of the kind that is searched asks with those it has.
    same = parts if wanted is None else parts[snapshot.part_kinds[parts] == wanted]
    parts = same if len(same) else parts
    if not len(parts):
        raise ValueError(f"item {key!r} was stored without vectors, so nothing can be like it")
    return Question(snapshot.vectors(parts), None, row, snapshot.metadata(row))


def _read_image(handle: Handle, path: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the frames of one file and its own column values; identifiers wait for the secret until it is needed."""
    from osler.sources import open_source

    source = open_source(path, keep=handle.keep)
    if len(source.entries) != 1:
        raise ValueError(f"a query is one file, and there are {len(source.entries)} here; name one of them")
    item = source.read(source.entries[0])
    frames = [value for value, part in zip(item.values, item.parts, strict=True) if part.kind == "image"]
    if not frames:
        raise ValueError("the query file holds no picture; ask with text=")
    own = {name: value for name, value in item.metadata.items() if value is not None}
    if item.key is None:
        own.update(dict.fromkeys(IDENTIFIERS))
    own.update({name: _Identifier(handle, name, value) for name, value in item.identifiers.items()})
    return frames, own


class _Identifier:
    """An identifier of a query file, turned into its pseudonym only where `exclude` needs it."""

    def __init__(self, handle: Handle, column: str, value: str) -> None:
        self._handle, self._column, self._value = handle, column, value

    def pseudonym(self) -> str:
        return self._handle.secret().identifier(self._column, self._value)

    def __repr__(self) -> str:
        return "<hidden>"


def _own_value(snapshot: Snapshot, question: Question, column: str) -> Any:
    if question.columns is None:
        raise ValueError(
            f"exclude={column!r} needs a query that has a value of its own: like=, or image= with a file; "
            f"or say which, as in exclude={{{column!r}: ...}}"
        )
    value = question.columns.get(column)
    if isinstance(value, _Identifier):
        return value.pseudonym()
    if value is None and question.row is None and column not in question.columns:
        raise ValueError(f"the query file has no {column!r} to exclude; say which, as in exclude={{{column!r}: ...}}")
    return value


def _excluded(snapshot: Snapshot, values: Mapping[str, Any]) -> Array:
    """Return whether each item row has one of the values in its column; a row without a value has not."""
    found = np.zeros(len(snapshot.live), bool)
    for column, value in values.items():
        entries = list(value) if isinstance(value, list | tuple | set) else [value]
        if entries:
            here = snapshot.table[column].is_in(entries)
            found[snapshot.live_rows] |= here.fill_null(False).to_numpy()
    return found


def _items(snapshot: Snapshot, admitted: Array) -> int:
    """Return how many items have a part that may be returned."""
    if snapshot.single:
        return int(np.count_nonzero(admitted))
    found = np.zeros(len(snapshot.live), bool)
    found[snapshot.part_items[admitted]] = True
    return int(np.count_nonzero(found))


def _groups(snapshot: Snapshot, group_by: str | None) -> Array | None:
    """Return the group of each item row, the same array each time; None where each part is an item of its own."""
    if group_by is None and snapshot.single:
        return None
    name = ("groups", group_by)
    if name not in snapshot.memo:
        snapshot.memo[name] = _group_codes(snapshot, group_by)
    return np.asarray(snapshot.memo[name])


def _group_codes(snapshot: Snapshot, group_by: str | None) -> Array:
    rows = len(snapshot.live)
    if group_by is None:
        return np.arange(rows, dtype=np.int64)
    codes = snapshot.table[group_by].rank("dense").cast(int).fill_null(-1).to_numpy()
    groups = np.arange(rows, 2 * rows, dtype=np.int64)
    known = codes >= 0
    groups[snapshot.live_rows[known]] = codes[known] - 1
    return groups


def _best(
    snapshot: Snapshot,
    graph: Graph,
    questions: Sequence[Question],
    k: int,
    admitted: Array,
    groups: Array | None,
    recall: float,
) -> list[list[Answer]]:
    """Return the k best items by their best part, through the graph where there is one."""
    k = min(k, max(len(snapshot), 1))
    queries = np.concatenate([question.vectors for question in questions])
    found = graph.search(snapshot, queries, k, admitted, groups, recall)
    if found is None:
        allowed = np.flatnonzero(admitted)
        found = [_scan(snapshot, query, allowed, k, groups) for query in queries]
    answers, at = [], 0
    for question in questions:
        mine = found[at : at + len(question.vectors)]
        at += len(question.vectors)
        parts = np.concatenate([rows for rows, _ in mine])
        scores = np.concatenate([scores for _, scores in mine])
        order = np.lexsort((parts, -scores))
        items = snapshot.part_items[parts[order]]
        chosen = order[_first_of_each(items if groups is None else groups[items])][:k]
        answers.append([Answer(int(snapshot.part_items[parts[i]]), float(scores[i]), int(parts[i])) for i in chosen])
    return answers


def _scan(snapshot: Snapshot, query: Array, allowed: Array, k: int, groups: Array | None) -> tuple[Array, Array]:
    scores = _scores(snapshot, query[None], allowed)[0]
    order = np.lexsort((allowed, -scores))
    if groups is not None:
        order = order[_first_of_each(groups[snapshot.part_items[allowed[order]]])]
    return allowed[order[:k]], scores[order[:k]]


def _ranked(
    snapshot: Snapshot, question: Question, k: int, admitted: Array, groups: Array | None, score: str
) -> list[Answer]:
    """Return the k best items by a score that needs all parts, from all of them."""
    allowed = np.flatnonzero(admitted)
    if not len(allowed):
        return []
    scores = _scores(snapshot, question.vectors, allowed).astype(np.float64)
    items, starts = np.unique(snapshot.part_items[allowed], return_index=True)
    best = np.maximum.reduceat(scores, starts, axis=1)
    combined = _COMBINE[score](scores, starts, best)
    order = np.lexsort((items, -best.max(0), -combined))
    if score == "count":
        order = order[combined[order] > 0]
    if groups is not None:
        order = order[_first_of_each(groups[items[order]])]
    ends = np.append(starts[1:], len(allowed))
    answers = []
    for i in order[:k]:
        own = scores[:, starts[i] : ends[i]].max(0)
        answers.append(Answer(int(items[i]), float(combined[i]), int(allowed[starts[i] + int(np.argmax(own))])))
    return answers


def _count(scores: Array, starts: Array, best: Array) -> Array:
    """Count each item's parts among the nearest of each vector of the query."""
    nearest = np.zeros(scores.shape, np.int64)
    for row, values in enumerate(scores):
        nearest[row, np.argsort(-values, kind="stable")[:_COUNTED]] = 1
    return np.asarray(np.add.reduceat(nearest, starts, axis=1).sum(0), np.float64)


def _mean(scores: Array, starts: Array, best: Array) -> Array:
    sizes = np.diff(np.append(starts, scores.shape[1]))
    return np.asarray((np.add.reduceat(scores, starts, axis=1) / sizes).max(0))


_COMBINE: dict[str, Callable[[Array, Array, Array], Array]] = {
    "mean": _mean,
    "sum": lambda scores, starts, best: np.asarray(np.add.reduceat(scores, starts, axis=1).max(0)),
    "count": _count,
    "maxsim": lambda scores, starts, best: np.asarray(best.sum(0)),
    "median_min": lambda scores, starts, best: np.asarray(np.median(best, axis=0)),
}


def _scores(snapshot: Snapshot, queries: Array, allowed: Array) -> Array:
    """Return the score of each query with each allowed part row, from the full vectors; float32 (q, n)."""
    found = np.empty((len(queries), len(allowed)), np.float32)
    step = max(1, _BLOCK_BYTES // (8 * snapshot.dim))
    wide = queries.astype(np.float64)
    for start in range(0, len(allowed), step):
        block = snapshot.vectors(allowed[start : start + step]).astype(np.float64)
        dots = wide @ block.T
        if snapshot.metric == "l2":
            dots = 2 * dots - (wide * wide).sum(1)[:, None] - (block * block).sum(1)
        found[:, start : start + step] = dots
    return found


def _first_of_each(values: Array) -> Array:
    """Return the positions at which each value appears first, in order."""
    return np.sort(np.unique(values, return_index=True)[1])


def only_one(given: Mapping[str, Any]) -> str:
    """Return the name of the one query that is given."""
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(f"give exactly one of {', '.join(f'{name}=' for name in given)}; {len(named)} were given")
    return named[0]
