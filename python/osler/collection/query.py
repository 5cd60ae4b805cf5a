"""One search over items: what is asked, and which parts may answer.

Reads a snapshot and asks its graph; encodes through the collection's encoder. `Index.search_items` scores the items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from osler.collection.graph import Ask, Graphs
from osler.collection.privacy import IDENTIFIERS
from osler.collection.rows import Array, accepts, unit_rows
from osler.collection.sequences import Joined, Picked, unreadable
from osler.collection.snapshot import Snapshot
from osler.collection.where import unknown_column
from osler.index import rank_items
from osler.sources.tiles import Tiles

if TYPE_CHECKING:
    from osler.collection.handle import Handle

__all__ = ["SCORES", "Answer", "Question", "ask", "check_options", "only_one", "questions"]

SCORES = ("max", "mean", "sum", "count", "maxsim", "median_min")


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
    graphs: Graphs,
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
    groups = None if group_by is None else _groups(snapshot, group_by)
    admitted = snapshot.searchable(wanted)
    if condition.expression is not None:
        admitted = admitted & snapshot.select(condition)[snapshot.part_items]
    if isinstance(exclude, Mapping):
        admitted = admitted & ~_excluded(snapshot, exclude)[snapshot.part_items]
    searched = _items(snapshot, admitted)
    options: dict[str, Any] = {"k": min(k, max(len(snapshot), 1)), "groups": groups, "score": score, "recall": recall}
    if not isinstance(exclude, str):
        return _best(snapshot, graphs, questions, admitted, **options), searched
    answers = []
    for question in questions:
        own = _own_value(snapshot, question, exclude)
        here = admitted if own is None else admitted & ~_excluded(snapshot, {exclude: own})[snapshot.part_items]
        answers.extend(_best(snapshot, graphs, [question], here, **options))
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
    """Encode pictures, one question each: paths of what a collection can be made of, PIL images, arrays or volumes."""
    encoder = handle.encoder_for("image")
    values: list[Sequence[Any]] = []
    columns: list[Mapping[str, Any] | None] = []
    for image in images:
        if isinstance(image, str) or hasattr(image, "__fspath__"):
            frames, own = _read_image(handle, image)
            values.append(frames)
            columns.append(own)
        else:
            values.append([image])
            columns.append(None)
    found = encoder.encode_images(Joined(values))
    vectors = unit_rows(found, handle.snapshot.dim, handle.snapshot.metric, "the encoding")
    each = np.split(vectors, np.cumsum([len(frames) for frames in values])[:-1])
    return [
        Question(np.delete(rows, list(unreadable(frames)), axis=0), image, None, own)
        for image, frames, rows, own in zip(images, values, each, columns, strict=True)
    ]


def like_question(snapshot: Snapshot, key: str, kind: str | None) -> Question:
    """Return the question that an item of the collection asks with its own vectors."""
    row = snapshot.row(key)
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


def _read_image(handle: Handle, path: Any) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return the frames of one file and its own column values; identifiers wait for the secret until it is needed."""
    from osler.sources import open_source

    # A path, whatever it looks like: a query never opens a connection.
    path = Path(path) if isinstance(path, str) else path
    whole = handle.takes_volumes
    items: Any = "series" if whole else "file"
    source = open_source(path, keep=handle.keep, items=items, tiles=_tiles(handle.snapshot))
    if whole:
        source.as_volumes()
    if len(source.entries) != 1:
        raise ValueError(f"a query is one file, and there are {len(source.entries)} here; name one of them")
    item = source.read(source.entries[0])
    pictures = [at for at, part in enumerate(item.parts) if part.kind == "image"]
    frames = item.values if len(pictures) == len(item.parts) else Picked(item.values, pictures)
    if not pictures:
        raise ValueError("the query file holds no picture; ask with text=")
    own = {name: value for name, value in item.metadata.items() if value is not None}
    if item.key is None:
        own.update(dict.fromkeys(IDENTIFIERS))
    own.update({name: _Identifier(handle, name, value) for name, value in item.identifiers.items()})
    return frames, own


def _tiles(snapshot: Snapshot) -> Tiles | None:
    """Return how the slides of a collection are tiled, where all of them are alike: so are those that ask."""
    if not {"tile_size", "tile_mpp"} <= snapshot.types.keys():
        return None
    found = snapshot.table.select("tile_size", "tile_mpp").drop_nulls().unique()
    if len(found) != 1:
        return None
    size, mpp = found.row(0)
    return Tiles(size=size, mpp=mpp)


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


def _groups(snapshot: Snapshot, group_by: str) -> Array:
    """Return the group of each item row, the same array each time."""
    name = ("groups", group_by)
    if name not in snapshot.memo:
        rows = len(snapshot.live)
        codes = snapshot.table[group_by].rank("dense").cast(int).fill_null(-1).to_numpy()
        groups = np.arange(rows, 2 * rows, dtype=np.int64)
        known = codes >= 0
        groups[snapshot.live_rows[known]] = codes[known] - 1
        snapshot.memo[name] = groups
    return np.asarray(snapshot.memo[name])


def _best(
    snapshot: Snapshot,
    graphs: Graphs,
    questions: Sequence[Question],
    admitted: Array,
    *,
    k: int,
    groups: Array | None,
    score: str,
    recall: float,
) -> list[list[Answer]]:
    """Return the k best items for each question, through the graph where there is one."""
    items = snapshot.part_items
    own = [-1 if question.row is None else question.row for question in questions]
    excluded = None if all(row < 0 for row in own) else own
    sets = [question.vectors for question in questions]
    found = graphs.search(snapshot, Ask(sets, k, admitted, items, groups, excluded, score, recall))
    if found is None:
        found = []
        for question, row in zip(questions, own, strict=True):
            allowed = np.flatnonzero(admitted & (items != row))
            scores = snapshot.scores(question.vectors, allowed)
            of_group = None if groups is None else groups[items[allowed]]
            here = rank_items(scores, items[allowed], k, score=score, groups=of_group)
            found.append((here.items, here.scores, allowed[here.parts.astype(np.int64)]))
    return [
        [Answer(int(item), float(value), int(part)) for item, value, part in zip(*arrays, strict=True)]
        for arrays in found
    ]


def only_one(given: Mapping[str, Any]) -> str:
    """Return the name of the one query that is given."""
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(f"give exactly one of {', '.join(f'{name}=' for name in given)}; {len(named)} were given")
    return named[0]
