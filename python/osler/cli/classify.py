"""`osler classify`: a label an item, from prompts.

One `osler.classify.zero_shot`; all options are checked before anything is encoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from osler.cli import output
from osler.cli.options import (
    ANOTHER_COLLECTION,
    Device,
    arguments,
    check_modality,
    check_where,
    device_option,
    open_collection,
    style_options,
    where_option,
)
from osler.cli.output import UsageProblem, nearest

if TYPE_CHECKING:
    from osler.classify import PromptSet

__all__ = ["command"]


@click.command("classify")
@click.argument("collection")
@click.option("--prompts", metavar="NAME|FILE", help="A prompt set that comes with osler, or a JSON file.")
@click.option("--label", "labels", metavar="LABEL=TEXT", multiple=True, help="A label and a prompt of it; repeatable.")
@click.option(
    "--mode",
    type=click.Choice(["softmax", "sigmoid", "pairs"]),
    default="softmax",
    show_default=True,
    help="Labels that exclude each other, that do not, or each against its absence.",
)
@click.option("--scale", type=float, help="Factor of the cosine before the softmax; by default the encoder's own.")
@where_option
@device_option
@style_options
def command(
    collection: str,
    prompts: str | None,
    labels: tuple[str, ...],
    mode: Literal["softmax", "sigmoid", "pairs"],
    scale: float | None,
    where: str | None,
    device: Device,
    style: str,
) -> None:
    """Label items by what prompts say of each label.

    \b
    osler classify cases.osler --prompts modality
    osler classify cases.osler --label effusion="pleural effusion" --label normal="clear lungs"
    """
    chosen = _prompts(prompts, labels, mode)
    if scale is not None and not 0 < scale < float("inf"):
        raise UsageProblem(f"--scale is {scale:g}; give a number above 0")
    with open_collection(collection, device=device) as cases:
        check_where(cases, where)
        check_modality(cases, "text", "--label" if prompts is None else "--prompts", ANOTHER_COLLECTION)
        from osler.classify import zero_shot

        with arguments():
            result = zero_shot(cases, chosen, mode=mode, where=where, scale=scale)
    document = result.to_dict()
    items = document["items"]
    rows = [[one["key"], one["label"], one["score"], *(one["scores"][name] for name in result.labels)] for one in items]
    output.show(style, document, ["key", "label", "score", *result.labels], rows)
    if style == "table":
        missing = sum(label is None for label in result.label)
        note = f", {missing:,} of them without a vector" if missing else ""
        output.say(f"{len(result):,} items, {len(result.labels)} labels, {mode}{note}")


def _prompts(prompts: str | None, labels: tuple[str, ...], mode: str) -> PromptSet | dict[str, Any]:
    """Return the prompts that were asked for, or say what is wrong with the question."""
    if (prompts is None) == (not labels):
        raise UsageProblem("give either --prompts, or --label once or more")
    if prompts is None:
        if mode == "pairs":
            raise UsageProblem("--mode pairs needs prompts for and against each label; give them with --prompts")
        given: dict[str, list[str]] = {}
        for label in labels:
            name, sign, text = label.partition("=")
            if not (sign and name.strip() and text.strip()):
                raise UsageProblem(f'--label "{label}" is not of the form LABEL=TEXT')
            given.setdefault(name.strip(), []).append(text.strip())
        if mode == "softmax" and len(given) < 2:
            raise UsageProblem("softmax chooses among labels; give a second --label, or --mode sigmoid")
        return given
    from osler.classify import PromptSet

    is_file = prompts.lower().endswith(".json")
    if not is_file and prompts not in PromptSet.names():
        names = PromptSet.names()
        hint = nearest(prompts, names) or f"; there are {', '.join(names)}, or give a file ending in .json"
        raise UsageProblem(f'no prompt set "{prompts}"{hint}')
    if is_file and not Path(prompts).is_file():
        raise UsageProblem(f'no such file: "{prompts}"')
    with arguments():
        return PromptSet.load(prompts)
