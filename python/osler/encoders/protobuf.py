"""The variable-length integers of protocol buffers, which ONNX and SentencePiece files are made of.

Arithmetic on bytes in memory; needs no package.
"""

from __future__ import annotations

__all__ = ["varint"]


def varint(content: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it.

    Raises
    ------
    ValueError, IndexError
        It takes more than ten bytes, or the content ends within it.

    Examples
    --------
    >>> from osler.encoders.protobuf import varint
    >>> varint(bytes([0x96, 0x01]), 0)
    (150, 2)
    """
    value = shift = 0
    while shift < 70:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError
