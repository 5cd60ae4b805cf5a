"""Makes ready ONNX files into an encoder: the manifest that an entry of the registry gives them, and the proof it runs.

Reads the files of one folder; writes nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from osler.encoders.encoder import Encoder
from osler.encoders.entry import Entry, ReadyImage, ReadyText, Source, recipe
from osler.encoders.files import read_checked
from osler.encoders.manifest import FolderFile, ImageTower, Manifest, TextTower, fingerprint, first_finding
from osler.encoders.onnx_file import check_model
from osler.encoders.registry import Description, Placed
from osler.encoders.volume_recipe import takes_volumes
from osler.errors import EncoderError
from osler.items import Volume

__all__ = ["manifest_of", "missing_runtime", "prove"]


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
    inputs: dict[str, Callable[[], np.ndarray]] = {
        "image": lambda: encoder.encode_images([_picture(manifest)]),
        "text": lambda: encoder.encode_texts(["no acute finding"]),
    }
    for kind in manifest.modalities:
        vector = inputs[kind]()
        if not np.isfinite(vector).all() or abs(float(np.linalg.norm(vector)) - 1) > 1e-3:
            raise EncoderError(f"the {kind} tower of {manifest.name} gives no finite unit vector")
    return True


def _picture(manifest: Manifest) -> np.ndarray | Volume:
    """Return something to look at: a ramp, as a picture or, in Hounsfield units, as a scan."""
    ramp = np.arange(48 * 40 * 16, dtype=np.int64)
    if isinstance(manifest.image, ImageTower) and manifest.image.layout == "NCDHW":
        return Volume(
            (ramp % 1400 - 1000).astype(np.int16).reshape(48, 40, 16), np.diag([-6.0, -6.0, 12.0, 1.0]), units="HU"
        )
    return ramp[: 48 * 40].astype(np.uint8).reshape(48, 40)


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
