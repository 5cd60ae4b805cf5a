"""SVG: recall against queries per second and growth with rows, a curve an engine, all axes logarithmic."""

from __future__ import annotations

import html
import math
from statistics import median
from typing import Any

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 500, 70, 40, 260, 50
COLOURS = (
    "#b3261e", "#1f6feb", "#2e7d32", "#8a5a00", "#6a1b9a", "#455a64", "#00838f", "#c2185b", "#5d4037", "#827717",
    "#283593", "#ef6c00", "#00695c", "#7b1fa2", "#9e9d24", "#37474f", "#d84315", "#0277bd", "#558b2f", "#ad1457",
)  # fmt: skip
LINES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
LEAST_MISSED = 1e-4


def recall_speed(title: str, curves: dict[str, list[dict[str, Any]]], k: int) -> str:
    """Return the plot of curves by the name of their engine."""
    shown = {
        name: [(max(1 - point["recall"], LEAST_MISSED), median(point["speeds"])) for point in curve]
        for name, curve in curves.items()
    }
    across = [math.log10(miss) for points in shown.values() for miss, _ in points]
    upward = [math.log10(speed) for points in shown.values() for _, speed in points]
    low, high = math.floor(min(upward)), math.ceil(max(upward))
    worst, best = max(across), min(across)

    def x(miss: float) -> float:
        return LEFT + (worst - math.log10(miss)) / max(worst - best, 1e-9) * (WIDTH - LEFT - RIGHT)

    def y(speed: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(speed) - low) / max(high - low, 1e-9) * (HEIGHT - TOP - BOTTOM)

    parts = _frame(title, f"recall@{k}")
    for recall in LINES:
        if best - 1e-9 <= math.log10(1 - recall) <= worst + 1e-9:
            at = x(1 - recall)
            parts.append(f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>')
            parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{recall}</text>')
    for decade in range(low, high + 1):
        at = y(10.0**decade)
        parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10**decade:,}/s</text>')
    for at, (name, points) in enumerate(shown.items()):
        ours = name.startswith("osler")
        path = " ".join(f"{x(miss):.1f},{y(speed):.1f}" for miss, speed in sorted(points, reverse=True))
        parts += _curve(at, name, path, "3" if ours else "1.5")
        colour = COLOURS[at % len(COLOURS)]
        parts += [f'<circle cx="{x(miss):.1f}" cy="{y(speed):.1f}" r="3" fill="{colour}"/>' for miss, speed in points]
    return "\n".join([*parts, "</svg>"]) + "\n"


def growth(title: str, unit: str, curves: dict[str, list[tuple[int, float]]]) -> str:
    """Return the plot of a quantity against the number of rows, both logarithmic, one curve an engine."""
    across = [math.log10(rows) for points in curves.values() for rows, _ in points]
    upward = [math.log10(value) for points in curves.values() for _, value in points]
    left, right, low, high = min(across), max(across), math.floor(min(upward)), math.ceil(max(upward))

    def x(rows: float) -> float:
        return LEFT + (math.log10(rows) - left) / max(right - left, 1e-9) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(value) - low) / max(high - low, 1e-9) * (HEIGHT - TOP - BOTTOM)

    parts = _frame(title, "rows")
    for rows in sorted({rows for points in curves.values() for rows, _ in points}):
        parts.append(f'<text x="{x(rows):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{rows:,}</text>')
    for decade in range(low, high + 1):
        at = y(10.0**decade)
        parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**decade:,g} {unit}</text>')
    for at, (name, points) in enumerate(curves.items()):
        path = " ".join(f"{x(rows):.1f},{y(value):.1f}" for rows, value in sorted(points))
        parts += _curve(at, name, path, "3" if name.startswith("osler") else "1.5")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _frame(title: str, below: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="14">{html.escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{below}</text>',
    ]


def _curve(at: int, name: str, path: str, thick: str) -> list[str]:
    colour = COLOURS[at % len(COLOURS)]
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}"/>',
        f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 18 * at + 10}" fill="{colour}">{html.escape(name)}</text>',
    ]
