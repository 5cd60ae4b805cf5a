"""The targets, row by row, and what of each was measured: pure functions from parts to rows of tables.

A row is `Row(what, against, target, measured)`; a target is a ratio that is met from above, or a bound that is met from
below. `measured` is None where the parts to say it are not there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from report import Spread, at_recall, best_recall, faster, ratio, speeds

FILTER_RECALL = 0.98
SAME_SIZE = 1.05
SMALL = 1_600
# Bytes of links that a float32 HNSW with the benchmark's settings has beside its vectors.
HNSW_LINKS = 148
OURS = "osler"
OUR_RATIO = "osler:recall"
WAYS = {"single": "one query a call", "batch": "one batch call"}


@dataclass(frozen=True)
class Row:
    """One line of a table: what, against whom, the target in words, whether it is met, and the figure."""

    what: str
    against: str
    target: str
    measured: str
    met: bool | None = None


@dataclass(frozen=True)
class Section:
    """One row of the table of targets, as a table of its own."""

    title: str
    rows: list[Row]


class Parts:
    """The parts of a machine and profile, asked by set, case and engine."""

    def __init__(self, parts: list[dict[str, Any]]) -> None:
        self.all = parts
        self.sets = sorted(
            {(part["set"]["name"], part["set"]["rows"]) for part in parts}, key=lambda one: (one[0], one[1])
        )
        self.names = {
            part[
                "engine"
            ]: f"{part['identity']['engine']['name']} {part['identity']['engine']['version'] or ''}".strip()
            for part in parts
        }

    def of(self, case: str, group: tuple[str, int]) -> Iterator[dict[str, Any]]:
        """Yield the measured parts of a case on a set."""
        for part in self.all:
            here = (part["set"]["name"], part["set"]["rows"])
            if part["case"] == case and here == group and part["outcome"] == "measured":
                yield part

    def one(self, case: str, group: tuple[str, int], engine: str) -> dict[str, Any] | None:
        """Return one part, None where it was not measured."""
        return next((part for part in self.of(case, group) if part["engine"] == engine), None)

    def name(self, engine: str) -> str:
        """Return an engine's name with its version."""
        return self.names.get(engine, engine)


def told(group: tuple[str, int]) -> str:
    """Return a set's name for a table."""
    return f"{group[0]} {group[1]:,}"


def is_peer(engine: str) -> bool:
    """Return whether an engine is somebody else's."""
    return engine.partition(":")[0] != OURS


def bound(found: Spread | None, least: float | None, *, form: str = ".2f", unit: str = "x") -> tuple[str, bool | None]:
    """Return a ratio in words, and whether it reaches `least`."""
    if found is None:
        return "-", None
    return found.text(form, unit), None if least is None else found.middle >= least


def _rivals(parts: Parts, group: tuple[str, int], way: str, kind: str, wanted: float) -> dict[str, Spread]:
    """Return our ratio of speeds to every peer that reaches a recall."""
    found = {}
    for part in parts.of("search", group):
        if not is_peer(part["engine"]):
            continue
        for search in part["figures"]["searches"]:
            if search["way"] == way and search["queries"] == kind:
                against = faster(search["curves"], OURS, part["engine"], wanted)
                if against is not None:
                    found[part["engine"]] = against
    return found


def _kinds(parts: Parts, group: tuple[str, int]) -> list[tuple[str, str]]:
    """Return the ways and kinds of query that were searched."""
    seen = [(s["way"], s["queries"]) for part in parts.of("search", group) for s in part["figures"]["searches"]]
    return list(dict.fromkeys(seen))


def _target(group: tuple[str, int], way: str, kind: str, wanted: float) -> float | None:
    if group[0] == "clip" and kind == "texts":
        return None
    if not way.startswith("single"):
        return {0.95: 1.7, 0.99: 2.3}[wanted]
    return {0.95: 1.5, 0.99: 1.7}[wanted] if group[0] == "clip" else {0.95: 1.6, 0.99: 2.2}[wanted]


def search(parts: Parts, single: bool) -> list[Row]:
    """Speed at equal recall against the best peer, whoever it is: the one against which our ratio is lowest."""
    rows = []
    for group in parts.sets:
        for way, kind in _kinds(parts, group):
            if way.startswith("single") != single:
                continue
            for wanted in (0.95, 0.99):
                rivals = _rivals(parts, group, way, kind, wanted)
                least = _target(group, way, kind, wanted)
                what = f"{told(group)}, {kind}, {way.replace('-', ', threads ')}, recall {wanted}"
                goal = f">= {least}x" if least else "none set"
                if not rivals:
                    if any(is_peer(part["engine"]) for part in parts.of("search", group)):
                        rows.append(Row(what, "no peer that reaches it, or not ours", goal, "-"))
                    continue
                best = min(rivals, key=lambda key: rivals[key].middle)
                words, met = bound(rivals[best], least)
                rows.append(Row(what, parts.name(best), goal, words, met))
    return rows


def classics(parts: Parts) -> list[Row]:
    """The same against the classics."""
    goals = {"hnswlib": {0.95: 6.0, 0.99: 8.0}, "usearch:f32": {0.95: 10.0, 0.99: 10.0}}
    rows = []
    for group in parts.sets:
        for way, kind in _kinds(parts, group):
            if not way.startswith("single") or (group[0] == "clip" and kind == "texts"):
                continue
            for wanted in (0.95, 0.99):
                rivals = _rivals(parts, group, way, kind, wanted)
                for engine in [key for key in goals if key in rivals]:
                    least = goals[engine]
                    words, met = bound(rivals[engine], least[wanted])
                    what = f"{told(group)}, {kind}, recall {wanted}"
                    rows.append(Row(what, parts.name(engine), f">= {least[wanted]:.0f}x", words, met))
    return rows


def build(parts: Parts) -> list[Row]:
    """Build time against every peer; the recall and speed that the builds lead to stand in the search tables."""
    goals = {"hnswlib": 7.0, "rabitqlib:symqg-8b": 5.0, "rabitqlib:symqg-raw": 5.0}
    rows = []
    for group in parts.sets:
        for part in [*parts.of("build", group), *parts.of("build_one_thread", group)]:
            if not is_peer(part["engine"]):
                continue
            for timed in part["figures"]["builds"]:
                ours, theirs = ([run["seconds"] for run in timed["runs"][key]] for key in (OURS, part["engine"]))
                least = goals.get(part["engine"])
                words, met = bound(ratio(theirs, ours), least)
                seconds = f"; {Spread.of(ours).text('.2f', ' s')} against {Spread.of(theirs).text('.2f', ' s')}"
                what = f"{told(group)}, {timed['threads']} thread(s)"
                goal = f">= {least:.0f}x faster" if least else "none set"
                rows.append(Row(what, parts.name(part["engine"]), goal, words + seconds, met))
    return rows


def size(parts: Parts) -> list[Row]:
    """Bytes a row: on disk, the process's own in memory, of mapped files; and the recall they were read at.

    The target asks for one form of ours that is small enough. Where one is, the others are larger by choice.
    """
    rows = []
    for group in parts.sets:
        small_enough = any(
            not is_peer(part["engine"]) and _held(part["figures"]) <= SMALL and part["figures"]["recall"] >= 0.99
            for part in parts.of("size", group)
        )
        for part in parts.of("size", group):
            figures = part["figures"]
            own, mapped, disk = (figures[f"{kind}_bytes"] / figures["rows"] for kind in ("private", "file", "disk"))
            said = figures["said_bytes"] or None
            words = (
                f"{own:,.0f} own + {mapped:,.0f} mapped in memory, {disk:,.0f} on disk, recall {figures['recall']:.4f}"
            )
            if said is not None:
                words += f" (says {said / figures['rows']:,.0f})"
            resident, goal, met = (said / figures["rows"] if said is not None else own + mapped), "none set", None
            if not is_peer(part["engine"]) and part["set"]["dim"] == 384:
                goal = f"<= {SMALL:,} at recall >= 0.99"
                met = (resident <= SMALL and figures["recall"] >= 0.99) or (None if small_enough else False)
            rows.append(Row(told(group), parts.name(part["engine"]), goal, words, met))
    return rows


def small(parts: Parts) -> list[Row]:
    """Our small forms against the best peer that is no larger, and all that take less than half of a float32 HNSW: both
    were measured beside our default form."""
    rows = []
    for group in parts.sets:
        held = {part["engine"]: _held(part["figures"]) for part in parts.of("size", group)}
        kind = next((kind for way, kind in _kinds(parts, group) if way == "single-1"), None)
        for ours in (key for key in held if key.startswith("osler:")):
            part = parts.one("search", group, ours)
            single = _single(part) if part else None
            room = max(SAME_SIZE * held[ours], (4 * part["set"]["dim"] + HNSW_LINKS) / 2) if part else 0.0
            for wanted in (0.95, 0.99) if single and kind else ():
                mine = faster(single["curves"], ours, OURS, wanted)
                rivals = {
                    key: found
                    for key, found in _rivals(parts, group, "single-1", kind, wanted).items()
                    if key in held and held[key] <= room
                }
                what = f"{told(group)}, {part['identity']['engine']['parameters']}, recall {wanted}"
                words = f"{held[ours]:,.0f} bytes a row, "
                words += mine.text(".2f", "x the default form") if mine else "recall not reached"
                best = min(rivals, key=lambda key: rivals[key].middle) if rivals else None
                met = None
                if best and mine:
                    product = mine.middle * rivals[best].middle
                    words += f"; {product:.2f}x that peer ({held[best]:,.0f} bytes a row), a product of two ratios"
                    met = product >= 1
                rows.append(Row(what, parts.name(best) if best else "no peer as small", "ahead of it", words, met))
    return rows


def _held(figures: dict[str, Any]) -> float:
    if figures["said_bytes"]:
        return figures["said_bytes"] / figures["rows"]
    return (figures["private_bytes"] + figures["file_bytes"]) / figures["rows"]


def _single(part: dict[str, Any]) -> dict[str, Any] | None:
    return next((one for one in part["figures"]["searches"] if one["way"] == "single-1"), None)


def product_codes(parts: Parts) -> list[Row]:
    """The best recall that product codes of a sixteenth reach with re-ranking from disk, ours and faiss's."""
    rows = []
    for group in parts.sets:
        for engine in ("osler:pq-disk", "faiss:ivfpqfs-disk"):
            part = parts.one("search", group, engine)
            single = _single(part) if part else None
            if single is None:
                if reason := _why_not(parts, "search", group, engine):
                    rows.append(Row(told(group), parts.name(engine), ">= 0.95", reason))
                continue
            curve = single["curves"][engine]
            best = best_recall(curve)
            at = Spread.of(speeds(curve, 0.95))
            words = f"recall {best:.4f}" + (f", {at.text()} queries/s at 0.95" if at else "")
            rows.append(Row(told(group), parts.name(engine), ">= 0.95", words, best >= 0.95))
    return rows


def _why_not(parts: Parts, case: str, group: tuple[str, int], engine: str) -> str | None:
    for part in parts.all:
        if (part["case"], part["engine"]) == (case, engine) and (part["set"]["name"], part["set"]["rows"]) == group:
            return f"{part['outcome']}: {part['reason']}"
    return None


def filtered(parts: Parts) -> list[Row]:
    """Each column against the best of all peers and numpy that keep the recall there."""
    rows = []
    for group in parts.sets:
        found: dict[tuple[str, float], list[tuple[str, dict[str, Any]]]] = {}
        for part in parts.of("filtered", group):
            for one in part["figures"]["filters"]:
                found.setdefault((one["kind"], one["share"]), []).append((part["engine"], one["curves"]))
        for (kind, share), curves in found.items():
            what = f"{told(group)}, {share:.1%} allowed, {kind}"
            rivals = {
                engine: against
                for engine, curve in curves
                if is_peer(engine) and (against := faster(curve, OUR_RATIO, engine, FILTER_RECALL)) is not None
            }
            least = max(best_recall(curve[OUR_RATIO]) for _, curve in curves)
            recall = f"recall up to {least:.4f}"
            if not rivals:
                rows.append(Row(what, "no peer keeps 0.98", ">= 4x", recall))
                continue
            best = min(rivals, key=lambda key: rivals[key].middle)
            words, met = bound(rivals[best], 4.0)
            rows.append(Row(what, parts.name(best), ">= 4x at recall >= 0.98", f"{words}, {recall}", met))
    return rows


def exact(parts: Parts) -> list[Row]:
    """Exact search: queries a second against numpy, faiss and usearch."""
    rows = []
    for group in parts.sets:
        for part in parts.of("exact", group):
            for search in part["figures"]["searches"]:
                batch = search["mode"] == "batch"
                goal = 1.0 if batch and part["engine"] in ("numpy", "faiss:flat") else None
                words, met = bound(faster(search["curves"], "osler:exact", part["engine"], 0.999), goal)
                work = 2e-9 * part["set"]["rows"] * part["set"]["dim"]
                flops = [Spread.of(speeds(search["curves"][key], 0.999)) for key in ("osler:exact", part["engine"])]
                words += "; GFLOP/s " + " against ".join(f"{work * one.middle:,.0f}" if one else "-" for one in flops)
                what = f"{told(group)}, {search['queries']}, {WAYS[search['mode']]}, {search['threads']} thread(s)"
                rows.append(Row(what, parts.name(part["engine"]), ">= 1.0x" if goal else "none set", words, met))
    return rows


def cold_start(parts: Parts) -> list[Row]:
    """Milliseconds from a new process to the first answer, and of them beyond the import."""
    rows = []
    for group in parts.sets:
        for part in parts.of("cold_start", group):
            for engine, runs in part["figures"]["starts"].items():
                if engine == "numpy alone" or (engine == "osler:mapped" and part["engine"] != OURS):
                    continue
                total, imported, beyond = (
                    Spread.of(1e3 * value for value in values)
                    for values in (
                        [run["total_seconds"] for run in runs],
                        [run["import_seconds"] for run in runs],
                        [run["open_seconds"] + run["first_seconds"] for run in runs],
                    )
                )
                disk = part["figures"]["disk_bytes"][engine]
                read = max(run["read_bytes"] + run["file_bytes"] for run in runs) / disk
                words = (
                    f"{beyond.text('.1f', ' ms')} beyond import, import {imported.text('.0f', ' ms')}, "
                    f"{total.text('.0f', ' ms')} in all; read or mapped {read:.0%} of the file"
                )
                ours = engine == "osler:mapped"
                goal = "<= 50 ms beyond import, import <= 150 ms" if ours else "none set"
                met = beyond.middle <= 50 and imported.middle <= 150 if ours else None
                rows.append(Row(told(group), f"{parts.name(engine)}{', mapped' if ours else ''}", goal, words, met))
    return rows


def beyond_memory(parts: Parts) -> list[Row]:
    """Reads from disk a query, in the first pass over the queries and in the last, under a limit of memory."""
    rows = []
    for group in parts.sets:
        for part in parts.of("beyond_memory", group):
            figures = part["figures"]
            for limit in figures["limits"]:
                words = [
                    f"{name} pass {count / one['seconds']:,.0f} queries/s, {one['major_faults'] / count:,.1f} page "
                    f"faults and {one['read_bytes'] / count / 1024:,.0f} KiB read a query"
                    for name, one, count in (
                        ("first", limit["passes"][0], figures["queries"]),
                        ("last", limit["passes"][-1], figures["queries"]),
                    )
                ]
                what = (
                    f"{told(group)}, {limit['limit_bytes'] / 2**20:,.0f} MiB of memory for a file of "
                    f"{figures['disk_bytes'] / 2**20:,.0f} MiB"
                )
                recall = f"recall {limit['recall']:.4f}"
                rows.append(Row(what, parts.name(part["engine"]), "few reads a query", "; ".join([*words, recall])))
    return rows


def join(parts: Parts) -> list[Row]:
    """All pairs above a cosine, against numpy and faiss's range search."""
    rows = []
    for group in parts.sets:
        for part in parts.of("join", group):
            runs = part["figures"]["joins"]
            ours, theirs = ([run["seconds"] for run in runs[key]] for key in (OURS, part["engine"]))
            goal = 20.0 if part["engine"] == "faiss:flat" else None
            words, met = bound(ratio(theirs, ours), goal)
            pairs = {key: sorted({run["pairs"] for run in found}) for key, found in runs.items()}
            agree = pairs[OURS] == pairs[part["engine"]]
            words += f"; {Spread.of(ours).text('.2f', ' s')}, {pairs[OURS][0]:,} pairs"
            words += "" if agree else f", the other finds {pairs[part['engine']]} (rounding at the threshold)"
            what = f"{told(group)}, cosine >= {part['figures']['threshold']}"
            rows.append(Row(what, parts.name(part["engine"]), ">= 20x" if goal else "none set", words, met))
    return rows


def growth_curves(parts: Parts) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return, for speed at 0.95 and for build seconds, each engine's values by the number of rows of `clip`.

    Where ours was measured beside others only, the first of these measurements is taken; where builds were not measured
    in turns, the one that was searched.
    """
    found: dict[str, dict[str, list[tuple[int, float]]]] = {"queries/s": {}, "build s": {}}
    for group in parts.sets:
        if group[0] != "clip":
            continue
        for engine in (OURS, "hnswlib", "rabitqlib:symqg-8b"):
            part = _with(parts, "search", group, engine)
            single = _single(part) if part else None
            if single and (values := speeds(single["curves"][engine], 0.95)):
                found["queries/s"].setdefault(engine, []).append((group[1], Spread.of(values).middle))
            built = _with(parts, "build", group, engine)
            if built or part:
                runs = built["figures"]["builds"][0]["runs"][engine] if built else [part["figures"]["builds"][engine]]
                middle = Spread.of(run["seconds"] for run in runs).middle
                found["build s"].setdefault(engine, []).append((group[1], middle))
    return found


def _with(parts: Parts, case: str, group: tuple[str, int], engine: str) -> dict[str, Any] | None:
    """Return a part that an engine was measured in, its own first."""
    beside = (part for part in parts.of(case, group) if part["control"] == engine)
    return parts.one(case, group, engine) or next(beside, None)


def growth(parts: Parts) -> list[Row]:
    """How speed falls and build time grows from one decade of rows to the next."""
    rows = []
    for quantity, curves in growth_curves(parts).items():
        for engine, points in curves.items():
            ordered = sorted(points)
            for (fewer, before), (more, after) in itertools.pairwise(ordered):
                change = before / after if quantity == "queries/s" else after / before
                most = 1.8 if quantity == "queries/s" else 12.0
                ours = engine == OURS
                rows.append(
                    Row(
                        f"clip, {fewer:,} -> {more:,} rows",
                        parts.name(engine),
                        f"{quantity}: <= {most}x" if ours else "the slope beside it",
                        f"{change:.2f}x",
                        change <= most if ours else None,
                    )
                )
    return rows


def promises(parts: Parts) -> list[Row]:
    """The recall that `recall=` asked for and the recall reached."""
    rows = []
    for group in parts.sets:
        for engine in (OUR_RATIO, f"{OUR_RATIO}-texts"):
            part = parts.one("search", group, engine)
            for search in part["figures"]["searches"] if part else []:
                if search["way"] != "single-1":
                    continue
                across = group[0] == "clip" and search["queries"] == "texts"
                promised = across == (engine != OUR_RATIO)
                for point in search["curves"][engine]:
                    words = f"{point['recall']:.4f}, {Spread.of(point['speeds']).text()} queries/s"
                    what = f"{told(group)}, {search['queries']}, recall={point['width']}"
                    goal = "within 0.01 below" if promised else "none: calibrated for the other kind"
                    met = point["width"] - point["recall"] <= 0.01 if promised else None
                    rows.append(Row(what, parts.name(engine), goal, words, met))
    return rows


SECTIONS: list[tuple[str, Callable[[Parts], list[Row]]]] = [
    ("Queries per second, one query a call, one thread, against the best peer", lambda parts: search(parts, True)),
    ("The same against the classics", classics),
    ("Queries per second, one batch call, against the best peer", lambda parts: search(parts, False)),
    ("Graph build", build),
    ("Bytes a row", size),
    ("Smaller forms of ours", small),
    ("Product codes of a sixteenth, re-ranked from disk", product_codes),
    ("Filtered search", filtered),
    ("Exact search", exact),
    ("Cold start", cold_start),
    ("Larger than memory", beyond_memory),
    ("Near-duplicate join", join),
    ("Growth", growth),
    ("The recall asked for and the recall reached", promises),
]


def sections(parts: Parts) -> list[Section]:
    """Return all tables that have a row."""
    return [Section(title, rows) for title, make in SECTIONS if (rows := make(parts))]


__all__ = ["Parts", "Row", "Section", "at_recall", "growth_curves", "sections"]
