"""Does an encoder still give the vectors it must, on which device, and how fast?

Runs the encoder on its golden inputs; reads no file itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from osler.encoders.golden import golden_cosines
from osler.encoders.registry import describe

if TYPE_CHECKING:
    from osler.encoders.encoder import Encoder

__all__ = ["Check", "check_encoder"]

_SLOW = 10.0  # seconds


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
    device : str
        What really ran.
    precision : str
        Of the weights: "fp32", "fp16", "int8", or those of both towers.
    parity : dict of str to float
        The least cosine with the original that the export measured; empty where it was not exported.
    speed : dict of str to float
        Inputs a second from arrays and texts to vectors; empty where it was not measured.
    """

    name: str
    needed: float
    cosines: dict[str, tuple[float, ...]]
    device: str = "cpu"
    precision: str = "fp32"
    parity: dict[str, float] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Every golden input reaches the cosine that is needed."""
        return all(value >= self.needed for values in self.cosines.values() for value in values)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        cosines = {kind: list(values) for kind, values in self.cosines.items()}
        return {
            "name": self.name,
            "passed": self.passed,
            "needed": self.needed,
            "cosines": cosines,
            "device": self.device,
            "precision": self.precision,
            "parity": dict(self.parity),
            "speed": dict(self.speed),
        }


def check_encoder(encoder: Encoder, *, speed: bool = False) -> Check:
    """Encode the golden inputs of an encoder and report their cosines with the stored vectors.

    Parameters
    ----------
    encoder : Encoder
    speed : bool
        Also measure inputs a second, on the golden inputs over and over for a few seconds: the median of five rounds.

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
    given: dict[str, list[Any]] = {}

    def kept(kind: str) -> Callable[[list[Any]], np.ndarray]:
        def encode(inputs: list[Any]) -> np.ndarray:
            given[kind] = inputs
            return encoders[kind](inputs)

        return encode

    cosines = {kind: golden_cosines(manifest, folder, kind, kept(kind)) for kind in manifest.modalities}
    rates = {kind: _rate(encoders[kind], given[kind]) for kind in given} if speed else {}
    described = describe(folder)
    precisions = {placed.tower.precision for placed in (described.image, described.text) if placed is not None}
    parity = {} if manifest.parity is None else manifest.parity.model_dump(include={"image", "text"}, exclude_none=True)
    needed = manifest.golden.cosine if manifest.golden else 1.0
    return Check(manifest.name, needed, cosines, encoder.device, " and ".join(sorted(precisions)), parity, rates)


def _rate(encode: Callable[[list[Any]], np.ndarray], inputs: list[Any]) -> float:
    """Return inputs a second: the median of five rounds of about a second, or of one round where that takes long."""
    started = time.perf_counter()
    encode(inputs)
    once = time.perf_counter() - started
    if once > _SLOW:
        return len(inputs) / once
    repeats = max(1, round(1.0 / max(once, 1e-6)))
    many = inputs * min(repeats, 64)
    rounds = []
    for _ in range(5):
        started = time.perf_counter()
        encode(many)
        rounds.append(len(many) / (time.perf_counter() - started))
    return statistics.median(rounds)
