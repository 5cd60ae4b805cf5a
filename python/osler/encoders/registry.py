"""Which encoders there are by name, whether each can run here, and where the towers of one lie.

Reads manifests and the metadata of installed packages; opens no weights. Shipped manifests lie in the checkout's
models/ when running from a source tree, else in the package's _models/.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osler.encoders.convert import is_converted
from osler.encoders.files import locate
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
from osler.encoders.session import Device, check_device
from osler.errors import EncoderError

__all__ = ["Description", "EncoderInfo", "Placed", "describe", "ensure_ready", "list_encoders", "shipped"]


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
        files: list[tuple[FolderFile | PackageFile, Path]] = [(self.tower.file, self.folder)]
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
    dim : int
    licence : str
        Of the weights.
    state : str
        "ready", or "needs: ..." with what to do.
    package : str
        Where the weights come from.
    purpose : str
        What it may be used for.

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
    dim: int
    licence: str
    state: str
    package: str
    purpose: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, modalities as a list."""
        names = ("name", "title", "dim", "licence", "state", "package", "purpose")
        return {**{name: getattr(self, name) for name in names}, "modalities": list(self.modalities)}


def shipped() -> dict[str, Path]:
    """Return the folder of each encoder that comes with osler, by name in alphabetical order."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1]
    root = checkout / "models" if (checkout / "pyproject.toml").is_file() else package / "_models"
    return {path.parent.name: path.parent for path in sorted(root.glob("*/manifest.json"))}


def _locate_folder(name_or_folder: str | os.PathLike[str]) -> tuple[str, Path]:
    known = shipped()
    if isinstance(name_or_folder, str) and name_or_folder in known:
        return name_or_folder, known[name_or_folder]
    if not isinstance(name_or_folder, (str, os.PathLike)):
        raise TypeError(f"an encoder is named by a str or a path, not by a {type(name_or_folder).__name__}")
    folder = Path(name_or_folder)
    if folder.is_dir():
        return str(folder.resolve()), folder.resolve()
    if isinstance(name_or_folder, str) and len(folder.parts) == 1:
        near = difflib.get_close_matches(name_or_folder, known, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise EncoderError(
            f"there is no encoder {name_or_folder!r:.60}{meant} (known: {', '.join(known)}; or pass a folder with "
            "manifest.json)",
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

    return Description(address, manifest, folder, image, text, fingerprint(essence(image), essence(text)))


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
        if not is_converted(placed.tower, placed.manifest.name) and importlib.util.find_spec("onnx") is None:
            raise EncoderError(
                'converting this encoder needs the package onnx; pip install "osler[models]"', code="package_missing"
            )


def _state(description: Description) -> str:
    try:
        ensure_ready(description, "cpu")
    except EncoderError as error:
        return f"needs: {error}"
    return "ready"


def list_encoders() -> list[EncoderInfo]:
    """Return the encoders that come with osler, and whether each can run here.

    Returns
    -------
    list of EncoderInfo

    Examples
    --------
    >>> import osler
    >>> [info.name for info in osler.list_encoders()]
    ['efficientnet-lite0', 'minilm', 'reference']
    """
    infos = []
    for name in shipped():
        description = describe(name)
        manifest = description.manifest
        files = [placed.tower.file for placed in (description.image, description.text) if placed is not None]
        packages = [f"{file.package} {file.version}" for file in files if isinstance(file, PackageFile)]
        infos.append(
            EncoderInfo(
                name=manifest.name,
                title=manifest.title,
                modalities=manifest.modalities,
                dim=manifest.dim,
                licence=manifest.licence.id,
                state=_state(description),
                package=" + ".join(packages) or "in the folder",
                purpose=manifest.purpose,
            )
        )
    return infos
