"""Does an encoder still give the vectors it must, the same ones each time, on which device, and how fast?

Runs the encoder on its golden inputs, or on made-up ones where it came with none; reads no file itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from osler.encoders.golden import golden_cosines
from osler.encoders.ready import probes
from osler.encoders.registry import Placed, describe

if TYPE_CHECKING:
    from osler.encoders.encoder import Encoder

__all__ = ["Check", "check_encoder"]

_SLOW = 10.0  # seconds
_STEADY = 0.9999  # cosine; leaves room for the sums that a device orders by the size of a batch, in half precision too
_UNIT = 1e-3  # of a length, the bound that `ready.prove` has


@dataclass(frozen=True, slots=True)
class Check:
    """What `check_encoder` found.

    Attributes
    ----------
    name : str
    needed : float or None
        The least cosine that passes; None where it came with no golden vectors.
    cosines : dict of str to tuple of float
        "image" and "text" to the cosine of each golden input; empty where there is none.
    steady : dict of str to float
        The least cosine between the vector of an input among others and of the same input encoded once more, alone.
    lengths : dict of str to float
        Of the vector whose length is farthest from 1; NaN where one is not finite.
    devices : dict of str to str
        "image" and "text" to what really ran.
    precision : str
        Of the weights: "fp32", "fp16", "int8", or those of both towers.
    parity : dict of str to float
        The least cosine with the original that the export measured; empty where it was not exported.
    speed : dict of str to float
        Inputs a second from arrays and texts to vectors; empty where it was not measured.
    """

    name: str
    needed: float | None
    cosines: dict[str, tuple[float, ...]]
    steady: dict[str, float]
    lengths: dict[str, float]
    devices: dict[str, str]
    precision: str = "fp32"
    parity: dict[str, float] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """What really ran, both where the towers differ."""
        return " and ".join(sorted(set(self.devices.values())))

    @property
    def fault(self) -> Literal["golden_mismatch", "not_unit", "unsteady"] | None:
        """The first thing that is wrong, or None."""
        needed = -1.0 if self.needed is None else self.needed
        if not all(value >= needed for values in self.cosines.values() for value in values):
            return "golden_mismatch"
        if not all(abs(length - 1) <= _UNIT for length in self.lengths.values()):
            return "not_unit"
        return None if all(value >= _STEADY for value in self.steady.values()) else "unsteady"

    @property
    def passed(self) -> bool:
        """Every golden input reaches the cosine that is needed, and every vector has length 1 and comes again."""
        return self.fault is None

    @property
    def note(self) -> str | None:
        """What the check cannot tell, or None."""
        if self.needed is not None:
            return None
        return "no golden vectors came with it: nothing says that its vectors are the authors'"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        cosines = {kind: list(values) for kind, values in self.cosines.items()}
        return {
            "name": self.name,
            "passed": self.passed,
            "fault": self.fault,
            "note": self.note,
            "needed": self.needed,
            "cosines": cosines,
            "steady": dict(self.steady),
            "lengths": dict(self.lengths),
            "device": self.device,
            "devices": dict(self.devices),
            "precision": self.precision,
            "parity": dict(self.parity),
            "speed": dict(self.speed),
        }


def check_encoder(encoder: Encoder, *, speed: bool = False) -> Check:
    """Encode the golden inputs of an encoder, compare with the stored vectors, and see that every vector comes again.

    Where it came with no golden vectors, the rest is checked on made-up inputs, and `Check.note` says what stays open.

    Parameters
    ----------
    encoder : Encoder
    speed : bool
        Also measure inputs a second, on the same inputs over and over for a few seconds: the median of five rounds.

    Returns
    -------
    Check

    Raises
    ------
    EncoderError
        Its golden vectors are damaged, or it cannot run.

    Examples
    --------
    >>> import osler
    >>> from osler.encoders.check import check_encoder
    >>> check_encoder(osler.load_encoder("minilm")).passed
    True
    """
    manifest = encoder.manifest
    described = describe(encoder.folder)
    placed: dict[str, Placed] = {
        kind: one for kind, one in (("image", described.image), ("text", described.text)) if one is not None
    }
    encoders: dict[str, Callable[[list[Any]], np.ndarray]] = {
        "image": encoder.encode_images,
        "text": encoder.encode_texts,
    }
    found: dict[str, tuple[list[Any], np.ndarray]] = {}

    def kept(kind: str) -> Callable[[list[Any]], np.ndarray]:
        def encode(inputs: list[Any]) -> np.ndarray:
            vectors = encoders[kind](inputs)
            found[kind] = inputs, vectors
            return vectors

        return encode

    cosines = {}
    for kind in manifest.modalities:
        pooled = kind == "image" and manifest.slices is not None
        if pooled:  # golden vectors are those of pictures, which the pooling is not part of
            kept(kind)(probes(placed[kind].tower, volumes=True))
        if manifest.golden is not None:
            encode = (lambda pictures: encoder._encode("image", pictures, None, False)) if pooled else kept(kind)
            cosines[kind] = golden_cosines(manifest, encoder.folder, kind, encode)
        elif not pooled:
            kept(kind)(probes(placed[kind].tower))
    return Check(
        manifest.name,
        None if manifest.golden is None else manifest.golden.cosine,
        cosines,
        {kind: _steady(encoders[kind], *one) for kind, one in found.items()},
        {kind: _length(vectors) for kind, (_, vectors) in found.items()},
        encoder.devices,
        " and ".join(sorted({one.tower.precision for one in placed.values()})),
        {} if manifest.parity is None else manifest.parity.model_dump(include={"image", "text"}, exclude_none=True),
        {kind: _rate(encoders[kind], inputs) for kind, (inputs, _) in found.items()} if speed else {},
    )


def _steady(encode: Callable[[list[Any]], np.ndarray], inputs: list[Any], vectors: np.ndarray) -> float:
    """Return the least cosine between the vectors of a batch and those of its inputs, each encoded again by itself."""
    alone = np.concatenate([encode([one]) for one in inputs]).astype(np.float64)
    norms = np.linalg.norm(alone, axis=1) * np.linalg.norm(vectors.astype(np.float64), axis=1)
    return float(((alone * vectors).sum(axis=1) / norms).min())


def _length(vectors: np.ndarray) -> float:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return float(lengths[np.abs(lengths - 1).argmax()])  # argmax finds a NaN first


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
