"""From measured sweeps to speeds at equal recall, and ratios of two engines that took turns.

Computes only. A speed at a recall lies on the upper envelope of the sweep, interpolated between its two neighbours with
the logarithm of the speed against the logarithm of (1 - recall). A ratio is taken within each round and the median over
the rounds is told with the lowest and the highest, so that a slow minute of the machine slows both sides of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any


def at_recall(points: list[tuple[float, float]], wanted: float) -> float | None:
    """Return the speed at recall `wanted` of points (recall, speed), or None where no point reaches it.

    A sweep whose lowest point is above `wanted` counts with the best speed it has there.

    >>> round(at_recall([(0.90, 4000.0), (0.975, 1000.0)], 0.95))
    2000
    >>> at_recall([(0.97, 1500.0), (0.99, 900.0)], 0.95)
    1500.0
    >>> at_recall([(0.90, 4000.0)], 0.95) is None
    True
    """
    envelope: list[tuple[float, float]] = []
    for recall, speed in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not envelope or speed > envelope[-1][1]:
            envelope.append((recall, speed))
    above = [point for point in envelope if point[0] >= wanted]
    below = [point for point in envelope if point[0] < wanted]
    if not above:
        return None
    if not below:
        return above[-1][1]
    (high, slow), (low, fast) = above[-1], below[0]

    def miss(recall: float) -> float:
        return math.log(max(1 - recall, 1e-6))

    share = (miss(wanted) - miss(high)) / (miss(low) - miss(high)) if low < high else 0.0
    return math.exp(math.log(slow) + share * (math.log(fast) - math.log(slow)))


def speeds(curve: list[dict[str, Any]], wanted: float) -> list[float]:
    """Return the speed at recall `wanted` in every round; empty where it is not reached."""
    rounds = len(curve[0]["speeds"])
    values = [at_recall([(point["recall"], point["speeds"][at]) for point in curve], wanted) for at in range(rounds)]
    return [value for value in values if value is not None]


def best_recall(curve: list[dict[str, Any]]) -> float:
    """Return the highest recall of a sweep."""
    return max(point["recall"] for point in curve)


@dataclass(frozen=True)
class Spread:
    """A median with the lowest and the highest of what it is the median of."""

    middle: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """Return the spread of values, None where there are none.

        >>> Spread.of([3.0, 1.0, 2.0])
        Spread(middle=2.0, low=1.0, high=3.0, count=3)
        """
        kept = list(values)
        return cls(median(kept), min(kept), max(kept), len(kept)) if kept else None

    def text(self, form: str = ",.0f", unit: str = "") -> str:
        """Return the median, and the range where there is one."""
        if self.count == 1:
            return f"{self.middle:{form}}{unit}"
        return f"{self.middle:{form}}{unit} ({self.low:{form}}-{self.high:{form}})"


def ratio(numerators: list[float], denominators: list[float]) -> Spread | None:
    """Return the ratio round by round; None where either side has no figures.

    >>> ratio([10.0, 30.0, 20.0], [5.0, 10.0, 10.0]).text(".1f", "x")
    '2.0x (2.0-3.0)'
    """
    return Spread.of(upper / lower for upper, lower in zip(numerators, denominators, strict=False))


def faster(curves: dict[str, Any], ours: str, theirs: str, wanted: float) -> Spread | None:
    """Return how many times the speed of `theirs` `ours` has at a recall."""
    return ratio(speeds(curves[ours], wanted), speeds(curves[theirs], wanted))
