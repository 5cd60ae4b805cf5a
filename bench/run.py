"""One command: read the plan, measure every engine in turns, print ratios, keep the figures.

Starts one process an engine; writes to standard output and `bench/results`.

    python bench/run.py [--full] [--engine NAME]... [--rows N] [--rounds N] [--builds N] [--no-results]
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import data
import machine
import numpy as np
import report
import truth
from measure import Engine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def say(text: str) -> None:
    """Tell the person at the terminal what is going on."""
    print(text, file=sys.stderr, flush=True)


def measure_row(row: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Run one row of the plan and return its figures."""
    vectors = data.load(row["data"])
    if options.rows:
        vectors = dataclasses.replace(vectors, base=vectors.base[: options.rows])
    k, mode, sweep = row["k"], row["mode"], row["sweep"]
    threads = row["threads"] or machine.cores()
    rounds, builds = options.rounds or row["rounds"], options.builds
    names = [name for name in row["engines"] if not options.engine or name in options.engine]
    kth = truth.kth_scores(vectors, k)
    engines: list[Engine] = []
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        rows, queries, answers = (Path(folder) / f"{part}.npy" for part in ("rows", "queries", "answers"))
        np.save(rows, vectors.base)
        np.save(queries, vectors.queries)
        try:
            for name in names:
                engine = Engine(name, rows, queries, k=k, threads=threads)
                engines.append(engine)
                figures.append({"key": name, **engine.description, "build_seconds": []})
            for _ in range(builds):
                for engine, figure in zip(engines, figures, strict=True):
                    figure["build_seconds"].append(engine.ask("build"))
                    say(f"  {engine.name}: built in {figure['build_seconds'][-1]:.1f} s")
            for engine, figure in zip(engines, figures, strict=True):
                figure["bytes"] = engine.ask("size")
                figure["sweep"] = []
                for width in sweep:
                    engine.ask("answers", width=width, mode=mode, path=str(answers))
                    share = truth.recall(vectors, np.load(answers), kth)
                    figure["sweep"].append({"width": width, "recall": share, "speeds": []})
                shares = ", ".join(f"{point['recall']:.4f}" for point in figure["sweep"])
                say(f"  {engine.name}: recall {shares}")
            for turn in range(rounds):
                # Every second round goes backwards, so that no engine always follows the same neighbour.
                order = list(zip(engines, figures, strict=True))[:: -1 if turn % 2 else 1]
                for engine, figure in order:
                    for point in figure["sweep"]:
                        point["speeds"].append(engine.ask("speed", width=point["width"], mode=mode))
                say(f"  round {turn + 1} of {rounds}")
        finally:
            for engine in engines:
                engine.close()
    return {
        "name": row["name"],
        "data": row["data"],
        "origin": vectors.origin,
        "digest": vectors.digest,
        "rows": len(vectors.base),
        "dim": vectors.base.shape[1],
        "queries": len(vectors.queries),
        "k": k,
        "mode": mode,
        "threads": threads,
        "rounds": rounds,
        "builds": builds,
        "recalls": row["recalls"],
        "reference": row["reference"],
        "engines": figures,
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure osler and its peers side by side on this machine.")
    parser.add_argument("--full", action="store_true", help="also the rows of the plan marked full")
    parser.add_argument("--engine", action="append", help="only these engines; may be given several times")
    parser.add_argument("--rows", type=int, help="only the first N vectors")
    parser.add_argument("--rounds", type=int, help="instead of the plan's number")
    parser.add_argument("--builds", type=int, default=1, help="how often every index is built (1)")
    parser.add_argument("--no-results", action="store_true", help="keep no file")
    return parser.parse_args()


def main() -> None:
    """Measure what the plan says and print it."""
    options = arguments()
    plan = tomllib.loads((HERE / "plan.toml").read_text())
    rows = [{**plan["defaults"], **row} for row in plan["row"] if options.full or not row.get("full")]
    facts = {"machine": machine.describe(), "date": datetime.date.today().isoformat(), "noise": [machine.noise()]}
    done = []
    for row in rows:
        say(row["name"])
        done.append(measure_row(row, options))
        facts["noise"].append(machine.noise())
    quiet = max(sample["spread"] for sample in facts["noise"])
    print(f"{facts['machine']['cpu']}, {facts['machine']['cores']} cores, {' '.join(facts['machine']['flags'])}")
    print(f"fixed work, slowest tenth above the median: {quiet:.0%} (above 15 %: read small differences as ties)\n")
    for figures in done:
        print(report.table(figures), end="\n\n")
        print(report.summary(figures), end="\n\n")
    if not options.no_results:
        RESULTS.mkdir(exist_ok=True)
        stem = f"{facts['date']}-{machine.label()}"
        (RESULTS / f"{stem}.json").write_text(json.dumps({**facts, "rows": done}, indent=1) + "\n")
        for at, figures in enumerate(done):
            (RESULTS / f"{stem}-{at + 1}.svg").write_text(report.plot(figures))
        print(f"kept in bench/results/{stem}.json")


if __name__ == "__main__":
    main()
