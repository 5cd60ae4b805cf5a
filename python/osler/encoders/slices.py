"""Vectors of a volume's slices to one vector: a statistic of them, or a pooling network that was learned.

Arithmetic on arrays, and one ONNX session where a network is named.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from osler.config import LIMITS
from osler.encoders.providers import Device
from osler.encoders.session import Session
from osler.errors import EncoderError

__all__ = ["STATISTICS", "Learned", "Pooling", "pool_slices", "pooler"]

Pooling = Literal["mean", "median", "max", "std"]
STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda vectors: vectors.mean(axis=0),
    "median": lambda vectors: np.median(vectors, axis=0),
    "max": lambda vectors: vectors.max(axis=0),
    "std": lambda vectors: vectors.std(axis=0),
}


def pool_slices(vectors: np.ndarray, pooling: str, place: str = "the volume") -> np.ndarray:
    """Return one unit vector for the slices of a volume.

    Number by number over the n slices, in float64, then brought to length 1; `v[i]` is the unit vector of slice i:

    - ``mean``: ``sum(v) / n``
    - ``median``: the middle value, or the mean of the two middle ones
    - ``max``: the greatest value
    - ``std``: ``sqrt(sum((v - mean)**2) / n)``, the population's

    Parameters
    ----------
    vectors : ndarray
        (n, d).
    pooling : {"mean", "median", "max", "std"}
    place : str
        How messages call the volume.

    Returns
    -------
    ndarray
        (d,) float32, of length 1.

    Raises
    ------
    ValueError
        The result has length 0: ``std`` of slices that are all alike, or of one slice.

    Notes
    -----
    The four are those of 3D-MIR (github.com/abachaa/3D-MIR), which pools vectors that are not normalised first.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.slices import pool_slices
    >>> pool_slices(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), "median").tolist()
    [0.0, 1.0]
    """
    pooled = STATISTICS[pooling](vectors.astype(np.float64))
    length = float(np.sqrt((pooled**2).sum()))
    if length < 1e-6:
        raise ValueError(
            f"the {pooling} over the slices of {place} is zero, as it is of one slice or of equal ones; use "
            "pooling='mean'"
        )
    return np.asarray(pooled / length, dtype=np.float32)


def pooler(pooling: str | os.PathLike[str], device: Device = "auto") -> Callable[[np.ndarray, str], np.ndarray]:
    """Return what pools the vectors of slices (n, d), with a word for the volume, to one unit vector.

    Parameters
    ----------
    pooling : {"mean", "median", "max", "std"}, or path
        An ONNX file, or a folder with one: a graph with one input (n, d) or (1, n, d), n of any size, and one output
        (d,) or (1, d), in float32 or float16. It sees unit vectors in the order of the slices.
    device : {"auto", "cpu", "cuda", "tensorrt"}

    Raises
    ------
    ValueError
        It is no name of a statistic and no path that is there.
    EncoderError
        The graph is damaged or of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.encoders.slices import pooler
    >>> print(pooler("max")(np.array([[1.0, 0.0], [0.6, 0.8]]), "volume 0").round(2))
    [0.78 0.62]
    """
    if pooling in STATISTICS:
        name = str(pooling)
        return lambda vectors, place: pool_slices(vectors, name, place)
    path = Path(pooling)
    if path.is_dir():
        graphs = sorted(path.glob("*.onnx"))
        if len(graphs) != 1:
            raise EncoderError(f"the pooler's folder holds {len(graphs)} files of the kind .onnx; leave one there")
        path = graphs[0]
    if not path.exists():
        raise ValueError(
            f"pooling is neither one of {', '.join(map(repr, STATISTICS))} nor an ONNX file or folder that is there"
        )
    state = path.stat()
    if not stat.S_ISREG(state.st_mode) or state.st_size > LIMITS.bytes_per_file:
        raise EncoderError("the pooler is no file that is read; name an ONNX file")
    return Learned(path.read_bytes(), device)


class Learned:
    """A pooling network as `pooler` takes it, from its bytes; may be called from any thread."""

    def __init__(self, content: bytes, device: Device) -> None:
        self._session = Session(content, device)
        inputs, outputs = self._session.inner.get_inputs(), self._session.inner.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) not in (2, 3):
            raise EncoderError(
                "the pooler must have one input (n_slices, d) or (1, n_slices, d) and one output (d,); export it so"
            )
        self._input, self._output = inputs[0].name, outputs[0].name
        self._sides: list[Any] = list(inputs[0].shape)

    def __call__(self, vectors: np.ndarray, place: str) -> np.ndarray:
        """Return one unit vector for the vectors (n, d) of the slices of what messages call `place`."""
        fed = vectors if len(self._sides) == 2 else vectors[None]
        if any(isinstance(side, int) and side != given for side, given in zip(self._sides, fed.shape, strict=True)):
            raise EncoderError(
                f"the pooler takes {tuple(self._sides)}, and the {len(vectors)} slices of {place} are {fed.shape}; "
                "export it with a free number of slices for vectors of this encoder"
            )
        found = self._session.run({self._input: fed}, self._output)
        vector = found.astype(np.float64).ravel()
        length = float(np.sqrt((vector**2).sum()))
        if found.size != max(found.shape, default=0) or not np.isfinite(length) or length == 0:
            raise EncoderError(
                f"the pooler gives an array {found.shape} for {place}, and one finite vector (d,) is needed; export it "
                "again"
            )
        return np.asarray(vector / length, dtype=np.float32)
