"""Looks through an ONNX file before any runtime opens it: which operators it needs, which other files it names.

Works on bytes in memory; needs no package. Follows the field numbers of onnx.proto and skips what it does not check.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from osler.encoders.protobuf import varint
from osler.errors import EncoderError

__all__ = ["check_model"]

_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_DEEPEST = 32
_BYTES = 2  # wire type of strings, bytes and nested messages


def _fields(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of each length-delimited field; the others are stepped over."""
    at = 0
    while at < len(view):
        tag, at = varint(view, at)
        kind = tag & 7
        if kind == 0:
            _, at = varint(view, at)
        elif kind == 1:
            at += 8
        elif kind == 5:
            at += 4
        elif kind == _BYTES:
            length, at = varint(view, at)
            if length > len(view) - at:
                raise ValueError
            yield tag >> 3, view[at : at + length]
            at += length
        else:
            raise ValueError
    if at != len(view):
        raise ValueError


class _Walk:
    """Collects operator domains and external files over the nested messages.

    Domains that a model imports and no node is of are no concern: runtimes write down all they know.
    """

    # message -> field number -> nested message; "domain" and "external" are collected
    fields: ClassVar[dict[str, dict[int, str]]] = {
        "model": {7: "graph", 25: "function"},
        "graph": {1: "node", 5: "tensor", 15: "sparse"},
        "function": {7: "node", 10: "domain", 11: "attribute"},
        "node": {5: "attribute", 7: "domain"},
        "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
        "sparse": {1: "tensor", 2: "tensor"},
        "tensor": {13: "external"},
    }

    def __init__(self) -> None:
        self.domains: set[str] = set()
        self.external: set[str] = set()
        self.graphs = 0

    def visit(self, message: str, view: memoryview, depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise ValueError
        known = self.fields[message]
        for number, content in _fields(view):
            inner = known.get(number)
            if inner == "domain":
                self.domains.add(bytes(content).decode())
            elif inner == "external":
                entry = {n: bytes(value).decode() for n, value in _fields(content)}
                if entry.get(1) == "location":
                    self.external.add(entry.get(2, ""))
            elif inner is not None:
                self.graphs += message == "model" and inner == "graph"
                self.visit(inner, content, depth + 1)


def check_model(content: bytes, external: frozenset[str]) -> None:
    """Raise unless the bytes are an ONNX model of standard operators that names no file outside `external`.

    Parameters
    ----------
    content : bytes
    external : frozenset of str
        Names of the files that may hold its tensors.

    Raises
    ------
    EncoderError
    """
    walk = _Walk()
    try:
        walk.visit("model", memoryview(content))
        if walk.graphs != 1:
            raise ValueError
    except (ValueError, IndexError):  # UnicodeDecodeError is a ValueError
        raise EncoderError("the model is not an ONNX file, or is damaged; export it again") from None
    if walk.domains - _DOMAINS:
        raise EncoderError(
            f"the model uses {len(walk.domains - _DOMAINS)} operator domain(s) outside ai.onnx and com.microsoft; "
            "export it with standard operators only"
        )
    if walk.external - external:
        raise EncoderError(
            f"the model takes tensors from {len(walk.external - external)} file(s) that the manifest does not list; "
            "list each under external with its SHA-256"
        )
