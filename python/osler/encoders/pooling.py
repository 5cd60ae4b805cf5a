"""From a model's output to one unit vector a row: pooling over tokens, projection, normalisation.

Arithmetic on arrays only. Rows are projected one by one, so that a vector does not depend on its batch.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from osler.errors import EncoderError

__all__ = ["Map", "pool", "unit"]


def pool(
    output: np.ndarray,
    kind: str,
    mask: np.ndarray | None,
    ids: np.ndarray | None = None,
    pool_id: int | None = None,
) -> np.ndarray:
    """Return one vector a row.

    Parameters
    ----------
    output : ndarray
        (n, d) for kind "none", else (n, tokens, d).
    kind : str
        ``none``
            The output as it is: the model pools itself.
        ``mean``
            The mean of the states under the mask, special tokens included.
        ``cls``
            The first state.
        ``eot``
            The state where the ids are greatest, the first of them: CLIP's end of text, whose id is the last of its
            vocabulary.
        ``eos``, ``token``
            The state at the first token `pool_id`: the end of the text where its id is not the greatest, or any other
            special token.
        ``last``
            The last state under the mask.
        ``end``
            The last state, whatever it stands for: SigLIP, which is padded with the end of the text, and the class
            slot that CoCa appends.
    mask : ndarray or None
        (n, tokens); None counts every token.
    ids : ndarray or None
        (n, tokens), for kinds ``eot``, ``eos`` and ``token``.
    pool_id : int or None
        For kinds ``eos`` and ``token``.

    Returns
    -------
    ndarray
        (n, d)

    Raises
    ------
    EncoderError
        The model gives another number of states than there are tokens, or a text has no token `pool_id`.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.pooling import pool
    >>> output = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]], dtype=np.float32)
    >>> pool(output, "mean", np.array([[1, 1, 0]])).tolist()
    [[2.0, 3.0]]
    >>> pool(output, "eot", None, ids=np.array([[49406, 49407, 0]])).tolist()
    [[3.0, 4.0]]
    """
    if kind == "none":
        return output
    if kind == "cls":
        return output[:, 0]
    if kind == "end":
        return output[:, -1]
    given = mask if kind in ("mean", "last") else ids
    if given is not None and given.shape != output.shape[:2]:
        raise EncoderError(
            f"the model gives {output.shape[1]} states for {given.shape[1]} tokens, so pooling {kind!r} cannot tell "
            "which is which; correct the pooling in manifest.json"
        )
    if kind == "mean":
        weights = np.ones(output.shape[:2]) if mask is None else mask
        totals = np.einsum("ntd,nt->nd", output, weights.astype(np.float32))
        return np.asarray(totals / weights.sum(axis=1, dtype=np.float32)[:, None])
    if kind == "last":
        return output[:, -1] if mask is None else _at(output, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1))
    assert ids is not None
    if kind == "eot":
        return _at(output, ids.argmax(axis=1))
    there = ids == pool_id
    if not there.any(axis=1).all():
        raise EncoderError(f"a text has no token {pool_id}, where pooling {kind!r} looks; correct pool_id")
    return _at(output, there.argmax(axis=1))


def _at(output: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return np.asarray(output[np.arange(len(output)), positions])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return the rows at length 1.

    Raises
    ------
    EncoderError
        A row is zero or not finite, so the model or its projection is broken.
    """
    norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1))
    if not np.isfinite(norms).all() or (norms == 0).any():
        raise EncoderError("the model gave a zero or non-finite vector; run its golden vectors, and export it again")
    return np.asarray(vectors / norms[:, None], dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Map:
    """The content of a projection file; see `manifest.Projection`."""

    centre: np.ndarray | None
    matrix: np.ndarray | None
    bias: np.ndarray | None

    @classmethod
    def from_npz(cls, content: bytes) -> Map:
        """Read a projection file.

        Raises
        ------
        EncoderError
            It is no npz, or its arrays are of other names, shapes or types, or not finite.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except Exception:  # a damaged zip shows as one of many exceptions
            raise EncoderError("the projection is not an npz file of plain arrays, or is damaged") from None
        ranks = {"centre": 1, "matrix": 2, "bias": 1}
        if not arrays or any(
            name not in ranks or array.ndim != ranks[name] or array.dtype.kind != "f" or not np.isfinite(array).all()
            for name, array in arrays.items()
        ):
            raise EncoderError(
                "the projection must hold finite float arrays centre (in,), matrix (in, out), bias (out,)"
            )
        read = cls(
            *(arrays[name].astype(np.float32) if name in arrays else None for name in ("centre", "matrix", "bias"))
        )
        sides = [len(array) for array in (read.centre, read.matrix) if array is not None]
        width = read.matrix.shape[1] if read.matrix is not None else None
        if len(set(sides)) > 1 or (read.bias is not None and width not in (None, len(read.bias))):
            raise EncoderError("centre, matrix and bias of the projection do not fit one another")
        return read

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return the mapped rows at length 1; `vectors` are unit rows.

        Raises
        ------
        EncoderError
            Their length is not what the projection takes.
        """
        for part in (self.centre, self.matrix):
            if part is not None and len(part) != vectors.shape[1]:
                raise EncoderError(f"the projection takes {len(part)} numbers, the model gives {vectors.shape[1]}")
        if self.centre is not None:
            vectors = vectors - self.centre
        if self.matrix is not None:
            vectors = np.stack([row @ self.matrix for row in vectors])
        if self.bias is not None:
            if self.bias.shape[0] != vectors.shape[1]:
                raise EncoderError(f"the projection's bias has {len(self.bias)} numbers, its input {vectors.shape[1]}")
            vectors = vectors + self.bias
        return unit(vectors)
