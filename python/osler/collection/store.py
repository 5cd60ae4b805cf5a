"""A collection directory as Python sees it: one state, its files, and the commit that publishes the next.

The directory itself is the work of the compiled module; here its state is JSON, and its failures become one sentence.
storage.md, "Two shapes on disk".
"""

from __future__ import annotations

import copy
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from osler import _native
from osler.errors import CorruptIndexError, Error, InternalError, ReadOnlyError

__all__ = ["Sections", "Store", "closed"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# Sections of a file by name, each with its bytes, an array, or rows to be copied from other files.
Sections = Sequence[tuple[str, Any]]

os.register_at_fork(after_in_child=_native.forget_locks)


class Store:
    """One directory at one commit; made by `create` or `open`.

    Attributes
    ----------
    path : Path
    id : str
    writable : bool
    """

    def __init__(self, path: Path, native: _native.Store, writable: bool) -> None:
        self.path = path
        self.id = native.id
        self.writable = writable
        self._native = native
        self._frozen = False
        self._held: tuple[_native.State, dict[str, Any]] | None = None
        self.follow()
        missing = _named(self.manifest) - self.state.files.keys()
        if missing:
            problem = f"it names {min(missing)}, which it does not list"
            finding = {"file": f"manifests/{self.state.number:020}.manifest", "section": "state", "offset": 0}
            raise self.damage([finding | {"problem": problem}])

    @classmethod
    def create(cls, path: Path, state: Mapping[str, Any]) -> Store:
        """Make the directory with a first manifest, all of it or nothing, and open it for writing."""
        try:
            with _clear_errors(FileExistsError, FileNotFoundError, NotADirectoryError):
                return cls(path, _native.Store.create(path, _encode(state)), True)
        except FileExistsError:
            raise FileExistsError(
                f"{path.name} exists; open it with mode='a' to add to it, or choose another name"
            ) from None
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"the folder for {path.name} does not exist; make it first") from None

    @classmethod
    def open(cls, path: Path, *, writable: bool) -> Store:
        """Open the newest commit, checking the manifest and the length of every file that it lists."""
        try:
            return cls(path, _native.Store.open(path, writable), writable)
        except (FileNotFoundError, NotADirectoryError):
            raise _absent(path) from None

    @property
    def state(self) -> _native.State:
        """The state in force; its files stay in place as long as somebody holds it."""
        return self._now[0]

    @property
    def manifest(self) -> dict[str, Any]:
        """What that state says; never changed in place."""
        return self._now[1]

    @property
    def _now(self) -> tuple[_native.State, dict[str, Any]]:
        if self._held is None:
            raise closed(self.path)
        return self._held

    def frozen(self) -> Store:
        """Return a store of the state in force that follows no later one and writes nothing."""
        other = copy.copy(self)
        other.writable, other._frozen = False, True
        return other

    @property
    def is_snapshot(self) -> bool:
        """Whether this stays at one state."""
        return self._frozen

    def close(self) -> None:
        """Release the lock."""
        self.writable = False
        if not self._frozen:
            self._native.close()
        self._held = None

    def check_writable(self) -> None:
        """Raise unless a commit may be tried."""
        if self._frozen:
            raise ReadOnlyError(f"this is a snapshot of {self.path.name}, which does not change; change the collection")
        if self._held is None:
            raise closed(self.path)
        self._native.check_writable()

    def commit(
        self,
        parent: _native.State,
        changes: Mapping[str, Any],
        new: Mapping[str, Sections | Path],
        forget: bool = False,
    ) -> None:
        """Publish one new state, durable when this returns; it lists the files that its entries name, and no others.

        Parameters
        ----------
        parent : _native.State
            The state that the changes were made of; refused where another one is in force.
        changes : mapping
            Entries of the manifest that differ from its own.
        new : mapping of str to sections or Path
            Files by their name in the directory; a path is one that `draft_path` gave.
        forget : bool
            No earlier state may be kept, nor what only it lists.

        Raises
        ------
        Error
            Nothing was published: code ``disk_full`` where the device is full. The handle refuses to write from then
            on. With code ``stale`` it does not.
        CommitUnknownError
            The state was published and may or may not survive; opening again tells.
        """
        manifest = {**json.loads(parent.content), **changes}
        files = {name: str(value) if isinstance(value, Path) else list(value) for name, value in new.items()}
        named, listed = _named(manifest), parent.files.keys()
        if named - listed != files.keys():
            raise InternalError(f"the files of a change to {self.path.name} are not those that it names; report it")
        try:
            with _clear_errors():
                self._native.commit(parent.number, _encode(manifest), files, sorted(listed - named), forget)
        finally:
            self.follow()

    def new_name(self, folder: str, ending: str) -> str:
        """Return a name for a file that no file has or had."""
        return f"{folder}/{self._native.random()}.{ending}"

    def draft_path(self) -> Path:
        """Return where a file that another writer fills may lie until it is committed."""
        return Path(self._native.draft_path())

    def verify(self) -> None:
        """Read every listed byte; `CorruptIndexError` names the first damage and has all of it in `findings`."""
        findings = self.state.verify()
        if findings:
            raise self.damage(findings)

    def damage(self, findings: list[dict[str, Any]]) -> CorruptIndexError:
        """Return the error for some damage, at least one."""
        first = findings[0]
        damaged = len({finding["file"] for finding in findings})
        return CorruptIndexError(
            f"{self.path.name}/{first['file']} is damaged in section {first['section']} at byte {first['offset']} "
            f"({first['problem']}); {damaged} of {len(self.state.files) + 1} files are; restore them from a copy",
            findings=findings,
        )

    def repair(self) -> list[dict[str, Any]]:
        """Read every listed byte; leave graphs that are damaged out of the state, and return what else is."""
        findings = self.state.verify()
        derived = {finding["file"] for finding in findings if finding["file"].startswith("graphs/")}
        if derived:
            kept = [entry for entry in self.manifest["graphs"] if entry["file"] not in derived]
            self.commit(self.state, {"graphs": kept}, {})
        return [finding for finding in findings if finding["file"] not in derived]

    @staticmethod
    def remove(path: Path) -> None:
        """Remove a directory that nobody else knows, as far as that can be done."""
        _native.Store.remove(path)

    @staticmethod
    def states(path: Path) -> list[tuple[int, dict[str, Any] | None, list[dict[str, Any]]]]:
        """Return every state that is there, the newest first: its number, what it says if it is whole, and damage."""
        try:
            found = _native.Store.states(path)
        except (FileNotFoundError, NotADirectoryError):
            raise _absent(path) from None
        return [(number, None if state is None else json.loads(state), damage) for number, state, damage in found]

    @staticmethod
    def recover(path: Path, to: int) -> int:
        """Put the state of an earlier commit in force again, and return its new number."""
        try:
            with _clear_errors(FileNotFoundError, NotADirectoryError):
                return _native.Store.recover(path, to)
        except (FileNotFoundError, NotADirectoryError):
            raise _absent(path) from None

    def follow(self) -> None:
        """Take up the state in force, also after a commit whose call was interrupted once it was made."""
        if self._frozen:
            return
        state = self._native.state()
        if self._held is None or self._held[0].number != state.number:
            self._held = state, json.loads(state.content)


def closed(path: Path) -> Error:
    """Return the error for the use of a collection that was closed."""
    return Error(f"{path.name} was closed; open it again", code="closed")


def _named(manifest: Mapping[str, Any]) -> set[str]:
    """Return the files that a state's entries name."""
    segments = manifest["segments"]
    named = {name for entry in segments for name in (entry["file"], entry["locators"]) if name is not None}
    return named | {entry["file"] for entry in manifest["graphs"]} | set(manifest["tombstones"])


def _absent(path: Path) -> FileNotFoundError:
    return FileNotFoundError(f"there is no collection at {path.name}; check the path, or create it")


def _encode(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1).encode()


@contextmanager
def _clear_errors(*others: type[OSError]) -> Iterator[None]:
    """Turn the system's refusal to write into one sentence, but for the errors that others handle."""
    try:
        yield
    except OSError as error:
        if isinstance(error, others):
            raise
        if error.errno in _FULL:
            raise Error(
                "the disk is full or a size limit was reached, and nothing of this change was written; free some "
                "space and open the collection again",
                code="disk_full",
            ) from None
        reason = os.strerror(error.errno) if error.errno else "input/output error"
        raise Error(
            f"the collection could not be written ({reason.lower()}), and nothing of this change was; "
            "open it again once that is mended",
            code="write_failed",
        ) from None
