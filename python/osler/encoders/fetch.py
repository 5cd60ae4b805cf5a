"""`osler encoder pull`: an encoder of the registry from a hub to a folder that works without a network from then on.

Writes the encoder's folder: into ``.pull`` there until every file is whole, checked and proved to run, then to its
place, the manifest last. ``source.json`` says repository, commit and SHA-256 of every file. Asks what `download` asks.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from osler.config import settings
from osler.encoders.download import download, hash_file, sync_folder
from osler.encoders.manifest import FolderFile, Manifest, read_manifest
from osler.encoders.plan import RECORD, STAGING, Plan, PlannedFile, plan_pull
from osler.encoders.ready import manifest_of, missing_runtime, prove
from osler.encoders.registry import describe, home_folder
from osler.errors import EncoderError
from osler.progress import Callback, notice, track

__all__ = ["Pulled", "plan_pull", "pull_encoder"]

_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did.

    Attributes
    ----------
    name : str
    folder : Path
    state : {"ready", "not run", "checkpoint"}
        "not run": whole, but the runtime is not installed here. "checkpoint": weights that still must be exported.
    fetched : int
        Files that came over the network; 0 where all were there.
    sha256 : dict of str to str
        Of every file that was pulled, by its path.
    fingerprint : str or None
    next : str or None
        The command that is left to run; FOLDER in it stands for where the user has `bring`.
    bring : tuple of str
        Files of the tokenizer that no repository has, and that are not beside the weights either.
    """

    name: str
    folder: Path
    state: Literal["ready", "not run", "checkpoint"]
    fetched: int
    sha256: dict[str, str]
    fingerprint: str | None
    next: str | None
    bring: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values."""
        fields = ("state", "fetched", "sha256", "fingerprint", "next")
        values = {name: getattr(self, name) for name in fields}
        return {"encoder": self.name, "folder": str(self.folder), **values, "bring": list(self.bring)}


def pull_encoder(plan: Plan, *, accept_licence: bool = False, progress: bool | Callback = False) -> Pulled:
    """Fetch what is planned, check it, and make an encoder of it.

    Files that are there and right are not fetched again, and a pull that was broken off is gone on with. Of two pulls
    into one folder the second waits.

    Parameters
    ----------
    plan : Plan
    accept_licence : bool
        The user has seen and accepts the terms; needed where `Plan.must_accept` says why.
    progress : bool or callable
        See `osler.progress.track`; in bytes.

    Returns
    -------
    Pulled

    Raises
    ------
    EncoderError
        ``licence``: the terms were not accepted; ``hash_mismatch``, ``network``, ``disk_full``; or the files are no
        encoder of the kind that the registry describes. An encoder that was in the folder before is then as it was.
    OSError
        The folder cannot be written.

    Examples
    --------
    >>> from osler.encoders.fetch import plan_pull, pull_encoder
    >>> pull_encoder(plan_pull("biomedclip"), accept_licence=True)  # doctest: +SKIP
    """
    if plan.must_accept is not None and not accept_licence:
        raise EncoderError(f"{plan.must_accept}; accept its terms with --accept-licence", code="licence")
    with _alone(plan) as staging:
        hashes = _hashes_here(plan)
        missing = [file for file in plan.files if file.place not in hashes]
        if missing:
            hashes |= _fetch(plan, missing, staging, progress)
        if plan.source.kind == "onnx":
            manifest = _manifest(plan, hashes)
            if missing or not plan.is_recorded or _manifest_here(plan.folder) != manifest:
                _stage_present(plan, missing, staging)
                prove(manifest, staging)
                _publish(plan, hashes, missing, staging, manifest, accept_licence)
        elif missing or not plan.is_recorded:
            _publish(plan, hashes, missing, staging, None, accept_licence)
        return _finish(plan, hashes, len(missing))


@contextlib.contextmanager
def _alone(plan: Plan) -> Iterator[Path]:
    """Hold the folder's lock; it lies in the staging folder and goes with it when the work is done."""
    staging = plan.root / STAGING
    if plan.folder == home_folder(plan.entry.name):
        settings().cache("models")
    while True:
        staging.mkdir(parents=True, exist_ok=True)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(staging / _LOCK, flags, 0o600)
        except FileNotFoundError:  # who held it has just finished
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notice(f"osler: another pull of {plan.entry.name} is at work; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(staging / _LOCK)):
                break
        os.close(descriptor)
    try:
        yield staging
        for path in staging.iterdir():  # the lock last: until then nobody else begins
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (staging / _LOCK).unlink()
        with contextlib.suppress(OSError):
            staging.rmdir()
    finally:
        os.close(descriptor)


def _hashes_here(plan: Plan) -> dict[str, str]:
    """Return the SHA-256 of each planned file that lies in its place already, whole and right."""
    if not (plan.root / RECORD).is_file():
        return {}
    found = {file.place: hash_file(plan.root / file.place, file.remote) for file in plan.files}
    return {place: sha256 for place, sha256 in found.items() if sha256 is not None}


def _fetch(plan: Plan, missing: list[PlannedFile], staging: Path, progress: bool | Callback) -> dict[str, str]:
    total = sum(file.remote.size for file in missing)
    kept = sum(_size(staging / file.place) or _size(staging / f"{file.place}.part") for file in missing)
    free = shutil.disk_usage(staging).free
    if total - kept > free:
        raise EncoderError(
            f"{(total - kept) / 1e6:,.0f} MB are to be fetched and {free / 1e6:,.0f} MB are free; free some space, or "
            "give another place with --out",
            code="disk_full",
        )
    hashes, done = {}, 0
    with track(progress, f"fetching {plan.entry.name}", total) as step:
        for file in missing:
            place = staging / file.place
            place.parent.mkdir(parents=True, exist_ok=True)
            sha256 = hash_file(place, file.remote)  # left by a pull that was broken off
            hashes[file.place] = sha256 or download(
                plan.hub, file.repository, file.revision, file.remote, place, _from(step, done, total)
            )
            done += file.remote.size
            step(done, total)
    return hashes


def _from(step: Callback, done: int, total: int) -> Callable[[int], object]:
    return lambda count: step(done + count, total)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _manifest(plan: Plan, hashes: dict[str, str]) -> Manifest:
    sizes = {file.place: file.remote.size for file in plan.files}
    return manifest_of(
        plan.entry, plan.source, lambda path: FolderFile(path=path, sha256=hashes[path], size=sizes[path])
    )


def _manifest_here(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except EncoderError:
        return None


def _stage_present(plan: Plan, missing: list[PlannedFile], staging: Path) -> None:
    """Put what was there already beside what was fetched, so that the whole is proved before anything is replaced."""
    for file in plan.files:
        if file not in missing:
            place = staging / file.place
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            try:
                os.link(plan.root / file.place, place)
            except OSError:
                shutil.copyfile(plan.root / file.place, place)


def _publish(
    plan: Plan,
    hashes: dict[str, str],
    missing: list[PlannedFile],
    staging: Path,
    manifest: Manifest | None,
    accepted: bool,
) -> None:
    """Move everything to its place, the manifest last: a folder without one is no encoder yet, never a mixture."""
    if manifest is not None:
        (plan.folder / "manifest.json").unlink(missing_ok=True)
    _write(staging / RECORD, _record(plan, hashes, accepted))
    os.replace(staging / RECORD, plan.root / RECORD)
    for file in missing:
        place = plan.root / file.place
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / file.place, place)
        sync_folder(place.parent)
    if manifest is not None:
        _write(staging / "manifest.json", manifest.model_dump(mode="json"))
        os.replace(staging / "manifest.json", plan.folder / "manifest.json")
    sync_folder(plan.root)


def _record(plan: Plan, hashes: dict[str, str], accepted: bool) -> dict[str, Any]:
    return {
        "version": 1,
        "entry": plan.entry.name,
        "kind": plan.source.kind,
        "endpoint": plan.hub.endpoint,
        "licence": plan.entry.licence.id,
        "gate": plan.gate,
        "accepted": accepted,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": [
            {
                "path": file.place,
                "repository": file.repository,
                "revision": file.revision,
                "revision_from": plan.chosen[file.repository],
                "from": file.remote.path,
                "size": file.remote.size,
                "sha256": hashes[file.place],
                "checked_against": file.checked,
            }
            for file in plan.files
        ],
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def _finish(plan: Plan, hashes: dict[str, str], fetched: int) -> Pulled:
    name, folder = plan.entry.name, plan.folder
    if plan.source.kind == "checkpoint" and not (folder / "manifest.json").is_file():
        bring = tuple(file for file in plan.bring if not (plan.root / file).is_file())
        tokenizer = " --tokenizer FOLDER" if bring else ""
        target = f" --out {shlex.quote(str(folder))}" if folder != home_folder(name) else ""
        command = f"osler encoder export {name} --checkpoint {shlex.quote(str(plan.root))}{tokenizer}{target}"
        if bring or any(importlib.util.find_spec(module) is None for module in ("torch", "osler.encoders.export")):
            return Pulled(name, folder, "checkpoint", fetched, hashes, None, command, bring)
        from osler.encoders.export import export_encoder

        export_encoder(name, plan.root, folder)
    description = describe(folder)
    runs = missing_runtime(description.manifest) is None
    return Pulled(name, folder, "ready" if runs else "not run", fetched, hashes, description.fingerprint, None)
