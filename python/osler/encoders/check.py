"""Does an encoder still give the vectors it must? Compares its golden vectors by cosine.

Reads the golden file of a manifest. Used before a converted model is kept, by the tests, and for a user's own encoder.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.encoders.files import read_checked
from osler.encoders.manifest import Manifest
from osler.errors import EncoderError
from osler.items import Volume

if TYPE_CHECKING:
    from osler.encoders.encoder import Encoder

__all__ = ["Check", "check_encoder", "golden_cosines"]


@dataclass(frozen=True, slots=True)
class Check:
    """What `check_encoder` found.

    Attributes
    ----------
    name : str
    needed : float
        The least cosine that passes.
    cosines : dict of str to tuple of float
        "image" and "text" to the cosine of each golden input.
    """

    name: str
    needed: float
    cosines: dict[str, tuple[float, ...]]

    @property
    def passed(self) -> bool:
        """Every golden input reaches the cosine that is needed."""
        return all(value >= self.needed for values in self.cosines.values() for value in values)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        cosines = {kind: list(values) for kind, values in self.cosines.items()}
        return {"name": self.name, "passed": self.passed, "needed": self.needed, "cosines": cosines}


def golden_cosines(
    manifest: Manifest, folder: Path, kind: str, encode: Callable[[list[Any]], np.ndarray]
) -> tuple[float, ...]:
    """Return the cosine of each golden input of one modality, encoded now, with its stored vector.

    Parameters
    ----------
    manifest : Manifest
        With `golden`.
    folder : Path
    kind : {"image", "text"}
    encode : callable
        Takes the list of inputs, returns unit rows.

    Returns
    -------
    tuple of float

    Raises
    ------
    EncoderError
        The manifest has no golden vectors, or they are damaged or of another shape.
    """
    if manifest.golden is None:
        raise EncoderError(f"{manifest.name} has no golden vectors; add them as models/README.md says")
    content = read_checked(manifest.golden.file, folder)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            vectors = archive[f"{kind}_vectors"].astype(np.float64)
            if kind == "image":
                # A volume comes with its affine.
                inputs: list[Any] = [
                    Volume(archive[f"image_{i}"], archive[f"image_{i}_affine"])
                    if f"image_{i}_affine" in archive
                    else archive[f"image_{i}"]
                    for i in range(len(vectors))
                ]
            else:
                inputs = [str(text) for text in archive["texts"]]
    except Exception:  # a damaged zip shows as one of many exceptions
        raise EncoderError(f"the golden vectors of {manifest.name} hold no {kind} inputs, or are damaged") from None
    if vectors.ndim != 2 or vectors.shape != (len(inputs), manifest.dim) or not len(inputs):
        raise EncoderError(f"the golden vectors of {manifest.name} are not ({len(inputs)}, {manifest.dim})")
    found = encode(inputs).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(found, axis=1)
    return tuple(float(value) for value in (vectors * found).sum(axis=1) / norms)


def check_encoder(encoder: Encoder) -> Check:
    """Encode the golden inputs of an encoder and report their cosines with the stored vectors.

    Parameters
    ----------
    encoder : Encoder

    Returns
    -------
    Check

    Raises
    ------
    EncoderError
        It has no golden vectors, or cannot run.

    Examples
    --------
    >>> import osler
    >>> from osler.encoders.check import check_encoder
    >>> check_encoder(osler.load_encoder("minilm")).passed
    True
    """
    manifest, folder = encoder.manifest, encoder.folder
    encoders: dict[str, Callable[[list[Any]], np.ndarray]] = {
        "image": encoder.encode_images,
        "text": encoder.encode_texts,
    }
    cosines = {kind: golden_cosines(manifest, folder, kind, encoders[kind]) for kind in manifest.modalities}
    return Check(manifest.name, manifest.golden.cosine if manifest.golden else 1.0, cosines)
