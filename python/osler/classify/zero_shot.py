"""Zero-shot labels: each item against an ensemble of prompts a label.

Reads a collection's vectors and encodes prompts; changes nothing. Softmax over labels as in CLIP (Radford et al. 2021),
sigmoid a label as in SigLIP (Zhai et al. 2023), positive-negative pairs as in BioViL (Boecking et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from osler.classify.prompts import PromptSet, is_texts, label_vectors
from osler.collection.space import space_encoder, unit
from osler.items import Part

if TYPE_CHECKING:
    import polars as pl

    from osler.collection import Collection
    from osler.encoders import Encoder

__all__ = ["ZeroShot", "zero_shot"]

Mode = Literal["softmax", "sigmoid", "pairs"]
_RESERVED = ("key", "label", "score")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ZeroShot:
    """Labels of items, each with its evidence.

    Attributes
    ----------
    labels : tuple of str
    key : tuple of str, length n
    scores : ndarray of float64, shape (n, labels)
        In [0, 1]. They sum to 1 an item for softmax only. NaN for an item without a vector.
    part : tuple of Part or None, length n
        The part that spoke for the item's label: with ``score="max"`` the one that the label's score comes from.
    mode : str
    fingerprint : str or None
        Of the encoder whose space was used.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/a.osler", dim=2)
    >>> _ = cases.add_vectors(["x"], np.array([[1.0, 0.0]]))
    >>> labels = osler.classify.zero_shot(cases, {"left": np.eye(2)[:1], "up": np.eye(2)[1:]}, scale=1)
    >>> labels.to_polars().row(0)[:2]
    ('x', 'left')
    >>> labels.to_dict()["items"][0]["part"]
    {'position': 0, 'kind': 'image', 'locator': {}}
    """

    labels: tuple[str, ...]
    key: tuple[str, ...]
    scores: np.ndarray
    part: tuple[Part | None, ...]
    mode: Mode
    fingerprint: str | None

    @property
    def label(self) -> tuple[str | None, ...]:
        """The label of the highest score of each item; the first of equal ones; None without a vector."""
        known = ~np.isnan(self.scores).any(axis=1)
        best = np.argmax(np.nan_to_num(self.scores, nan=-1.0), axis=1)
        return tuple(self.labels[at] if sure else None for at, sure in zip(best, known, strict=True))

    def to_polars(self) -> pl.DataFrame:
        """Return one row an item: key, label, score (of that label), then one column a label."""
        import polars as pl

        label = self.label
        top = np.full(len(self.key), np.nan) if not len(self.labels) else self.scores.max(axis=1)
        columns = {name: pl.Series(self.scores[:, at]).fill_nan(None) for at, name in enumerate(self.labels)}
        return pl.DataFrame(
            {
                "key": pl.Series(list(self.key), dtype=pl.String),
                "label": pl.Series(list(label), dtype=pl.String),
                "score": pl.Series(top).fill_nan(None),
                **columns,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return labels, mode and items, each item with key, label, score, scores by label and part."""
        items = []
        for key, label, row, part in zip(self.key, self.label, self.scores, self.part, strict=True):
            scores = {name: None if label is None else float(one) for name, one in zip(self.labels, row, strict=True)}
            where = (
                None
                if part is None
                else {"position": part.position, "kind": part.kind, "locator": part.locator.to_dict()}
            )
            items.append(
                {"key": key, "label": label, "score": label and scores[label], "scores": scores, "part": where}
            )
        return {"labels": list(self.labels), "mode": self.mode, "items": items}

    def __len__(self) -> int:
        return len(self.key)

    def __repr__(self) -> str:
        counts = {name: self.label.count(name) for name in self.labels}
        return f"<osler ZeroShot: {len(self)} items, {', '.join(f'{count} {name}' for name, count in counts.items())}>"


def zero_shot(
    cases: Collection,
    prompts: Mapping[str, Any] | PromptSet,
    *,
    encoder: Encoder | None = None,
    mode: Mode = "softmax",
    where: Any = None,
    score: Literal["max", "mean"] = "max",
    scale: float | None = None,
) -> ZeroShot:
    """Label the items of a collection by what prompts say of each label.

    The vector of a label is the normalised mean of its prompts' unit vectors. A part's logit for a label is the scale
    times the cosine between them, and for pairs the scale times the cosine to the positive prompts minus that to the
    negative ones. An item's logit is the largest of its parts' (``score="max"``: a finding shows on few slices) or
    their mean. Image parts are used where the collection has any, else text parts.

    Parameters
    ----------
    cases : Collection
    prompts : PromptSet or mapping
        From label to a list of texts, or to vectors (n, dim). For pairs, from label to a mapping with the keys
        ``positive`` and ``negative``, each of that kind.
    encoder : Encoder, optional
        By default the collection's own. Its fingerprint must be the collection's.
    mode : {"softmax", "sigmoid", "pairs"}
        Labels that exclude each other, labels that do not, or each label against its own absence. What sigmoid and
        pairs give is a score in [0, 1] that grows with the evidence, not a calibrated probability.
    where : str or Polars expression, optional
        Only items for which it holds.
    score : {"max", "mean"}
    scale : float, optional
        By default the logit scale of the encoder's manifest. Needed where there is no encoder.

    Returns
    -------
    ZeroShot

    Raises
    ------
    ValueError
        For labels without prompts or negatives, another encoder than the collection's, or a missing scale.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/a.osler", dim=2)
    >>> _ = cases.add_vectors(["x", "y"], np.eye(2, dtype=np.float32))
    >>> prompts = {"left": np.array([[1.0, 0.1]]), "up": np.array([[0.0, 1.0]])}
    >>> osler.classify.zero_shot(cases, prompts, scale=10).label
    ('left', 'up')
    """
    if mode not in ("softmax", "sigmoid", "pairs"):
        raise ValueError(f"mode is {mode!r}; choose softmax, sigmoid or pairs")
    if score not in ("max", "mean"):
        raise ValueError(f"score is {score!r}; choose max or mean")
    positive, negative = _split(prompts, mode)
    texts = any(is_texts(given) for side in (positive, negative) for given in side.values())
    rows = cases.part_vectors(where=where)
    speaker = encoder
    if encoder is not None or scale is None or texts:
        speaker = space_encoder(cases, encoder)
    if scale is None and speaker is not None:
        scale = speaker.logit_scale
    if scale is None or not np.isfinite(scale) or scale <= 0:
        raise ValueError("there is no positive scale for the logits; pass scale=, or an encoder whose manifest has one")
    targets = label_vectors(positive, speaker, cases.dim).astype(np.float64)
    if negative:
        targets = targets - label_vectors(negative, speaker, cases.dim)
    logits = scale * (unit(rows.vectors) @ targets.T)
    if mode == "sigmoid" and speaker is not None:
        logits = logits + (speaker.logit_bias or 0.0)
    by_item, best = _by_item(logits, rows.owner, len(rows.keys), score)
    scores = _softmax(by_item) if mode == "softmax" else 1.0 / (1.0 + np.exp(-by_item))
    top = np.argmax(np.nan_to_num(scores, nan=-1.0), axis=1)
    part = tuple(None if best[item, at] < 0 else rows.parts[best[item, at]] for item, at in enumerate(top))
    return ZeroShot(tuple(positive), tuple(rows.keys), scores, part, mode, cases.fingerprint)


def _split(prompts: Mapping[str, Any] | PromptSet, mode: Mode) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what speaks for each label, and for pairs what speaks against it."""
    if isinstance(prompts, PromptSet):
        positive: dict[str, Any] = {label: prompts.texts(label) for label in prompts.labels}
        negative: dict[str, Any] = {label: prompts.negatives(label) for label in prompts.labels}
    elif mode == "pairs":
        for label, given in prompts.items():
            if not isinstance(given, Mapping) or set(given) != {"positive", "negative"}:
                raise ValueError(f'mode="pairs" needs {{"positive": ..., "negative": ...}} for {label!r}')
        positive = {label: given["positive"] for label, given in prompts.items()}
        negative = {label: given["negative"] for label, given in prompts.items()}
    else:
        positive, negative = dict(prompts), {}
    if len(positive) < (2 if mode == "softmax" else 1):
        raise ValueError(
            f"there are {len(positive)} labels; softmax chooses among at least 2, use sigmoid or pairs for 1"
        )
    taken = [label for label in positive if label in _RESERVED]
    if taken:
        raise ValueError(f"a label cannot be called {taken[0]!r}, which is a column of the result; rename it")
    for name, side in (("prompt", positive), ("negative prompt", negative if mode == "pairs" else {})):
        for label, given in side.items():
            if len(given) == 0:
                raise ValueError(f"{label!r} has no {name}; give at least one")
    return positive, negative if mode == "pairs" else {}


def _by_item(
    logits: np.ndarray, owner: np.ndarray, items: int, score: Literal["max", "mean"]
) -> tuple[np.ndarray, np.ndarray]:
    """Pool the logits of parts (n, labels) into (items, labels), and name the row of the largest (-1: none)."""
    labels = logits.shape[1]
    pooled = np.full((items, labels), np.nan)
    best = np.full((items, labels), -1, dtype=np.int64)
    if len(owner) == 0:
        return pooled, best
    order = np.argsort(owner, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(owner[order]) != 0])
    present = owner[order[starts]]
    counts = np.diff(np.r_[starts, len(order)])
    for at in range(labels):
        column = logits[order, at]
        # By item, then falling logit, then row: the first of each item is its best, and of equal parts the first.
        first = np.lexsort((order, -column, owner[order]))[starts]
        best[present, at] = order[first]
        pooled[present, at] = column[first] if score == "max" else np.add.reduceat(column, starts) / counts
    return pooled, best


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
