"""Near-duplicates: every pair of items whose vectors have at least a given cosine, exactly.

Reads vectors and changes nothing; the join itself is the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from osler.collection import Collection

__all__ = ["near_duplicates"]


def near_duplicates(
    cases_or_vectors: Collection | np.ndarray,
    *,
    threshold: float = 0.95,
    keys: Sequence[Any] | None = None,
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

    Returns
    -------
    polars.DataFrame
        Columns ``key_a``, ``key_b`` (the smaller key first) and ``score``, by falling score, then by keys.

    Raises
    ------
    ValueError
        For a threshold out of range, vectors that hold NaN or are zero, or keys that are not one a vector.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.curate import near_duplicates
    >>> near_duplicates(np.array([[1, 0], [2, 0], [0, 1]]), threshold=0.9).rows()
    [(0, 1, 1.0)]
    """
    if not -1.0 < threshold <= 1.0:
        raise ValueError(f"threshold is {threshold}; give a cosine above -1 and not above 1")
    if not hasattr(cases_or_vectors, "part_vectors"):
        vectors = np.asarray(cases_or_vectors)
        if vectors.ndim != 2:
            raise ValueError(f"vectors has shape {vectors.shape}; give one row an item")
        names: Sequence[Any] = range(len(vectors)) if keys is None else list(keys)
        if len(names) != len(vectors) or len(set(names)) != len(names):
            raise ValueError(f"keys has {len(set(names))} different entries for {len(vectors)} vectors; give one each")
        return _frame(names, _join(vectors, np.arange(len(vectors)), threshold))
    if keys is not None:
        raise ValueError("a collection has its own keys; leave keys= out")
    rows = cases_or_vectors.part_vectors()
    return _frame(rows.keys, _join(rows.vectors, rows.owner, threshold))


Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def _join(vectors: np.ndarray, owner: np.ndarray, threshold: float) -> Pairs:
    """Return the pairs of owners, each once with its best score."""
    from osler.index import join

    if len(vectors) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    rows_a, rows_b, scores = join(np.ascontiguousarray(vectors, dtype=np.float32), float(threshold))
    a, b = owner[rows_a.astype(np.int64)], owner[rows_b.astype(np.int64)]
    a, b = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((-scores, b, a))
    a, b, scores = a[order], b[order], scores[order]
    first = (a != b) & np.append(True, (a[1:] != a[:-1]) | (b[1:] != b[:-1]))[: len(a)]
    return a[first], b[first], scores[first]


def _frame(names: Sequence[Any], found: Pairs) -> pl.DataFrame:
    import polars as pl

    a, b, scores = found
    kind = pl.String if any(isinstance(name, str) for name in names) else pl.Int64
    pairs = [(names[i], names[j]) for i, j in zip(a.tolist(), b.tolist(), strict=True)]
    return pl.DataFrame(
        {
            "key_a": pl.Series([min(pair) for pair in pairs], dtype=kind),
            "key_b": pl.Series([max(pair) for pair in pairs], dtype=kind),
            "score": pl.Series(scores, dtype=pl.Float32),
        }
    ).sort(["score", "key_a", "key_b"], descending=[True, False, False])
