"""Whether a file is a whole slide, and which reader takes it, told by a few of its bytes.

Reads directories of TIFF files with bounds on all that they state; decodes nothing and loads no library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from osler.config import LIMITS

__all__ = ["SlideKind", "companions", "slide_kind"]

SlideKind = Literal["tiff", "dicom", "openslide"]

_WHOLE_SLIDE_STORAGE = b"1.2.840.10008.5.1.4.1.1.77.1.6"
_HEAD_BYTES = 2_048
_MOST_DIRECTORIES, _MOST_TAGS, _TEXT_BYTES = 64, 4_096, 4_096
_WIDTH, _HEIGHT, _DESCRIPTION, _SOFTWARE, _TILE_WIDTH = 256, 257, 270, 305, 322
_X_RESOLUTION, _UNIT, _SUB_DIRECTORIES, _XMP, _HAMAMATSU = 282, 296, 330, 700, 65420
_LENGTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 13: 4, 16: 8, 18: 8}
_READ = (_DESCRIPTION, _SOFTWARE, _XMP, _X_RESOLUTION, _SUB_DIRECTORIES)
_WHOLE_FORMATS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_UM_OF_UNIT = {2: 25_400.0, 3: 10_000.0}
# Begins like a file that OpenSlide reads and that is no TIFF: Zeiss, Hamamatsu.
_OTHERS = (b"ZISRAWFILE", b"[Virtual Microscope Specimen]", b"[Uncompressed Virtual Microscope Specimen]")
# Text that a vendor writes into a TIFF whose layout is its own.
_VENDORS = (b"Philips DP", b"leica-microsystems.com/scn", b"iScan", b"Trestle")
# What a resolution tag can mean at a microscope, in micrometres per pixel.
_LEAST_MPP, _MOST_MPP = 0.02, 20.0


@dataclass
class _Directory:
    """What of one directory tells a slide."""

    width: int = 0
    height: int = 0
    tiled: bool = False
    unit: int = 2
    units_per_pixel: float = 0.0
    hamamatsu: bool = False
    texts: bytes = b""
    below: list[int] = field(default_factory=list)

    @property
    def of_a_microscope(self) -> bool:
        """Whether its resolution can be a microscope's."""
        mpp = self.units_per_pixel * _UM_OF_UNIT.get(self.unit, 0.0)
        return _LEAST_MPP <= mpp <= _MOST_MPP or (b"<OME" in self.texts and b"PhysicalSizeX=" in self.texts)


def slide_kind(path: Path, *, wanted: bool = False) -> SlideKind | None:
    """Return which reader takes a file as a slide, or None where it is none.

    A tiled TIFF is a slide where it has a vendor's mark, a microscope's resolution and coarser levels, or more pixels
    than one picture may have. Where tiles are wanted, every tiled TIFF is one, and so is DICOM slide microscopy.

    Parameters
    ----------
    path : Path
    wanted : bool
        Tiles were asked for.

    Examples
    --------
    >>> from pathlib import Path
    >>> from osler.sources.slide_kind import slide_kind
    >>> slide_kind(Path("no such file")) is None
    True
    """
    try:
        if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
            return "openslide"
        if not path.is_file():
            return None
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEAD_BYTES)
            if head[128:132] == b"DICM":
                return "dicom" if wanted and _storage(head) == _WHOLE_SLIDE_STORAGE else None
            if head.startswith(_OTHERS):
                return "openslide"
            return _tiff_kind(file, head, wanted)
    except (OSError, ValueError):
        return None


def companions(slides: list[Path]) -> tuple[Path, ...]:
    """Return the folders that belong to slides of several files, so that what is in them is no item of its own.

    Examples
    --------
    >>> from pathlib import Path
    >>> from osler.sources.slide_kind import companions
    >>> companions([Path("a.mrxs"), Path("b.svs")]) == (Path("a"),)
    True
    """
    return tuple(slide.with_suffix("") for slide in slides if slide.suffix.lower() == ".mrxs")


def _storage(head: bytes) -> bytes:
    """Return what a DICOM file's meta information says it stores: element (0002,0002)."""
    at = head.find(b"\x02\0\x02\0UI")
    if at < 0:
        return b""
    length = int.from_bytes(head[at + 6 : at + 8], "little")
    return head[at + 8 : at + 8 + length].rstrip(b"\0 ")


def _tiff_kind(file: BinaryIO, head: bytes, wanted: bool) -> SlideKind | None:
    found = list(_directories(file, head))
    if not found:
        return None
    first = found[0]
    tiled = any(one.tiled for one in found)
    if first.hamamatsu or (tiled and any(mark in first.texts for mark in _VENDORS)):
        return "openslide"
    if not first.tiled:
        return None
    if wanted or b"Aperio" in first.texts:
        return "tiff"
    pixels = first.width * first.height
    coarser = any(0 < one.width < first.width and one.tiled for one in found[1:])
    return "tiff" if pixels > LIMITS.pixels_per_frame or (coarser and first.of_a_microscope) else None


def _directories(file: BinaryIO, head: bytes) -> Iterator[_Directory]:
    """Yield the directories of a TIFF, those below the first one too, as far as they are where they are said to be."""
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return
    version = struct.unpack(order + "H", head[2:4])[0]
    if version == 42:
        at, big = struct.unpack(order + "I", head[4:8])[0], False
    elif version == 43 and struct.unpack(order + "HH", head[4:8]) == (8, 0):
        at, big = struct.unpack(order + "Q", head[8:16])[0], True
    else:
        return
    waiting = [at]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        at = waiting.pop(0)
        if at in seen or at < 8:
            continue
        seen.add(at)
        found = _directory(file, at, order, big)
        if found is None:
            continue
        waiting.extend(found.below)
        yield found


def _directory(file: BinaryIO, at: int, order: str, big: bool) -> _Directory | None:
    count_format, entry_format, offset_format = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    entry_length, value_length = (20, 8) if big else (12, 4)
    counted = _bytes(file, at, struct.calcsize(count_format))
    if counted is None:
        return None
    count = struct.unpack(order + count_format, counted)[0]
    if not 0 < count <= _MOST_TAGS:
        return None
    start = at + len(counted)
    table = _bytes(file, start, count * entry_length + struct.calcsize(offset_format))
    if table is None:
        return None
    found = _Directory()
    for number in range(count):
        entry = table[number * entry_length : (number + 1) * entry_length]
        tag, kind, values = struct.unpack(order + entry_format, entry[: entry_length - value_length])
        length = _LENGTHS.get(kind, 0) * values
        value: bytes | None = entry[-value_length:]
        if length > value_length:
            offset = struct.unpack(order + offset_format, entry[-value_length:])[0]
            value = _bytes(file, offset, min(length, _TEXT_BYTES)) if tag in _READ else None
        _note(found, tag, kind, (value or b"")[: min(length, _TEXT_BYTES)], order)
    found.below.append(struct.unpack(order + offset_format, table[-struct.calcsize(offset_format) :])[0])
    return found


def _note(found: _Directory, tag: int, kind: int, value: bytes, order: str) -> None:
    """Keep what a tag says, if it is one that tells a slide."""
    if tag in (_DESCRIPTION, _SOFTWARE, _XMP):
        found.texts += value
    elif tag == _TILE_WIDTH:
        found.tiled = True
    elif tag == _HAMAMATSU:
        found.hamamatsu = True
    elif tag == _X_RESOLUTION and kind == 5 and len(value) == 8:
        above, below = struct.unpack(order + "II", value)
        found.units_per_pixel = below / above if above else 0.0
    elif kind in _WHOLE_FORMATS:
        form = order + _WHOLE_FORMATS[kind]
        numbers = [
            one[0]
            for one in struct.iter_unpack(form, value[: len(value) // struct.calcsize(form) * struct.calcsize(form)])
        ]
        if tag == _SUB_DIRECTORIES:
            found.below.extend(numbers[:_MOST_DIRECTORIES])
        for name, its in (("width", _WIDTH), ("height", _HEIGHT), ("unit", _UNIT)):
            if tag == its and numbers:
                setattr(found, name, numbers[0])


def _bytes(file: BinaryIO, at: int, length: int) -> bytes | None:
    """Return so many bytes at a place; None where the file does not have them."""
    if not 0 <= at < 1 << 62:
        return None
    file.seek(at)
    found = file.read(length)
    return found if len(found) == length else None
