"""`osler index erase`, `compact`, `verify`, `recover`, `audit`: what keeps a collection sound, private and small.

Each command is one call on a collection; `osler index` takes them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from osler.cli import output
from osler.cli.options import check_where, existing, open_collection, open_index, style_options
from osler.cli.output import UsageProblem

__all__ = ["COMMANDS"]


@click.command("erase")
@click.argument("collection")
@click.option("--key", "keys", metavar="KEY", multiple=True, help="An item to erase; repeatable.")
@click.option("--where", metavar="EXPR", help="Erase items for which this holds, deleted ones and former versions too.")
@click.option("--dry-run", is_flag=True, help="Say how many items there are, and touch nothing.")
@style_options
def erase(collection: str, keys: tuple[str, ...], where: str | None, dry_run: bool, style: str) -> None:
    """Remove items so that no file of the collection has a byte of them, in no earlier state either.

    Solid-state disks, file systems with snapshots and backups may keep copies: this cannot reach them.
    """
    if bool(keys) == (where is not None):
        raise UsageProblem("give either --key, once or more, or --where")
    with open_collection(collection, "r" if dry_run else "a") as cases:
        count = check_where(cases, where) if where is not None else sum(key in cases for key in set(keys))
        if dry_run:
            output.show(
                style, {"would_erase": count, "items": len(cases)}, ["would_erase", "items"], [[count, len(cases)]]
            )
            return
        report = cases.erase(list(keys) or None, where)
    if keys and report.items < len(set(keys)):
        output.say(f"{len(set(keys)) - report.items} of the keys are not in the collection and left nothing in it")
    document = report.to_dict()
    output.show(style, document, list(document), [list(document.values())])


@click.command("compact")
@click.argument("collection")
@style_options
def compact(collection: str, style: str) -> None:
    """Write small pieces together, and those of which much was deleted without it."""
    with open_collection(collection, "a") as cases:
        before = cases.info().bytes
        cases.compact()
        document = {"bytes_before": before, "bytes": cases.info().bytes}
    output.show(style, document, list(document), [list(document.values())])


@click.command("merge")
@click.argument("collection")
@click.argument("others", nargs=-1, required=True, metavar="OTHER...")
@click.option(
    "--on-duplicate",
    type=click.Choice(["error", "skip", "replace"]),
    default="error",
    show_default=True,
    help="What to do with a key that is there already.",
)
@style_options
def merge(collection: str, others: tuple[str, ...], on_duplicate: Any, style: str) -> None:
    """Add the items of OTHER collections, such as shards that were built apart; each as a whole or not at all."""
    paths = [existing(other) for other in others]
    with open_collection(collection, "a") as cases:
        reports = [cases.merge(path, on_duplicate=on_duplicate) for path in paths]
        added = sum(report.added for report in reports)
        duplicates = sum(report.duplicates for report in reports)
        document = {"added": added, "duplicates": duplicates, "items": len(cases)}
    output.show(style, document, list(document), [list(document.values())])


@click.command("verify")
@click.argument("collection")
@click.option("--repair", is_flag=True, help="Make damaged graphs again from the rows; rows are never touched.")
@style_options
def verify(collection: str, repair: bool, style: str) -> int:
    """Read every byte again; exit with 1 if anything is damaged."""
    from osler.errors import CorruptIndexError

    findings: Sequence[Any] = ()
    try:
        if existing(collection).is_file():
            if repair:
                raise UsageProblem("an index file has nothing to be made again from; build it again from its vectors")
            open_index(collection).verify()
        else:
            with open_collection(collection, "a" if repair else "r") as cases:
                (cases.repair if repair else cases.verify)()
    except CorruptIndexError as error:
        findings = error.findings
        output.fail(str(error))
    columns = ["file", "section", "offset", "problem"]
    document = {"sound": not findings, "findings": list(findings)}
    if style != "table" or findings:
        output.show(style, document, columns, [[found.get(column) for column in columns] for found in findings])
    else:
        output.say("every byte is as it was written")
    return output.FAILED if findings else output.DONE


@click.command("recover")
@click.argument("collection")
@click.option("--to", type=click.IntRange(0), metavar="COMMIT", help="Put this state in force again.")
@style_options
def recover(collection: str, to: int | None, style: str) -> None:
    """List the states that a damaged collection still has, or put one of them in force again."""
    path = existing(collection)
    from osler.collection import Collection

    if to is not None:
        number = Collection.recover(path, to)
        output.show(style, {"commit": number, "from": to}, ["commit", "from"], [[number, to]])
        return
    states = Collection.states(path)
    rows = [[state.commit, state.items, "sound" if not state.findings else "damaged"] for state in states]
    document = {"states": [state.to_dict() for state in states]}
    output.show(style, document, ["commit", "items", "state"], rows)
    if style == "table":
        output.say(f"osler index recover {Path(collection)} --to COMMIT puts a sound one in force; try a copy first")


@click.command("audit")
@click.argument("collection")
@style_options
def audit(collection: str, style: str) -> None:
    """Look through all that is stored for what may name a person, and count it by column."""
    with open_collection(collection) as cases:
        found = cases.audit()
    columns = ["column", "pattern", "items"]
    output.show(style, found.to_dict(), columns, [[one[column] for column in columns] for one in found.findings])
    if style != "table":
        return
    if not found.findings:
        output.say(
            f"nothing in {found.items:,} versions of items looks like a name, a date, a record number, a path or a UID"
        )
    if found.kept:
        output.say(f"kept as they are, because they were named: {', '.join(found.kept)}")
    if found.unknown:
        output.say(f"columns that came with a table: {', '.join(found.unknown)}")


COMMANDS = (erase, compact, merge, verify, recover, audit)
