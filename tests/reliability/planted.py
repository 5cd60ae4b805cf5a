"""R15. Bugs, planted one at a time: the harness that must see each sees it, or this fails.

Those of the engine are compiled into the build for tests alone; those of the library are put in its functions' place
here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np

from reliability import testing

NAME, UNIT = "planted bugs", "bugs seen"
LIMIT_SECONDS = 60

# The harness that must see each bug.
ENGINE = {
    "FileNotSynced": "power_cuts",
    "FolderNotSynced": "power_cuts",
    "ManifestsNotSynced": "power_cuts",
    "PublishedFirst": "power_cuts",
    "NumberUsedAgain": "power_cuts",
    "ChecksumIgnored": "damage",
    "OlderManifest": "damage",
    "NotPoisoned": "io_errors",
    "LeaseIgnored": "readers",
    "NotSwept": "kills",
    "OldStateKept": "erasing",
    "RepairLeftOut": "churn",
    "RowsTrusted": "fuzz",
    "KeyNotSynced": "power_cuts",
}


@contextmanager
def _in_engine(name: str) -> Iterator[None]:
    testing.native.plant(name)
    try:
        yield
    finally:
        testing.native.plant()


def _replaced(target: str, make: Callable[[Any], Any]) -> Any:
    """A function of the library with another in its place, made of it."""
    module, name = target.rsplit(".", 1)
    try:
        owner = import_module(module)
    except ModuleNotFoundError:
        outer, inner = module.rsplit(".", 1)
        owner = getattr(import_module(outer), inner)
    return mock.patch.object(owner, name, make(vars(owner)[name]))


def _tombstones_forgotten() -> Any:
    return _replaced(
        "osler.collection.handle.Handle.publish",
        lambda real: lambda self, batch=None, dead=None, *rest, **options: real(self, batch, None, *rest, **options),
    )


def _deleted_kept_by_compaction() -> Any:
    return _replaced(
        "osler.collection.compaction.merge",
        lambda real: lambda snapshot, start, stop, wanted: real(snapshot, start, stop, np.ones_like(wanted)),
    )


def _deleted_found_by_graphs() -> Any:
    return _replaced("osler.collection.graph._Covered.allow", lambda real: lambda self, admitted: None)


def _ids_used_again() -> Any:
    def make(real: Any) -> Any:
        def commit(self: Any, parent: Any, changes: Any, *rest: Any, **options: Any) -> Any:
            kept = {name: value for name, value in changes.items() if name != "next_item"}
            return real(self, parent, kept, *rest, **options)

        return commit

    return _replaced("osler.collection.store.Store.commit", make)


def _graphs_not_erased() -> Any:
    return _replaced("osler.collection.handle.affected_graphs", lambda real: lambda store, snapshot, gone: [])


def _former_versions_not_erased() -> Any:
    def make(real: Any) -> Any:
        def live(snapshot: Any, names: Any) -> Any:
            rows = real(snapshot, names)
            return rows[snapshot.live[rows]]

        return live

    return _replaced("osler.collection.erase._every_version", make)


def _former_vector_of_a_key() -> Any:
    """What is replaced is not deleted, so that a key has two values."""
    return _replaced(
        "osler.collection.changes.Handle.publish",
        lambda real: (
            lambda self, batch=None, dead=None, *rest, **options: real(
                self, batch, None if batch is not None else dead, *rest, **options
            )
        ),
    )


def _failure_hidden() -> Any:
    """A change that could not be written is told as done."""

    def make(real: Any) -> Any:
        def commit(self: Any, *rest: Any, **options: Any) -> Any:
            from osler.errors import Error

            try:
                return real(self, *rest, **options)
            except Error:
                return None

        return commit

    return _replaced("osler.collection.store.Store.commit", make)


def _locks_of_the_parent() -> Any:
    """A child does not say that a collection was opened by its parent."""
    return _replaced("osler.collection.handle.Handle.check", lambda real: lambda self: None)


def _fault_not_contained() -> Any:
    """The end of a process that decodes is not made the outcome of its file."""

    def make(real: Any) -> Any:
        @contextmanager
        def told(self: Any, process: Any) -> Iterator[None]:
            yield

        return told

    return _replaced("osler.sources.workers.Workers._told", make)


def _outcome_lost() -> Any:
    """A file that was cut is passed over."""
    return _replaced(
        "osler.collection.ingest._Run.fail",
        lambda real: lambda self, entry, code, *rest: None if code == "truncated" else real(self, entry, code, *rest),
    )


LIBRARY: dict[str, tuple[str, Callable[[], Any]]] = {
    "TombstonesForgotten": ("model", _tombstones_forgotten),
    "DeletedKeptByCompaction": ("model", _deleted_kept_by_compaction),
    "DeletedFoundByGraphs": ("model", _deleted_found_by_graphs),
    "IdsUsedAgain": ("model", _ids_used_again),
    "FormerVectorOfAKey": ("model", _former_vector_of_a_key),
    "GraphsNotErased": ("erasing", _graphs_not_erased),
    "FormerVersionsNotErased": ("erasing", _former_versions_not_erased),
    "FailureHidden": ("io_errors", _failure_hidden),
    "LocksOfTheParent": ("forks", _locks_of_the_parent),
    "FaultNotContained": ("hostile", _fault_not_contained),
    "OutcomeLost": ("hostile", _outcome_lost),
}
EVERY = [*ENGINE, *LIBRARY]


def _said(piece: Callable[[int], Any], seed: int) -> str | None:
    try:
        piece(seed)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def seen(bug: str) -> str | None:
    """What the bug's harness says of it, where it says nothing without it; None if it says nothing within its time."""
    harness, plant = (ENGINE[bug], lambda: _in_engine(bug)) if bug in ENGINE else LIBRARY[bug]
    piece = import_module(f"reliability.{harness}").piece
    began, seed = time.monotonic(), 1
    while time.monotonic() - began < LIMIT_SECONDS:
        with plant():
            said = _said(piece, seed)
        if said is not None:
            without = _said(piece, seed)
            assert without is None, f"without the bug {bug}, seed {seed}: {without}"
            return said
        seed += 1
    return None
