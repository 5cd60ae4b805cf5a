"""DICOM series as items: which files are one series, in the order of their slices, and their frames as one sequence.

Reads the files that it is given, and leaves what is in them to a decoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from osler.decode import read_bytes
from osler.decode.frames import KEPT_BYTES, Frames
from osler.decode.planes import Plane
from osler.errors import SourceError
from osler.items import Item
from osler.sources.decoder import HEAD_BYTES, Decoder, SliceHeader
from osler.sources.images import Entry, agreed, parts_of
from osler.sources.volumes import stack_columns

__all__ = ["group_series", "series_item"]


def group_series(entries: Sequence[Entry], decoder: Decoder) -> list[Entry]:
    """Join the entries of each DICOM series; what is no DICOM file with pixels stays an entry of its own."""
    series: dict[str, list[tuple[SliceHeader, Entry]]] = {}
    alone: list[Entry] = []
    for entry in entries:
        header = None if entry.path.is_symlink() else _header(entry.path, decoder)
        if header is None:
            alone.append(entry)
        else:
            series.setdefault(header.series, []).append((header, entry))
    joined = [_join(members) for members in series.values()]
    return sorted([*alone, *joined], key=lambda entry: entry.locator)


def _header(path: Path, decoder: Decoder) -> SliceHeader | None:
    try:
        return decoder.header(read_bytes(path, most=HEAD_BYTES))
    except SourceError:
        # Reading it as an item of its own says what is wrong.
        return None


def _join(members: list[tuple[SliceHeader, Entry]]) -> Entry:
    order = _order([header for header, _ in members], [entry.locator for _, entry in members])
    ordered = [members[i] for i in order]
    head = min((entry for _, entry in members), key=lambda entry: entry.locator)
    return Entry(
        head.locator,
        head.path,
        sum(entry.size for _, entry in members),
        head.number,
        tuple(entry.path for _, entry in ordered),
        tuple(entry.number for _, entry in ordered),
    )


def _order(headers: Sequence[SliceHeader], names: Sequence[str]) -> list[int]:
    """Return the order of slices: by position along the normal that they share, else by number, then by name."""
    stack = len({header.orientation for header in headers}) == 1
    stack = stack and all(header.position is not None for header in headers)

    def place(i: int) -> tuple[float, float, str]:
        return (headers[i].position or 0.0) if stack else 0.0, headers[i].number, names[i]

    return sorted(range(len(headers)), key=place)


class _Slice(NamedTuple):
    """What one file gives to its series; no frames where they are too many to be kept."""

    path: Path
    digest: bytes
    header: SliceHeader
    columns: dict[str, Any]
    identifiers: dict[str, str]
    planes: tuple[Plane, ...]
    shapes: list[tuple[int, int]]
    frames: Sequence[NDArray[Any]]


def series_item(
    entry: Entry,
    decoder: Decoder,
    keep: Sequence[str] = (),
    key: str | None = None,
    *,
    load: Callable[[Path], bytes] = read_bytes,
    arrange: bool = False,
) -> tuple[Item, list[str]]:
    """Return a series as one item, and the SOPInstanceUIDs of its files.

    Its parts are the frames of its files by position along the normal, else by instance number: in the order of the
    entry's members, or of their headers where `arrange` asks for it. Its content is the sorted digests of its files,
    its columns those on which all files agree, with frames in total, the distance of slices and what looks odd about
    their places. Equal files count once. `load` reads a member.

    Raises
    ------
    SourceError
        A file of it cannot be read: the code is that file's, the message says how many of how many.
    """
    slices: dict[bytes, _Slice] = {}
    held = 0
    for number, path in enumerate(entry.members, start=1):
        try:
            data = load(path)
            digest = hashlib.sha256(data).digest()
            if digest in slices:
                continue
            header = (decoder.header(data[:HEAD_BYTES]) if arrange else None) or _NOWHERE
            found = decoder.decode(data, keep)
        except SourceError as error:
            raise SourceError(
                f"file {number} of the {len(entry.members)} files of a series fails: {error}", code=error.code
            ) from None
        # Frames that are not in a tuple are too large to be kept even alone.
        kept = isinstance(found.frames, tuple)
        held += sum(frame.nbytes for frame in found.frames) if kept else KEPT_BYTES + 1
        frames = found.frames if held <= KEPT_BYTES else ()
        shapes = [(int(found.columns["rows"]), int(found.columns["columns"]))] * len(found.frames)
        slices[digest] = _Slice(path, digest, header, found.columns, found.identifiers, found.planes, shapes, frames)
    return _assembled(entry, list(slices.values()), decoder, key, load, arrange)


# Where a slice lies of which nothing is known.
_NOWHERE = SliceHeader("", (), None, float("inf"))


def _assembled(
    entry: Entry,
    slices: list[_Slice],
    decoder: Decoder,
    key: str | None,
    load: Callable[[Path], bytes],
    arrange: bool,
) -> tuple[Item, list[str]]:
    if arrange:
        order = _order([one.header for one in slices], [one.path.as_posix() for one in slices])
        slices = [slices[i] for i in order]
    places = [(one.path, i) for one in slices for i in range(len(one.shapes))]
    values: Sequence[NDArray[Any]] = tuple(frame for one in slices for frame in one.frames)
    if len(values) < len(places):
        values = Frames(len(places), _opened(places, decoder, load))
    identifiers = [one.identifiers for one in slices]
    about = stack_columns(
        [plane for one in slices for plane in one.planes], [shape for one in slices for shape in one.shapes]
    )
    item = Item(
        key=key,
        locator=entry.locator,
        content=b"".join(sorted(one.digest for one in slices)),
        values=values,
        parts=parts_of(len(places)),
        metadata=MappingProxyType({**agreed([one.columns for one in slices]), "frames": len(places), **about}),
        identifiers=MappingProxyType({k: v for k, v in agreed(identifiers).items() if k != "instance_id"}),
    )
    return item, [row["instance_id"] for row in identifiers if "instance_id" in row]


def _opened(
    places: Sequence[tuple[Path, int]], decoder: Decoder, load: Callable[[Path], bytes]
) -> Callable[[int], NDArray[Any]]:
    """Return what decodes the frame of a place; the file of the last one stays open."""
    last: list[tuple[Path, Sequence[NDArray[Any]]]] = []

    def frame(at: int) -> NDArray[Any]:
        path, number = places[at]
        if not last or last[0][0] != path:
            last[:] = [(path, decoder.decode(load(path)).frames)]
        return np.array(last[0][1][number])

    return frame
