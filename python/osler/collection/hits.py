"""The answer to one search, as a sequence of hits, as tables, and as a contact sheet.

Reads metadata of its snapshot; looks at the files behind the hits only to draw the sheet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from osler.collection.query import Answer, Question
from osler.collection.snapshot import Snapshot
from osler.items import Hit

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from osler.collection.sheet import Sheet

__all__ = ["Hits"]

_SHOWN = 20
_OWN = ("rank", "key", "score", "part", "kind", "frame")


class Hits(Sequence[Hit]):
    """Hits, best first.

    Attributes
    ----------
    searched : int
        Items that could have been an answer, after `where` and the kind of part.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
    >>> _ = cases.add_vectors(["a", "b"], np.eye(2))
    >>> hits = cases.search(vector=[1, 0], k=1)
    >>> hits[0].key, hits[0].score, hits.searched
    ('a', 1.0, 2)
    >>> hits
    rank   score  part  key
       1  1.0000     0  a
    >>> hits.to_polars().columns, hits.to_pandas().shape
    (['rank', 'key', 'score', 'part', 'kind', 'frame'], (1, 6))
    >>> hits.to_html(tempfile.mkdtemp() + "/hits.html")
    >>> hits.show()
    <osler Sheet of 1 hits; a notebook draws it, to_html writes it>
    """

    __slots__ = ("_answers", "_hits", "_question", "_snapshot", "searched")

    def __init__(self, snapshot: Snapshot, question: Question, answers: Sequence[Answer], searched: int) -> None:
        self._snapshot = snapshot
        self._question = question
        self._answers = tuple(answers)
        self.searched = searched
        # Made when they are looked at: most of what is found is never read.
        self._hits: list[Hit | None] = [None] * len(self._answers)

    def to_polars(self) -> pl.DataFrame:
        """Return a frame: rank, key, score, part, kind, frame, and the metadata columns.

        A metadata column that has one of the first names is called ``metadata.`` and its name.
        """
        import polars as pl

        from osler.collection.rows import dtype

        columns = [
            pl.Series("rank", range(1, len(self) + 1), pl.Int64),
            pl.Series("key", [hit.key for hit in self], pl.String),
            pl.Series("score", [hit.score for hit in self], pl.Float64),
            pl.Series("part", [hit.part.position for hit in self], pl.Int64),
            pl.Series("kind", [hit.part.kind for hit in self], pl.String),
            pl.Series("frame", [hit.part.locator.frame for hit in self], pl.Int64),
        ]
        for name, kind in self._snapshot.types.items():
            values = [hit.metadata.get(name) for hit in self]
            columns.append(pl.Series(f"metadata.{name}" if name in _OWN else name, values, dtype(kind)))
        return pl.DataFrame(columns)

    def to_pandas(self) -> pd.DataFrame:
        """Return the frame of `to_polars` as pandas.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_pandas needs pandas; install it, or use to_polars") from None
        return pandas.DataFrame(self.to_polars().to_dict(as_series=False))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write a contact sheet: one file that needs nothing else, with a picture, score and metadata of each hit.

        The pictures are made now, from the files that were added; one that is gone leaves a placeholder. The page
        shows pictures of patients: its mode is 0600, and it belongs where the pictures belong.

        Parameters
        ----------
        path : path
            The file to write; an old one is replaced.
        """
        from osler.collection.sheet import write_sheet

        write_sheet(path, self._sheet())

    def show(self) -> Sheet:
        """Return the contact sheet as an object that a notebook draws."""
        return self._sheet()

    def _sheet(self) -> Sheet:
        from osler.collection.sheet import Sheet

        places = [self._snapshot.locator(answer.row) for answer in self._answers]
        sizes = [len(self._snapshot.parts_of(answer.row)) for answer in self._answers]
        shown: Any = self._question.shown
        if self._question.row is not None:
            own = self._question.row
            shown = (self._snapshot.key(own), self._snapshot.locator(own), len(self._snapshot.parts_of(own)))
        return Sheet(list(self), places, sizes, shown, self.searched)

    @overload
    def __getitem__(self, at: int) -> Hit: ...

    @overload
    def __getitem__(self, at: slice) -> Hits: ...

    def __getitem__(self, at: int | slice) -> Hit | Hits:
        if isinstance(at, slice):
            return Hits(self._snapshot, self._question, self._answers[at], self.searched)
        hit = self._hits[at]
        if hit is None:
            row, score, part = self._answers[at]
            held = self._snapshot
            hit = self._hits[at] = Hit(held.key(row), score, held.metadata(row), held.part(part))
        return hit

    def __len__(self) -> int:
        return len(self._answers)

    def __reduce__(self) -> Any:
        raise TypeError(
            "hits hold a state of their collection, which is not pickled; pass list(hits) or hits.to_polars() on"
        )

    def __iter__(self) -> Iterator[Hit]:
        return (self[at] for at in range(len(self)))

    def __repr__(self) -> str:
        if not self._answers:
            return f"no hits among {self.searched:,} items"
        lines = ["rank   score  part  key"]
        for rank, answer in enumerate(self._answers[:_SHOWN], 1):
            part = self._snapshot.part(answer.part)
            lines.append(f"{rank:4}  {answer.score:6.4f}  {part.position:4}  {self._snapshot.key(answer.row)}")
        if len(self) > _SHOWN:
            lines.append(f"and {len(self) - _SHOWN} more")
        return "\n".join(lines)
