"""The page of results, the plots and the JSON, from the parts that were measured.

Reads `bench/.cache/parts`, or a JSON that it wrote before; `full` figures are written to `bench/RESULTS.md`, with
`tried.md`, and `bench/results`, the others below `bench/.cache`.

    python bench/page.py [--profile check|quick|full] [--from JSON]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import machine
import parts as stored
import plot
import targets
from data import CACHE
from report import Spread, best_recall, speeds
from targets import Parts, told

HERE = Path(__file__).resolve().parent
QUIET = 0.15
MARKS = {True: "yes", False: "no", None: ""}


def table(head: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table."""
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*out, *("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)])


def head(parts: Parts) -> Iterator[str]:
    """Yield the machine, the dates, how quiet it was and the versions."""
    described = parts.all[0]["machine"]
    dates = sorted({part["date"] for part in parts.all})
    spreads = [sample["spread"] for part in parts.all for sample in part["noise"]]
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    flags = " ".join(described["flags"])
    yield (
        f"{described['cpu']}, {described['cores']} cores, {described['memory_gib']} GiB, {flags}; "
        f"{described['system']}; Python {described['python']}, numpy {described['numpy']}. Measured {when}."
    )
    loud = sum(spread > QUIET for spread in spreads) / len(spreads)
    yield (
        f"Fixed work timed before and after each measurement: its slowest tenth lay {median(spreads):.0%} above the "
        f"median in the middle sample; {loud:.0%} of the samples were above {QUIET:.0%}: small differences are ties."
    )
    seen = {
        f"{part['set']['name']} ({part['set']['rows']:,} x {part['set']['dim']}): {part['set']['origin']}"
        for part in parts.all
    }
    yield "Vectors: " + "; ".join(sorted(seen)) + "."


def engines(parts: Parts) -> str:
    """Return every engine with version, settings, and what became of it; none is left out."""
    lines: dict[str, list[str]] = {}
    for part in parts.all:
        key, described = part["engine"], part["identity"]["engine"]
        line = lines.setdefault(
            key, [described["name"], described["version"] or "-", described["parameters"] or "-", ""]
        )
        if described.get("build"):
            line[1] = f"{described['version']} ({described['build']})"
        for words in _refusals(part):
            where = f"{part['case']} on {told((part['set']['name'], part['set']['rows']))}"
            if words not in line[3]:
                line[3] = "; ".join(filter(None, [line[3], f"{where} {words}"]))
    return table(["engine", "version", "settings", "what was not measured, and why"], list(lines.values()))


def _refusals(part: dict[str, Any]) -> list[str]:
    if part["outcome"] != "measured":
        return [f"{part['outcome']}: {part['reason']}"]
    return [f"refused {way}: {reason}" for way, reason in part["figures"].get("refused", {}).items()]


def searches(parts: Parts) -> Iterator[str]:
    """Yield every sweep in full: speeds at the recalls compared, and our ratio in the same rounds."""
    for group in parts.sets:
        gathered: dict[tuple[str, str], list[tuple[float, list[str]]]] = {}
        for part in parts.of("search", group):
            key = part["engine"]
            for search in part["figures"]["searches"]:
                curve = search["curves"][key]
                line = [parts.name(key), f"{best_recall(curve):.4f}"]
                for wanted in (0.9, 0.95, 0.99):
                    found = Spread.of(speeds(curve, wanted))
                    line.append(found.text() if found else "not reached")
                for wanted in (0.95, 0.99):
                    curves = search["curves"]
                    against = (
                        targets.faster(curves, "osler", key, wanted) if "osler" in curves and key != "osler" else None
                    )
                    line.append(against.text(".2f", "x") if against else "-")
                fastest = speeds(curve, 0.95)
                place = gathered.setdefault((search["way"], search["queries"]), [])
                place.append((-median(fastest) if fastest else 0.0, line))
        for (way, kind), lines in gathered.items():
            yield f"### {told(group)}, {kind}, {way}"
            yield table(
                ["engine", "best recall", "queries/s at 0.90", "at 0.95", "at 0.99", "osler at 0.95", "osler at 0.99"],
                [line for _, line in sorted(lines, key=lambda one: one[0])],
            )


def plots(parts: Parts) -> dict[str, str]:
    """Return the plots by the name of their file."""
    found = {}
    for group in parts.sets:
        curves: dict[tuple[str, str], dict[str, Any]] = {}
        for part in parts.of("search", group):
            for search in part["figures"]["searches"]:
                place = curves.setdefault((search["way"], search["queries"]), {})
                place[parts.name(part["engine"])] = search["curves"][part["engine"]]
                if parts.one("search", group, part["control"]) is None:
                    place.setdefault(part["control"], search["curves"][part["control"]])
        for (way, kind), shown in curves.items():
            title = f"{told(group)}, {kind}, {way}"
            found[f"{group[0]}-{group[1]}-{kind}-{way}.svg"] = plot.recall_speed(title, shown, 10)
    for quantity, grown in targets.growth_curves(parts).items():
        named = {parts.name(key): points for key, points in grown.items() if len(points) > 1}
        if named:
            name = quantity.replace("/", "-").replace(" ", "-")
            found[f"growth-{name}.svg"] = plot.growth(f"{quantity} by number of rows, clip", quantity, named)
    return found


def text(parts: Parts, pictures: dict[str, str], tried: str) -> str:
    """Return the whole page; `pictures` are the places of the plots by name, `tried` stands behind the tables."""
    out = [
        "# Results",
        "",
        "Written by `bench/page.py` from the JSON beside it; `bench/README.md` says how to read it.",
        "",
    ]
    out += ["\n\n".join(head(parts)), "", "## Against the targets", ""]
    out += ["Medians, in brackets the lowest and highest of the rounds. A ratio is taken within each round.", ""]
    for section in targets.sections(parts):
        lines = [[row.what, row.against, row.target, row.measured, MARKS[row.met]] for row in section.rows]
        out += [f"### {section.title}", "", table(["what", "who", "target", "measured", "met"], lines), ""]
    out += ["Images encoded per second are not measured by this harness.", "", tried]
    out += ["## Engines", "", engines(parts), "", "## Every sweep", ""]
    for block in searches(parts):
        out += [block, ""]
    out += ["## Plots", "", *(f"![{name}]({place})" for name, place in pictures.items()), ""]
    return "\n".join(out)


def write(profile: str, source: Path | None = None) -> None:
    """Write page, plots and JSON of a profile, and say where."""
    found = json.loads(source.read_text()) if source else stored.read_all(machine.label(), profile)
    if not found:
        print("nothing is measured yet")
        return
    parts = Parts(found)
    label = found[0].get("label", machine.label())
    folder = HERE / "results" if profile == "full" else CACHE / profile
    home = HERE if profile == "full" else folder
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name, svg in plots(parts).items():
        (folder / f"{label}-{name}").write_text(svg)
        pictures[name] = f"{(folder / f'{label}-{name}').relative_to(home)}"
    (folder / f"{label}.json").write_text(json.dumps([{**part, "label": label} for part in found]) + "\n")
    page = text(parts, pictures, (HERE / "tried.md").read_text() if profile == "full" else "")
    (home / "RESULTS.md").write_text(page)
    if profile != "full":
        print(page.partition("## Every sweep")[0])
    print(f"kept in {(home / 'RESULTS.md').relative_to(HERE.parent)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the page of results from what is measured.")
    parser.add_argument("--profile", choices=("check", "quick", "full"), default="quick")
    parser.add_argument("--from", dest="source", type=Path, help="a JSON that this program wrote")
    given = parser.parse_args()
    write(given.profile, given.source)
