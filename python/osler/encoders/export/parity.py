"""Compares an exported encoder with its original, from pictures and texts to vectors, and writes golden vectors.

Runs the original's modules in PyTorch and the exported folder through `osler.encoders`, both on what the folder's own
recipe and tokenizer make of the inputs: these are compared with the originals' by tests of their own.
"""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from osler.encoders.export.towers import TextModel, Towers
from osler.encoders.tower import OpenImageTower, OpenTextTower
from osler.items import Volume

__all__ = ["TEXTS", "Compared", "compare", "golden_bytes", "versions"]

# short and long, with figures, capitals and punctuation, as reports have them
TEXTS = (
    "Normal chest radiograph.",
    "right lower lobe consolidation with a small pleural effusion",
    "No pneumothorax. Heart size is at the upper limit of normal; the mediastinum is unremarkable.",
    "H&E stain, invasive ductal carcinoma, grade 2",
    "Fundus photograph: mild non-proliferative diabetic retinopathy, few microaneurysms",
    "CT abdomen with contrast: 2.3 cm hypodense lesion in segment VI of the liver, too small to characterise",
    "T2-weighted MRI of the brain, hyperintense lesion in the left frontal lobe",
    "ultrasound",
)


@dataclass(frozen=True, slots=True)
class Compared:
    """The vectors of the original, and the cosine of each with the exported encoder's.

    Attributes
    ----------
    image_vectors, text_vectors : ndarray or None
        (n, dim) float32 unit rows of the original.
    image, text : ndarray or None
        (n,) cosines.
    image_centred, text_centred : ndarray or None
        (n,) cosines after the mean of the original's vectors was taken off both: where all vectors point much the same
        way, as those of untrained weights do, only these show that inputs are told apart alike.
    tokens : ndarray or None
        (n,) cosines of all patch tokens of a picture together.
    """

    image_vectors: np.ndarray | None
    text_vectors: np.ndarray | None
    image: np.ndarray | None
    text: np.ndarray | None
    image_centred: np.ndarray | None
    text_centred: np.ndarray | None
    tokens: np.ndarray | None = None


def compare(
    towers: Towers,
    image_tower: OpenImageTower | None,
    text_tower: OpenTextTower | None,
    pictures: list[Any],
    texts: list[str],
) -> Compared:
    """Encode the same inputs with the original and with the exported encoder.

    Parameters
    ----------
    towers : Towers
    image_tower, text_tower : OpenImageTower, OpenTextTower or None
        Of the exported folder.
    pictures : list of ndarray or Volume
    texts : list of str

    Returns
    -------
    Compared
    """
    image_vectors = text_vectors = image = text = tokens = None
    if towers.image is not None and image_tower is not None:
        prepared = [image_tower.prepare(picture, f"image {i}") for i, picture in enumerate(pictures)]
        image_vectors = _unit(_originals(towers.image.module, prepared, lambda vector: vector))
        image = np.concatenate([image_tower.run([one]) for one in prepared])
        if towers.image.tokens is not None:
            original = _originals(towers.image.tokens.module, prepared, lambda both: both[1].flatten(1))
            found = np.concatenate([image_tower.tokens([one]).reshape(1, -1) for one in prepared])
            tokens = _cosines(original, found)
    if towers.text is not None and text_tower is not None:
        said = [text_tower.prepare(text, f"text {i}") for i, text in enumerate(texts)]
        pad_id = text_tower.tokenizer.pad_id
        text_vectors = _unit(_original_texts(towers.text, [one.ids for one in said], pad_id))
        text = np.concatenate([text_tower.run([one]) for one in said])
    return Compared(
        image_vectors,
        text_vectors,
        _cosines(image_vectors, image),
        _cosines(text_vectors, text),
        _cosines(image_vectors, image, centred=True),
        _cosines(text_vectors, text, centred=True),
        tokens,
    )


def golden_bytes(compared: Compared, pictures: list[Any], texts: list[str]) -> bytes:
    """Return a golden.npz of the inputs and the original's vectors."""
    arrays: dict[str, Any] = {}
    if compared.image_vectors is not None:
        for i, picture in enumerate(pictures):
            volume = isinstance(picture, Volume)
            arrays[f"image_{i}"] = picture.array if volume else np.asarray(picture)
            if volume:
                arrays[f"image_{i}_affine"] = picture.affine
        arrays["image_vectors"] = compared.image_vectors
    if compared.text_vectors is not None:
        arrays |= {"texts": np.array(texts), "text_vectors": compared.text_vectors}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def versions(towers: Towers) -> str:
    """Return the libraries that ran the original, each with its version."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in towers.libraries)


def _originals(module: Any, prepared: list[np.ndarray], taken: Callable[[Any], Any]) -> np.ndarray:
    """Return a row for each picture, out of what the original gives for it alone."""
    import torch

    with torch.inference_mode():
        return np.stack([taken(module(torch.from_numpy(one[None]))).float().numpy()[0] for one in prepared])


def _original_texts(model: TextModel, ids_of_texts: list[list[int]], pad_id: int) -> np.ndarray:
    import torch

    rows = []
    with torch.inference_mode():
        for own in ids_of_texts:
            width = len(own) if model.dynamic else model.length
            ids = torch.tensor([own + [pad_id] * (width - len(own))])
            mask = torch.tensor([[1] * len(own) + [0] * (width - len(own))])
            inputs = (ids, mask) if model.masked else (ids,)
            rows.append(model.module(*inputs).float().numpy()[0])
    return np.stack(rows)


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / norms, dtype=np.float32)


def _cosines(original: np.ndarray | None, found: np.ndarray | None, centred: bool = False) -> np.ndarray | None:
    if original is None or found is None or (centred and len(original) < 2):
        return None
    a, b = original.astype(np.float64), found.astype(np.float64)
    if centred:
        mean = a.mean(axis=0)
        a, b = a - mean, b - mean
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
