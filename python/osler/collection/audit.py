"""An audit: everything stored that can be read as text looked through for what may name a person or a place, counted
by column.

Reads a snapshot; says where something is and how often, and never what.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from osler.collection.privacy import ALLOWED, IDENTIFIERS
from osler.collection.snapshot import Snapshot

__all__ = ["Audit", "audit"]

# What each looks like. A pseudonym is 32 hexadecimal digits, which none of these is.
_PATTERNS = {
    "date": re.compile(r"(?<!\d)(?:19|20)\d\d[-./]?(?:0[1-9]|1[0-2])[-./]?(?:0[1-9]|[12]\d|3[01])(?!\d)"),
    "digits": re.compile(r"(?<![0-9a-fA-F.])\d{6,}(?![0-9a-fA-F.])"),
    "email": re.compile(r"[\w.+-]+@[\w-]+\.\w+"),
    "person_name": re.compile(r"[^\W\d_]\^[^\W\d_]"),
    "uid": re.compile(r"(?<![\d.])[0-2](?:\.\d+){5,}"),
    "path": re.compile(r"(?:^|\s)(?:/[\w.-]+){2,}|[A-Za-z]:\\"),
}
_PSEUDONYM = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes
    ----------
    items : int
        Versions of items that were looked through: those that were updated or deleted too, as long as their bytes are
        there.
    findings : tuple of dict
        Each with ``column``, ``pattern`` and ``items``, how many there are; the column of keys is ``key``. What the
        name of a column looks like is counted as 0 items of it. A number is looked through as its digits.
    kept : tuple of str
        Tags and columns that the user chose to keep as they are.
    unknown : tuple of str
        Columns that came with a table, or with vectors, and not from the allow-list of DICOM.

    Examples
    --------
    >>> import tempfile, osler
    >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
    >>> _ = cases.add_vectors(["a"], None, metadata=[{"note": "seen by Doe^Jane on 2024-05-31"}])
    >>> [(one["column"], one["pattern"]) for one in cases.audit().findings]
    [('note', 'date'), ('note', 'person_name')]
    >>> cases.audit().to_dict()["unknown"]
    ['note']
    """

    items: int
    findings: tuple[dict[str, Any], ...]
    kept: tuple[str, ...]
    unknown: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return {
            "items": self.items,
            "findings": list(self.findings),
            "kept": list(self.kept),
            "unknown": list(self.unknown),
        }


def audit(snapshot: Snapshot) -> Audit:
    """Look through the keys and all metadata of a snapshot."""
    # Each table is read once, whatever columns it has.
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("key", *snapshot.types)}
    for segment in snapshot.segments:
        counts["key"] += _counted(segment.keys)
        for table in segment.tables():
            for name, column in table.columns.items():
                counts[name] += _counted(_text(value) for value in column.to_list() if value is not None)
    findings = [
        {"column": name, "pattern": pattern, "items": found}
        for name, patterns in counts.items()
        for pattern, found in sorted(patterns.items())
    ]
    known = {*ALLOWED, *IDENTIFIERS, "format"}
    unknown = tuple(name for name in snapshot.types if name not in known)
    for name in snapshot.types:
        findings += [{"column": name, "pattern": pattern, "items": 0} for pattern in _counted([name])]
    return Audit(len(snapshot.live), tuple(findings), tuple(snapshot.manifest["policy"]["keep"]), unknown)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_text(entry) for entry in value if entry is not None)
    # What pandas makes of whole numbers of which one is missing.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _counted(values: Iterable[str]) -> Counter[str]:
    return Counter(
        name
        for value in values
        if not _PSEUDONYM.fullmatch(value)
        for name, pattern in _PATTERNS.items()
        if pattern.search(value)
    )
