"""A walk over a DICOM file's elements before a library parses them: how many there are, how deep and how long.

Reads bytes and builds nothing, so that a file made to exhaust a parser costs little. What it cannot follow it leaves to
the parser, which says what is wrong there. DICOM PS3.5, section 7.
"""

from __future__ import annotations

import struct

from osler.config import LIMITS
from osler.errors import SourceError

__all__ = ["check_elements"]

_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_PIXELS = {(0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010)}
_SYNTAX = (0x0002, 0x0010)
_UNDEFINED = 0xFFFFFFFF
# Value representations with a length of four bytes, after two that mean nothing.
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_IMPLICIT, _BIG = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2"


def check_elements(data: bytes, name: str = "the file") -> None:
    """Refuse a DICOM file with more, deeper or longer elements than the limits allow.

    Parameters
    ----------
    data : bytes
        The whole file, inflated where its data set was deflated.
    name : str
        How messages call the file.

    Raises
    ------
    SourceError
        ``too_large``.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> from osler.decode.prewalk import check_elements
    >>> check_elements(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    """
    _Walk(data, name).all()


class _Walk:
    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        self.at = 132 if data[128:132] == b"DICM" else 0
        self.count = 0
        self.order, self.explicit = "<", True

    def all(self) -> None:
        try:
            self._meta()
            self._elements()
        except struct.error:
            # It ends in the middle of a header: the parser says so.
            return

    def _meta(self) -> None:
        """Read group 2, which is always explicit and little-endian, and how the rest is written."""
        syntax = None
        while self._tag(self.at)[0] == 0x0002:
            tag, value, length, _ = self._header()
            if tag == _SYNTAX:
                syntax = self.data[value : value + min(length, 64)].strip(b"\0 ")
            if length == _UNDEFINED:
                return
            self.at = value + length
        if syntax is None:
            self.explicit = (
                self.data[self.at + 4 : self.at + 6].isalpha() and self.data[self.at + 4 : self.at + 6].isupper()
            )
        else:
            self.explicit = syntax != _IMPLICIT
            self.order = ">" if syntax == _BIG else "<"

    def _elements(self) -> None:
        # Where each open sequence and item ends, None where a mark ends it, and whether elements in it are explicit.
        open_ones: list[tuple[int | None, bool]] = []
        depth = 0
        while self.at < len(self.data):
            while open_ones and open_ones[-1][0] is not None and self.at >= open_ones[-1][0]:
                depth -= 1
                self.explicit = open_ones.pop()[1]
            tag = self._tag(self.at)
            if tag in (_ITEM_END, _SEQUENCE_END):
                self.at += 8
                if open_ones:
                    depth -= 1
                    self.explicit = open_ones.pop()[1]
                continue
            if tag == _ITEM:
                (length,) = struct.unpack_from(f"{self.order}I", self.data, self.at + 4)
                self.at += 8
                depth = self._deeper(open_ones, length, self.explicit, depth)
                continue
            tag, value, length, kind = self._header()
            self.count += 1
            if self.count > LIMITS.elements:
                raise self._refused(f"more than {LIMITS.elements:,} elements", "ELEMENTS")
            if tag in _PIXELS and not open_ones:
                return
            if tag in _PIXELS and length == _UNDEFINED:
                self.at = value
                self._fragments()
                continue
            holds_items = kind == b"SQ" or (length != 0 and self._starts_with_item(value))
            if length == _UNDEFINED or (holds_items and kind in (b"SQ", b"", b"UN")):
                was = self.explicit
                # What is of unknown kind is written implicitly: PS3.5, 6.2.2.
                self.explicit = self.explicit and kind != b"UN"
                self.at = value
                depth = self._deeper(open_ones, length, was, depth)
                continue
            if value + length > len(self.data):
                # It states more than there is: the parser says so.
                return
            if length > LIMITS.element_bytes:
                raise self._refused(f"an element of more than {LIMITS.element_bytes:,} bytes", "ELEMENT_BYTES")
            self.at = value + length

    def _deeper(self, open_ones: list[tuple[int | None, bool]], length: int, explicit: bool, depth: int) -> int:
        open_ones.append((None if length == _UNDEFINED else self.at + length, explicit))
        # A sequence and its item are one level.
        if depth + 1 > 2 * LIMITS.sequence_depth:
            raise self._refused(f"sequences nested more than {LIMITS.sequence_depth} deep", "SEQUENCE_DEPTH")
        return depth + 1

    def _fragments(self) -> None:
        while self._tag(self.at) == _ITEM:
            (length,) = struct.unpack_from(f"{self.order}I", self.data, self.at + 4)
            self.at += 8 + length
            self.count += 1
            if self.count > LIMITS.elements:
                raise self._refused(f"more than {LIMITS.elements:,} elements", "ELEMENTS")
        self.at += 8

    def _tag(self, at: int) -> tuple[int, int]:
        group, element = struct.unpack_from(f"{self.order}HH", self.data, at)
        return group, element

    def _starts_with_item(self, at: int) -> bool:
        return len(self.data) >= at + 8 and self._tag(at) == _ITEM

    def _header(self) -> tuple[tuple[int, int], int, int, bytes]:
        """Return the tag at hand, where its value starts, its length, and its kind where that is written."""
        at, tag = self.at, self._tag(self.at)
        if not self.explicit:
            (length,) = struct.unpack_from(f"{self.order}I", self.data, at + 4)
            return tag, at + 8, length, b""
        kind = self.data[at + 4 : at + 6]
        if kind in _LONG:
            (length,) = struct.unpack_from(f"{self.order}I", self.data, at + 8)
            return tag, at + 12, length, kind
        (length,) = struct.unpack_from(f"{self.order}H", self.data, at + 6)
        return tag, at + 8, length, kind

    def _refused(self, what: str, limit: str) -> SourceError:
        return SourceError(
            f"{self.name} has {what}, which is over the limit; set OSLER_LIMIT_{limit} to raise it", code="too_large"
        )
