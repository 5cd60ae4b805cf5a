"""`Index` and what its searches take and return: arrays in, arrays out.

The classes are compiled: a single query is native from the first argument to the result. Imports the compiled module
only.
"""

from __future__ import annotations

from osler._native import Bitmap, Found, FoundItems, Groups, Index, Pairs, join, join_batches, rank_items, simd_level

__all__ = [
    "Bitmap",
    "Found",
    "FoundItems",
    "Groups",
    "Index",
    "Pairs",
    "join",
    "join_batches",
    "rank_items",
    "simd_level",
]
