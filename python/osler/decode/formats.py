"""What a file is, told by its bytes and never by its name, and its bytes within the limits.

Reads one file; decodes nothing but the first bytes of what gzip compressed.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from pathlib import Path
from typing import Literal

from osler.config import LIMITS
from osler.decode.quiet import cause
from osler.errors import SourceError

__all__ = ["FORMATS", "format_of", "read_bytes"]

FORMATS = ("png", "jpeg", "tiff", "bmp", "dicom", "nifti")

_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)
_OTHER_PICTURES = (
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
    (0, b"\0\0\0\x0cjP  ", "a bare JPEG 2000 picture"),
    (0, b"\xff\x4f\xff\x51", "a bare JPEG 2000 code stream"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (4, b"ftyphei", "a HEIF picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (0, b"8BPS", "a Photoshop picture"),
    (344, b"ni1\0", "the header or the image of a NIfTI pair (.hdr and .img)"),
    (4, b"ni2\0\r\n\x1a\n", "the header of a NIfTI pair (.hdr and .img)"),
    (0, b"ObjectType = Image", "a MetaImage volume"),
    (0, b"NRRD", "an NRRD volume"),
)
_NO_PICTURES = (
    (0, b"%PDF-", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\x89HDF\r\n", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (36, b"acsp", "a colour profile"),
    (0, b"\xd0\xcf\x11\xe0", "an Office document"),
)
_READ = "Osler reads PNG, JPEG, TIFF, BMP, DICOM and NIfTI"


def read_bytes(path: str | os.PathLike[str], *, name: str = "the file", most: int | None = None) -> bytes:
    """Return a regular file's bytes if it is no larger than the limit.

    Parameters
    ----------
    path : path
    name : str
        How messages call the file.
    most : int, optional
        Return no more than so many bytes of its beginning.

    Raises
    ------
    SourceError
        ``missing``, ``no_permission``, ``not_a_file``, ``empty``, ``too_large`` or ``unreadable``.

    Examples
    --------
    >>> from osler.decode.formats import read_bytes
    >>> read_bytes("no such file")
    Traceback (most recent call last):
    osler.errors.SourceError: the file is not there; check the path
    """
    handle = -1
    try:
        # A FIFO would block for ever without O_NONBLOCK; it has no meaning for a regular file.
        handle = os.open(Path(path), os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise SourceError(f"{name} is not a regular file; give a file", code="not_a_file")
        if state.st_size == 0:
            raise SourceError(f"{name} is empty (0 bytes)", code="empty")
        if state.st_size > LIMITS.bytes_per_file:
            raise SourceError(
                f"{name} has {state.st_size} bytes, the limit is {LIMITS.bytes_per_file}; split it", code="too_large"
            )
        with open(handle, "rb", closefd=False) as stream:
            # As much memory is taken as is asked for, and given back page by page: no more than there is.
            return stream.read(state.st_size if most is None else min(most, state.st_size))
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise SourceError(f"{name} is not there; check the path", code="missing") from cause(error)
        if isinstance(error, PermissionError):
            raise SourceError(
                f"{name} may not be read by this user; change its permissions", code="no_permission"
            ) from cause(error)
        why = errno.errorcode.get(error.errno or 0, "I/O error")
        raise SourceError(f"{name} cannot be read from its disk ({why})", code="unreadable") from cause(error)
    except ValueError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{name} has a path that no file can have", code="missing") from cause(error)
    finally:
        if handle >= 0:
            os.close(handle)


def _bare_dicom(head: bytes, size: int) -> bool:
    """Tell whether bytes start like a data set without preamble: a tag of group 2 or 8, then a VR or a sane length."""
    if len(head) < 12:
        return False
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))
        if group in (2, 8) and element <= 0x0100:
            if head[4:6] in (b"AE", b"CS", b"DA", b"DT", b"LO", b"OB", b"PN", b"SH", b"SQ", b"TM", b"UI", b"UL", b"US"):
                return True
            if order == "little" and int.from_bytes(head[4:8], "little") <= min(size, 1 << 16) and not head[4] & 1:
                return True
    return False


def _is_nifti(head: bytes) -> bool:
    """Tell a single-file NIfTI-1 (348 bytes of header, in either byte order) or NIfTI-2 (540 bytes)."""
    size = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    return (348 in size and head[344:348] == b"n+1\0") or (540 in size and head[4:12] == b"n+2\0\r\n\x1a\n")


def _inflated_head(head: bytes) -> bytes:
    try:
        # No more than tells it: what a checksum says at the end of a short file is not asked here.
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, 348)
    except zlib.error:
        return b""


def format_of(data: bytes, *, name: str = "the file") -> str:
    """Return which of `FORMATS` some bytes are.

    Raises
    ------
    SourceError
        ``empty``; ``not_an_image`` for a document, an archive or text; ``unsupported_format`` for a picture of
        another format; ``unknown_format`` for anything else.

    Examples
    --------
    >>> from osler.decode.formats import format_of
    >>> format_of(b"BM" + bytes(4) + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little"))
    'bmp'
    >>> format_of(b"%PDF-1.7", name="it")
    Traceback (most recent call last):
    osler.errors.SourceError: it is a PDF document, not an image; Osler reads PNG, JPEG, TIFF, BMP, DICOM and NIfTI
    """
    if not data:
        raise SourceError(f"{name} is empty (0 bytes)", code="empty")
    head = data[:1024]
    if head[128:132] == b"DICM":
        return "dicom"
    if _is_nifti(head) or (head[:2] == b"\x1f\x8b" and _is_nifti(_inflated_head(head))):
        return "nifti"
    for magic, kind in _PICTURES:
        if head.startswith(magic):
            return kind
    if head[:2] == b"BM" and head[14:18] in (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x40\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0"):
        return "bmp"
    for offset, magic, words in _OTHER_PICTURES:
        if head[offset : offset + len(magic)] == magic:
            raise SourceError(f"{name} is {words}, which is not read; convert it, {_READ}", code="unsupported_format")
    for offset, magic, words in _NO_PICTURES:
        if head[offset : offset + len(magic)] == magic:
            raise SourceError(f"{name} is {words}, not an image; {_READ}", code="not_an_image")
    if _bare_dicom(head, len(data)):
        return "dicom"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        raise SourceError(f"{name} is text, not an image; {_READ}", code="not_an_image")
    raise SourceError(f"{name} has no format that is known; {_READ}", code="unknown_format")
