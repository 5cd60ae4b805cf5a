"""What may be compared with the vectors of a collection: its own encoder, and several texts as one direction.

Reads the collection's fingerprint only. Averaging over prompts: CLIP (Radford et al. 2021, section 3.1.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from osler.errors import EncoderError

if TYPE_CHECKING:
    from osler.collection import Collection
    from osler.encoders import Encoder

__all__ = ["mean_direction", "space_encoder", "unit"]

Array = np.ndarray[Any, np.dtype[np.float64]]


def space_encoder(cases: Collection, encoder: Encoder | None) -> Encoder:
    """Return the encoder to use with a collection: its own, or the one given if it makes the same vectors.

    Raises
    ------
    EncoderError
        The encoder is not the one that made the collection, or the collection has none and none is given.
    ValueError
        The collection holds vectors of its owner, and the encoder's have another width.
    """
    if encoder is None:
        return cases.encoder
    if cases.fingerprint is not None and encoder.fingerprint != cases.fingerprint:
        raise EncoderError(
            f"the collection was made by another encoder than {encoder.name}, and vectors of two encoders cannot be "
            "compared; pass the one that made it, or leave encoder= out"
        )
    if encoder.dim != cases.dim:
        raise ValueError(f"{encoder.name} makes vectors of {encoder.dim} numbers, the collection holds {cases.dim}")
    return encoder


def unit(vectors: Any) -> Array:
    """Return float64 rows of length 1; a zero row stays zero."""
    rows = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1.0))


def mean_direction(vectors: Any, what: str) -> Array:
    """Return the normalised mean (dim,) of the rows' directions.

    Raises
    ------
    ValueError
        A row is zero or not finite, or the rows cancel out; `what` names them in the message.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"{what} hold NaN or infinity; give finite vectors")
    if not np.linalg.norm(rows, axis=1).all():
        raise ValueError(f"{what} hold a zero vector, which has no direction")
    mean = unit(rows).mean(axis=0)
    length = float(np.linalg.norm(mean))
    # What is left of unit vectors that oppose each other is rounding, not a direction.
    if length < 1e-9:
        raise ValueError(f"{what} cancel out; give ones that agree")
    return np.asarray(mean / length)
