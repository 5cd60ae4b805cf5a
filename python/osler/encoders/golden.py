"""The golden vectors of a manifest: inputs, the vectors they must give, and how near to them those of today are.

Reads the golden file and nothing else. Used before a converted model is kept, and by `check`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from osler.encoders.files import read_checked
from osler.encoders.manifest import Manifest
from osler.errors import EncoderError
from osler.items import Volume

__all__ = ["golden_cosines"]


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
