"""The build for tests: a file system in memory, planted bugs, and small limits, so that small collections have
graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from osler import _native

native: Any = getattr(_native, "testing", None)


def disk(seed: int) -> Any:
    assert native is not None, "this needs the build for tests: make target/testing/.built"
    return native.Disk("/data", seed)


@contextmanager
def mounted(disk: Any) -> Iterator[None]:
    disk.mount()
    try:
        yield
    finally:
        native.unmount()


@contextmanager
def small_indexes(rows: int = 24) -> Iterator[None]:
    """Let an index of so many rows have a graph and codes."""
    native.lower_exact_below(rows)
    try:
        yield
    finally:
        native.lower_exact_below()


@contextmanager
def small_graphs(outside: int = 12) -> Iterator[None]:
    """Let graphs be saved for a few rows, and segments be written together when there are a few."""
    with ExitStack() as stack:
        for name, value in (
            ("graph._OUTSIDE_ROWS", outside),
            ("handle._WORTH_SAVING", 6),
            ("compaction._FANOUT", 4),
            ("compaction._SMALLEST", 4),
            ("compaction._CHEAP_ITEMS", 8),
        ):
            stack.enter_context(mock.patch(f"osler.collection.{name}", value))
        yield
