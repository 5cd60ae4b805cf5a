"""The DICOM file in an answer of a WADO-RS server: alone, or as the one part of a multipart/related body.

Works on bytes that are there; time and memory follow their length. RFC 2046, section 5.1; DICOM PS3.18, section 8.6.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.message import Message
from typing import NamedTuple

from osler.errors import SourceError
from osler.sources.web import Body, CutShort

__all__ = ["Part", "dicom_file", "parts"]

_HEADERS_BYTES = 16 << 10
_PARTS = 1_000
_LONGEST_BOUNDARY = 200
# What follows a boundary on its line: RFC 2046 allows blanks there.
_REST_OF_LINE = re.compile(rb"(--)?[ \t]*(?:\r\n|\n|\Z)")
_END_OF_HEADERS = re.compile(rb"\r\n\r\n|\n\n")
_FILE_TYPES = ("application/dicom", "application/octet-stream", "")


class Part(NamedTuple):
    """One part of a body: its media type in lower case, and where its content begins and ends."""

    type: str
    start: int
    stop: int


def dicom_file(body: Body) -> bytes:
    """Return the DICOM file of an answer to a request for one instance.

    The media types of servers are not believed where the bytes say otherwise.

    Raises
    ------
    SourceError
        ``empty``; ``not_served`` where there is something else than one DICOM file.
    CutShort
        The body ended before its end.
    """
    data = body.all()
    if not data:
        if not body.framed:
            raise CutShort("it ended in the middle of an answer")
        raise SourceError("the server answers with nothing; look at this instance there", code="empty")
    if data[128:132] == b"DICM":
        return data
    kind = media_type(body.type)
    if kind.startswith("multipart/") or data[:2] == b"--":
        try:
            found = [part for part in parts(data, _boundary(body.type, data)) if part.type in _FILE_TYPES]
        except SourceError:
            if body.framed:
                raise
            raise CutShort("it ended in the middle of an answer") from None
        if len(found) != 1:
            raise SourceError(
                f"the server answers with {len(found)} DICOM files for one instance; look at this instance there",
                code="not_served",
            )
        return data[found[0].start : found[0].stop]
    if kind not in _FILE_TYPES:
        raise SourceError(
            "the server answers with another kind of content than DICOM; look at this instance there",
            code="not_served",
        )
    return data


def media_type(header: str) -> str:
    """Return the type of a header Content-Type without its parameters, in lower case.

    Examples
    --------
    >>> from osler.sources.multipart import media_type
    >>> media_type('Application/DICOM; transfer-syntax="*"')
    'application/dicom'
    """
    return header.partition(";")[0].strip().lower()


def _boundary(header: str, data: bytes) -> bytes:
    """Return the boundary that a header states, or else the first line of the body."""
    message = Message()
    message["Content-Type"] = re.sub(r"[\r\n]+", " ", header)
    stated = message.get_param("boundary")
    if isinstance(stated, str) and 0 < len(stated) <= _LONGEST_BOUNDARY and stated.isascii():
        return stated.encode()
    line = re.match(rb"(?:\r?\n)*--([ -~]{1,200}?)[ \t]*\r?\n", data)
    if line is None:
        raise SourceError("the server's answer cannot be taken apart; look at this instance there", code="not_served")
    return line[1]


def parts(data: bytes, boundary: bytes) -> Iterator[Part]:
    r"""Yield the parts of a multipart body.

    Raises
    ------
    SourceError
        ``not_served``: it has no parts, too many, or a part without a head.
    CutShort
        It ends within a part.

    Examples
    --------
    >>> from osler.sources.multipart import parts
    >>> data = b"--b\r\nContent-Type: application/dicom\r\n\r\nbytes\r\n--b--\r\n"
    >>> [(part.type, data[part.start : part.stop]) for part in parts(data, b"b")]
    [('application/dicom', b'bytes')]
    """
    found = _delimiter(data, boundary, 0)
    count = 0
    while found is not None and not found[2]:
        count += 1
        if count > _PARTS:
            raise SourceError("the server's answer has too many parts; look at this instance there", code="not_served")
        kind, start = _head(data, found[1])
        found = _delimiter(data, boundary, start)
        if found is None:
            raise CutShort("it ended in the middle of an answer")
        yield Part(kind, start, found[0])
    if found is None:
        raise SourceError("the server's answer cannot be taken apart; look at this instance there", code="not_served")


def _delimiter(data: bytes, boundary: bytes, start: int) -> tuple[int, int, bool] | None:
    """Return where the next line of a boundary begins and ends, its line break before it included, and if it closes."""
    mark = b"--" + boundary
    at = data.find(mark, start)
    while at >= 0:
        line = _REST_OF_LINE.match(data, at + len(mark))
        alone = at == start or data[at - 1 : at] == b"\n"
        if line and alone:
            begin = at
            if begin > start:
                begin -= 2 if data[max(start, at - 2) : at] == b"\r\n" else 1
            return begin, line.end(), line[1] is not None
        at = data.find(mark, at + 1)
    return None


def _head(data: bytes, start: int) -> tuple[str, int]:
    """Return the media type of a part and where its content begins."""
    if data[start : start + 2] == b"\r\n":
        return "", start + 2
    end = _END_OF_HEADERS.search(data, start, start + _HEADERS_BYTES)
    if end is None:
        if len(data) < start + _HEADERS_BYTES:
            raise CutShort("it ended in the middle of an answer")
        raise SourceError("the server's answer has a part without an end of its head", code="not_served")
    for line in data[start : end.start()].splitlines():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-type":
            return media_type(value.decode("latin-1")), end.end()
    return "", end.end()
