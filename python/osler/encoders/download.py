"""Brings one file of a hub: whole and with the right hash under its name, or not at all.

Writes ``NAME.part`` and ``NAME.part.json`` beside the place it is given; a part that was left behind, by a lost
connection or a killed process, is gone on with. Requests are those of `hub`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from osler.encoders.hub import Hub, Remote, Reply, Transient, patiently
from osler.errors import EncoderError

__all__ = ["Hashes", "download", "hash_file", "sync_folder"]

_BLOCK = 1 << 20
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")


class Hashes:
    """SHA-256 of a content, and its name as a git blob, both while it streams by."""

    def __init__(self, size: int) -> None:
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def update(self, content: bytes) -> None:
        """Take the next bytes."""
        self._sha256.update(content)
        self._git.update(content)

    @property
    def sha256(self) -> str:
        """In hexadecimal."""
        return self._sha256.hexdigest()

    def fit(self, remote: Remote) -> bool:
        """Tell whether every hash that is declared is the one of the content."""
        pairs = ((remote.sha256, self.sha256), (remote.git_sha1, self._git.hexdigest()))
        return any(declared for declared, _ in pairs) and all(declared in (None, found) for declared, found in pairs)


def hash_file(path: Path, remote: Remote) -> str | None:
    """Return the SHA-256 of a file if it is the one that is declared, else None.

    Parameters
    ----------
    path : Path
    remote : Remote

    Returns
    -------
    str or None
    """
    try:
        if path.is_symlink() or path.stat().st_size != remote.size:
            return None
        hashes = Hashes(remote.size)
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                hashes.update(block)
    except OSError:
        return None
    return hashes.sha256 if hashes.fit(remote) else None


def download(
    hub: Hub, repository: str, revision: str, remote: Remote, place: Path, step: Callable[[int], object]
) -> str:
    """Bring a file to its place and return its SHA-256; what was there is replaced once the new one is whole.

    Parameters
    ----------
    hub : Hub
    repository : str
    revision : str
        A commit.
    remote : Remote
        With a hash.
    place : Path
        In a folder that nobody else writes to.
    step : callable
        Gets the number of bytes that lie on disk after each block.

    Returns
    -------
    str

    Raises
    ------
    EncoderError
        ``hash_mismatch``: the content is not the one that is declared, and nothing of it is kept; or as `Hub.commit`.
    OSError
        It cannot be written; what came so far is kept.
    """
    part = _Part(place, remote)
    try:
        step(part.count)
        patiently(lambda: _attempt(hub, repository, revision, part, step), lambda: part.count)
        return part.finish()
    finally:
        part.close()


class _Part:
    """What has come of a file: its bytes, their hashes, and the ETag under which the server gave them."""

    def __init__(self, place: Path, remote: Remote) -> None:
        self.place, self.remote = place, remote
        self.path = place.with_name(f"{place.name}.part")
        self._record = place.with_name(f"{place.name}.part.json")
        self._hashes = Hashes(remote.size)
        self.count = 0
        self.etag: str | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._stream = os.fdopen(os.open(self.path, flags, 0o644), "r+b", buffering=0)
        try:
            self._go_on()
        except BaseException:
            self.close()
            raise

    def _go_on(self) -> None:
        """Take up what an earlier attempt left, unless it is of another content or longer than it may be."""
        try:
            record = json.loads(self._record.read_bytes())
        except (OSError, ValueError):
            record = None
        expected = self._expected(record.get("etag") if isinstance(record, dict) else None)
        if record != expected or os.fstat(self._stream.fileno()).st_size > self.remote.size:
            self.reset(None)
            return
        self.etag = expected["etag"]
        while block := self._stream.read(_BLOCK):
            self._hashes.update(block)
            self.count += len(block)

    def _expected(self, etag: str | None) -> dict[str, str | None]:
        return {"etag": etag, "sha256": self.remote.sha256, "git_sha1": self.remote.git_sha1}

    def reset(self, etag: str | None) -> None:
        """Begin anew; the record follows the emptied file, so that it never speaks of other bytes."""
        self._stream.seek(0)
        self._stream.truncate()
        self._hashes, self.count, self.etag = Hashes(self.remote.size), 0, etag
        self._record.write_text(json.dumps(self._expected(etag)))

    def write(self, content: bytes) -> None:
        """Append bytes; more than were declared end the download."""
        if self.count + len(content) > self.remote.size:
            self.discard()
            raise EncoderError(
                f"{self.remote.path}: the server sends more than the {self.remote.size} bytes that were declared, "
                "and nothing of it was kept; check HF_ENDPOINT and the proxy",
                code="hash_mismatch",
            )
        view = memoryview(content)
        while view:
            view = view[self._stream.write(view) or 0 :]
        self._hashes.update(content)
        self.count += len(content)

    def finish(self) -> str:
        """Give the file its name, if its hash is right."""
        if self.count != self.remote.size or not self._hashes.fit(self.remote):
            self.discard()
            kind = "SHA-256" if self.remote.sha256 else "git hash"
            raise EncoderError(
                f"{self.remote.path} does not have the {kind} that is expected, and nothing of it was kept; run the "
                "same command again, and if it fails again check HF_ENDPOINT and the proxy",
                code="hash_mismatch",
            )
        os.fsync(self._stream.fileno())
        os.replace(self.path, self.place)
        sync_folder(self.place.parent)
        self._record.unlink(missing_ok=True)
        return self._hashes.sha256

    def discard(self) -> None:
        """Leave nothing."""
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)

    def close(self) -> None:
        self._stream.close()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _attempt(hub: Hub, repository: str, revision: str, part: _Part, step: Callable[[int], object]) -> None:
    remote = part.remote
    if part.count and part.etag is None:
        part.reset(None)
    if part.count == remote.size and part.count:
        return
    headers = {"Range": f"bytes={part.count}-", "If-Range": part.etag} if part.count and part.etag else {}
    with hub.content(repository, revision, remote.path, headers) as reply:
        _check_declared(reply, revision, remote)
        _begin(reply, part)
        for chunk in reply.chunks():
            part.write(chunk)
            step(part.count)
    if part.count < remote.size:
        raise Transient(f"{remote.path} breaks off before its end")


def _check_declared(reply: Reply, revision: str, remote: Remote) -> None:
    """Notice before the first byte that the hub is about to send something else than it listed."""
    commit, tag = reply.declared.get("x-repo-commit"), reply.declared.get("x-linked-etag", "").strip('"')
    size = reply.declared.get("x-linked-size")
    wrong = commit not in (None, revision) or size not in (None, str(remote.size))
    if wrong or (remote.sha256 is not None and len(tag) == 64 and tag != remote.sha256):
        raise EncoderError(
            f"{remote.path}: the hub offers another content than the one that is expected; nothing was fetched",
            code="hash_mismatch",
        )


def _begin(reply: Reply, part: _Part) -> None:
    """Make the part fit to what follows: the rest of it, or all of it from the start."""
    tag = reply.headers.get("etag")
    strong = tag if tag is not None and not tag.startswith("W/") else None
    if reply.status == 200:
        part.reset(strong)
        return
    found = _RANGE.fullmatch(reply.headers.get("content-range", ""))
    plain = reply.headers.get("content-encoding", "identity") == "identity"
    goes_on = found is not None and (int(found[1]), int(found[2])) == (part.count, part.remote.size)
    if reply.status != 206 or not plain or not goes_on or strong not in (None, part.etag):
        part.reset(None)
        raise Transient(f"{part.remote.path} changed on the server while it was fetched")
