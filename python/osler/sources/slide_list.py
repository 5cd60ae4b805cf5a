"""Which entries of a source are slides, and those entries read: what `Source` asks about slides.

Looks at a few bytes of each file, and of DICOM slides at their headers through a decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from osler.decode import read_bytes
from osler.errors import SourceError
from osler.items import Item
from osler.sources.images import Entry
from osler.sources.slide_item import slide_content, slide_item
from osler.sources.slide_kind import SlideKind, companions, slide_kind
from osler.sources.tiles import Tiles

if TYPE_CHECKING:
    from osler.sources.decoder import Decoder

__all__ = ["Slides"]

# Headers of slides list a place for each tile where those are sparse.
_HEAD_BYTES = 4 << 20


class Slides:
    """The slides of a source.

    Parameters
    ----------
    decoder : Decoder
    tiles : Tiles, optional
        What was asked for; without it slides are tiled by the defaults, and less is taken for a slide.
    """

    def __init__(self, decoder: Decoder, tiles: Tiles | None) -> None:
        self._decoder = decoder
        self._wanted = tiles is not None
        self._tiles = tiles or Tiles()
        self._kinds: dict[int, SlideKind | None] = {}

    def kind(self, entry: Entry) -> SlideKind | None:
        """Return which reader takes an entry as a slide, or None where it is none."""
        if entry.number not in self._kinds:
            kind = slide_kind(entry.path, wanted=self._wanted)
            # Members without tiles are those of a DICOM series.
            self._kinds[entry.number] = kind if not entry.members or kind == "dicom" else None
        return self._kinds[entry.number]

    def content(self, entry: Entry, cells: Mapping[str, Any]) -> bytes:
        """Return a digest of a slide and of how it is tiled."""
        return slide_content(entry, self._tiles.with_slide_mpp(cells))

    def read(self, entry: Entry, cells: Mapping[str, Any], key: str | None, content: bytes | None) -> Item:
        """Return a slide as an item; see `osler.sources.slide_item.slide_item`."""
        kind = self.kind(entry)
        assert kind is not None
        tiles = self._tiles.with_slide_mpp(cells)
        return slide_item(entry, kind, tiles, self._decoder, key=key, content=content)

    def arranged(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the entries without files of other slides, and the levels of a DICOM slide as one entry."""
        folders = companions([entry.path for entry in entries if self.kind(entry) == "openslide"])
        kept = [entry for entry in entries if not any(entry.path.is_relative_to(folder) for folder in folders)]
        if not self._wanted:
            return kept
        series: dict[str, list[Entry]] = {}
        for entry in kept:
            if self.kind(entry) == "dicom":
                series.setdefault(self._series(entry), []).append(entry)
        joined = {members[0].number: _joined(members) for members in series.values() if len(members) > 1}
        others = {entry.number for members in series.values() for entry in members[1:]}
        return [joined.get(entry.number, entry) for entry in kept if entry.number not in others]

    def _series(self, entry: Entry) -> str:
        """Return what the levels of a DICOM slide have in common, or a text of its own for a file that does not say."""
        try:
            header = self._decoder.header(read_bytes(entry.path, most=_HEAD_BYTES))
        except SourceError:
            header = None
        return f"entry {entry.number}" if header is None else f"series {header.series}"


def _joined(members: list[Entry]) -> Entry:
    head = members[0]
    return Entry(
        head.locator,
        head.path,
        sum(entry.size for entry in members),
        head.number,
        tuple(entry.path for entry in members),
        tuple(entry.number for entry in members),
    )
