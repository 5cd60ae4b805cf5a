"""Which items stay by their image-text score: a threshold, or the best share.

Reads a collection's vectors; changes nothing. The CLIP-score filter of DataComp (Gadre et al. 2023), with an exact
count and ties broken by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING

import numpy as np

from osler.collection.space import mean_direction, space_encoder, unit
from osler.curate.decisions import Decisions

if TYPE_CHECKING:
    from osler.collection import Collection
    from osler.encoders import Encoder

__all__ = ["score_filter"]


def score_filter(
    cases: Collection,
    *,
    threshold: float | None = None,
    fraction: float | None = None,
    encoder: Encoder | None = None,
    text: str | Sequence[str] | None = None,
) -> Decisions:
    """Keep the items whose picture fits their text, or a text that is given.

    The score of an item is the highest cosine of one of its image parts with one of its own text parts, or with `text`.
    With a fraction f, exactly floor(f n) of the n items that have a score are kept, the highest first and equal ones by
    key. Items without a score are dropped, and the reason says so.

    Parameters
    ----------
    cases : Collection
    threshold : float, optional
        Keep what scores at least this cosine, in [-1, 1].
    fraction : float, optional
        Keep this share, in [0, 1]. Exactly one of `threshold` and `fraction` is given.
    encoder : Encoder, optional
        Encodes `text`; by default the collection's own, whose fingerprint it must have.
    text : str or sequence of str, optional
        Score pictures against this instead; several texts count as one, by the mean of their unit vectors.

    Returns
    -------
    Decisions

    Raises
    ------
    ValueError
        For an option out of range, or if no item has both a picture and a text.

    Examples
    --------
    >>> import tempfile, numpy as np, osler
    >>> cases = osler.Collection.create(tempfile.mkdtemp() + "/a.osler", dim=2)
    >>> vectors = np.array([[1, 0], [1, 0], [0, 1], [1, 0]])
    >>> _ = cases.add_vectors(["x", "y"], vectors, parts=[0, 0, 1, 1], kind=["image", "text"] * 2)
    >>> osler.curate.score_filter(cases, threshold=0.5).kept
    ['x']
    """
    if (threshold is None) == (fraction is None):
        raise ValueError("give either threshold= or fraction=")
    if threshold is not None and not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold is {threshold}; a cosine lies in [-1, 1]")
    if fraction is not None and not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction is {fraction}; give a share in [0, 1]")
    texts = None if text is None else [text] if isinstance(text, str) else list(text)
    if texts is not None and not (texts and all(isinstance(one, str) and one.strip() for one in texts)):
        raise ValueError("text is empty; give at least one text to score against")
    keys, score, missing = _scores(cases, texts, encoder)
    known = ~np.isnan(score)
    if len(keys) and not known.any():
        raise ValueError("no item has both a picture and a text; pass text= to score the pictures against")
    if threshold is not None:
        rule = f"image-text score >= {threshold:g}"
        keep = known & (score >= threshold)
        said = {True: f"score >= {threshold:g}", False: f"score < {threshold:g}"}
    else:
        assert fraction is not None
        # The decimal that was typed, not its nearest binary: 0.29 of 100 is 29.
        count = floor(Fraction(str(fraction)) * int(known.sum()))
        order = sorted(np.flatnonzero(known).tolist(), key=lambda row: (-score[row], keys[row]))
        keep = np.zeros(len(keys), dtype=bool)
        keep[order[:count]] = True
        rule = f"image-text score in the top {fraction:g}"
        said = {True: f"in the top {fraction:g}", False: f"not in the top {fraction:g}"}
    reason = [said[bool(kept)] if sure else why for kept, sure, why in zip(keep, known, missing, strict=True)]
    return Decisions.of(keys, keep=keep, reason=reason, score=score, rule=rule)


def _scores(
    cases: Collection, texts: list[str] | None, encoder: Encoder | None
) -> tuple[list[str], np.ndarray, list[str]]:
    """Return keys, the score of each item (NaN: none), and why it would have none."""
    pictures = cases.part_vectors(kind="image")
    count = len(pictures.keys)
    score = np.full(count, np.nan)
    has_picture = np.bincount(pictures.owner, minlength=count) > 0
    if texts is not None:
        speaker = space_encoder(cases, encoder)
        direction = mean_direction(speaker.encode_texts(texts), "the texts")
        has_text = np.ones(count, dtype=bool)
        cosines = unit(pictures.vectors) @ direction
        score[has_picture] = -np.inf
        np.maximum.at(score, pictures.owner, cosines)
    else:
        words = cases.part_vectors(kind="text")
        has_text = np.bincount(words.owner, minlength=count) > 0
        first, said = unit(pictures.vectors), unit(words.vectors)
        starts = np.searchsorted(pictures.owner, np.arange(count + 1))
        ends = np.searchsorted(words.owner, np.arange(count + 1))
        for item in np.flatnonzero(has_picture & has_text).tolist():
            mine, own = first[starts[item] : starts[item + 1]], said[ends[item] : ends[item + 1]]
            score[item] = (mine @ own.T).max()
    why = ["no picture" if not picture else "no text" for picture in has_picture]
    return list(pictures.keys), np.clip(score, -1.0, 1.0), why
