"""`Decisions`: which items stay and why, as a table that people review, combine, save, apply and undo.

Touches a collection only in `apply`, and files only in `save`, `load` and `apply`. Subsets as files that can be
intersected follow DataComp (Gadre et al. 2023).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

    from osler.collection import Collection

__all__ = ["Decisions"]

_FORMAT = "osler decisions"
_VERSION = 1
# In Parquet the version is a column of its own, whose name says what the file is.
_COLUMN = "osler_decisions"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Decisions:
    """One verdict an item: keep or drop, with the reason and the score behind it.

    Made by `osler.curate.score_filter`, or by hand. ``a & b`` keeps what both keep, ``a | b`` what either keeps, ``~a``
    what `a` drops; both sides must speak of the same items.

    Attributes
    ----------
    key : tuple of str
    keep : ndarray of bool, shape (n,)
    reason : tuple of str
        What the item met or failed, in words.
    score : ndarray of float64, shape (n,)
        NaN where there is none. Combining keeps a score only where both sides agree on it.
    rule : str
        What made the verdicts.

    Examples
    --------
    >>> from osler.curate import Decisions
    >>> sharp = Decisions.of(["a", "b"], keep=[True, False], reason="sharpness >= 3", score=[4.0, 1.0])
    >>> paired = Decisions.of(["a", "b"], keep=[True, True], reason="has a report")
    >>> both = sharp & paired
    >>> both.dropped
    ['b']
    >>> both.to_polars()["reason"].to_list()
    ['sharpness >= 3 and has a report', 'sharpness >= 3']
    >>> both.to_dict()["decisions"][1]
    {'key': 'b', 'keep': False, 'reason': 'sharpness >= 3', 'score': None}
    """

    key: tuple[str, ...]
    keep: np.ndarray
    reason: tuple[str, ...]
    score: np.ndarray
    rule: str = ""
    _position: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.key)
        for name in ("keep", "reason", "score"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {count} keys; give one a key")
        position = {key: row for row, key in enumerate(self.key)}
        if len(position) != count:
            raise ValueError(f"{count - len(position)} keys are repeated; give each item one verdict")
        for array in (self.keep, self.score):
            array.setflags(write=False)
        object.__setattr__(self, "_position", position)

    @classmethod
    def of(
        cls,
        key: Iterable[str],
        *,
        keep: Iterable[bool],
        reason: str | Iterable[str] = "",
        score: Iterable[float | None] | None = None,
        rule: str = "",
    ) -> Decisions:
        """Make decisions from columns; a single `reason` holds for every item.

        Parameters
        ----------
        key : iterable of str, length n
        keep : iterable of bool, length n
        reason : str or iterable of str, length n
        score : iterable of float or None, length n, optional
        rule : str

        Returns
        -------
        Decisions

        Raises
        ------
        ValueError
            If the columns differ in length or a key comes twice.

        Examples
        --------
        >>> from osler.curate import Decisions
        >>> Decisions.of(["a", "b"], keep=[True, False])
        <osler Decisions: 1 of 2 items kept>
        """
        keys = tuple(str(one) for one in key)
        reasons = (reason,) * len(keys) if isinstance(reason, str) else tuple(str(one) for one in reason)
        scores = [None] * len(keys) if score is None else list(score)
        return cls(
            keys,
            np.array([bool(one) for one in keep], dtype=bool),
            reasons,
            np.array([np.nan if one is None else float(one) for one in scores], dtype=np.float64),
            rule,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Decisions:
        """Read decisions that `save` wrote, with whatever a reviewer changed in them since.

        Parameters
        ----------
        path : path
            A file ending in ``.json`` or ``.parquet``.

        Returns
        -------
        Decisions

        Raises
        ------
        ValueError
            If the file holds no decisions or ones of a newer version.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> from osler.curate import Decisions
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "kept.json"
        >>> Decisions.of(["a"], keep=[True]).save(path)
        >>> Decisions.load(path).kept
        ['a']
        """
        file = Path(path)
        if _is_parquet(file):
            from osler.sources.parquet import read_parquet

            frame = read_parquet(file)
            rows = frame.to_dicts()
            head: Any = {"format": _FORMAT if _COLUMN in frame.columns else None}
            if rows and head["format"]:
                head |= {"version": rows[0][_COLUMN], "rule": rows[0].get("rule")}
        else:
            try:
                head = json.loads(file.read_text(encoding="utf-8"))
            except ValueError:
                raise ValueError(f"{file.name} is no JSON document; pass one that Decisions.save wrote") from None
            rows = head.get("decisions", []) if isinstance(head, dict) else []
        if not isinstance(head, dict) or head.get("format") != _FORMAT:
            raise ValueError(f"{file.name} holds no decisions; pass a file that Decisions.save wrote")
        if int(head.get("version", 0)) > _VERSION:
            raise ValueError(f"{file.name} holds decisions of version {head['version']}; upgrade osler to read them")
        for number, row in enumerate(rows):
            if not isinstance(row, dict) or not isinstance(row.get("keep"), bool) or "key" not in row:
                raise ValueError(f"row {number} of {file.name} lacks a key, or its keep is neither true nor false")
        return cls.of(
            (row["key"] for row in rows),
            keep=(row["keep"] for row in rows),
            reason=(row.get("reason") or "" for row in rows),
            score=(row.get("score") for row in rows),
            rule=str(head.get("rule") or ""),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the decisions to a file that people can read and edit, replacing it in one step.

        Parameters
        ----------
        path : path
            ``.json`` (indented, one object an item) or ``.parquet``. It is made with mode 0600: keys may name patients.

        Raises
        ------
        ValueError
            If the name ends otherwise.

        Examples
        --------
        See `load`.
        """
        file = Path(path)
        if _is_parquet(file):
            import polars as pl

            head = [pl.lit(self.rule).alias("rule"), pl.lit(_VERSION).alias(_COLUMN)]
            _replace(file, lambda part: self.to_polars().with_columns(head).write_parquet(part))
        else:
            text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
            _replace(file, lambda part: part.write_text(text, encoding="utf-8"))

    def apply(self, cases: Collection, *, keys: str | os.PathLike[str] | None = None) -> int:
        """Delete the dropped items from a collection, or only write the keys of the kept ones.

        It can be undone: save the decisions first, then add the dropped items' sources again (an item's key comes from
        its name or its bytes, so it returns under the same one). With `keys` the collection is not touched.

        Parameters
        ----------
        cases : Collection
            Open for appending (``mode="a"``) unless `keys` is given.
        keys : path, optional
            A text file to write, one kept key a line, instead of deleting.

        Returns
        -------
        int
            How many items were deleted, or how many keys were written.

        Raises
        ------
        ValueError
            If an item of the collection has no verdict, or a key to be written holds a line break; nothing is deleted
            or written then.

        Examples
        --------
        >>> import tempfile, numpy as np, osler
        >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/a.osler", dim=2)
        >>> _ = cases.add_vectors(["a", "b"], np.eye(2, dtype=np.float32))
        >>> osler.curate.Decisions.of(["a", "b"], keep=[True, False]).apply(cases)
        1
        >>> cases.keys()
        ['a']
        """
        present = list(cases.keys())
        unknown = sum(key not in self._position for key in present)
        if unknown:
            raise ValueError(
                f"{unknown} of the collection's {len(present)} items have no verdict; decide on the collection as it "
                "is now"
            )
        if keys is not None:
            kept = [key for key in present if self.keep[self._position[key]]]
            if any(len(key.splitlines()) != 1 for key in kept):
                raise ValueError("a key holds a line break, which a list of one key a line cannot; use save() instead")
            _replace(Path(keys), lambda part: part.write_text("".join(f"{key}\n" for key in kept), encoding="utf-8"))
            return len(kept)
        drop = [key for key in present if not self.keep[self._position[key]]]
        if drop:
            cases.delete(drop)
        return len(drop)

    @property
    def kept(self) -> list[str]:
        """Keys of the items to keep, in order."""
        return [key for key, keep in zip(self.key, self.keep, strict=True) if keep]

    @property
    def dropped(self) -> list[str]:
        """Keys of the items to drop, in order."""
        return [key for key, keep in zip(self.key, self.keep, strict=True) if not keep]

    def to_polars(self) -> pl.DataFrame:
        """Return the columns key, keep, reason and score (null where there is none)."""
        import polars as pl

        score = pl.Series("score", self.score).fill_nan(None)
        return pl.DataFrame({"key": list(self.key), "keep": self.keep, "reason": list(self.reason)}).with_columns(score)

    def to_dict(self) -> dict[str, Any]:
        """Return what `save` writes as JSON."""
        rows = [
            {"key": key, "keep": bool(keep), "reason": reason, "score": None if np.isnan(score) else float(score)}
            for key, keep, reason, score in zip(self.key, self.keep, self.reason, self.score, strict=True)
        ]
        return {"format": _FORMAT, "version": _VERSION, "rule": self.rule, "decisions": rows}

    def __and__(self, other: Decisions) -> Decisions:
        return self._combine(other, "and", decisive=False)

    def __or__(self, other: Decisions) -> Decisions:
        return self._combine(other, "or", decisive=True)

    def __invert__(self) -> Decisions:
        reason = tuple(f"not ({one})" if one else "" for one in self.reason)
        return Decisions(self.key, ~self.keep, reason, self.score.copy(), f"not ({self.rule})" if self.rule else "")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Decisions):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.key)

    def __repr__(self) -> str:
        return f"<osler Decisions: {int(self.keep.sum())} of {len(self)} items kept>"

    def _combine(self, other: Decisions, word: str, *, decisive: bool) -> Decisions:
        """Join two verdicts an item; a side that alone says `decisive` settles it, and then its reason stands alone."""
        if not isinstance(other, Decisions):
            return NotImplemented
        if self._position.keys() != other._position.keys():
            alone = len(self._position.keys() ^ other._position.keys())
            raise ValueError(f"{alone} items have a verdict on one side only; decide on the same items on both sides")
        order = np.array([other._position[key] for key in self.key], dtype=np.int64)
        keep, score = other.keep[order], other.score[order]
        reasons = []
        for row, theirs in enumerate(order):
            pairs = ((self.keep[row], self.reason[row]), (keep[row], other.reason[theirs]))
            settled = [reason for verdict, reason in pairs if verdict == decisive]
            words = settled or [reason for _, reason in pairs]
            reasons.append(f" {word} ".join(dict.fromkeys(one for one in words if one)))
        rule = f" {word} ".join(f"({one})" for one in (self.rule, other.rule) if one)
        both = self.keep | keep if decisive else self.keep & keep
        return Decisions(self.key, both, tuple(reasons), np.where(self.score == score, self.score, np.nan), rule)


def _is_parquet(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix not in (".json", ".parquet"):
        raise ValueError(f"decisions are kept as .json or .parquet, not as {suffix or 'a file without a suffix'!r}")
    return suffix == ".parquet"


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target, sync, then rename over it, so that a reader sees the old file or the whole new one."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=file.suffix)
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
