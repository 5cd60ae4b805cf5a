"""Which encoders there are by name, whether each can run here, and where the towers of one lie.

Reads manifests, entries of the registry and the metadata of installed packages; opens no weights. What ships with osler
lies below `entry.registry_root`; what a user pulled or exported without a folder of his own, in ``OSLER_HOME``/models.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.config import settings
from osler.encoders.convert import check_packages, is_converted
from osler.encoders.entry import Entry, entries, registry_root
from osler.encoders.files import locate, parts_of
from osler.encoders.manifest import (
    BorrowedTower,
    FolderFile,
    ImageTower,
    Manifest,
    PackageFile,
    Projection,
    TextTower,
    fingerprint,
    read_manifest,
)
from osler.encoders.providers import Device, check_device
from osler.errors import EncoderError

__all__ = [
    "Description",
    "EncoderInfo",
    "Placed",
    "anchor_of",
    "describe",
    "ensure_ready",
    "home_folder",
    "list_encoders",
    "shipped",
    "what_to_do",
]


@dataclass(frozen=True, slots=True)
class Placed:
    """A tower, the manifest and folder it comes from, and the projections that a borrower adds."""

    tower: ImageTower | TextTower
    manifest: Manifest
    folder: Path
    added: tuple[tuple[Projection, Path], ...] = ()

    @property
    def projections(self) -> tuple[tuple[Projection, Path], ...]:
        """All projections in order, each with the folder of its file."""
        own = () if self.tower.projection is None else ((self.tower.projection, self.folder),)
        return (*own, *self.added)

    @property
    def files(self) -> tuple[tuple[FolderFile | PackageFile, Path], ...]:
        """Every file that the tower needs, each with its folder."""
        files = [(part, self.folder) for part in parts_of(self.tower.file)]
        files += [(file, self.folder) for file in self.tower.external]
        if isinstance(self.tower, TextTower):
            files.append((self.tower.tokenizer, self.folder))
        if self.tower.converter is not None and self.manifest.golden is not None:
            files.append((self.manifest.golden.file, self.folder))
        return (*files, *((projection.file, folder) for projection, folder in self.projections))


@dataclass(frozen=True, slots=True)
class Description:
    """An encoder before anything of it runs.

    Attributes
    ----------
    address : str
        What `load_encoder` takes to find it again: a registry name or an absolute folder.
    manifest : Manifest
    folder : Path
    image, text : Placed or None
    fingerprint : str
    """

    address: str
    manifest: Manifest
    folder: Path
    image: Placed | None
    text: Placed | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """One row of `list_encoders`.

    Attributes
    ----------
    name, title : str
    modalities : tuple of str
        "image", "text" or both.
    domain : str
        What it was trained on.
    dim : int or None
        None where it is not known.
    licence : str
        Of the weights.
    gate : str or None
        What must be accepted or asked for before the weights may be had.
    state : str
        "ready", or one of "needs", "downloadable", "needs your files" and "not possible", a colon, and what to do or
        why.
    package : str
        Where the weights come from.
    purpose : str
        What it may be used for.
    citation : str
        Of its authors' paper.
    anchor : str or None
        A published figure by which to see where it stands, with its source.
    uncertain : dict of str to str
        Field to what of it was not checked against a file or the authors' code; once it is here, as its manifest says.

    Examples
    --------
    >>> import osler
    >>> infos = [info.to_dict() for info in osler.list_encoders()]
    >>> {info["name"]: info["modalities"] for info in infos}["reference"]
    ['image', 'text']
    """

    name: str
    title: str
    modalities: tuple[str, ...]
    domain: str
    dim: int | None
    licence: str
    gate: str | None
    state: str
    package: str
    purpose: str
    citation: str
    anchor: str | None
    uncertain: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, modalities as a list."""
        names = ("name", "title", "domain", "dim", "licence", "gate", "state", "package", "purpose", "citation",
                 "anchor")  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        return {**values, "modalities": list(self.modalities), "uncertain": dict(self.uncertain)}


def shipped() -> dict[str, Path]:
    """Return the folder of each encoder that comes with osler, by name in alphabetical order."""
    return {path.parent.name: path.parent for path in sorted(registry_root().glob("*/manifest.json"))}


def home_folder(name: str) -> Path:
    """Return where the folder of an entry lies once it was pulled or exported without a folder of one's own."""
    return settings().home / "models" / name


def what_to_do(entry: Entry) -> str:
    """Say how an entry of the registry becomes ready: its state, a colon, and the next step or the reason against it.

    Examples
    --------
    >>> from osler.encoders.entry import entries
    >>> from osler.encoders.registry import what_to_do
    >>> what_to_do(entries()["biomedclip"]).partition(":")[0]
    'downloadable'
    """
    if entry.impossible is not None:
        return f"not possible: {entry.impossible}"
    onnx, checkpoint = entry.source("onnx"), entry.source("checkpoint")
    gate = f"; first {entry.gate}" if entry.gate else ""
    if onnx is not None and onnx.hub is not None:
        return f"downloadable: osler encoder pull {entry.name}{gate}"
    if checkpoint is not None and checkpoint.hub is not None:
        bring = " and ".join(entry.to_bring(checkpoint))
        if bring:
            return (
                f"downloadable: osler encoder pull {entry.name}, then an export with {bring}, which you bring (extras "
                f"hub and export){gate}"
            )
        return f"downloadable: osler encoder pull {entry.name}, which exports it (extras hub and export){gate}"
    page = next((source.page for source in entry.sources if source.page is not None), "its authors")
    verb = f"osler encoder export {entry.name} --checkpoint FILE" if onnx is None else "a folder with its files"
    return f"needs your files: from {page}, then {verb}{gate}"


def anchor_of(name: str | None) -> str | None:
    """Return the figure that an entry's authors publish, with its source in brackets, or None where none is known.

    Parameters
    ----------
    name : str or None
        As `Manifest.entry` has it.

    Examples
    --------
    >>> from osler.encoders.registry import anchor_of
    >>> anchor_of("conch").endswith("(mahmoodlab/CONCH README)"), anchor_of(None)
    (True, None)
    """
    entry = entries().get(name) if name is not None else None
    return None if entry is None or entry.anchor is None else f"{entry.anchor.figure} ({entry.anchor.source})"


def _locate_folder(name_or_folder: str | os.PathLike[str]) -> tuple[str, Path]:
    known = shipped()
    if isinstance(name_or_folder, str) and name_or_folder in known:
        return name_or_folder, known[name_or_folder]
    if isinstance(name_or_folder, str) and name_or_folder in entries():
        folder = home_folder(name_or_folder)
        if not (folder / "manifest.json").is_file():
            raise EncoderError(
                f"the encoder {name_or_folder} is not on this machine ({what_to_do(entries()[name_or_folder])})",
                code="not_ready",
            )
        return name_or_folder, folder
    if not isinstance(name_or_folder, (str, os.PathLike)):
        raise TypeError(f"an encoder is named by a str or a path, not by a {type(name_or_folder).__name__}")
    folder = Path(name_or_folder)
    if folder.is_dir():
        return str(folder.resolve()), folder.resolve()
    if isinstance(name_or_folder, str) and len(folder.parts) == 1:
        near = difflib.get_close_matches(name_or_folder, [*known, *entries()], n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise EncoderError(
            f"there is no encoder {name_or_folder!r:.60}{meant} (here are {', '.join(known)}; osler encoder list names "
            "all; or pass a folder with manifest.json)",
            code="unknown_encoder",
        )
    raise EncoderError("the encoder's folder does not exist; pass a folder with manifest.json", code="unknown_encoder")


def _place(kind: str, manifest: Manifest, folder: Path) -> Placed | None:
    tower = getattr(manifest, kind)
    if not isinstance(tower, BorrowedTower):
        return None if tower is None else Placed(tower, manifest, folder)
    known = shipped()
    if tower.encoder not in known:
        raise EncoderError(f"manifest.json borrows its {kind} tower from {tower.encoder!r}, which osler does not ship")
    lender = read_manifest(known[tower.encoder])
    lent = getattr(lender, kind)
    if lent is None or isinstance(lent, BorrowedTower):
        raise EncoderError(f"manifest.json borrows a {kind} tower from {tower.encoder!r}, which has none of its own")
    added = () if tower.projection is None else ((tower.projection, folder),)
    return Placed(lent, lender, known[tower.encoder], added)


def describe(name_or_folder: str | os.PathLike[str]) -> Description:
    """Read the manifest of an encoder and find its towers.

    Parameters
    ----------
    name_or_folder : str or Path
        A registry name, or a folder with manifest.json; a name of the registry wins over a folder of that name.

    Returns
    -------
    Description

    Raises
    ------
    EncoderError
        The name is unknown (code ``unknown_encoder``), or the manifest is not right.
    """
    address, folder = _locate_folder(name_or_folder)
    manifest = read_manifest(folder)
    image, text = _place("image", manifest, folder), _place("text", manifest, folder)

    def essence(placed: Placed | None) -> Any:
        return None if placed is None else (placed.tower, tuple(projection for projection, _ in placed.projections))

    return Description(
        address, manifest, folder, image, text, fingerprint(essence(image), essence(text), manifest.slices)
    )


def ensure_ready(description: Description, device: Device) -> None:
    """Raise unless the encoder can run here: runtime, device, packages and files; no weights are read.

    Raises
    ------
    EncoderError
        Something is missing; the message says how to install it.
    ValueError
        `device` is no known name.
    """
    check_device(device)
    for placed in (description.image, description.text):
        if placed is None:
            continue
        for file, folder in placed.files:
            locate(file, folder)
        if isinstance(placed.tower, TextTower) and importlib.util.find_spec("tokenizers") is None:
            raise EncoderError(
                'encoding texts needs the package tokenizers; pip install "osler[cpu]" or "osler[gpu]"',
                code="package_missing",
            )
        if placed.tower.converter is not None and not is_converted(placed.tower, placed.manifest.name):
            check_packages(placed.tower.converter)


def _state(description: Description) -> str:
    try:
        ensure_ready(description, "cpu")
    except EncoderError as error:
        return f"needs: {error}"
    return "ready"


def list_encoders() -> list[EncoderInfo]:
    """Return every encoder of the registry, and whether each can run here or what it still needs.

    Those that come with osler are first, then those that others publish, each in alphabetical order.

    Returns
    -------
    list of EncoderInfo

    Examples
    --------
    >>> import osler
    >>> states = {info.name: info.state for info in osler.list_encoders()}
    >>> states["reference"], states["rudolfv"].partition(":")[0]
    ('ready', 'not possible')
    """
    return [_shipped_info(name) for name in shipped()] + [_entry_info(entry) for entry in entries().values()]


def _shipped_info(name: str) -> EncoderInfo:
    description = describe(name)
    manifest = description.manifest
    files = [placed.tower.file for placed in (description.image, description.text) if placed is not None]
    packages = [
        f"{part.package} {part.version}" for file in files for part in parts_of(file) if isinstance(part, PackageFile)
    ]
    return EncoderInfo(
        name=manifest.name,
        title=manifest.title,
        modalities=manifest.modalities,
        domain=manifest.domain,
        dim=manifest.dim,
        licence=manifest.licence.id,
        gate=manifest.gate,
        state=_state(description),
        package=" + ".join(packages) or "in the folder",
        purpose=manifest.purpose,
        citation=manifest.citation,
        anchor=anchor_of(manifest.entry),
        uncertain=manifest.uncertain,
    )


def _entry_info(entry: Entry) -> EncoderInfo:
    state, uncertain = what_to_do(entry), entry.uncertain
    if entry.impossible is None and (home_folder(entry.name) / "manifest.json").is_file():
        try:
            description = describe(entry.name)
            state, uncertain = _state(description), description.manifest.uncertain
        except EncoderError as error:
            state = f"needs: {error}"
    source = next(iter(entry.sources), None)
    return EncoderInfo(
        name=entry.name,
        title=entry.title,
        modalities=entry.modalities,
        domain=entry.domain,
        dim=entry.dim,
        licence=entry.licence.id,
        gate=entry.gate,
        state=state,
        package=(source.hub or source.page or "") if source is not None else "",
        purpose=entry.purpose,
        citation=entry.citation,
        anchor=anchor_of(entry.name),
        uncertain=uncertain,
    )
