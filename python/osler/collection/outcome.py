"""What became of what was added: counts, and a line for each file that was left out.

Plain values; reads and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

__all__ = ["AddReport", "EraseReport", "Failure"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that was skipped, and why.

    Attributes
    ----------
    source : str
        The file below the root that was given. It is for the person who added it, and may name a patient.
    code : str
        Stable name of the reason, for programs.
    message : str
        One sentence without any value of the file.
    """

    source: str
    code: str
    message: str

    def to_dict(self) -> dict[str, str]:
        """Return the fields."""
        return {"source": self.source, "code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True, repr=False)
class AddReport:
    """The outcome of adding: every file or key is in exactly one of `added`, `duplicates` and `skipped`.

    Attributes
    ----------
    added : int
        Items that are new, or that took the place of another.
    skipped : int
        Files that could not be read or encoded, or whose key another item has; one of `failures` each.
    duplicates : int
        Items that were there already, with the same content, and were left as they were.
    failures : tuple of Failure
    unmatched : int
        Rows of the metadata table that named no file.

    Examples
    --------
    >>> from osler.collection import AddReport
    >>> from osler.collection.outcome import Failure
    >>> report = AddReport(1, 1, 0, (Failure("a.txt", "not_an_image", "the file is text"),))
    >>> report
    added 1 · skipped 1 · duplicates 0
      1 × not_an_image: the file is text
    >>> report.to_dict()["failures"], report.to_polars().shape
    ([{'source': 'a.txt', 'code': 'not_an_image', 'message': 'the file is text'}], (1, 3))
    """

    added: int = 0
    skipped: int = 0
    duplicates: int = 0
    failures: tuple[Failure, ...] = ()
    unmatched: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and the failures as plain values."""
        return {
            "added": self.added,
            "skipped": self.skipped,
            "duplicates": self.duplicates,
            "failures": [failure.to_dict() for failure in self.failures],
            "unmatched": self.unmatched,
        }

    def to_polars(self) -> pl.DataFrame:
        """Return the failures as a frame with the columns source, code and message."""
        import polars as pl

        schema = {"source": pl.String, "code": pl.String, "message": pl.String}
        return pl.DataFrame([failure.to_dict() for failure in self.failures], schema=schema)

    def __repr__(self) -> str:
        counts = [f"added {self.added:,}", f"skipped {self.skipped:,}", f"duplicates {self.duplicates:,}"]
        if self.unmatched:
            counts.append(f"metadata rows without a file {self.unmatched:,}")
        lines = [" · ".join(counts)]
        codes = [failure.code for failure in self.failures]
        reasons = sorted(set(codes), key=lambda code: (-codes.count(code), code))
        for code in reasons[:_SHOWN]:
            messages = [failure.message for failure in self.failures if failure.code == code]
            one = "" if len(set(messages)) == 1 else "for one, "
            lines.append(f"  {len(messages):,} × {code}: {one}{messages[0]}")
        if len(reasons) > _SHOWN:
            lines.append(f"  and {len(reasons) - _SHOWN} more reasons")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class EraseReport:
    """What was erased; it names nothing of it, so that it can be filed.

    Attributes
    ----------
    items : int
        Keys that are gone.
    versions : int
        Rows that they had, former and deleted ones included.
    parts : int
        Vectors of these.
    files, bytes : int
        Files that were written again or removed, and how much was in them.
    commit : int
        The state from which on there is nothing left; no earlier one is kept.

    Examples
    --------
    >>> from osler.collection import EraseReport
    >>> EraseReport(items=1, versions=2, parts=2, files=3, bytes=90_000, commit=7).to_dict()["items"]
    1
    """

    items: int
    versions: int
    parts: int
    files: int
    bytes: int
    commit: int

    def to_dict(self) -> dict[str, int]:
        """Return the fields."""
        return {name: getattr(self, name) for name in self.__slots__}
