"""A collection directory: immutable files, numbered immutable manifests, and the commit that publishes one.

The only module that writes below the directory. Order of a commit: new files under ``tmp``, synced, renamed, their
directories synced; the manifest likewise, published by a link that replaces nothing. storage.md, "Two shapes on disk".
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import secrets
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from osler.errors import CommitUnknownError, CorruptIndexError, Error, FormatVersionError, LockedError, ReadOnlyError

__all__ = ["FORMAT_VERSION", "Store"]

FORMAT_VERSION = 1
_OLDEST_READABLE = 1
_MAGIC = "osler collection"
_FOLDERS = ("index", "locators", "manifests", "segments", "tmp", "tombstones")
# Manifests that outlive their successor, so that a reader that just opened one still finds its files.
_RETAINED = 4
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Source = bytes | Path


class Store:
    """One directory at one commit; made by `create` or `open`.

    Attributes
    ----------
    path : Path
    id : str
        Random id of the directory.
    manifest : dict
        The state in force; never changed in place.
    writable : bool
    """

    def __init__(self, path: Path, identity: str, manifest: dict[str, Any], lock: _Lock | None) -> None:
        self.path = path
        self.id = identity
        self.manifest = manifest
        self._lock = lock
        self._refusal: str | None = None
        self._retained: dict[int, frozenset[str]] = {}
        if lock is not None:
            self._sweep()

    @classmethod
    def create(cls, path: Path, state: Mapping[str, Any]) -> Store:
        """Make the directory with a first manifest, all of it or nothing, and open it for writing."""
        if path.exists() or path.is_symlink():
            raise FileExistsError(f"{path.name} exists; open it with mode='a' to add to it, or choose another name")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"the folder for {path.name} does not exist; make it first")
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        identity = secrets.token_hex(16)
        try:
            with _clear_errors():
                _make_folder(draft)
                for name in _FOLDERS:
                    _make_folder(draft / name)
                text = json.dumps({"magic": _MAGIC, "version": FORMAT_VERSION, "id": identity}) + "\n"
                _write(draft / "FORMAT", text.encode())
                _write(draft / "LOCK", b"")
                manifest = {**state, "commit": 0, "commit_id": secrets.token_hex(16), "parent": None, "files": {}}
                _write(draft / _manifest_name(0), _encode(manifest))
                for folder in (draft / "manifests", draft):
                    _sync_folder(folder)
                os.rename(draft, path)
                _sync_folder(path.parent)
        finally:
            if draft.exists():
                shutil.rmtree(draft, ignore_errors=True)
        return cls.open(path, writable=True)

    @classmethod
    def open(cls, path: Path, *, writable: bool) -> Store:
        """Open the newest commit, checking the manifest and the length of every file that it lists."""
        if not path.is_dir():
            raise FileNotFoundError(f"there is no collection at {path.name}; check the path, or create it")
        identity = _read_format(path)
        lock = _Lock(path) if writable else None
        try:
            return cls(path, identity, _newest_manifest(path), lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @property
    def writable(self) -> bool:
        """Whether this handle holds the writer's lock."""
        return self._lock is not None

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check_writable(self) -> None:
        """Raise unless a commit may be tried."""
        if self._lock is None:
            raise ReadOnlyError(f"{self.path.name} was opened for reading; open it with mode='a' to change it")
        if self._refusal is not None:
            raise Error(self._refusal, code="write_failed")

    def commit(self, changes: Mapping[str, Any], new: Mapping[str, Source], drop: frozenset[str] = frozenset()) -> None:
        """Publish one new state, durable when this returns.

        Parameters
        ----------
        changes : mapping
            Entries of the manifest that differ from those in force.
        new : mapping of str to bytes or Path
            Files by their name in the directory; a path names a file that lies in ``tmp`` already.
        drop : frozenset of str
            Names that the new state no longer lists.

        Raises
        ------
        Error
            Nothing was written: code ``disk_full`` where the device is full. The handle refuses to write from then on.
        CommitUnknownError
            The state was published and may or may not survive; opening again tells.
        """
        self.check_writable()
        published = False
        placed: list[Path] = []
        try:
            with _clear_errors():
                files = {name: entry for name, entry in self.manifest["files"].items() if name not in drop}
                for name, source in new.items():
                    staged = self._stage(source)
                    files[name] = {"bytes": staged.stat().st_size, "sha256": file_hash(staged)}
                    target = self.path / name
                    if target.exists():
                        raise FileExistsError(errno.EEXIST, "random name taken", target.name)
                    placed.append(target)
                    if not target.parent.is_dir():
                        _make_folder(target.parent)
                    os.rename(staged, target)
                for folder in sorted({path.parent for path in placed}):
                    _sync_folder(folder)
                    _sync_folder(folder.parent)
                number = self.manifest["commit"] + 1
                manifest = {
                    **self.manifest,
                    **changes,
                    "commit": number,
                    "commit_id": secrets.token_hex(16),
                    "parent": hashlib.sha256(_encode(self.manifest)).hexdigest(),
                    "files": files,
                }
                published_name = self.path / _manifest_name(number)
                draft = self._stage(_encode(manifest))
                os.link(draft, published_name)
                published = True
                _sync_folder(published_name.parent)
                draft.unlink()
        except BaseException as error:
            self._refusal = f"an earlier write to {self.path.name} failed; open it again to see what it holds"
            if published:
                if isinstance(error, Exception):
                    raise CommitUnknownError(
                        f"the last change to {self.path.name} may or may not last; open it again to see"
                    ) from None
                raise
            for path in placed:
                _remove(path)
            self._sweep_drafts()
            if isinstance(error, FileExistsError):
                raise LockedError(f"another process wrote to {self.path.name}; open it again") from None
            raise
        self.manifest = manifest
        self._retained[number] = frozenset(files)
        self._collect()

    def stage_path(self) -> Path:
        """Return a fresh name under ``tmp`` for a file that another writer fills."""
        return self.path / "tmp" / secrets.token_hex(16)

    def read(self, name: str) -> bytes:
        """Return a listed file's bytes after checking its hash."""
        data = self._existing(name).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise corrupt(self.path, name, "its bytes are not those that were written")
        return data

    def mapped(self, name: str) -> Mapped:
        """Return a listed file, mapped and not checked yet."""
        with open(self._existing(name), "rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return Mapped(self.path, name, data, self.manifest["files"][name]["sha256"])

    def check(self, name: str) -> Path:
        """Return the path of a listed file after checking its hash."""
        path = self._existing(name)
        if file_hash(path) != self.manifest["files"][name]["sha256"]:
            raise corrupt(self.path, name, "its bytes are not those that were written")
        return path

    def verify(self) -> None:
        """Read every listed byte; `CorruptIndexError` names the first damage and has all of it in `findings`."""
        findings: list[dict[str, Any]] = []
        for name in sorted(self.manifest["files"]):
            try:
                self.check(name)
            except CorruptIndexError as error:
                findings.extend(error.findings)
        if findings:
            raise CorruptIndexError(
                f"{self.path.name}/{findings[0]['file']} is damaged ({findings[0]['problem']}); {len(findings)} of "
                f"{len(self.manifest['files'])} files are; restore them from a copy",
                findings=findings,
            )

    def superseded(self, name: str) -> bool:
        """Say whether a later commit no longer lists a file."""
        return _is_stale(self.path, self.manifest["commit"], name)

    def _existing(self, name: str) -> Path:
        path = self.path / name
        listed = self.manifest["files"].get(name)
        if listed is None:
            raise _stale(self.path)
        problem = _length_problem(path, listed["bytes"])
        if problem is not None:
            if self.superseded(name):
                raise _stale(self.path)
            raise corrupt(self.path, name, problem)
        return path

    def _stage(self, source: Source) -> Path:
        if isinstance(source, Path):
            os.chmod(source, 0o600)
            _sync_file(source)
            return source
        path = self.stage_path()
        _write(path, source)
        return path

    def _sweep(self) -> None:
        """Remove what earlier writers left unfinished, under the lock."""
        self._sweep_drafts()
        newest = self.manifest["commit"]
        self._retained = {newest: frozenset(self.manifest["files"])}
        for number, path in _manifests(self.path):
            if number != newest and len(self._retained) < _RETAINED:
                with suppress(CorruptIndexError):
                    self._retained[number] = frozenset(_decode(path, path.read_bytes())["files"])
        self._collect(everything=True)

    def _sweep_drafts(self) -> None:
        for path in (self.path / "tmp").iterdir():
            with suppress(OSError):
                path.unlink()

    def _collect(self, everything: bool = False) -> None:
        """Remove manifests beyond the retained ones, then the files that none of those lists."""
        gone: set[str] = set()
        for number in sorted(self._retained)[:-_RETAINED]:
            gone |= self._retained.pop(number)
            with suppress(OSError):
                (self.path / _manifest_name(number)).unlink()
        live = frozenset().union(*self._retained.values())
        if everything:
            for folder in ("index", "locators", "segments", "tombstones"):
                found = (path for path in (self.path / folder).rglob("*") if path.is_file())
                gone |= {path.relative_to(self.path).as_posix() for path in found}
            for number, path in _manifests(self.path):
                if number not in self._retained:
                    with suppress(OSError):
                        path.unlink()
        for name in gone - live:
            _remove(self.path / name)
        if everything:
            # A writer that was killed before it moved the first file of a segment leaves a folder without any.
            for segment in (self.path / "segments").iterdir():
                with suppress(OSError):
                    segment.rmdir()


class Mapped(NamedTuple):
    """A file in memory that stays readable after a later commit has removed it."""

    root: Path
    name: str
    data: mmap.mmap
    sha256: str

    def checked(self) -> mmap.mmap:
        """Return the bytes after checking their hash."""
        if hashlib.sha256(self.data).hexdigest() != self.sha256:
            raise corrupt(self.root, self.name, "its bytes are not those that were written")
        return self.data


class _Lock:
    """The writer's lock: `flock`, so that it dies with its process."""

    # Of an object whose LOCK could not be opened, which is collected all the same.
    _handle = -1

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.forget()
            raise LockedError(
                f"{path.name} is being written to by process {holder}; wait for it, or open with mode='r'"
            ) from None
        with suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        _held.add(self)

    def release(self) -> None:
        if self._handle >= 0:
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Close the descriptor without unlocking: what a child does with the lock of its parent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __del__(self) -> None:
        self.forget()


# A forked child shares its parent's descriptors, and would hold the lock after the parent's death.
_held: weakref.WeakSet[_Lock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def corrupt(root: Path, name: str, problem: str, section: str = "file", offset: int = 0) -> CorruptIndexError:
    """Return the error for one damaged file."""
    finding = {"file": name, "section": section, "offset": offset, "problem": problem}
    return CorruptIndexError(f"{root.name}/{name} is damaged ({problem}); restore it from a copy", findings=[finding])


def _stale(root: Path) -> Error:
    return Error(f"{root.name} has been changed and cleaned up since it was opened; open it again", code="stale")


def _is_stale(root: Path, commit: int, name: str) -> bool:
    """Say whether a later commit no longer lists a file, so that its absence is no damage."""
    for number, path in _manifests(root)[:1]:
        if number > commit:
            with suppress(CorruptIndexError, OSError):
                return name not in _decode(path, path.read_bytes())["files"]
    return False


def _read_format(path: Path) -> str:
    try:
        raw = (path / "FORMAT").read_bytes()
    except FileNotFoundError:
        if (path / "manifests").is_dir():
            raise corrupt(path, "FORMAT", "it is missing") from None
        raise ValueError(f"{path.name} is not an Osler collection: it has no FORMAT file") from None
    try:
        found = json.loads(raw)
        magic, version, identity = found["magic"], found["version"], found["id"]
    except (ValueError, KeyError, TypeError):
        raise corrupt(path, "FORMAT", "it cannot be read") from None
    if magic != _MAGIC or not isinstance(version, int) or not isinstance(identity, str):
        raise corrupt(path, "FORMAT", "it cannot be read")
    if not _OLDEST_READABLE <= version <= FORMAT_VERSION:
        raise FormatVersionError(
            f"{path.name} has format version {version}, this Osler reads {_OLDEST_READABLE} to {FORMAT_VERSION}; "
            "open it with the version of Osler that wrote it, or a newer one"
        )
    return identity


def _newest_manifest(path: Path) -> dict[str, Any]:
    for _ in range(_RETAINED):
        found = _manifests(path)
        if not found:
            raise corrupt(path, "manifests", "there is no manifest")
        number, newest = found[0]
        try:
            raw = newest.read_bytes()
            break
        except FileNotFoundError:
            # A writer published several commits since the folder was listed.
            continue
    else:
        raise corrupt(path, f"manifests/{newest.name}", "it is missing")
    manifest = _decode(newest, raw)
    if manifest["commit"] != number:
        raise corrupt(path, newest.relative_to(path).as_posix(), "its number is not that of its name")
    for name, entry in manifest["files"].items():
        problem = _length_problem(path / name, entry["bytes"])
        # A graph is derived: without it the rows are still all there.
        if problem is not None and not name.startswith("index/"):
            if _is_stale(path, number, name):
                raise _stale(path)
            raise corrupt(path, name, problem)
    return manifest


def _manifests(path: Path) -> list[tuple[int, Path]]:
    """Return the manifests, newest first; names of any other shape are not ours."""
    found = (path / "manifests").glob("*.json")
    return sorted(((int(p.stem), p) for p in found if len(p.stem) == 20 and p.stem.isdigit()), reverse=True)


def _manifest_name(number: int) -> str:
    return f"manifests/{number:020d}.json"


def _encode(manifest: Mapping[str, Any]) -> bytes:
    body = json.dumps(manifest, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f'{{"sha256": "{digest}", "manifest":\n{body}}}\n'.encode()


def _decode(path: Path, raw: bytes) -> dict[str, Any]:
    name = f"manifests/{path.name}"
    root = path.parent.parent
    try:
        manifest = json.loads(raw)["manifest"]
        sound = isinstance(manifest, dict) and _encode(manifest) == raw
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise corrupt(root, name, "its bytes are not those that were written")
    return dict(manifest)


def _length_problem(path: Path, length: int) -> str | None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return "it is missing"
    return None if found == length else f"it has {found} bytes where {length} were written"


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
    if path.parent.parent.name == "segments":
        with suppress(OSError):
            path.parent.rmdir()


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chmod(path, 0o700)


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(handle, 0o600)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_sync_folder: Callable[[Path], None] = _sync_file


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn the system's refusal to write into one sentence."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
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
