"""DICOM files to arrays that can be shown; the recipe is named "dicom-display/1".

Parses bytes with pydicom, checks what the header states against the limits and the bytes that are there, then decodes.
No value of a header enters a message. DICOM PS3.3, C.7.6.3, and PS3.5, section 8.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS
from osler.decode.colour import Palette, expand, upsampled, ybr_to_rgb
from osler.decode.display import Greys, Lut, Rule
from osler.decode.formats import format_of
from osler.decode.frames import Frames, full_range
from osler.decode.header import listed, octets, padding_of, rule_of, table_words, value_of
from osler.decode.prewalk import check_elements
from osler.decode.quiet import cause, quiet
from osler.decode.transfer import SYNTAXES, Layout, Syntax, decode_frame, syntax_of
from osler.errors import SourceError

__all__ = ["RECIPE", "DicomFile"]

RECIPE = "dicom-display/1"

_DICOMDIR = "1.2.840.10008.1.3.10"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
# A deflated data set may grow by this factor and no more: 200:1 is far beyond what real pixels reach.
_DEFLATE_RATIO = 200
# Bytes of a deflated data set whose elements are counted.
_WALKED_BYTES = 64 << 20
# Stored samples of one file that are kept between counting and showing them.
_KEPT_BYTES = 32 << 20
_PHOTOMETRIC = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


class DicomFile:
    """One DICOM file: its parsed header, and its pixels on demand.

    Parameters
    ----------
    data : bytes
        The whole file. A file without preamble or meta information is read if its data set is plain.
    name : str
        How messages call the file.

    Raises
    ------
    SourceError
        ``missing_decoder`` (pydicom), ``bad_header``, ``truncated``, ``not_an_image`` (a DICOMDIR), ``too_large``.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> from osler.decode.dicom import DicomFile
    >>> file = DicomFile(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    >>> file.encoding, file.frames()[0].shape, file.frames()[0].dtype
    ('Explicit VR Little Endian', (128, 128), dtype('uint16'))
    """

    def __init__(self, data: bytes, *, name: str = "the file") -> None:
        self._name = name
        with quiet() as heard:
            self.dataset = self._parse(data)
            self._cut = any("end of file" in text.lower() for text in heard)
            self.encoding = self._encoding()

    @classmethod
    def header(cls, head: bytes, *, name: str = "the file") -> DicomFile | None:
        """Parse the beginning of a file up to its pixels; None where it is no DICOM file that states rows and columns.

        It is walked over before it is parsed, as a whole file is.
        """
        try:
            if format_of(head) != "dicom":
                return None
            from pydicom import dcmread

            with quiet():
                file = cls.__new__(cls)
                file._name, file._cut = name, False
                check_elements(file._inflated(head), name)
                file.dataset = dcmread(BytesIO(head), stop_before_pixels=True, force=True)
                file.encoding = file._encoding()
                return file if file.value("Rows") and file.value("Columns") else None
        except Exception:
            return None

    @property
    def photometric(self) -> str | None:
        """The stored photometric interpretation, if it is one that is known."""
        text = str(self.value("PhotometricInterpretation") or "").strip().upper()
        return text if text in _PHOTOMETRIC else None

    def value(self, keyword: str) -> Any:
        """Return an element's value by keyword, or None where it is absent or cannot be read."""
        with quiet():
            return value_of(self.dataset, keyword)

    def frames(self) -> Sequence[NDArray[Any]]:
        """Decode the pixels: each frame (H, W) or (H, W, 3), uint8 or uint16, over the full range.

        Raises
        ------
        SourceError
            ``no_pixels``, ``bad_header``, ``truncated``, ``too_large``, ``unsupported_transfer_syntax``,
            ``unsupported_photometric``, ``missing_decoder`` or ``decode_failed``.
        """
        with quiet():
            found: Sequence[NDArray[Any]] = self._guarded(self._frames)
            return found

    def stored(self) -> tuple[Layout, Callable[[int], NDArray[Any]]]:
        """Return what the header states of the pixels, and what decodes the stored samples of frame i.

        Raises
        ------
        SourceError
            As `frames`.
        """
        with quiet():
            keyword = self._pixel_keyword()
            layout = self._layout(keyword)
            samples = self._guarded(lambda: self._stored(keyword, layout))

        def frame(i: int) -> NDArray[Any]:
            with quiet():
                found: NDArray[Any] = self._guarded(lambda: samples(i)[0])
                return found

        return layout, frame

    def groups(self, i: int) -> tuple[Any, Any]:
        """Return the functional groups that all frames share, and those of frame i; None where there are none."""
        with quiet():
            shared = (listed(value_of(self.dataset, "SharedFunctionalGroupsSequence")) or [None])[0]
            own = listed(value_of(self.dataset, "PerFrameFunctionalGroupsSequence"))
            return shared, own[i] if i < len(own) else None

    def _parse(self, data: bytes) -> Any:
        try:
            import pydicom
        except ImportError:
            raise SourceError(
                'reading DICOM needs the package pydicom, which is not installed; run pip install "osler[dicom]"',
                code="missing_decoder",
            ) from None
        check_elements(self._inflated(data), self._name)
        try:
            dataset = pydicom.dcmread(BytesIO(data), force=True)
            len(dataset)
        except (EOFError, zlib.error) as error:
            raise self._truncated("its header ends too early") from cause(error)
        except MemoryError as error:
            raise SourceError(f"{self._name} is too large to read here", code="too_large") from cause(error)
        except Exception as error:
            raise SourceError(
                f"{self._name} is a DICOM file whose header cannot be read; get a whole copy", code="bad_header"
            ) from cause(error)
        return dataset

    def _inflated(self, data: bytes) -> bytes:
        """Return the file as if its data set had not been deflated, within the limits."""
        if _DEFLATED.encode() not in data[:2048] or data[132:136] != b"\x02\0\0\0":
            return data
        start = 144 + int.from_bytes(data[140:144], "little")
        limit = min(LIMITS.bytes_per_file, _DEFLATE_RATIO * len(data) + (1 << 20))
        engine, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[start:]
        # Elements follow the header; of a long data set only pixels, which are not walked over, come after these bytes.
        kept = [data[:start]]
        try:
            while rest and not engine.eof:
                piece = engine.decompress(rest, 1 << 24)
                total += len(piece)
                if total <= _WALKED_BYTES:
                    kept.append(piece)
                rest = engine.unconsumed_tail
                if total > limit:
                    raise SourceError(
                        f"{self._name} is deflated and grows beyond {limit} bytes; it is refused", code="too_large"
                    )
        except zlib.error as error:
            raise SourceError(f"{self._name} is deflated and cannot be inflated", code="decode_failed") from cause(
                error
            )
        return b"".join(kept)

    def _truncated(self, what: str) -> SourceError:
        return SourceError(f"{self._name} is truncated: {what}; get a whole copy", code="truncated")

    def _bad(self, what: str) -> SourceError:
        return SourceError(f"{self._name} has a damaged header: {what}", code="bad_header")

    def _encoding(self) -> str | None:
        uid = str(getattr(getattr(self.dataset, "file_meta", None), "TransferSyntaxUID", ""))
        return SYNTAXES[uid].name if uid in SYNTAXES else None

    def _guarded(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except SourceError:
            raise
        except MemoryError as error:
            raise SourceError(f"{self._name} is too large to decode here", code="too_large") from cause(error)
        except Exception as error:
            how = f" ({self.encoding})" if self.encoding else ""
            raise SourceError(f"{self._name} has pixels that cannot be decoded{how}", code="decode_failed") from cause(
                error
            )

    def _frames(self) -> Sequence[NDArray[Any]]:
        keyword = self._pixel_keyword()
        layout = self._layout(keyword)
        samples = _once(self._stored(keyword, layout), layout)
        if layout.photometric.startswith("MONOCHROME") and layout.samples == 1:
            show = self._grey(layout, samples)
        elif layout.photometric == "PALETTE COLOR":
            palette = self._palette(layout)
            show = lambda values, i: palette.show(values)  # noqa: E731
        else:
            show = lambda values, i: full_range(values, layout.bits_stored)  # noqa: E731

        def frame(i: int) -> NDArray[Any]:
            def work() -> NDArray[Any]:
                values, photometric = samples(i)
                if photometric.startswith("YBR"):
                    values = ybr_to_rgb(values, layout.bits_stored)
                return np.ascontiguousarray(show(values, i))

            with quiet():
                shown: NDArray[Any] = self._guarded(work)
                return shown

        return Frames(layout.frames, frame).kept()

    def _pixel_keyword(self) -> str:
        meta = getattr(self.dataset, "file_meta", None)
        kind = str(value_of(meta, "MediaStorageSOPClassUID") or value_of(self.dataset, "SOPClassUID") or "")
        if kind == _DICOMDIR or "DirectoryRecordSequence" in self.dataset:
            raise SourceError(
                f"{self._name} is a DICOMDIR, the list of a disc's files; the images are files of their own",
                code="not_an_image",
            )
        found = [keyword for keyword in _PIXELS if keyword in self.dataset]
        if found:
            return found[0]
        if len(self.dataset) == 0 or self._cut:
            raise self._truncated("it has no whole data set")
        from pydicom.uid import UID

        words = UID(kind).name if kind.startswith("1.2.840.10008.5.1.4") else ""
        about = f", it is a {words.removesuffix(' Storage')}" if words and words != kind else ""
        raise SourceError(f"{self._name} is a DICOM file without pixels{about}", code="no_pixels")

    def _whole(self, keyword: str, words: str, default: int | None = None) -> int:
        raw = value_of(self.dataset, keyword)
        values = listed(raw)
        if not values or values[0] in ("", None):
            if keyword in self.dataset and raw is None:
                raise self._bad(f"{words} is not a whole number")
            if default is None:
                raise self._bad(f"{words} is missing")
            return default
        try:
            return int(values[0])
        except (TypeError, ValueError):
            raise self._bad(f"{words} is not a whole number") from None

    def _layout(self, keyword: str) -> Layout:
        photometric = str(value_of(self.dataset, "PhotometricInterpretation") or "").strip().upper()
        samples = self._whole("SamplesPerPixel", "Samples per Pixel", 1)
        whole = keyword == "PixelData"
        allocated = self._whole("BitsAllocated", "Bits Allocated", None if whole else 64 if "Double" in keyword else 32)
        stored = self._whole("BitsStored", "Bits Stored", allocated)
        layout = Layout(
            rows=self._whole("Rows", "Rows"),
            columns=self._whole("Columns", "Columns"),
            frames=self._whole("NumberOfFrames", "Number of Frames", 1) or 1,
            samples=samples,
            photometric=photometric or ("MONOCHROME2" if samples == 1 else ""),
            bits_allocated=allocated,
            bits_stored=stored if 0 < stored <= allocated else allocated,
            # Colour samples have no sign.
            signed=samples == 1 and self._whole("PixelRepresentation", "Pixel Representation", 0) == 1,
            planar=self._whole("PlanarConfiguration", "Planar Configuration", 0),
        )
        self._check(layout)
        return layout

    def _check(self, layout: Layout) -> None:
        if layout.rows < 1 or layout.columns < 1 or layout.frames < 1:
            raise self._bad("Rows, Columns or Number of Frames is below 1")
        if layout.bits_allocated not in (1, 8, 16, 32, 64):
            raise self._bad("Bits Allocated is none of 1, 8, 16, 32, 64")
        if layout.samples not in (1, 3) or layout.planar not in (0, 1):
            raise self._bad("Samples per Pixel is neither 1 nor 3, or Planar Configuration neither 0 nor 1")
        if layout.photometric not in _PHOTOMETRIC:
            raise SourceError(
                f"{self._name} has a photometric interpretation that is not read; convert it to RGB or MONOCHROME2",
                code="unsupported_photometric",
            )
        grey = layout.photometric in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
        if grey != (layout.samples == 1) or (layout.samples == 3 and layout.bits_allocated == 1):
            raise self._bad("Samples per Pixel does not fit Photometric Interpretation")
        if layout.rows * layout.columns > LIMITS.pixels_per_frame:
            raise SourceError(
                f"{self._name} has {layout.rows} x {layout.columns} pixels a frame, the limit is "
                f"{LIMITS.pixels_per_frame}",
                code="too_large",
            )
        if layout.frames > LIMITS.frames:
            raise SourceError(
                f"{self._name} states {layout.frames} frames, the limit is {LIMITS.frames}", code="too_large"
            )
        if layout.rows * layout.columns * layout.frames > LIMITS.pixels_per_file:
            raise SourceError(
                f"{self._name} states {layout.frames} frames of {layout.rows} x {layout.columns} pixels, the limit is "
                f"{LIMITS.pixels_per_file} pixels",
                code="too_large",
            )

    def _stored(self, keyword: str, layout: Layout) -> Callable[[int], tuple[NDArray[Any], str]]:
        uid = str(getattr(getattr(self.dataset, "file_meta", None), "TransferSyntaxUID", ""))
        element = self.dataset[keyword]
        data = element.value
        if not data:
            raise self._truncated("the pixel data are empty")
        encapsulated = bool(element.is_undefined_length)
        if uid:
            syntax = syntax_of(uid, name=self._name)
        elif encapsulated:
            raise self._bad("it states no transfer syntax and its pixels are compressed")
        else:
            implicit, little = self.dataset.original_encoding
            syntax = SYNTAXES["1.2.840.10008.1.2" + ("" if implicit else ".1" if little else ".2")]
        if syntax.family == "native":
            if encapsulated:
                raise self._bad(f"its transfer syntax is {syntax.name} and its pixels are compressed")
            return self._native(data, syntax, layout, keyword, str(element.VR))
        return self._encapsulated(data, syntax, layout)

    def _native(
        self, data: bytes, syntax: Syntax, layout: Layout, keyword: str, representation: str
    ) -> Callable[[int], tuple[NDArray[Any], str]]:
        pixels = layout.rows * layout.columns
        count = pixels * layout.samples
        photometric = layout.photometric
        packed = photometric == "YBR_FULL_422"
        bits = layout.bits_allocated
        if packed and len(data) >= count * layout.frames * bits // 8:
            # Written by many: the label of subsampled colour on samples that are not.
            packed, photometric = False, "YBR_FULL"
        if packed:
            count = pixels * 2
        needed = -(-count * layout.frames * bits // 8)
        if len(data) < needed:
            raise self._truncated(f"the pixel data have {len(data)} of {needed} bytes")
        big = syntax.uid == "1.2.840.10008.1.2.2"
        dtype = layout.dtype if keyword == "PixelData" else np.dtype(f"f{bits // 8}")
        if bits == 1:
            flat = np.unpackbits(octets(data, big and representation == "OW"), bitorder="little")
        elif bits == 8:
            flat = octets(data, big and representation == "OW").view(dtype)
        else:
            flat = np.frombuffer(data, dtype.newbyteorder(">" if big else "<"), count * layout.frames)

        def decode(i: int) -> tuple[NDArray[Any], str]:
            samples = flat[i * count : (i + 1) * count].astype(dtype)
            if packed:
                return upsampled(samples, layout.rows, layout.columns), photometric
            if layout.samples == 3 and layout.planar:
                return samples.reshape(3, layout.rows, layout.columns).transpose(1, 2, 0), photometric
            samples = samples.reshape(layout.shape)
            return samples if dtype.kind == "f" else _used_bits(samples, layout), photometric

        return decode

    def _encapsulated(self, data: bytes, syntax: Syntax, layout: Layout) -> Callable[[int], tuple[NDArray[Any], str]]:
        from pydicom.encaps import generate_frames

        offsets = None
        if "ExtendedOffsetTable" in self.dataset and "ExtendedOffsetTableLengths" in self.dataset:
            offsets = (self.dataset.ExtendedOffsetTable, self.dataset.ExtendedOffsetTableLengths)
        encoded: list[bytes] = []
        try:
            for frame in generate_frames(data, number_of_frames=layout.frames, extended_offsets=offsets):
                encoded.append(frame)
                if len(encoded) == layout.frames:
                    break
        except Exception as error:
            raise self._truncated(
                f"its compressed pixels hold {len(encoded)} of {layout.frames} whole frames"
            ) from cause(error)
        if len(encoded) < layout.frames:
            raise self._truncated(f"its compressed pixels hold {len(encoded)} of {layout.frames} frames")

        def decode(i: int) -> tuple[NDArray[Any], str]:
            samples, photometric = decode_frame(encoded[i], syntax, layout, name=self._name)
            return _used_bits(samples, layout) if syntax.family == "rle" else samples, photometric

        return decode

    def _grey(
        self, layout: Layout, samples: Callable[[int], tuple[NDArray[Any], str]]
    ) -> Callable[[NDArray[Any], int], NDArray[Any]]:
        shared = (listed(value_of(self.dataset, "SharedFunctionalGroupsSequence")) or [None])[0]
        groups = listed(value_of(self.dataset, "PerFrameFunctionalGroupsSequence"))
        seen: dict[Any, Lut] = {}

        def rule(i: int) -> Rule:
            own = groups[i] if i < len(groups) else None
            return rule_of(self.dataset, shared, own, layout, seen)

        stored = (samples(i)[0] for i in range(layout.frames))
        greys = Greys(
            layout.bits_stored if "PixelData" in self.dataset else 16,
            layout.signed,
            layout.photometric == "MONOCHROME1",
            padding_of(self.dataset, layout),
            rule,
            stored,
        )
        if value_of(self.dataset, "PixelPresentation") in ("COLOR", "MIXED") and (
            "RedPaletteColorLookupTableDescriptor" in self.dataset
        ):
            palette = self._palette(layout)
            return lambda values, i: palette.over(greys.show(values, i), values)
        return greys.show

    def _palette(self, layout: Layout) -> Palette:
        tables, firsts, depths = [], [], []
        for colour in ("Red", "Green", "Blue"):
            descriptor = listed(value_of(self.dataset, f"{colour}PaletteColorLookupTableDescriptor"))
            if len(descriptor) != 3:
                raise self._bad("the palette has no descriptor of three numbers")
            count, start, bits = (int(number) for number in descriptor)
            count = count % 65536 or 65536
            whole = value_of(self.dataset, f"{colour}PaletteColorLookupTableData")
            parts = value_of(self.dataset, f"Segmented{colour}PaletteColorLookupTableData")
            big = not self.dataset.original_encoding[1]
            if parts:
                entries = expand(table_words(parts, None, bits, big), bits)
            elif whole:
                entries = table_words(whole, count, bits, big)
            else:
                raise self._bad("the palette has no entries")
            if len(entries) < count:
                raise self._bad(f"the palette has {len(entries)} of {count} entries")
            tables.append(entries[:count].astype(np.uint16))
            firsts.append(start - 65536 if layout.signed and start >= 32768 else start)
            depths.append(bits)
        if len({len(table) for table in tables}) > 1:
            raise self._bad("the three tables of the palette differ in length")
        entries = np.stack(tables, axis=-1)
        # Tables of 16 bits often hold 8-bit entries, in the low or in the high byte.
        if not (entries & 0xFF).any():
            entries >>= 8
        bits = 8 if max(depths) <= 8 or int(entries.max()) < 256 else 16
        return Palette(firsts[0], entries, bits)


def _once(
    samples: Callable[[int], tuple[NDArray[Any], str]], layout: Layout
) -> Callable[[int], tuple[NDArray[Any], str]]:
    """Keep decoded frames where they are small: their values are counted before any of them is shown."""
    size = layout.rows * layout.columns * layout.samples * layout.dtype.itemsize
    return lru_cache(maxsize=layout.frames if size * layout.frames <= _KEPT_BYTES else 1)(samples)


def _used_bits(samples: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """Clear the bits above Bits Stored, which may hold overlays, and extend the sign from below them."""
    shift = 8 * samples.dtype.itemsize - layout.bits_stored
    if shift <= 0 or layout.bits_allocated == 1:
        return samples
    if not layout.signed:
        return np.asarray(samples & samples.dtype.type((1 << layout.bits_stored) - 1))
    return (samples << shift) >> shift
