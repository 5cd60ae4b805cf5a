"""`osler filter`: decisions about which items stay, by score or by likeness, and their application.

Decisions go to a file that can be reviewed; only `osler filter apply` deletes.
"""

from __future__ import annotations

import click

from osler.cli import Commands, output
from osler.cli.options import (
    ANOTHER_COLLECTION,
    Device,
    arguments,
    check_modality,
    check_output,
    device_option,
    existing,
    open_collection,
    style_options,
)
from osler.cli.output import UsageProblem

__all__ = ["command"]

_DECISIONS = (".json", ".parquet")


@click.group("filter", cls=Commands)
def command() -> None:
    """Decide which items stay. Nothing is deleted before `osler filter apply`."""


@command.command("score")
@click.argument("collection")
@click.option("--threshold", type=float, metavar="COSINE", help="Keep items that score at least this.")
@click.option("--fraction", type=float, metavar="SHARE", help="Keep this share of the items, the best ones.")
@click.option(
    "--text", metavar="TEXT", multiple=True, help="Score pictures against this, not their own text; repeatable."
)
@click.option("--out", metavar="FILE", help="Also write the decisions, as .json or .parquet.")
@device_option
@style_options
def score(
    collection: str,
    threshold: float | None,
    fraction: float | None,
    text: tuple[str, ...],
    out: str | None,
    device: Device,
    style: str,
) -> None:
    """Decide by how well an item's picture fits its text."""
    if (threshold is None) == (fraction is None):
        raise UsageProblem("give either --threshold or --fraction")
    if threshold is not None and not -1 <= threshold <= 1:
        raise UsageProblem(f"--threshold is {threshold:g}; a cosine lies in [-1, 1]")
    if fraction is not None and not 0 <= fraction <= 1:
        raise UsageProblem(f"--fraction is {fraction:g}; give a share in [0, 1]")
    if any(not one.strip() for one in text):
        raise UsageProblem("--text is empty; say what to score against")
    check_output(out, *_DECISIONS)
    with open_collection(collection, device=device) as cases:
        if text:
            check_modality(cases, "text", "--text", ANOTHER_COLLECTION)
        from osler.curate import score_filter

        with arguments():
            decisions = score_filter(cases, threshold=threshold, fraction=fraction, text=list(text) or None)
    document = decisions.to_dict()
    columns = ["key", "keep", "reason", "score"]
    rows = [[row[column] for column in columns] for row in document["decisions"]]
    output.show(
        style,
        {"rule": decisions.rule, "kept": len(decisions.kept), "dropped": len(decisions.dropped)}
        | {"decisions": document["decisions"]},
        columns,
        rows,
    )
    if out is not None:
        decisions.save(out)
    note = f"; wrote {out}, apply it with: osler filter apply {collection} {out}" if out else ""
    output.say(f"{len(decisions.kept):,} items kept, {len(decisions.dropped):,} dropped by {decisions.rule}{note}")


@command.command("duplicates")
@click.argument("collection")
@click.option("--threshold", type=float, default=0.95, show_default=True, help="Lowest cosine of a pair.")
@style_options
def duplicates(collection: str, threshold: float, style: str) -> None:
    """List every pair of items that are nearer than a threshold."""
    if not -1 < threshold <= 1:
        raise UsageProblem(f"--threshold is {threshold:g}; give a cosine above -1 and not above 1")
    with open_collection(collection) as cases:
        from osler.curate import near_duplicates

        pairs = near_duplicates(cases, threshold=threshold)
        items = len(cases)
    document = {"pairs": pairs.to_dicts(), "threshold": threshold, "items": items}
    output.show(style, document, pairs.columns, pairs.rows())
    if style == "table":
        output.say(f"{len(pairs):,} pairs among {items:,} items have a cosine of at least {threshold:g}")


@command.command("apply")
@click.argument("collection")
@click.argument("decisions")
@click.option("--keys", metavar="FILE", help="Write the keys of the kept items instead of deleting the others.")
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@style_options
def apply(collection: str, decisions: str, keys: str | None, dry_run: bool, style: str) -> None:
    """Delete the items that a reviewed file of decisions drops."""
    found = existing(decisions)
    check_output(keys)
    from osler.curate import Decisions

    if found.suffix.lower() not in _DECISIONS:
        raise UsageProblem(f'"{decisions}" ends in neither .json nor .parquet; give what `osler filter score` wrote')
    with arguments():
        verdicts = Decisions.load(found)
    writes = keys is None and not dry_run
    with open_collection(collection, "a" if writes else "r") as cases:
        count = sum(key in cases for key in verdicts.dropped) if dry_run else verdicts.apply(cases, keys=keys)
        items = len(cases)
    done = "would_delete" if dry_run else "written" if keys is not None else "deleted"
    output.show(style, {done: count, "items": items}, [done, "items"], [[count, items]])
