"""Makes ready ONNX files into an encoder: the manifest that an entry of the registry gives them, and the proof it runs.

Reads the files of one folder; writes nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from osler.encoders.encoder import Encoder
from osler.encoders.entry import Entry, ReadyImage, ReadyText, Source, recipe
from osler.encoders.files import read_checked
from osler.encoders.manifest import FolderFile, ImageTower, Manifest, TextTower, fingerprint, first_finding
from osler.encoders.onnx_file import check_model
from osler.encoders.recipe import Exact
from osler.encoders.registry import Description, Placed
from osler.encoders.volume_recipe import takes_volumes
from osler.errors import EncoderError
from osler.items import Volume

__all__ = ["manifest_of", "missing_runtime", "probes", "prove"]


def manifest_of(entry: Entry, source: Source, file: Callable[[str], FolderFile]) -> Manifest:
    """Return what manifest.json says of an entry whose ONNX files are there.

    Parameters
    ----------
    entry : Entry
    source : Source
        Of kind "onnx".
    file : callable
        Path in the repository to the file in the folder.

    Returns
    -------
    Manifest
        Without a logit scale or bias that only a checkpoint tells.

    Raises
    ------
    EncoderError
        The entry and its source do not fit.
    """
    from pydantic import ValidationError

    try:
        return _manifest(entry, source, file)
    except ValidationError as error:
        raise EncoderError(f"the registry's {entry.name} makes no manifest: {first_finding(error)}") from None


def _manifest(entry: Entry, source: Source, file: Callable[[str], FolderFile]) -> Manifest:
    if entry.dim is None or (source.image and not entry.image) or (source.text and not entry.text):
        raise EncoderError(f"the registry does not say how the files of {entry.name} are used; please report it")
    return Manifest(
        version=1,
        name=entry.name,
        title=entry.title,
        purpose=entry.purpose,
        domain=entry.domain,
        licence=entry.licence,
        gate=entry.gate,
        citation=entry.citation,
        dim=entry.dim,
        image=_image(entry, source.image, file) if source.image is not None else None,
        text=_text(entry, source.text, file) if source.text is not None else None,
        logit_scale=None if entry.logit_scale == "checkpoint" else entry.logit_scale,
        logit_bias=None if entry.logit_bias == "checkpoint" else entry.logit_bias,
        entry=entry.name,
        uncertain=dict(entry.uncertain),
    )


def _image(entry: Entry, ready: ReadyImage, file: Callable[[str], FolderFile]) -> ImageTower:
    assert entry.image is not None
    steps = recipe(entry.image.recipe)
    return ImageTower(
        file=file(ready.file),
        external=tuple(file(path) for path in ready.external),
        input=ready.input,
        output=ready.output,
        layout="NCDHW" if takes_volumes(steps) else "NCHW",
        recipe=steps,
        pooling=ready.pooling,
        precision=ready.precision,
        batch_size=entry.image.batch_size,
        rows_interact=ready.precision == "int8",
    )


def _text(entry: Entry, ready: ReadyText, file: Callable[[str], FolderFile]) -> TextTower:
    assert entry.text is not None
    return TextTower(
        file=file(ready.file),
        external=tuple(file(path) for path in ready.external),
        inputs=ready.inputs,
        output=ready.output,
        tokenizer=file(ready.tokenizer),
        max_length=entry.text.max_length,
        pad_to_max=entry.text.pad_to_max,
        pad_id=entry.text.pad_id,
        clean=entry.text.clean,
        pooling=ready.pooling,
        pool_id=ready.pool_id,
        layers=ready.layers,
        precision=ready.precision,
        batch_size=entry.text.batch_size,
        rows_interact=ready.precision == "int8",
    )


def missing_runtime(manifest: Manifest) -> str | None:
    """Return the package without which the encoder cannot be run here, or None."""
    needed = ["onnxruntime", *(["tokenizers"] if manifest.text is not None else [])]
    return next((package for package in needed if importlib.util.find_spec(package) is None), None)


def prove(manifest: Manifest, folder: Path) -> bool:
    """Check every graph, then encode one picture and one text; tell whether the models could be run here.

    Parameters
    ----------
    manifest : Manifest
        Whose towers lie in `folder`.
    folder : Path

    Returns
    -------
    bool
        False where the runtime is not installed; the graphs are checked all the same.

    Raises
    ------
    EncoderError
        A graph is damaged, names a file that is not listed or an operator that is not allowed, does not fit the
        manifest, or gives vectors of another length.
    """
    towers = [tower for tower in (manifest.image, manifest.text) if isinstance(tower, (ImageTower, TextTower))]
    for tower in towers:
        check_model(read_checked(tower.file, folder), frozenset(tower.external_names))
    if missing_runtime(manifest) is not None:
        return False
    encoder = Encoder(_described(manifest, folder), "cpu")
    for tower in towers:
        kind = "image" if isinstance(tower, ImageTower) else "text"
        encode = encoder.encode_images if isinstance(tower, ImageTower) else encoder.encode_texts
        vector = encode(probes(tower)[:1])
        if not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1) > 1e-3:
            raise EncoderError(f"the {kind} tower of {manifest.name} gives no finite unit vector")
    return True


def probes(tower: ImageTower | TextTower, volumes: bool = False) -> list[Any]:
    """Return three inputs that a tower takes, of different sizes: blocks of chance values, or short texts.

    Parameters
    ----------
    tower : ImageTower or TextTower
    volumes : bool
        The encoder takes volumes slice by slice.

    Returns
    -------
    list
        Arrays (H, W, 3) of uint8, volumes in Hounsfield units, or str.

    Examples
    --------
    >>> from osler.encoders.ready import probes
    >>> from osler.encoders.registry import describe
    >>> [picture.shape for picture in probes(describe("efficientnet-lite0").image.tower)]
    [(300, 250, 3), (250, 350, 3), (320, 320, 3)]
    """
    if isinstance(tower, TextTower):
        return ["no acute finding", "normal heart", "lung"]
    rng = np.random.default_rng(0)
    if volumes or tower.layout == "NCDHW":
        spacing = np.diag([-6.0, -6.0, 12.0, 1.0])
        sizes = ((48, 40, 16), (40, 56, 20), (56, 48, 12))
        return [Volume(_blocks(rng.integers(-1000, 400, (8, 8, 4)), size), spacing, units="HU") for size in sizes]
    exact = next(((step.height, step.width) for step in tower.recipe if isinstance(step, Exact)), None)
    return [
        _blocks(rng.integers(0, 256, (10, 10, 3)), (*(exact or size), 3)).astype(np.uint8)
        for size in ((300, 250), (250, 350), (320, 320))
    ]


def _blocks(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values, each repeated until the array has a shape."""
    places = (np.arange(side) * count // side for side, count in zip(shape, values.shape, strict=True))
    return np.ascontiguousarray(values[np.ix_(*places)].astype(np.int16))


def _described(manifest: Manifest, folder: Path) -> Description:
    own_image = manifest.image if isinstance(manifest.image, ImageTower) else None
    own_text = manifest.text if isinstance(manifest.text, TextTower) else None
    return Description(
        str(folder),
        manifest,
        folder,
        Placed(own_image, manifest, folder) if own_image is not None else None,
        Placed(own_text, manifest, folder) if own_text is not None else None,
        fingerprint((own_image, ()) if own_image else None, (own_text, ()) if own_text else None),
    )
