"""One command: read the plan, measure what is not measured yet, print ratios, keep the figures.

Starts one process an engine; writes `bench/.cache`, and through `page.py` what is shown.

    python bench/run.py [--profile check|quick|full] [--engine KEY]... [--case NAME]... [--data NAME] [--rows N]
                        [--list] [--again] [--retry] [--older-osler] [--rounds N]
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import data
import machine
import page
import parts
from measure import EngineFailed, EngineRefused, Worker
from visit import Store, Visit

HERE = Path(__file__).resolve().parent


def say(text: str) -> None:
    """Tell the person at the terminal what is going on."""
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def engines_of(case: dict[str, Any], group: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """Return the engines of a case on a set, in the plan's order."""
    named = [*case["engines"], *(plan["peers"][group["peers"]] if case.get("peers") else [])]
    left = group.get("leave", [])
    return [key for key in dict.fromkeys(named) if key not in left and f"{case['name']}/{key}" not in left]


def cases_of(group: dict[str, Any], plan: dict[str, Any], rows: int) -> list[dict[str, Any]]:
    """Return the cases that a set is measured in."""
    return [
        case
        for case in plan["case"]
        if case["name"] in group.get("cases", [case["name"]])
        and case.get("least_rows", rows) <= rows <= case.get("most_rows", rows)
        and engines_of(case, group, plan)
    ]


def settings_of(
    case: dict[str, Any], group: dict[str, Any], plan: dict[str, Any], rounds: int | None
) -> dict[str, Any]:
    """Return the settings that a case reads, the nearest word winning: case, then set, then plan."""
    names = importlib.import_module(f"cases.{case.get('module', case['name'])}").SETTINGS
    found = {**plan["settings"], **group.get("settings", {}), **case.get("settings", {})}
    return {name: rounds if rounds and name == "rounds" else found[name] for name in names}


class Descriptions:
    """What every engine says of itself, asked once in a process of its own."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}

    def of(self, key: str | None) -> dict[str, Any] | None:
        if key is None:
            return None
        if key not in self.known:
            try:
                with Worker(key, 1) as worker:
                    self.known[key] = worker.ask("describe", limit=120)
            except (EngineFailed, EngineRefused) as error:
                self.known[key] = {"name": key, "version": None, "parameters": None, "missing": str(error)}
        return self.known[key]


def measure_set(group: dict[str, Any], plan: dict[str, Any], options: argparse.Namespace, known: Descriptions) -> None:
    """Measure one set of vectors: engine by engine, every case of it that is not measured yet."""
    rows = options.rows or group.get("rows")
    if options.list and not data.made(group["data"], rows):
        print(f"{group['data']:10} all of it: the vectors are not made yet (make bench-data)")
        return
    vectors = data.load(group["data"], rows)
    cases = [case for case in cases_of(group, plan, vectors.count) if not options.case or case["name"] in options.case]
    order = list(dict.fromkeys(key for case in cases for key in engines_of(case, group, plan)))
    wanted = [
        key for key in order if not options.engine or key in options.engine or key.partition(":")[0] in options.engine
    ]
    say(f"{vectors.name}: {vectors.count:,} x {vectors.base.shape[1]}, {len(wanted)} engines")
    store = None if options.list else Store(vectors)
    try:
        for key in wanted:
            for case in cases:
                if key in engines_of(case, group, plan):
                    _measure_part(key, case, group, vectors, store, plan, options, known)
            if store is not None:
                store.drop(key, {case["control"] for case in cases if "control" in case})
    finally:
        if store is not None:
            store.close()


def _measure_part(
    key: str,
    case: dict[str, Any],
    group: dict[str, Any],
    vectors: data.Vectors,
    store: Store | None,
    plan: dict[str, Any],
    options: argparse.Namespace,
    known: Descriptions,
) -> None:
    settings = settings_of(case, group, plan, options.rounds)
    control = case.get("control")
    identity = parts.identity(known.of(key), known.of(control), settings, f"{vectors.digest} {vectors.count}")
    place = parts.path(machine.label(), group["profile"], f"{vectors.name}-{vectors.count}", case["name"], key)
    kept = not options.again and parts.current(place, identity, older_control=options.older_osler)
    if kept and not (options.retry and parts.read(place)["outcome"] == "failed"):
        return
    if options.list:
        print(f"{vectors.name:10} {vectors.count:>9,}  {case['name']:16} {key}")
        return
    assert store is not None
    before, start = machine.noise(), time.perf_counter()
    outcome, reason, figures = "measured", None, None
    if "missing" in (known.of(key) or {}):
        outcome, reason = "missing", known.of(key)["missing"]
    else:
        try:
            module = importlib.import_module(f"cases.{case.get('module', case['name'])}")
            figures = module.measure(Visit(key, vectors, store), control, settings)
        except EngineRefused as error:
            outcome, reason = "refused", str(error)
        except EngineFailed as error:
            outcome, reason = "failed", str(error)
    taken = time.perf_counter() - start
    parts.write(
        place,
        {
            "identity": identity,
            "engine": key,
            "control": control,
            "case": case["name"],
            "profile": group["profile"],
            "set": {
                "name": vectors.name,
                "origin": vectors.origin,
                "rows": vectors.count,
                "dim": int(vectors.base.shape[1]),
            },
            "machine": machine.describe(),
            "date": datetime.date.today().isoformat(),
            "seconds": round(taken, 1),
            "noise": [before, machine.noise()],
            "outcome": outcome,
            "reason": reason,
            "figures": figures,
        },
    )
    say(f"  {case['name']:10} {key:24} {taken:6.1f} s  {outcome}{': ' + reason if reason else ''}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure osler and its peers side by side on this machine.")
    parser.add_argument("--profile", choices=("check", "quick", "full"), default="quick")
    parser.add_argument("--engine", action="append", help="only this engine, with or without a variant; repeatable")
    parser.add_argument("--case", action="append", help="only this case; repeatable")
    parser.add_argument("--data", help="only sets of this name")
    parser.add_argument("--rows", type=int, help="only sets of this many rows")
    parser.add_argument("--rounds", type=int, help="instead of the plan's number")
    parser.add_argument("--list", action="store_true", help="print what would be measured, and measure nothing")
    parser.add_argument("--again", action="store_true", help="measure also what is measured (always so but in full)")
    parser.add_argument("--retry", action="store_true", help="measure again what failed")
    parser.add_argument("--older-osler", action="store_true", help="let figures beside another build of osler count")
    return parser.parse_args()


def main() -> None:
    """Measure what the plan says and show it."""
    options = arguments()
    options.again = options.again or (options.profile != "full" and not options.list)
    plan = tomllib.loads((HERE / "plan.toml").read_text())
    known = Descriptions()
    if "missing" in (ours := known.of("osler") or {}):
        raise SystemExit(f"osler itself does not import; build it first (make bench does): {ours['missing']}")
    for group in plan["set"]:
        fits = options.rows is None or group.get("rows") == options.rows
        if group["profile"] == options.profile and fits and options.data in (None, group["data"]):
            measure_set(group, plan, options, known)
    if not options.list:
        page.write(options.profile)


if __name__ == "__main__":
    main()
