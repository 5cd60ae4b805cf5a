"""Near-duplicates: every pair of items whose vectors have at least a given cosine, exactly.

Reads vectors and changes nothing; the join itself is the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from osler.collection import Collection

__all__ = ["near_duplicates"]

# Pairs that are held beyond a limit before the best of them are chosen.
_HELD = 1 << 20


def near_duplicates(
    cases_or_vectors: Collection | np.ndarray,
    *,
    threshold: float = 0.95,
    keys: Sequence[Any] | None = None,
    against: Collection | np.ndarray | None = None,
    against_keys: Sequence[Any] | None = None,
    limit: int | None = None,
) -> pl.DataFrame:
    """Return every pair of items that are nearer than a threshold, each pair once.

    The score of two items of a collection is the highest cosine of a part of one and a part of the other; parts of one
    item are no pair. Image parts are compared where the collection has any, else text parts. Items of one patient are
    often near without being copies: look before deleting.

    Parameters
    ----------
    cases_or_vectors : Collection, or array of float, shape (n, dim)
    threshold : float
        Lowest cosine of a pair, in (-1, 1].
    keys : sequence, length n, optional
        Names of the vectors; by default their positions 0, 1, 2, ... Not for a collection, which has its own.
    against : Collection, or array of float, shape (m, dim), optional
        Items that were compared with each other before, such as the collection that new ones are meant for, or another
        split: only pairs with an item of `cases_or_vectors` are returned. An item that is on both sides under the same
        key is paired with itself.
    against_keys : sequence, length m, optional
        Names of the vectors of `against`, as `keys`.
    limit : int, optional
        Return at most so many pairs, the best ones. Memory is then bounded, however many pairs there are.

    Returns
    -------
    polars.DataFrame
        Columns ``key_a``, ``key_b`` (the smaller key first) and ``score``, by falling score, then by keys. With
        `against` a fourth one, ``against``, says whether ``key_b`` is one of its items; those always stand second.

    Raises
    ------
    ValueError
        For a threshold or limit out of range, vectors that hold NaN or are zero or differ in length, keys that are not
        one a vector, or collections whose vectors come from different encoders.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.curate import near_duplicates
    >>> near_duplicates(np.array([[1, 0], [2, 0], [0, 1]]), threshold=0.9).rows()
    [(0, 1, 1.0)]
    >>> near_duplicates(np.array([[3, 0]]), keys=["new"], against=np.eye(2), against_keys=["x", "y"]).rows()
    [('new', 'x', 1.0, True)]
    """
    if not -1.0 < threshold <= 1.0:
        raise ValueError(f"threshold is {threshold}; give a cosine above -1 and not above 1")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; ask for at least 1 pair, or leave it out for all")
    sides = [_side(cases_or_vectors, keys, "vectors", "keys")]
    if against is not None:
        makers = {getattr(side, "fingerprint", None) for side in (cases_or_vectors, against)} - {None}
        if len(makers) > 1:
            raise ValueError("the two collections come from different encoders; encode both with the same one")
        sides.append(_side(against, against_keys, "against", "against_keys"))
    elif against_keys is not None:
        raise ValueError("against_keys names the vectors of against; give those too")
    return _frame(sides, _join(sides, float(threshold), limit))


@dataclass(frozen=True)
class _Side:
    """Vectors, the item that each belongs to, and the items' names with their places in sorted order."""

    vectors: np.ndarray
    owner: np.ndarray
    names: pl.Series
    rank: np.ndarray


def _side(items: Any, keys: Sequence[Any] | None, what: str, keys_name: str) -> _Side:
    import polars as pl

    names: Sequence[Any]
    if hasattr(items, "part_vectors"):
        if keys is not None:
            raise ValueError(f"a collection has its own keys; leave {keys_name}= out")
        rows = items.part_vectors()
        vectors, owner, names = rows.vectors, rows.owner, rows.keys
    else:
        vectors = np.asarray(items)
        if vectors.ndim != 2:
            raise ValueError(f"{what} has shape {vectors.shape}; give one row an item")
        names = range(len(vectors)) if keys is None else list(keys)
        if len(names) != len(vectors) or len(set(names)) != len(names):
            raise ValueError(
                f"{keys_name} has {len(set(names))} different entries for {len(vectors)} vectors; give one each"
            )
        owner = np.arange(len(vectors))
    kind = pl.String if any(isinstance(name, str) for name in names) else pl.Int64
    series = pl.Series(list(names), dtype=kind)
    rank = np.empty(len(series), np.int64)
    rank[series.arg_sort().to_numpy()] = np.arange(len(series))
    return _Side(np.ascontiguousarray(vectors, dtype=np.float32), np.asarray(owner, np.int64), series, rank)


Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def _join(sides: list[_Side], threshold: float, limit: int | None) -> Pairs:
    """Return the pairs of ranks, each once with its best score; ranks of the second side follow those of the first."""
    from osler.index import join_batches

    held: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    new, old = sides[0], sides[1] if len(sides) > 1 else None
    if len(new.vectors) == 0:
        return held
    rank = new.rank[new.owner]
    if old is not None:
        rank = np.concatenate([rank, old.rank[old.owner] + len(new.rank)])
    waiting, count = [held], 0
    against = None if old is None or len(old.vectors) == 0 else old.vectors
    for rows_a, rows_b, scores in join_batches(new.vectors, threshold, against=against):
        a, b = rank[rows_a], rank[rows_b]
        waiting.append((np.minimum(a, b), np.maximum(a, b), scores))
        count += len(scores)
        if limit is not None and count > _HELD + limit:
            waiting = [_best(waiting, limit)]
            count = len(waiting[0][2])
    return _best(waiting, limit)


def _best(parts: list[Pairs], limit: int | None) -> Pairs:
    """Return each pair of items once, by falling score, then by ranks: at most `limit` of them."""
    a, b, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((-scores, b, a))
    a, b, scores = a[order], b[order], scores[order]
    first = (a != b) & np.append(True, (a[1:] != a[:-1]) | (b[1:] != b[:-1]))[: len(a)]
    a, b, scores = a[first], b[first], scores[first]
    order = np.argsort(-scores, kind="stable")[:limit]
    return a[order], b[order], scores[order]


def _frame(sides: list[_Side], found: Pairs) -> pl.DataFrame:
    import polars as pl

    a, b, scores = found
    kinds = {side.names.dtype for side in sides if len(side.names)}
    if len(kinds) > 1:
        raise ValueError("one side has names and the other numbers as keys; give both keys of one type")
    names = pl.concat([side.names.sort() for side in sides if len(side.names)] or [sides[0].names])
    columns = {
        "key_a": names.gather(a),
        "key_b": names.gather(b),
        "score": pl.Series(scores, dtype=pl.Float32),
    }
    if len(sides) > 1:
        columns["against"] = pl.Series(b >= len(sides[0].names), dtype=pl.Boolean)
    return pl.DataFrame(columns)
