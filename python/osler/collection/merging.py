"""Several collections into one: the live items of another, with their vectors, in one commit.

Reads the other through a snapshot of its own; the handle publishes. Vectors are copied from file to file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.collection import compaction
from osler.collection.outcome import AddReport
from osler.collection.privacy import Secret, policy, secret_path
from osler.collection.rows import merge_types
from osler.collection.snapshot import Snapshot
from osler.collection.store import Store
from osler.errors import CommitUnknownError, Error

if TYPE_CHECKING:
    from osler.collection.handle import Handle

__all__ = ["merge"]

_ON_DUPLICATE = ("error", "skip", "replace")


def merge(handle: Handle, path: Path, on_duplicate: str) -> AddReport:
    """Add the live items of the collection at `path`, all or none of them."""
    if on_duplicate not in _ON_DUPLICATE:
        raise ValueError(f"on_duplicate is {on_duplicate!r}; choose one of {', '.join(_ON_DUPLICATE)}")
    with handle.writing() as own:
        store = Store.open(path, writable=False)
        try:
            other = Snapshot(store)
            _check(handle, store, other)
            rows = own.find(other.keys)
            present = np.flatnonzero(rows >= 0)
            if len(present) and on_duplicate == "error":
                raise ValueError(
                    f"key {other.keys[int(present[0])]!r} is in both collections, and nothing was added; "
                    "use on_duplicate='skip' or 'replace'"
                )
            wanted = other.live.copy()
            if on_duplicate == "skip":
                wanted[other.live_rows[present]] = False
            types = merge_types(own.types, other.types, path.name)
            made = [
                compaction.merge(other, at, at + 1, wanted, types=types, ids=False) for at in range(len(other.segments))
            ]
            dead = rows[present] if on_duplicate == "replace" else None
            with _secret_of(handle, path, other):
                handle.publish_segments(
                    [one for one in made if one.entry is not None], dead, {"schema": types, **_changes(handle, other)}
                )
        finally:
            store.close()
        handle.tidy()
        added = int(np.count_nonzero(wanted))
        return AddReport(added=added, duplicates=len(present) if on_duplicate == "skip" else 0)


def _check(handle: Handle, store: Store, other: Snapshot) -> None:
    own = handle.snapshot
    if store.id == handle.store.id:
        raise ValueError(f"{store.path.name} is this collection itself")
    for name, ours, theirs in (("dim", own.dim, other.dim), ("metric", own.metric, other.metric)):
        if ours != theirs:
            raise ValueError(f"{store.path.name} has {name} {theirs}, and {handle.path.name} has {ours}")
    ours, theirs = own.manifest["encoder"], other.manifest["encoder"]
    if (ours or {}).get("fingerprint") != (theirs or {}).get("fingerprint"):
        raise ValueError(
            f"{store.path.name} was made by another encoder than {handle.path.name}; vectors of two encoders cannot be "
            "compared, so build it again with the same one"
        )
    secrets = own.manifest["secret_check"], other.manifest["secret_check"]
    if None not in secrets and secrets[0] != secrets[1]:
        raise Error(
            f"{store.path.name} and {handle.path.name} were made with different secrets, so one patient has two "
            "pseudonyms; build both with the same secret, as shards are",
            code="secret",
        )


@contextmanager
def _secret_of(handle: Handle, path: Path, other: Snapshot) -> Iterator[None]:
    """Take the other's secret for a commit, if only the other has one; without the commit it does not stay."""
    own = secret_path(handle.path)
    if other.manifest["secret_check"] is None or handle.snapshot.manifest["secret_check"] is not None:
        yield
        return
    there = Secret.lies_at(own)
    Secret.adopt(own, secret_path(path), handle.store.id)
    try:
        yield
    except CommitUnknownError:
        raise
    except BaseException:
        if not there and handle.store.manifest["secret_check"] is None:
            Secret.remove(own)
        raise


def _changes(handle: Handle, other: Snapshot) -> dict[str, Any]:
    """Return what else of the manifest changes: what is kept by name, and the secret if only the other had one."""
    keep = {*handle.keep, *other.manifest["policy"]["keep"]}
    changes: dict[str, Any] = {"policy": policy(keep)} if keep != set(handle.keep) else {}
    known = other.manifest["secret_check"]
    if known is not None and handle.snapshot.manifest["secret_check"] is None:
        changes["secret_check"] = known
    return changes
