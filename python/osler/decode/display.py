"""Stored grey values to display values: padding, modality rescale or look-up, window or VOI look-up, fall-back.

Works on arrays and on plain numbers taken from a header; reads no file. DICOM PS3.3, C.7.5.1.1.2, C.11.1 and C.11.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from osler.decode.lookup import count_values, look_up

__all__ = ["Greys", "Lut", "Rule", "Window", "window"]

# Share of the values that the fall-back leaves outside at either end.
_TAIL = 0.005

Curve = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]


@dataclass(frozen=True, eq=False)
class Lut:
    """A look-up table: the input of its first entry, its entries, and the greatest value that an entry may have."""

    first: int
    entries: NDArray[Any]
    top: int

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Look values up; what lies outside takes the nearest entry."""
        at = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.intp)
        found: NDArray[Any] = self.entries[at].astype(np.float64)
        return found


@dataclass(frozen=True, slots=True)
class Window:
    """Centre and width in the units of the modality, and the curve between its ends."""

    centre: float
    width: float
    curve: Curve = "LINEAR"


@dataclass(frozen=True, slots=True)
class Rule:
    """How one frame's stored values become values of the modality, and those become grey."""

    slope: float = 1.0
    intercept: float = 0.0
    modality: Lut | None = None
    window: Window | None = None
    voi: Lut | None = None

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return float64 values of the modality, in its units."""
        return self.modality(stored) if self.modality else stored.astype(np.float64) * self.slope + self.intercept


def window(values: NDArray[Any], rule: Window) -> NDArray[Any]:
    """Map values to [0, 1] by a window.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.display import Window, window
    >>> window(np.array([-160.0, 39.5, 240.0]), Window(40, 400)).tolist()
    [0.0, 0.5, 1.0]
    """
    centre, width = rule.centre, rule.width
    if rule.curve == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -700.0, 700.0)))
    if rule.curve == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    if width <= 1.0:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


class Greys:
    """Turns the stored grey values of one file into display values.

    A VOI look-up table is preferred to a window, and the first of several is taken. A window that would show every
    pixel in one grey is not used. Without either, samples of up to 8 stored bits are shown over their declared range,
    and wider ones between the 0.5th and the 99.5th percentile of all frames, padding left out (least to greatest
    where these two are equal; of samples wider than 16 bits, the least and the greatest of the frames' percentiles).
    MONOCHROME1 is inverted. Padding is black.

    Parameters
    ----------
    bits : int
        Bits stored: up to 8 gives uint8, more uint16, both over their full range.
    signed : bool
    inverted : bool
        MONOCHROME1.
    padding : tuple of int, optional
        Least and greatest stored value that mean no pixel.
    rules : callable
        Returns the rule of frame i.
    frames : iterable of ndarray
        Every frame's stored values, gone through once where a percentile or a check of a window needs it.

    Examples
    --------
    >>> import numpy as np
    >>> from osler.decode.display import Greys, Rule, Window
    >>> stored = np.array([[0, 1000, 2000]], dtype=np.uint16)
    >>> Greys(12, False, False, None, lambda i: Rule(window=Window(1000.5, 2001)), [stored]).show(stored, 0)
    array([[    0, 32768, 65535]], dtype=uint16)
    """

    def __init__(
        self,
        bits: int,
        signed: bool,
        inverted: bool,
        padding: tuple[int, int] | None,
        rules: Callable[[int], Rule],
        frames: Iterable[NDArray[Any]],
    ) -> None:
        self._bits = bits
        self._signed = signed
        self._inverted = inverted
        self._padding = padding
        self._rules = rules
        self._tables: dict[Rule, NDArray[Any]] = {}
        self._ends: dict[tuple[float, float, Lut | None], tuple[float, float, float, float]] = {}
        self._counts: NDArray[Any] | None = None
        self._span: tuple[int, int] | None = None
        self._wide: list[NDArray[Any]] = []
        for frame in frames:
            self._count(frame)

    def show(self, stored: NDArray[Any], i: int) -> NDArray[Any]:
        """Return frame i, (H, W), as uint8 or uint16 over the full range."""
        rule = self._rules(i)
        if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:
            return self._grey(stored, rule)
        first, values = self._seen(stored.dtype)
        table = self._tables.get(rule)
        if table is None:
            table = self._tables[rule] = self._grey(values, rule)
        return look_up(stored.view(f"u{stored.dtype.itemsize}"), table, first)

    def _seen(self, dtype: np.dtype[Any]) -> tuple[int, NDArray[Any]]:
        """Return the values from the first to the last that a frame has, in the order of their bits, and its number."""
        if self._span is None:
            self._span = (0, 1 << (8 * dtype.itemsize))
            there = self._counts > 0 if self._counts is not None else np.zeros(0, bool)
            if there.any():
                self._span = (int(there.argmax()), len(there) - int(there[::-1].argmax()))
        return self._span[0], _every(dtype)[slice(*self._span)]

    def _count(self, frame: NDArray[Any]) -> None:
        if frame.dtype.kind == "f" or frame.dtype.itemsize > 2:
            kept = frame[np.isfinite(frame)] if frame.dtype.kind == "f" else frame.ravel()
            kept = kept[~self._padded(kept)]
            if kept.size:
                self._wide.append(np.quantile(kept, (0.0, _TAIL, 1.0 - _TAIL, 1.0)))
            return
        size = frame.dtype.itemsize
        counts = count_values(frame.view(f"u{size}"))
        self._counts = counts if self._counts is None else self._counts + counts

    def _padded(self, stored: NDArray[Any]) -> NDArray[Any]:
        if self._padding is None:
            return np.zeros(stored.shape, dtype=bool)
        return (stored >= self._padding[0]) & (stored <= self._padding[1])

    def _grey(self, stored: NDArray[Any], rule: Rule) -> NDArray[Any]:
        values = rule.values(stored)
        if rule.voi:
            shown = np.clip(rule.voi(values) / rule.voi.top, 0.0, 1.0)
        elif rule.window and self._differs(rule):
            shown = window(values, rule.window)
        elif self._bits <= 8 and stored.dtype.kind != "f" and rule.modality is None:
            bottom = -(1 << (self._bits - 1)) if self._signed else 0
            shown = np.clip((stored.astype(np.float64) - bottom) / ((1 << self._bits) - 1), 0.0, 1.0)
        else:
            least, low, high, greatest = self._range(rule)
            if low == high:
                low, high = least, greatest
            shown = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)
        shown = 1.0 - shown if self._inverted else shown
        shown = np.where(self._padded(stored), 0.0, np.nan_to_num(shown, nan=0.0))
        return np.rint(shown * 255).astype(np.uint8) if self._bits <= 8 else np.rint(shown * 65535).astype(np.uint16)

    def _differs(self, rule: Rule) -> bool:
        assert rule.window
        least, _, _, greatest = self._range(rule)
        ends = window(np.array([least, greatest]), rule.window)
        return bool(ends[0] != ends[1]) or least == greatest

    def _range(self, rule: Rule) -> tuple[float, float, float, float]:
        key = (rule.slope, rule.intercept, rule.modality)
        if key not in self._ends:
            self._ends[key] = self._measure(rule)
        return self._ends[key]

    def _measure(self, rule: Rule) -> tuple[float, float, float, float]:
        if self._counts is None:
            if not self._wide:
                return 0.0, 0.0, 0.0, 0.0
            found = np.sort(rule.values(np.stack(self._wide)), axis=1)
            least, low, _, _ = found.min(axis=0)
            _, _, high, greatest = found.max(axis=0)
            return float(least), float(low), float(high), float(greatest)
        first, stored = self._seen(np.dtype(f"{'i' if self._signed else 'u'}{1 if len(self._counts) == 256 else 2}"))
        seen = self._counts[first : first + len(stored)]
        there = (seen > 0) & ~self._padded(stored)
        if not there.any():
            there = seen > 0
        values, counts = rule.values(stored[there]), seen[there]
        order = np.argsort(values, kind="stable")
        values, reached = values[order], np.cumsum(counts[order])
        low, high = (values[np.searchsorted(reached, share * reached[-1])] for share in (_TAIL, 1.0 - _TAIL))
        return float(values[0]), float(low), float(high), float(values[-1])


def _every(dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return each value of a type of one or two bytes, in the order of its bits."""
    size = dtype.itemsize
    return np.arange(1 << (8 * size), dtype=f"u{size}" if size == 2 else "u1").view(dtype)
