"""Folders and lists of files: what is there, in a fixed order.

Lists directories below the paths that it is given and follows no link out of them; reads no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osler.errors import SourceError
from osler.items import Locator, Part

__all__ = [
    "Entry",
    "agreed",
    "check_link",
    "is_collection",
    "list_files",
    "parts_of",
    "relative",
    "size_of",
]

# How the file FORMAT of a collection begins; in version 1 it was text.
_MARKS = (b"\x8fOSL\r\n\x1a\n", b'{"magic": "osler collection"')


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a source will read: a file, a row of a table, or a series of DICOM files.

    Attributes
    ----------
    locator : str
        Path relative to the root of the source, with slashes. It may identify a patient: never shown by default.
    path : Path
        Where the file lies; of a series, its first file.
    size : int
        Bytes, of a series in total.
    number : int
        Position in the source.
    members : tuple of Path
        The files of a series in the order of their slices; empty for everything else.
    numbers : tuple of int
        Positions that the files of a series had before they were joined.
    """

    locator: str
    path: Path
    size: int
    number: int = 0
    members: tuple[Path, ...] = field(default=(), repr=False)
    numbers: tuple[int, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        return f"<osler Entry {self.number}, {self.size} bytes>"


def relative(path: Path, root: Path) -> str:
    """Return a path relative to a root, with slashes, as text that any encoding can hold.

    Examples
    --------
    >>> from pathlib import Path
    >>> from osler.sources.images import relative
    >>> relative(Path("/data/a/b.png"), Path("/data"))
    'a/b.png'
    """
    text = os.path.relpath(path, root).replace(os.sep, "/")
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def list_files(path: Path) -> Iterator[Path]:
    """Yield a file, or every file below a folder, in the order of their relative paths.

    Hidden files are among them, and so are links and folders that may not be read: each is to have its outcome. What
    lies in a collection is not.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from osler.sources.images import list_files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.png"):
    ...         _ = (pathlib.Path(folder) / name).write_bytes(b"")
    ...     [file.name for file in list_files(pathlib.Path(folder))]
    ['a.png', 'b.png']
    """
    if not path.is_dir():
        yield path
        return
    found: list[Path] = []

    def unreadable(error: OSError) -> None:
        found.append(Path(error.filename))

    for folder, folders, files in os.walk(path, onerror=unreadable, followlinks=False):
        if is_collection(Path(folder)):
            folders.clear()
            continue
        found.extend(Path(folder, name) for name in files)
        found.extend(link for link in (Path(folder, name) for name in folders) if link.is_symlink())
    yield from sorted(found, key=lambda file: relative(file, path))


def is_collection(folder: Path) -> bool:
    """Tell whether a folder is a collection, by the mark in its file FORMAT.

    Examples
    --------
    >>> import osler, tempfile
    >>> from osler.sources.images import is_collection
    >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/cases.osler", dim=2)
    >>> is_collection(cases.path), is_collection(cases.path.parent)
    (True, False)
    """
    try:
        with open(folder / "FORMAT", "rb") as stream:
            found = stream.read(max(map(len, _MARKS)))
    except OSError:
        return False
    return found.startswith(_MARKS)


def size_of(path: Path) -> int:
    """Return a file's size, or 0 where it cannot be told: reading it will say why."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def check_link(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a link to a folder, and a link to a file outside all roots.

    Raises
    ------
    SourceError
        ``link_not_followed``.
    """
    if not path.is_symlink():
        return
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise SourceError("the entry is a link to a folder; name that folder as a source", code="link_not_followed")
    if not any(target.is_relative_to(os.path.realpath(root)) for root in roots):
        raise SourceError(
            "the file is a link that leads out of the source; name its target as a source", code="link_not_followed"
        )


def parts_of(count: int) -> tuple[Part, ...]:
    """Return one image part a frame; a single one has no frame number.

    Examples
    --------
    >>> from osler.sources.images import parts_of
    >>> [part.locator.frame for part in parts_of(2)], parts_of(1)[0].locator.frame
    ([0, 1], None)
    """
    if count == 1:
        return (Part(),)
    return tuple(Part(position=i, locator=Locator(frame=i)) for i in range(count))


def agreed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is the same in all rows.

    Examples
    --------
    >>> from osler.sources.images import agreed
    >>> agreed([{"a": 1, "b": 2}, {"a": 1, "b": 3}])
    {'a': 1}
    """
    return {
        name: value
        for name, value in (rows[0] if rows else {}).items()
        if all(name in row and row[name] == value for row in rows)
    }
