"""DICOM transfer syntaxes: their names, and one encoded frame to samples by the decoder that is chosen for each.

Decodes bytes with imagecodecs, and 8-bit JPEG with Pillow, so that a result does not depend on what else is installed;
the size in a code stream is compared with the header before it is decoded. DICOM PS3.5, annex A.
"""

from __future__ import annotations

import importlib
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from osler.errors import SourceError

__all__ = ["SYNTAXES", "Layout", "Syntax", "decode_frame", "load_decoders", "syntax_of"]

Family = Literal["native", "raw", "deflated", "jpeg", "jpeg-lossless", "jpeg-ls", "jpeg2000", "jpeg-xl", "rle", "none"]

# What imagecodecs loads when it is first used; its jpeg_decode chooses among several.
_DECODERS = (
    "packbits_decode",
    "jpegxl_decode",
    "jpeg2k_decode",
    "jpegls_decode",
    "jpeg_decode",
    "jpeg8_decode",
    "jpegsof3_decode",
    "ljpeg_decode",
    "mozjpeg_decode",
)


@dataclass(frozen=True, slots=True)
class Syntax:
    """A transfer syntax: its UID, the name that people know, and the family of its frames."""

    uid: str
    name: str
    family: Family


SYNTAXES = {
    syntax.uid: syntax
    for syntax in (
        Syntax("1.2.840.10008.1.2", "Implicit VR Little Endian", "native"),
        Syntax("1.2.840.10008.1.2.1", "Explicit VR Little Endian", "native"),
        Syntax("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian", "native"),
        Syntax("1.2.840.10008.1.2.2", "Explicit VR Big Endian", "native"),
        Syntax("1.2.840.10008.1.2.1.98", "Encapsulated Uncompressed Explicit VR Little Endian", "raw"),
        Syntax("1.2.840.10008.1.2.8.1", "Deflated Image Frame", "deflated"),
        Syntax("1.2.840.10008.1.2.4.50", "JPEG Baseline 8-bit", "jpeg"),
        Syntax("1.2.840.10008.1.2.4.51", "JPEG Extended 12-bit", "jpeg"),
        Syntax("1.2.840.10008.1.2.4.57", "JPEG Lossless", "jpeg-lossless"),
        Syntax("1.2.840.10008.1.2.4.70", "JPEG Lossless SV1", "jpeg-lossless"),
        Syntax("1.2.840.10008.1.2.4.80", "JPEG-LS Lossless", "jpeg-ls"),
        Syntax("1.2.840.10008.1.2.4.81", "JPEG-LS Near-Lossless", "jpeg-ls"),
        Syntax("1.2.840.10008.1.2.4.90", "JPEG 2000 Lossless", "jpeg2000"),
        Syntax("1.2.840.10008.1.2.4.91", "JPEG 2000", "jpeg2000"),
        Syntax("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000 Lossless", "jpeg2000"),
        Syntax("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000 Lossless RPCL", "jpeg2000"),
        Syntax("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000", "jpeg2000"),
        Syntax("1.2.840.10008.1.2.4.110", "JPEG XL Lossless", "jpeg-xl"),
        Syntax("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression", "jpeg-xl"),
        Syntax("1.2.840.10008.1.2.4.112", "JPEG XL", "jpeg-xl"),
        Syntax("1.2.840.10008.1.2.5", "RLE Lossless", "rle"),
        Syntax("1.2.840.10008.1.2.4.92", "JPEG 2000 Part 2 Lossless", "none"),
        Syntax("1.2.840.10008.1.2.4.93", "JPEG 2000 Part 2", "none"),
        Syntax("1.2.840.10008.1.2.4.94", "JPIP Referenced", "none"),
        Syntax("1.2.840.10008.1.2.4.95", "JPIP Referenced Deflate", "none"),
        Syntax("1.2.840.10008.1.2.4.100", "MPEG-2 Main Profile", "none"),
        Syntax("1.2.840.10008.1.2.4.101", "MPEG-2 High Profile", "none"),
        Syntax("1.2.840.10008.1.2.4.102", "MPEG-4 AVC High Profile", "none"),
        Syntax("1.2.840.10008.1.2.4.103", "MPEG-4 AVC BD-compatible", "none"),
        Syntax("1.2.840.10008.1.2.4.104", "MPEG-4 AVC High Profile 4.2, 2D", "none"),
        Syntax("1.2.840.10008.1.2.4.105", "MPEG-4 AVC High Profile 4.2, 3D", "none"),
        Syntax("1.2.840.10008.1.2.4.106", "MPEG-4 AVC Stereo High Profile", "none"),
        Syntax("1.2.840.10008.1.2.4.107", "HEVC Main Profile", "none"),
        Syntax("1.2.840.10008.1.2.4.108", "HEVC Main 10 Profile", "none"),
        Syntax("1.2.840.10008.1.2.4.204", "JPIP HTJ2K Referenced", "none"),
        Syntax("1.2.840.10008.1.2.4.205", "JPIP HTJ2K Referenced Deflate", "none"),
    )
}


def syntax_of(uid: str, *, name: str = "the file") -> Syntax:
    """Return the transfer syntax of a UID, if its frames can be decoded.

    Raises
    ------
    SourceError
        ``unsupported_transfer_syntax``.

    Examples
    --------
    >>> from osler.decode.transfer import syntax_of
    >>> syntax_of("1.2.840.10008.1.2.4.90").name
    'JPEG 2000 Lossless'
    """
    syntax = SYNTAXES.get(uid)
    if syntax is None:
        # The UID itself is a value of the file and is not shown.
        raise SourceError(
            f"{name} has a transfer syntax that is not known; convert it to Explicit VR Little Endian",
            code="unsupported_transfer_syntax",
        )
    if syntax.family == "none":
        raise SourceError(
            f"{name} has the transfer syntax {syntax.name}, which is not read; convert it to Explicit VR Little Endian",
            code="unsupported_transfer_syntax",
        )
    return syntax


@dataclass(frozen=True, slots=True)
class Layout:
    """How the header says that samples lie: rows, columns, samples a pixel, bits, sign, photometric interpretation."""

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one sample in the machine's byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{max(self.bits_allocated // 8, 1)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)


def decode_frame(data: bytes, syntax: Syntax, layout: Layout, *, name: str = "the file") -> tuple[NDArray[Any], str]:
    """Decode one encapsulated frame.

    Parameters
    ----------
    data : bytes
    syntax : Syntax
    layout : Layout
    name : str
        How messages call the file.

    Returns
    -------
    samples : ndarray
        (H, W) or (H, W, 3), with the sign that the header states.
    photometric : str
        What the samples mean after decoding: a colour transform that the decoder undid is gone.

    Raises
    ------
    SourceError
        ``missing_decoder``, ``bad_header`` or ``truncated``. Another exception comes from the library: wrap it.

    Examples
    --------
    >>> from osler.decode.transfer import SYNTAXES, Layout, decode_frame
    >>> layout = Layout(1, 2, 1, 1, "MONOCHROME2", 8, 8, False, 0)
    >>> decode_frame(bytes([7, 9]), SYNTAXES["1.2.840.10008.1.2.1.98"], layout)
    (array([[7, 9]], dtype=uint8), 'MONOCHROME2')
    """
    family = syntax.family
    if family in ("raw", "deflated"):
        return _plain(data, family, layout, name), layout.photometric
    if family == "rle":
        return _rle(data, syntax, layout, name), layout.photometric
    if family == "jpeg-xl":
        # Its header is itself compressed: a stream of another size fails against the array that is given.
        frame = np.empty(layout.shape, f"u{layout.dtype.itemsize}")
        samples = np.asarray(_codecs(syntax).jpegxl_decode(data, out=frame)).reshape(layout.shape)
        return _signed(samples, layout.bits_stored, False, layout.signed), _transformed(layout.photometric)
    if family == "jpeg2000":
        return _jpeg2000(data, syntax, layout, name)
    return _jpeg(data, syntax, layout, name)


def load_decoders() -> None:
    """Load all that `decode_frame` may call, where it is installed, for a process that can open no file afterwards.

    Examples
    --------
    >>> from osler.decode.transfer import load_decoders
    >>> load_decoders()
    """
    try:
        library = importlib.import_module("imagecodecs")
    except ImportError:
        return
    for name in _DECODERS:
        getattr(library, name, None)


def _codecs(syntax: Syntax) -> Any:
    try:
        return importlib.import_module("imagecodecs")
    except ImportError:
        raise SourceError(
            f'{syntax.name} needs the package imagecodecs, which is not installed; run pip install "osler[dicom]"',
            code="missing_decoder",
        ) from None


def _checked(samples: NDArray[Any], layout: Layout, name: str) -> NDArray[Any]:
    if samples.shape != layout.shape:
        found, wanted = (" x ".join(map(str, shape)) for shape in (samples.shape, layout.shape))
        raise SourceError(f"{name} states {wanted} samples a frame and holds {found}", code="bad_header")
    return samples


def _transformed(photometric: str) -> str:
    return "RGB" if photometric.startswith("YBR") or photometric == "XYB" else photometric


def _signed(samples: NDArray[Any], precision: int, is_signed: bool, signed: bool) -> NDArray[Any]:
    """Read samples of some precision again with the sign that the header states."""
    if is_signed == signed:
        return samples
    shift = 8 * samples.dtype.itemsize - precision
    turned = samples.view(f"{'i' if signed else 'u'}{samples.dtype.itemsize}")
    return (turned << shift) >> shift if shift > 0 else turned


def _plain(data: bytes, family: Family, layout: Layout, name: str) -> NDArray[Any]:
    count = layout.rows * layout.columns * layout.samples
    size = -(-count // 8) if layout.bits_allocated == 1 else count * layout.bits_allocated // 8
    if family == "deflated":
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
    if len(data) < size:
        raise SourceError(f"{name} has a frame of {len(data)} bytes, {size} are expected", code="truncated")
    if layout.bits_allocated == 1:
        return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:count].reshape(layout.shape)
    samples = np.frombuffer(data[:size], layout.dtype.newbyteorder("<")).astype(layout.dtype)
    if layout.samples > 1 and layout.planar:
        return samples.reshape(layout.samples, layout.rows, layout.columns).transpose(1, 2, 0)
    return samples.reshape(layout.shape)


def _rle(data: bytes, syntax: Syntax, layout: Layout, name: str) -> NDArray[Any]:
    """Undo PackBits: a segment for each byte of each sample, the most significant first (PS3.5 annex G)."""
    packbits = _codecs(syntax).packbits_decode
    size = layout.rows * layout.columns
    width = layout.dtype.itemsize
    header = np.frombuffer(data[:64].ljust(64, b"\0"), "<u4")
    count, offsets = int(header[0]), [int(offset) for offset in header[1:16]]
    if count != layout.samples * width or len(data) < 64:
        raise SourceError(
            f"{name} has an RLE frame of {count} segments, {layout.samples * width} are expected", code="bad_header"
        )
    ends = [*offsets[1:count], len(data)]
    planes = np.empty((layout.samples, width, size), np.uint8)
    for number, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        if not 64 <= start < end <= len(data):
            raise SourceError(f"{name} has an RLE segment outside its frame", code="bad_header")
        # A little slack: some writers pad a segment with a run.
        plain = packbits(data[start:end], out=size + 256)
        if len(plain) < size:
            raise SourceError(f"{name} has an RLE segment of {len(plain)} of {size} bytes", code="truncated")
        planes[number // width, number % width] = np.frombuffer(plain, np.uint8, size)
    samples = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(layout.dtype.newbyteorder(">"))
    samples = samples.astype(layout.dtype).reshape(layout.samples, layout.rows, layout.columns)
    return samples[0] if layout.samples == 1 else samples.transpose(1, 2, 0)


def _size(height: int, width: int, components: int, layout: Layout, name: str) -> None:
    if (height, width, components) != (layout.rows, layout.columns, layout.samples):
        raise SourceError(
            f"{name} states {layout.rows} x {layout.columns} x {layout.samples} samples a frame and its code stream "
            "another size; get a whole copy",
            code="bad_header",
        )


def _jpeg2000(data: bytes, syntax: Syntax, layout: Layout, name: str) -> tuple[NDArray[Any], str]:
    start = data.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(data) < start + 43:
        raise SourceError(f"{name} has a frame that is no JPEG 2000 code stream", code="decode_failed")
    width, height, left, top = (int.from_bytes(data[start + i : start + i + 4], "big") for i in (8, 12, 16, 20))
    components = int.from_bytes(data[start + 40 : start + 42], "big")
    _size(height - top, width - left, components, layout, name)
    depth = data[start + 42]
    samples = _codecs(syntax).jpeg2k_decode(data)
    precision, is_signed = (depth & 0x7F) + 1, bool(depth & 0x80)
    samples = _signed(_checked(samples, layout, name), precision, is_signed, layout.signed)
    inverse = layout.photometric in ("YBR_RCT", "YBR_ICT")
    return samples, "RGB" if inverse else layout.photometric


def _start_of_frame(data: bytes) -> tuple[int, int, int, int, int, list[int], int | None, bool] | None:
    """Walk the markers of a JPEG or JPEG-LS stream to its frame header.

    Returns the marker, precision, height, width, number of components, their ids, the colour transform that an Adobe
    marker states, and whether there is a JFIF marker.
    """
    at, adobe, jfif = 2, None, False
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker in (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7):
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                return None
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            return marker, body[0], height, width, body[5], list(body[6 : 6 + 3 * body[5] : 3]), adobe, jfif
        if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        jfif = jfif or (marker == 0xE0 and body[:5] == b"JFIF\0")
        at += 2 + length
    return None


def _jpeg(data: bytes, syntax: Syntax, layout: Layout, name: str) -> tuple[NDArray[Any], str]:
    frame = _start_of_frame(data) if data[:2] == b"\xff\xd8" else None
    if frame is None:
        raise SourceError(f"{name} has a frame that is no JPEG code stream", code="decode_failed")
    marker, precision, height, width, components, ids, adobe, jfif = frame
    _size(height, width, components, layout, name)
    if marker == 0xF7:
        plain = _checked(_codecs(syntax).jpegls_decode(data), layout, name)
        # The code stream has no sign of its own.
        return _signed(plain, precision, False, layout.signed), layout.photometric
    if marker != 0xC3 and syntax.family != "jpeg":
        raise SourceError(f"{name} has a lossy JPEG frame under {syntax.name}", code="bad_header")
    if marker == 0xC3 or precision > 8:
        if b"\xff\xd9" not in data[-16:]:
            # The decoder fills what is missing with grey.
            raise SourceError(f"{name} has a JPEG frame that ends too early; get a whole copy", code="truncated")
        same = {"colorspace": "RGB", "outcolorspace": "RGB"} if layout.samples == 3 else {}
        exact = _checked(_codecs(syntax).jpeg_decode(data, **same), layout, name)
        return _signed(exact, precision, False, layout.signed), layout.photometric
    from PIL import JpegImagePlugin

    image = JpegImagePlugin.JpegImageFile(BytesIO(data))
    # libjpeg takes three components for YCbCr unless a marker or their ids say otherwise; only a header that says
    # RGB, with nothing in the stream against it, means that no transform was made.
    as_stored = layout.samples == 3 and layout.photometric == "RGB" and adobe is None and not jfif
    as_stored = as_stored and ids not in ([82, 71, 66], [114, 103, 98])
    if as_stored:
        image.draft("YCbCr", image.size)
    samples = _signed(np.array(image), precision, False, layout.signed)
    return _checked(samples, layout, name), _transformed(layout.photometric)
