"""From measured sweeps to a speed at equal recall, a table of ratios, a plot and a JSON file.

Computes; writes only below `bench/results`. A speed at a recall lies on the upper envelope of the sweep, interpolated
between its two neighbours with the logarithm of the speed against the logarithm of (1 - recall).
"""

from __future__ import annotations

import html
import math
from statistics import median
from typing import Any

COLOURS = ("#b3261e", "#1f6feb", "#2e7d32", "#8a5a00", "#6a1b9a", "#455a64")


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


def speeds(engine: dict[str, Any], wanted: float) -> list[float]:
    """Return the speed at recall `wanted` in every round; empty where it is not reached."""
    rounds = len(engine["sweep"][0]["speeds"])
    values = [
        at_recall([(point["recall"], point["speeds"][at]) for point in engine["sweep"]], wanted) for at in range(rounds)
    ]
    return [value for value in values if value is not None]


def _spread(values: list[float]) -> str:
    return f"{median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})" if values else "not reached"


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}x" if ours and theirs else "-"


def table(row: dict[str, Any]) -> str:
    """Return one row of the plan as Markdown: recall beside every speed, then osler's ratio to each engine."""
    engines = row["engines"]
    ours = next((engine for engine in engines if engine["key"] == "osler"), None)
    recalls = row["recalls"]
    head = ["engine", *(f"queries/s at recall {wanted}" for wanted in recalls), "build s", "bytes a row", "best recall"]
    lines = [
        f"### {row['name']}",
        "",
        f"{row['rows']:,} x {row['dim']} rows ({row['origin']}), {row['queries']:,} queries, k = {row['k']}, "
        f"{row['threads']} thread(s); median of {row['rounds']} interleaved rounds (lowest-highest); "
        f"builds: median of {row['builds']}",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for engine in engines:
        cells = [f"{engine['name']} {engine['version']}", *(_spread(speeds(engine, wanted)) for wanted in recalls)]
        best = max(point["recall"] for point in engine["sweep"])
        cells += [f"{median(engine['build_seconds']):.1f}", f"{engine['bytes'] / row['rows']:,.0f}", f"{best:.4f}"]
        lines.append("| " + " | ".join(cells) + " |")
    if ours:
        head = ["osler against", *(f"speed at {wanted}" for wanted in recalls), "build speed", "bytes"]
        lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for engine in engines:
            if engine is ours:
                continue
            cells = [engine["name"]]
            for wanted in recalls:
                mine, peer = speeds(ours, wanted), speeds(engine, wanted)
                cells.append(_ratio(median(mine) if mine else None, median(peer) if peer else None))
            cells.append(_ratio(median(engine["build_seconds"]), median(ours["build_seconds"])))
            cells.append(_ratio(ours["bytes"], engine["bytes"]))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(row: dict[str, Any]) -> str:
    """Return an SVG: recall on one axis (as the share missed, logarithmic), queries/s on the other (logarithmic)."""
    width, height, left, top, right, bottom = 760, 460, 70, 40, 180, 50
    curves = [
        (
            f"{engine['name']} {engine['version']}",
            [(max(1 - point["recall"], 1e-4), median(point["speeds"])) for point in engine["sweep"]],
        )
        for engine in row["engines"]
    ]
    across = [math.log10(miss) for _, points in curves for miss, _ in points]
    upward = [math.log10(speed) for _, points in curves for _, speed in points]
    low, high = math.floor(min(upward)), math.ceil(max(upward))
    worst, best = max(across), min(across)

    def x(miss: float) -> float:
        return left + (worst - math.log10(miss)) / max(worst - best, 1e-9) * (width - left - right)

    def y(speed: float) -> float:
        return height - bottom - (math.log10(speed) - low) / max(high - low, 1e-9) * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="22" font-size="14">{html.escape(row["name"])}</text>',
        f'<text x="{(left + width - right) / 2}" y="{height - 12}" text-anchor="middle">recall@{row["k"]}</text>',
    ]
    for recall in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999):
        if best - 1e-9 <= math.log10(1 - recall) <= worst + 1e-9:
            at = x(1 - recall)
            parts.append(f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{height - bottom}" stroke="#ddd"/>')
            parts.append(f'<text x="{at:.1f}" y="{height - bottom + 16}" text-anchor="middle">{recall}</text>')
    for decade in range(low, high + 1):
        at = y(10.0**decade)
        parts.append(f'<line x1="{left}" y1="{at:.1f}" x2="{width - right}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{10**decade:,}/s</text>')
    for at, (name, points) in enumerate(curves):
        colour = COLOURS[at % len(COLOURS)]
        path = " ".join(f"{x(miss):.1f},{y(speed):.1f}" for miss, speed in sorted(points, reverse=True))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(miss):.1f}" cy="{y(speed):.1f}" r="3" fill="{colour}"/>' for miss, speed in points]
        label = f'<text x="{width - right + 12}" y="{top + 18 * at + 10}" fill="{colour}">{html.escape(name)}</text>'
        parts.append(label)
    return "\n".join([*parts, "</svg>"]) + "\n"


def summary(row: dict[str, Any]) -> str:
    """Return one sentence: osler against the reference at the first recall of the plan."""
    by_key = {engine["key"]: engine for engine in row["engines"]}
    wanted, reference = row["recalls"][0], by_key.get(row["reference"])
    if "osler" not in by_key or reference is None:
        return "no comparison: the plan names no osler or no reference"
    mine, peer = speeds(by_key["osler"], wanted), speeds(reference, wanted)
    if not mine or not peer:
        return f"no comparison: recall {wanted} was not reached"
    return (
        f"at recall {wanted} osler answers {median(mine):,.0f} queries/s, {median(mine) / median(peer):.2f} times "
        f"{reference['name']}'s {median(peer):,.0f}"
    )
