"""Osler: find the cases like this one.

An embedding search and retrieval engine for medical images and reports. Public names are imported on first use, so
that ``import osler`` loads numpy and the compiled core only.

Examples
--------
>>> import numpy as np, osler
>>> index = osler.Index.build(np.eye(4, dtype=np.float32))
>>> index.search(np.array([1.0, 0.1, 0.0, 0.0], dtype=np.float32), k=2).keys
array([0, 1], dtype=uint64)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Bitmap": "osler.index",
    "Collection": "osler.collection",
    "CommitUnknownError": "osler.errors",
    "CorruptIndexError": "osler.errors",
    "Encoder": "osler.encoders",
    "EncoderError": "osler.errors",
    "Error": "osler.errors",
    "ForkedHandleError": "osler.errors",
    "FormatVersionError": "osler.errors",
    "Found": "osler.index",
    "FoundItems": "osler.index",
    "Groups": "osler.index",
    "Hit": "osler.items",
    "Index": "osler.index",
    "InternalError": "osler.errors",
    "LockedError": "osler.errors",
    "ReadOnlyError": "osler.errors",
    "ServerError": "osler.errors",
    "SourceError": "osler.errors",
    "list_encoders": "osler.encoders",
    "load_encoder": "osler.encoders",
}
_MODULES = ("classify", "collection", "curate", "encoders", "errors", "index", "items", "sources")

__all__ = [
    "Bitmap",
    "Collection",
    "CommitUnknownError",
    "CorruptIndexError",
    "Encoder",
    "EncoderError",
    "Error",
    "ForkedHandleError",
    "FormatVersionError",
    "Found",
    "FoundItems",
    "Groups",
    "Hit",
    "Index",
    "InternalError",
    "LockedError",
    "ReadOnlyError",
    "ServerError",
    "SourceError",
    "__version__",
    "classify",
    "collection",
    "curate",
    "encoders",
    "errors",
    "index",
    "items",
    "list_encoders",
    "load_encoder",
    "sources",
]

if TYPE_CHECKING:
    from osler import classify, collection, curate, encoders, errors, index, items, sources
    from osler.collection import Collection
    from osler.encoders import Encoder, list_encoders, load_encoder
    from osler.errors import (
        CommitUnknownError,
        CorruptIndexError,
        EncoderError,
        Error,
        ForkedHandleError,
        FormatVersionError,
        InternalError,
        LockedError,
        ReadOnlyError,
        ServerError,
        SourceError,
    )
    from osler.index import Bitmap, Found, FoundItems, Groups, Index
    from osler.items import Hit


if not TYPE_CHECKING:  # a type checker must see the names above, not a function that takes any

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            value = getattr(importlib.import_module(_HOME[name]), name)
        elif name in _MODULES:
            value = importlib.import_module(f"osler.{name}")
        else:
            raise AttributeError(f"module 'osler' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return list(__all__)
