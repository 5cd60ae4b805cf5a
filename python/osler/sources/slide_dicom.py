"""DICOM slide microscopy as slides: which files are levels, where each frame lies, one frame at a time.

Reads headers when a slide is opened, and one frame's bytes when its tile is asked for. DICOM PS3.3, A.32.8 and
C.8.12.4 (whole slides), C.7.6.17.3 (tiles in full order) and PS3.5, A.4 (encapsulated frames).
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from osler.errors import SourceError
from osler.sources.slides import Level, Slide

__all__ = ["dicom_slide", "load_dicom_decoders"]

_HEAD_BYTES = 64 << 20
_MOST_FRAMES = 1 << 22
_MOST_FRAME_BYTES = 256 << 20
_UNDEFINED = 0xFFFF_FFFF
_ITEM = 0xE000_FFFE
_PIXEL_DATA = 0x7FE0_0010
_PROPORTIONS = 0.03
_FLAVOURS = ("VOLUME", "THUMBNAIL")


def dicom_slide(files: Sequence[BinaryIO]) -> Slide:
    """Open the files of a series of slide microscopy, each a level; labels and overviews are left out.

    Raises
    ------
    SourceError
        ``missing_decoder``, ``bad_header``, ``unsupported_format``, ``unsupported_transfer_syntax`` or ``truncated``.
    """
    found = [_File(file) for file in files]
    volumes = [one for one in found if one.flavour in _FLAVOURS]
    if not volumes:
        raise SourceError(
            "the slide has labels and overviews only; add the files of its volume", code="unsupported_format"
        )
    volumes.sort(key=lambda one: -one.width)
    finest = volumes[0]
    levels: list[_File] = []
    for one in volumes:
        across, down = finest.width / one.width, finest.height / one.height
        alike = abs(across - down) <= max(_PROPORTIONS, 1.5 / min(one.width, one.height)) * across
        if alike and one.width not in [level.width for level in levels]:
            levels.append(one)
    columns, identifiers = finest.about()
    return Slide("dicom", [one.level() for one in levels], finest.mpp(), columns=columns, identifiers=identifiers)


def load_dicom_decoders() -> None:
    """Load all that reading a slide may call, for a process that can open no file afterwards.

    Examples
    --------
    >>> from osler.sources.slide_dicom import load_dicom_decoders
    >>> load_dicom_decoders()
    """
    try:
        import pydicom.encaps
        from pydicom.charset import python_encoding
    except ImportError:
        return
    import osler.sources.dicom
    from osler.decode.transfer import load_decoders

    _ = pydicom.encaps, osler.sources.dicom
    for name in {*python_encoding.values(), "latin-1", "utf-8"}:
        with suppress(LookupError):
            codecs.lookup(name or "latin-1")
    load_decoders()


class _File:
    """One file of a series: a level, a label or an overview."""

    def __init__(self, file: BinaryIO) -> None:
        from osler.decode.dicom import DicomFile

        try:
            import pydicom
        except ImportError:
            raise SourceError(
                'reading DICOM needs the package pydicom, which is not installed; run pip install "osler[dicom]"',
                code="missing_decoder",
            ) from None
        self._file = file
        self._length = file.seek(0, 2)
        file.seek(0)
        # Walked over before it is parsed, as any header.
        header = DicomFile.header(file.read(_HEAD_BYTES))
        if header is None:
            raise SourceError(
                "the slide is no DICOM file that states rows and columns; get a whole copy", code="bad_header"
            )
        self._header = header
        file.seek(0)
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        self._syntax = str(dataset.file_meta.TransferSyntaxUID)
        self._explicit = self._syntax != "1.2.840.10008.1.2"
        self._offset_table = bytes(header.value("ExtendedOffsetTable") or b"")
        self._start = file.tell()
        self.tile_height, self.tile_width = self._whole("Rows"), self._whole("Columns")
        self.height = self._whole("TotalPixelMatrixRows")
        self.width = self._whole("TotalPixelMatrixColumns")
        self.frames = int(header.value("NumberOfFrames") or 1)
        kinds = header.value("ImageType")
        self.flavour = str(kinds[2]).strip().upper() if kinds is not None and len(kinds) > 2 else "VOLUME"

    def about(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the columns and identifiers that may be stored."""
        from osler.sources.dicom import header_of

        return header_of(self._header, (self.height, self.width), 1)

    def mpp(self) -> tuple[float, float] | None:
        """Return micrometres per pixel, across and down."""
        try:
            spacing = self._header.dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
            found = float(spacing[1]) * 1_000, float(spacing[0]) * 1_000
        except (AttributeError, IndexError, TypeError, ValueError):
            return None
        return found if all(0.02 <= one <= 20 for one in found) else None

    def level(self) -> Level:
        """Return this file as a level."""
        across, down = -(-self.width // self.tile_width), -(-self.height // self.tile_height)
        if across * down > _MOST_FRAMES or not 0 < self.frames <= _MOST_FRAMES:
            raise SourceError("the slide states more frames than can be", code="too_large")
        places = self._places(across, down)
        spans = self._spans()

        def read(row: int, column: int) -> NDArray[Any] | None:
            at = places.get((row, column))
            return None if at is None else self._decoded(spans, at)

        return Level(self.width, self.height, self.tile_width, self.tile_height, read)

    def _whole(self, keyword: str) -> int:
        value = self._header.value(keyword)
        if not isinstance(value, int) or value < 1:
            raise SourceError(
                "the slide states no size of its whole picture or of its tiles; get a whole copy of the file",
                code="bad_header",
            )
        return int(value)

    def _places(self, across: int, down: int) -> dict[tuple[int, int], int]:
        """Return the frame of each row and column of tiles: the first focal plane and optical path."""
        kind = str(self._header.value("DimensionOrganizationType") or "").strip().upper()
        if kind == "TILED_FULL" or self.frames == across * down == 1:
            if self.frames < across * down:
                raise SourceError(
                    f"the slide has {self.frames} of {across * down} frames; get a whole copy of the file",
                    code="truncated",
                )
            return {(at // across, at % across): at for at in range(across * down)}
        found: dict[tuple[int, int], int] = {}
        for at, group in enumerate(self._header.dataset.PerFrameFunctionalGroupsSequence):
            place = group.PlanePositionSlideSequence[0]
            left = int(place.ColumnPositionInTotalImagePixelMatrix) - 1
            top = int(place.RowPositionInTotalImagePixelMatrix) - 1
            if left % self.tile_width or top % self.tile_height:
                raise SourceError(
                    "the slide has frames that are not on a grid; write it again with tiles in full order",
                    code="unsupported_format",
                )
            found.setdefault((top // self.tile_height, left // self.tile_width), at)
        return found

    def _spans(self) -> list[tuple[int, int]]:
        """Return where the bytes of each frame lie, with their item heads where they are encapsulated."""
        self._file.seek(self._start)
        head = self._file.read(12)
        group, element = struct.unpack("<HH", head[:4])
        if group << 16 | element != _PIXEL_DATA:
            raise SourceError("the slide has no pixels; get a whole copy of the file", code="no_pixels")
        length = struct.unpack("<I", head[8:12] if self._explicit else head[4:8])[0]
        begin = self._start + (12 if self._explicit else 8)
        if length != _UNDEFINED:
            size = length // self.frames
            if begin + length > self._length:
                raise _cut()
            return [(begin + at * size, begin + (at + 1) * size) for at in range(self.frames)]
        from pydicom.encaps import parse_basic_offsets, parse_fragments

        self._file.seek(begin)
        offsets = parse_basic_offsets(self._file)
        first = self._file.tell()
        if self._offset_table:
            offsets = np.frombuffer(self._offset_table, "<u8").tolist()
        if len(offsets) < self.frames:
            _, fragments = parse_fragments(self._file)
            if len(fragments) != self.frames:
                raise SourceError(
                    f"the slide has {len(fragments)} pieces for {self.frames} frames and no table of them; get a whole "
                    "copy of the file",
                    code="bad_header",
                )
            offsets = [at - first for at in fragments]
        starts = [first + int(at) for at in offsets[: self.frames]]
        if any(not first <= at < self._length for at in starts):
            raise _cut()
        return list(zip(starts, [*starts[1:], self._length], strict=True))

    def _decoded(self, spans: list[tuple[int, int]], at: int) -> NDArray[Any]:
        from osler.decode.colour import ybr_to_rgb
        from osler.decode.transfer import Layout, decode_frame, syntax_of

        samples = int(self._header.value("SamplesPerPixel") or 1)
        layout = Layout(
            self.tile_height,
            self.tile_width,
            self.frames,
            samples,
            self._header.photometric or "",
            int(self._header.value("BitsAllocated") or 8),
            int(self._header.value("BitsStored") or 8),
            False,
            int(self._header.value("PlanarConfiguration") or 0),
        )
        if layout.bits_allocated != 8 or layout.photometric not in _PHOTOMETRIC:
            raise SourceError(
                "the slide has pixels that are not grey or colour of 8 bits; write it again as RGB",
                code="unsupported_format",
            )
        syntax = syntax_of(self._syntax, name="the slide")
        start, end = spans[at]
        if syntax.family == "native":
            self._file.seek(start)
            raw = np.frombuffer(self._file.read(end - start), np.uint8)
            planar = samples > 1 and layout.planar
            shape = (samples, *layout.shape[:2]) if planar else layout.shape
            pixels, photometric = raw.reshape(shape), layout.photometric
            pixels = pixels.transpose(1, 2, 0) if planar else pixels
        else:
            pixels, photometric = decode_frame(self._item(start, end), syntax, layout, name="the slide")
        if photometric.startswith("YBR"):
            pixels = ybr_to_rgb(pixels, 8)
        if photometric == "MONOCHROME1":
            pixels = 255 - pixels
        shown = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
        return np.ascontiguousarray(shown, dtype=np.uint8)

    def _item(self, start: int, end: int) -> bytes:
        """Return a frame's code stream, which may be in several items."""
        found = b""
        while start + 8 <= end:
            self._file.seek(start)
            tag, length = struct.unpack("<II", self._file.read(8))
            if tag != _ITEM:
                break
            if length > _MOST_FRAME_BYTES - len(found) or start + 8 + length > self._length:
                raise _cut()
            found += self._file.read(length)
            start += 8 + length
        return found


_PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def _cut() -> SourceError:
    return SourceError("the slide ends before its last frame; get a whole copy of the file", code="truncated")
