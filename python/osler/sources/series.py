"""DICOM series as items: which files are one series, in the order of their slices, and their frames as one sequence.

Reads the files that it is given, and leaves what is in them to a decoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.decode import read_bytes
from osler.decode.frames import KEPT_BYTES, Frames
from osler.errors import SourceError
from osler.items import Item
from osler.sources.decoder import HEAD_BYTES, Decoder, SliceHeader
from osler.sources.images import Entry, agreed, parts_of

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
    stack = len({header.orientation for header, _ in members}) == 1
    stack = stack and all(header.position is not None for header, _ in members)

    def place(member: tuple[SliceHeader, Entry]) -> tuple[float, float, str]:
        header, entry = member
        return (header.position or 0.0) if stack else 0.0, header.number, entry.locator

    ordered = sorted(members, key=place)
    head = min((entry for _, entry in members), key=lambda entry: entry.locator)
    return Entry(
        head.locator,
        head.path,
        sum(entry.size for _, entry in members),
        head.number,
        tuple(entry.path for _, entry in ordered),
        tuple(entry.number for _, entry in ordered),
    )


def _opened(places: Sequence[tuple[Path, int]], decoder: Decoder) -> Callable[[int], NDArray[Any]]:
    """Return what decodes the frame of a place; the file of the last one stays open."""
    last: list[tuple[Path, Sequence[NDArray[Any]]]] = []

    def frame(at: int) -> NDArray[Any]:
        path, number = places[at]
        if not last or last[0][0] != path:
            last[:] = [(path, decoder.decode(read_bytes(path)).frames)]
        return np.array(last[0][1][number])

    return frame


def series_item(
    entry: Entry, decoder: Decoder, keep: Sequence[str] = (), key: str | None = None
) -> tuple[Item, list[str]]:
    """Return a series as one item, and the SOPInstanceUIDs of its files.

    Its parts are the frames of its files by position along the normal, else by instance number. Its content is the
    sorted digests of its files, its columns those on which all files agree, with frames in total. Equal files count
    once.

    Raises
    ------
    SourceError
        A file of it cannot be read: the code is that file's, the message says how many of how many.
    """
    digests: list[bytes] = []
    frames: list[NDArray[Any]] = []
    places: list[tuple[Path, int]] = []
    columns: list[dict[str, Any]] = []
    identifiers: list[dict[str, str]] = []
    held = 0
    for number, path in enumerate(entry.members, start=1):
        try:
            data = read_bytes(path)
            digest = hashlib.sha256(data).digest()
            if digest in digests:
                continue
            found = decoder.decode(data, keep)
        except SourceError as error:
            raise SourceError(
                f"file {number} of the {len(entry.members)} files of a series fails: {error}", code=error.code
            ) from None
        digests.append(digest)
        columns.append(found.columns)
        identifiers.append(found.identifiers)
        places.extend((path, i) for i in range(len(found.frames)))
        # Frames that are not in a tuple are too large to be kept even alone.
        kept = isinstance(found.frames, tuple)
        held += sum(frame.nbytes for frame in found.frames) if kept else KEPT_BYTES + 1
        if held <= KEPT_BYTES:
            frames.extend(found.frames)
    values: Sequence[NDArray[Any]] = tuple(frames)
    if len(frames) < len(places):
        frames.clear()
        values = Frames(len(places), _opened(places, decoder))
    item = Item(
        key=key,
        locator=entry.locator,
        content=b"".join(sorted(digests)),
        values=values,
        parts=parts_of(len(places)),
        metadata=MappingProxyType({**agreed(columns), "frames": len(places)}),
        identifiers=MappingProxyType({k: v for k, v in agreed(identifiers).items() if k != "instance_id"}),
    )
    return item, [row["instance_id"] for row in identifiers if "instance_id" in row]
