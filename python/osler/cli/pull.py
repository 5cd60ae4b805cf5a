"""`osler encoder pull`: terms, sources and sizes of a published encoder, then its files.

Asks on a terminal before it fetches what is not free of conditions; all it does is two calls on the library.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from osler.cli import output
from osler.cli.options import check_encoder, style_options
from osler.cli.output import Interrupted, UsageProblem
from osler.errors import EncoderError

if TYPE_CHECKING:
    from osler.encoders.entry import Entry
    from osler.encoders.plan import Plan

__all__ = ["pull"]


@click.command("pull")
@click.argument("name")
@click.option("--out", metavar="DIR", help="The encoder's folder; by default one where its name finds it.")
@click.option("--revision", metavar="COMMIT", help="Commit, branch or tag instead of the registry's commit.")
@click.option("--accept-licence", "--yes", "accept", is_flag=True, help="The terms were read and are accepted.")
@click.option("--dry-run", is_flag=True, help="Show terms, sizes and sources, and fetch no file.")
@style_options
def pull(name: str, out: str | None, revision: str | None, accept: bool, dry_run: bool, style: str) -> None:
    """Fetch an encoder that others publish, check every file, and make it ready to work without a network.

    Its licence, gate, citation, files and sizes are shown first. The hub is that of HF_ENDPOINT, the token that of
    HF_TOKEN or of the hub's own login.
    """
    from osler.encoders.entry import entries
    from osler.encoders.fetch import pull_encoder
    from osler.encoders.plan import plan_pull
    from osler.encoders.registry import what_to_do

    entry = entries().get(name)
    if entry is None:
        check_encoder(name)
    elif what_to_do(entry).startswith("downloadable"):
        _show_terms(entry)
    try:
        plan = plan_pull(name, out, revision=revision)
    except EncoderError as error:
        if error.code in ("folder", "unknown_encoder"):
            raise UsageProblem(str(error)) from None
        raise
    _show_files(plan)
    if dry_run:
        document = plan.to_dict()
        columns = ["path", "bytes", "repository", "revision", "sha256"]
        output.show(style, document, columns, [[one[key] for key in columns] for one in document["files"]])
        return
    if plan.must_accept is not None and not accept:
        _ask(plan.must_accept)
        accept = True
    try:
        pulled = pull_encoder(plan, accept_licence=accept, progress=True)
    except KeyboardInterrupt:
        raise Interrupted("what came so far is kept; the same command goes on from there") from None
    if pulled.state == "not run":
        output.say(
            "not run here, since ONNX Runtime is not installed; the files are whole and their graphs were checked"
        )
    if pulled.next is not None:
        files = f" and FOLDER holds {' and '.join(pulled.bring)}" if pulled.bring else ""
        output.say(f"the weights are here; what is left, where the extra export is installed{files}: {pulled.next}")
    if plan.entry.logit_scale == "checkpoint" and plan.source.kind == "onnx":
        output.say("these files do not tell the logit scale, so classification needs one from you")
    document = pulled.to_dict()
    rows = [[key, value] for key, value in document.items() if key not in ("sha256", "bring") and value is not None]
    output.show(style, document, ["name", "value"], rows)


def _show_terms(entry: Entry) -> None:
    note = f" ({entry.licence.note})" if entry.licence.note else ""
    output.say(f"{entry.name}: {entry.title}")
    output.say(f"licence: {entry.licence.id}{note}")
    if entry.gate is not None:
        output.say(f"gate: {entry.gate}")
    output.say(f"cite: {entry.citation}")


def _show_files(plan: Plan) -> None:
    for repository, how in plan.chosen.items():
        revision = next(file.revision for file in plan.files if file.repository == repository)
        why = {"newest": "the newest, for the registry names none", "asked": "as asked", "registry": "of the registry"}
        output.say(f"from: {plan.hub.page(repository)} at commit {revision}, {why[how]}")
    for file in plan.files:
        output.say(f"file: {file.place}, {_megabytes(file.remote.size)}")
    output.say(f"all: {_megabytes(plan.bytes)}")
    for name in plan.bring:
        known = plan.entry.uncertain.get("text.tokenizer.files")
        output.say(f"bring: {name} of the tokenizer, which no repository has{f' ({known})' if known else ''}")
    if plan.gate is not None and plan.entry.gate is None:
        output.say(f"gate: {plan.gate}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"


def _ask(why: str) -> None:
    """Ask on a terminal whether the terms are accepted; elsewhere an option must say so."""
    if not sys.stdin.isatty():
        raise UsageProblem(f"{why}; read its terms, then give --accept-licence")
    if not click.confirm(f"{why}; do you accept its terms?", err=True):
        raise EncoderError("the terms were not accepted, so nothing was fetched", code="licence")
