"""Pyramidal TIFF and Aperio SVS as slides: which directories are levels, what a pixel measures, one tile at a time.

Reads through tifffile (BSD) and imagecodecs: headers when a slide is opened, and one tile's bytes when it is asked for.
TIFF 6.0; Aperio's notes on SVS; OME-TIFF 6 for sub-resolutions in SubIFDs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from osler.errors import SourceError
from osler.sources.slides import Level, Slide
from osler.sources.tiles import mpp_of

__all__ = ["aperio_mpp", "load_tiff_decoders", "tiff_slide"]

_MOST_DIRECTORIES = 512
_MOST_SEGMENTS = 1 << 24
_MOST_SEGMENT_BYTES = 256 << 20
_APERIO_YCBCR = 33003
_NEW_SUBFILE_TYPE, _DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 254, 270, 282, 283, 296
_UM_OF_UNIT = {2: 25_400.0, 3: 10_000.0}
_UM_OF_NAME = {"m": 1e6, "mm": 1e3, "cm": 1e4, "µm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6}
# What resolution tags mean beyond these is a screen or a printer, not a microscope.
_LEAST_MPP, _MOST_MPP = 0.02, 20.0
# Levels are cut to whole pixels, so their proportions differ a little.
_PROPORTIONS = 0.03
# What tifffile decodes with, by the function's name.
_DECODERS = (
    "jpeg_decode",
    "jpeg8_decode",
    "mozjpeg_decode",
    "ljpeg_decode",
    "jpegsof3_decode",
    "jpeg2k_decode",
    "jpegxl_decode",
    "webp_decode",
    "lzw_decode",
    "zlib_decode",
    "deflate_decode",
    "zstd_decode",
    "packbits_decode",
    "delta_decode",
    "bitorder_decode",
    "packints_decode",
)


def tiff_slide(file: BinaryIO) -> Slide:
    """Open a tiled pyramid in TIFF, BigTIFF, SVS or OME-TIFF.

    The first directory is the finest level; every other one of the same proportions, in the chain or in SubIFDs, is a
    level too, but for labels and macro pictures.

    Raises
    ------
    SourceError
        ``missing_decoder``, ``bad_header``, ``unsupported_format``, ``truncated`` or ``too_large``.
    """
    tifffile = _library()
    tiff = tifffile.TiffFile(file, name="slide")
    pages = list(_directories(tiff))
    first = pages[0]
    _check_samples(first)
    text = _description(first)
    levels = [first, *(page for page in pages[1:] if _is_level(page, first))]
    levels.sort(key=lambda page: -int(page.imagewidth))
    sizes = [(int(page.imagewidth), int(page.imagelength)) for page in levels]
    # The same level may be there twice: in the chain and as a sub-resolution, or once a focal plane.
    levels = [page for i, page in enumerate(levels) if sizes[i] not in sizes[:i]]
    length = file.seek(0, 2)
    aperio = text.startswith("Aperio")
    name = "svs" if aperio else "ome-tiff" if "<OME" in text[:2_000] else "tiff"
    mpp = (aperio_mpp(text) if aperio else None) or _ome_mpp(text) or _resolution(first)
    return Slide(name, [_level(page, file, length) for page in levels], mpp, close=tiff.close)


def load_tiff_decoders() -> None:
    """Load all that reading a slide may call, for a process that can open no file afterwards.

    Examples
    --------
    >>> from osler.sources.slide_tiff import load_tiff_decoders
    >>> load_tiff_decoders()
    """
    try:
        import imagecodecs
        import tifffile
    except ImportError:
        return
    for name in _DECODERS:
        getattr(imagecodecs, name, None)
    # Both are tables that fill themselves when they are first asked.
    for table, numbers in ((tifffile.TIFF.DECOMPRESSORS, (5, 7, 8, 32773, 33003, 33005, 34712, 50000, 50001)),):
        for number in numbers:
            _ = number in table and table[number]
    _ = tifffile.TIFF.UNPREDICTORS[2], tifffile.TIFF.TAGS, tifffile.TIFF.TAG_READERS


def aperio_mpp(description: str) -> tuple[float, float] | None:
    """Return what an Aperio description states: its MPP, or else what its magnification means by convention.

    Examples
    --------
    >>> from osler.sources.slide_tiff import aperio_mpp
    >>> aperio_mpp("Aperio Image Library |AppMag = 20|MPP = 0.4990"), aperio_mpp("Aperio Image Library |AppMag = 40")
    ((0.499, 0.499), (0.25, 0.25))
    """
    for name, meaning in (("MPP", float), ("AppMag", lambda text: mpp_of(float(text)))):
        found = re.search(rf"\|\s*{name}\s*=\s*([0-9.]+)", description[:100_000])
        try:
            value = meaning(found[1]) if found else 0.0
        except (ValueError, ZeroDivisionError):
            continue
        if _LEAST_MPP <= value <= _MOST_MPP:
            return value, value
    return None


def _library() -> Any:
    try:
        import imagecodecs
        import tifffile
    except ImportError as error:
        raise SourceError(
            f'reading slides needs the package {error.name}, which is not installed; run pip install "osler[slides]"',
            code="missing_decoder",
        ) from None
    _ = imagecodecs
    return tifffile


def _directories(tiff: Any) -> Iterator[Any]:
    """Yield the directories of the chain and of the first one's SubIFDs; a chain that bites its tail ends there."""
    seen: set[int] = set()
    for chain in (tiff.pages, getattr(tiff.pages[0], "pages", None) or ()):
        for number in range(_MOST_DIRECTORIES + 1):
            try:
                page = chain[number]
            except IndexError:
                break
            if page.offset in seen:
                break
            if len(seen) == _MOST_DIRECTORIES:
                raise SourceError(
                    f"the slide has more than {_MOST_DIRECTORIES} directories, the limit; get a whole copy of the file",
                    code="bad_header",
                )
            seen.add(page.offset)
            yield page


def _description(page: Any) -> str:
    return str(page.tags.valueof(_DESCRIPTION, ""))


def _is_level(page: Any, first: Any) -> bool:
    """Tell whether a directory is a coarser level of the first one."""
    width, height = int(page.imagewidth), int(page.imagelength)
    if not 0 < width < int(first.imagewidth) or not 0 < height < int(first.imagelength):
        return False
    words = _description(page)[:1_000].lower()
    # Aperio marks its macro picture as a mask of a reduced picture, and says label and macro in words.
    if int(page.tags.valueof(_NEW_SUBFILE_TYPE, 0)) & 12 or re.search(r"^(label|macro)\b", words, re.MULTILINE):
        return False
    try:
        _check_samples(page)
    except SourceError:
        return False
    across, down = int(first.imagewidth) / width, int(first.imagelength) / height
    # Of a level of few pixels, the cut of one is much.
    slack = max(_PROPORTIONS, 1.5 / min(width, height))
    return abs(across - down) <= slack * across


def _check_samples(page: Any) -> None:
    """Refuse pixels that are not grey or colour of 8 or 16 bits."""
    photometric, samples = int(page.photometric), int(page.samplesperpixel)
    right = (
        str(page.dtype) in ("uint8", "uint16")
        and page.bitspersample in (8, 16)
        and int(page.imagedepth) == 1
        and ((photometric in (0, 1) and samples == 1) or (photometric in (2, 6) and samples in (3, 4)))
    )
    if not right:
        raise SourceError(
            "the slide has pixels that are not grey or colour of 8 or 16 bits; write it again as RGB",
            code="unsupported_format",
        )


def _level(page: Any, file: BinaryIO, length: int) -> Level:
    width, height = int(page.imagewidth), int(page.imagelength)
    tile_width, tile_height = (page.tilewidth, page.tilelength) if page.is_tiled else (width, page.rowsperstrip)
    across, down = -(-width // max(1, tile_width)), -(-height // max(1, tile_height))
    planes = int(page.samplesperpixel) if int(page.planarconfig) == 2 else 1
    offsets, counts = page.dataoffsets, page.databytecounts
    if across * down * planes > min(len(offsets), len(counts), _MOST_SEGMENTS):
        raise SourceError(
            f"the slide has a level of {across * down * planes} tiles and lists {min(len(offsets), len(counts))}; get "
            "a whole copy of the file",
            code="bad_header",
        )
    last = max(int(o) + int(c) for o, c in zip(offsets, counts, strict=False))
    if last > length:
        raise SourceError(
            f"the slide ends at {length} bytes and has tiles up to {last}; get a whole copy of the file",
            code="truncated",
        )

    def segment(number: int) -> NDArray[Any] | None:
        offset, count = int(offsets[number]), int(counts[number])
        if count == 0 or offset == 0:
            return None
        if count > _MOST_SEGMENT_BYTES:
            raise SourceError("the slide has a tile of more than 256 MiB; write it again", code="too_large")
        file.seek(offset)
        data = file.read(count)
        tables = {"jpegtables": page.jpegtables} if page.jpegtables is not None else {}
        decoded, _, _ = page.decode(data, number, **tables)
        return None if decoded is None else decoded[0]

    def read(row: int, column: int) -> NDArray[Any] | None:
        found = [segment(plane * across * down + row * across + column) for plane in range(planes)]
        present = [one for one in found if one is not None]
        if len(present) < planes:
            return None
        return _shown(present[0] if planes == 1 else np.concatenate(present, axis=2), page)

    return Level(width, height, int(tile_width), int(tile_height), read)


def _shown(pixels: NDArray[Any], page: Any) -> NDArray[Any]:
    """Return samples as they are to be seen: red, green and blue of 8 bits."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if int(page.photometric) == 0:
        pixels = 255 - pixels
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    # Alpha is what a scanner did not see; its colours are white there already, or nothing says so.
    pixels = pixels[:, :, :3]
    if int(page.compression) == _APERIO_YCBCR or (int(page.photometric) == 6 and int(page.compression) not in (6, 7)):
        from PIL import Image

        size = (pixels.shape[1], pixels.shape[0])
        return np.array(Image.frombytes("YCbCr", size, np.ascontiguousarray(pixels).tobytes()).convert("RGB"))
    return np.ascontiguousarray(pixels)


def _ome_mpp(text: str) -> tuple[float, float] | None:
    """Return the physical size of a pixel that OME-XML states; searched and not parsed, since it may be anything."""
    if "<OME" not in text[:2_000]:
        return None
    found = []
    for axis in ("X", "Y"):
        size = re.search(rf'PhysicalSize{axis}="([0-9.eE+-]{{1,32}})"', text[:1_000_000])
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]{{1,8}})"', text[:1_000_000])
        try:
            value = float(size[1]) * _UM_OF_NAME[unit[1] if unit else "µm"] if size else 0.0
        except (ValueError, KeyError):
            return None
        found.append(value)
    return (found[0], found[1]) if all(_LEAST_MPP <= value <= _MOST_MPP for value in found) else None


def _resolution(page: Any) -> tuple[float, float] | None:
    """Return what the resolution tags say, where that can be a microscope's."""
    unit = _UM_OF_UNIT.get(int(page.tags.valueof(_UNIT, 2) or 0))
    found = []
    for tag in (_X_RESOLUTION, _Y_RESOLUTION):
        value = page.tags.valueof(tag)
        try:
            per_unit = value[0] / value[1]
            found.append(unit / per_unit if unit else 0.0)
        except (TypeError, ZeroDivisionError, IndexError):
            return None
    return (found[0], found[1]) if all(_LEAST_MPP <= one <= _MOST_MPP for one in found) else None
