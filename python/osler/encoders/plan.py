"""What pulling an encoder would fetch: from which commit, which files with which hashes, and on what terms.

Asks the hub; writes nothing. What the registry and the hub say of a file is joined here, and a contradiction told.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from osler.encoders.entry import Entry, HubFile, Source, entries
from osler.encoders.hub import Commit, Hub, Remote
from osler.encoders.manifest import read_manifest
from osler.encoders.registry import home_folder, shipped, what_to_do
from osler.errors import EncoderError

__all__ = ["RECORD", "STAGING", "Plan", "PlannedFile", "plan_pull", "read_record"]

STAGING, RECORD = ".pull", "source.json"  # in the encoder's folder: what is not whole yet, and where all of it is from

# Licences that ask for no more than naming the authors and keeping the text.
_PERMISSIVE = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0", "ISC", "MIT", "MIT-0", "Unlicense"}
)
_BRANCH = "main"  # what a hub calls the branch with the newest commit


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of a pull.

    Attributes
    ----------
    repository, revision : str
        ``owner/name``, and a commit of it.
    remote : Remote
        What must arrive; where the registry has a hash, that one.
    place : str
        Path below `Plan.root`.
    checked : {"registry", "hub"}
        Whose hash is compared.
    """

    repository: str
    revision: str
    remote: Remote
    place: str
    checked: Literal["registry", "hub"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull will fetch, from where, on what terms; nothing was written.

    Attributes
    ----------
    entry : Entry
    source : Source
    hub : Hub
    folder : Path
        Where the encoder will lie.
    files : tuple of PlannedFile
    chosen : dict of str to str
        Repository to how its commit was chosen: "registry", "asked" or "newest".
    gate : str or None
        What must be accepted, as the registry or the hub says.
    hub_licence : str or None
        As the repository states it.
    """

    entry: Entry
    source: Source
    hub: Hub
    folder: Path
    files: tuple[PlannedFile, ...]
    chosen: dict[str, str]
    gate: str | None
    hub_licence: str | None

    @property
    def root(self) -> Path:
        """Where the files go: the encoder's folder, or ``checkpoint`` in it, out of which its files are made."""
        return self.folder / "checkpoint" if self.source.kind == "checkpoint" else self.folder

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.remote.size for file in self.files)

    @property
    def bring(self) -> tuple[str, ...]:
        """Files of the tokenizer that no repository has: the user must bring them before an export."""
        return self.entry.to_bring(self.source)

    @property
    def is_recorded(self) -> bool:
        """Whether source.json speaks of these files at these commits."""
        recorded = read_record(self.root).get("files")
        known = {(one.get("path"), one.get("revision")) for one in recorded or () if isinstance(one, dict)}
        return known == {(file.place, file.revision) for file in self.files}

    @property
    def must_accept(self) -> str | None:
        """Why the user must accept the terms first, or None: a permissive licence that nobody doubts, and no gate."""
        licence = self.entry.licence.id
        if self.gate is not None:
            return f"{self.entry.name} is gated ({self.gate})"
        if not set(re.split(r" AND | OR |[() ]", licence)) - {""} <= _PERMISSIVE:
            return f"{self.entry.name} has the licence {licence}"
        if {"licence", "gate"} & {field.partition(".")[0] for field in self.entry.uncertain}:
            return f"the licence of {self.entry.name} was not checked ({licence})"
        if self.hub_licence is not None and self.hub_licence.casefold() not in licence.casefold():
            return f"the repository of {self.entry.name} states the licence {self.hub_licence!r:.60}, not {licence}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        entry = self.entry
        return {
            "encoder": entry.name,
            "title": entry.title,
            "kind": self.source.kind,
            "licence": entry.licence.id,
            "licence_note": entry.licence.note,
            "hub_licence": self.hub_licence,
            "gate": self.gate,
            "must_accept": self.must_accept,
            "citation": entry.citation,
            "endpoint": self.hub.endpoint,
            "folder": str(self.folder),
            "bytes": self.bytes,
            "bring": list(self.bring),
            "files": [
                {
                    "path": file.place,
                    "repository": file.repository,
                    "revision": file.revision,
                    "revision_from": self.chosen[file.repository],
                    "from": file.remote.path,
                    "bytes": file.remote.size,
                    "sha256": file.remote.sha256,
                }
                for file in self.files
            ],
        }


def plan_pull(name: str, out: str | os.PathLike[str] | None = None, *, revision: str | None = None) -> Plan:
    """Ask the hub what pulling an encoder would fetch.

    Parameters
    ----------
    name : str
        Of the registry.
    out : path, optional
        The encoder's folder; by default the one in ``OSLER_HOME`` where its name is looked for.
    revision : str, optional
        Commit, branch or tag of the repository instead of the registry's commit; the registry's hashes are of the
        latter, so those of the hub are compared.

    Returns
    -------
    Plan

    Raises
    ------
    EncoderError
        There is no such encoder or it is not on a hub, the folder holds something else, the machine is offline, or the
        hub refuses; the message says what to do.

    Examples
    --------
    >>> from osler.encoders.plan import plan_pull
    >>> plan_pull("minilm")
    Traceback (most recent call last):
    osler.errors.EncoderError: minilm comes with osler; there is nothing to pull
    """
    if name in shipped():
        raise EncoderError(f"{name} comes with osler; there is nothing to pull", code="not_pullable")
    entry = entries().get(name)
    if entry is None:
        near = difflib.get_close_matches(name, list(entries()), n=1, cutoff=0.5)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise EncoderError(
            f"the registry has no encoder {name!r:.60}{meant}; osler encoder list names them", code="unknown_encoder"
        )
    source = _source(entry)
    folder = home_folder(name) if out is None else Path(os.path.abspath(out))
    _check_folder(folder, source.kind, name)
    hub = Hub()
    assert source.hub is not None
    commit = hub.commit(source.hub, revision or source.revision or _BRANCH, tuple(file.path for file in source.files))
    chosen = {source.hub: "asked" if revision else "registry" if source.revision else "newest"}
    pinned = source.revision in (None, commit.revision)
    known = {file.path: file for file in source.files} if pinned else {}
    files = [_planned(commit, path, known.get(path)) for path in commit.files]
    if source.kind == "checkpoint":
        files += _tokenizer_files(hub, entry, commit, chosen)
    gate = entry.gate or (f"accept the terms at {hub.page(source.hub)}" if commit.gated else None)
    plan = Plan(entry, source, hub, folder, tuple(files), chosen, gate, commit.licence)
    if plan.root != folder and (folder / "manifest.json").is_file() and not plan.is_recorded:
        raise EncoderError(
            "the encoder's folder holds an export of another commit; give another one with --out, or remove it",
            code="folder",
        )
    return plan


def _source(entry: Entry) -> Source:
    for kind in ("onnx", "checkpoint"):
        source = entry.source(kind)
        if entry.impossible is None and source is not None and source.hub is not None:
            return source
    raise EncoderError(f"{entry.name} cannot be pulled ({what_to_do(entry)})", code="not_pullable")


def _check_folder(folder: Path, kind: str, name: str) -> None:
    """Refuse a folder that holds what no pull of this encoder put there, before anything is fetched."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise EncoderError("the encoder's folder is a file or a link; give another one", code="folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    root = folder
    if kind == "checkpoint":
        root = folder / "checkpoint"
        exported = "manifest.json" in names and read_manifest(folder).entry == name
        if names - {"checkpoint"} and not exported:
            raise _occupied()
        names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if names - {STAGING} and read_record(root).get("entry") != name:
        raise _occupied()


def _occupied() -> EncoderError:
    return EncoderError(
        "the encoder's folder holds files that no pull of it put there; give an empty one with --out, or move them",
        code="folder",
    )


def read_record(root: Path) -> dict[str, Any]:
    """Return what source.json says, or an empty dict.

    Examples
    --------
    >>> from pathlib import Path
    >>> from osler.encoders.plan import read_record
    >>> read_record(Path("no such folder"))
    {}
    """
    try:
        record = json.loads((root / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _planned(commit: Commit, path: str, known: HubFile | None) -> PlannedFile:
    """Join what the registry and the hub say of a file; where they contradict each other nothing is fetched."""
    remote = commit.files[path]
    size, sha256 = (known.size, known.sha256) if known is not None else (None, None)
    if size not in (None, remote.size) or (remote.sha256 and sha256 not in (None, remote.sha256)):
        raise EncoderError(
            f"{commit.repository}: the hub declares another {path} at commit {commit.revision[:12]} than the registry "
            "expects, and nothing was fetched; a newer release of osler may know it, and --revision names another of "
            "the weights",
            code="hash_mismatch",
        )
    wanted = Remote(path, remote.size, sha256 or remote.sha256, remote.git_sha1)
    if wanted.sha256 is None and wanted.git_sha1 is None:
        raise EncoderError(
            f"{commit.repository}: neither the hub nor the registry has a hash of {path}, so it cannot be checked",
            code="network",
        )
    if path in (RECORD, "manifest.json") or path.startswith(".") or path.endswith((".part", ".part.json")):
        raise EncoderError(f"{commit.repository}: {path} would lie where osler keeps its own; please report it")
    return PlannedFile(commit.repository, commit.revision, wanted, path, "registry" if sha256 else "hub")


def _tokenizer_files(hub: Hub, entry: Entry, commit: Commit, chosen: dict[str, str]) -> list[PlannedFile]:
    """Plan the tokenizer where it lies in another repository than the weights."""
    tokenizer = entry.text.tokenizer if entry.text is not None else None
    if tokenizer is None or tokenizer.hub is None:
        return []
    there = tuple(path for path in tokenizer.files if path not in commit.files)
    if not there:
        return []
    same = tokenizer.hub == commit.repository
    other = hub.commit(tokenizer.hub, commit.revision if same else tokenizer.revision or _BRANCH, there)
    chosen.setdefault(tokenizer.hub, "registry" if tokenizer.revision else "newest")
    return [_planned(other, path, HubFile(path=path, sha256=tokenizer.sha256.get(path))) for path in there]
