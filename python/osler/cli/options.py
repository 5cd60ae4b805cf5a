"""Options that several commands share, and the checks on what was typed, made before any work starts.

Opens collections and loads encoders; prints one line on stderr at most.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from osler.cli.output import UsageProblem, as_typed, nearest, say

if TYPE_CHECKING:
    from osler.collection import Collection
    from osler.encoders import Encoder
    from osler.index import Index

# The first bytes of an index file: FORMAT.md, "Header". Those after them tell how a transfer has damaged it.
_SIGNATURE = b"\x8fOSL"

__all__ = [
    "ANOTHER_COLLECTION",
    "DEFAULT_ENCODER",
    "Device",
    "arguments",
    "check_column",
    "check_encoder",
    "check_modality",
    "check_output",
    "check_takes_pictures",
    "check_where",
    "device_option",
    "encoder_option",
    "existing",
    "load_encoder",
    "open_collection",
    "open_index",
    "style_options",
    "where_option",
]

ANOTHER_COLLECTION = "use a collection whose encoder takes pictures and texts, such as reference"
DEFAULT_ENCODER = "reference"
Device = Literal["auto", "cpu", "cuda", "tensorrt"]
_Command = TypeVar("_Command", bound=Callable[..., Any])

where_option = click.option("--where", metavar="EXPR", help="Only items for which this SQL-style expression holds.")
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
    default="auto",
    show_default=True,
    help="Where to encode.",
)
encoder_option = click.option("--encoder", metavar="NAME|DIR", help="A name of `osler encoder list`, or a folder.")


def style_options(command: _Command) -> _Command:
    """Add --format and --json; the command gets `style`."""

    def merge(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if parameter.name == "as_json":
            if value and ctx.params.get("style") in ("table", "csv"):
                raise UsageProblem(f"--json and --format {ctx.params['style']} exclude each other; give one")
            if value:
                ctx.params["style"] = "json"
            elif ctx.params.get("style") is None:
                ctx.params["style"] = "table"
            return None
        return value

    json_option = click.option(
        "--json", "as_json", is_flag=True, expose_value=False, callback=merge, help="As --format json."
    )
    format_option = click.option(
        "--format", "style", type=click.Choice(["table", "json", "csv"]), is_eager=True, help="How to print the result."
    )
    return format_option(json_option(command))


def existing(path: str) -> Path:
    """Return the path if something is there."""
    found = Path(path)
    if not found.exists():
        # Names of pictures may name patients, so only collections are offered.
        siblings: Sequence[str] = ()
        if found.parent.is_dir():
            siblings = [one.name for one in found.parent.glob("*.osler")]
        raise UsageProblem(f'no such file or folder: "{path}"{nearest(found.name, siblings)}')
    return found


def check_output(path: str | None, *suffixes: str) -> None:
    """Refuse a file that cannot be written, before work that would be lost."""
    if path is None:
        return
    target = Path(path)
    if suffixes and target.suffix.lower() not in suffixes:
        raise UsageProblem(f'"{path}" ends in none of {", ".join(suffixes)}; choose one of them')
    if target.is_dir():
        raise UsageProblem(f'"{path}" is a folder; give the name of a file')
    if not target.absolute().parent.is_dir():
        raise UsageProblem(f'the folder of "{path}" does not exist; make it first')
    if not os.access(target.absolute().parent, os.W_OK):
        raise UsageProblem(f'the folder of "{path}" cannot be written to; choose another place')


@contextmanager
def open_collection(
    path: str, mode: Literal["r", "a"] = "r", *, encoder: str | None = None, device: Device = "auto"
) -> Iterator[Collection]:
    """Open a collection and close it at the end; a path without one is wrong usage."""
    found = existing(path)
    if not found.is_dir():
        raise UsageProblem(f'"{path}" is a file, not a collection; give the folder that `osler index build` made')
    if not (found / "FORMAT").exists() and not (found / "manifests").exists():
        raise UsageProblem(
            f'"{path}" is not a collection; make one of it with: osler index build {path} -o cases.osler'
        )
    from osler.collection import Collection

    with Collection.open(
        found, mode, encoder=None if encoder is None else check_encoder(encoder), device=device
    ) as cases:
        yield cases


@contextmanager
def arguments() -> Iterator[None]:
    """Turn what the library says of its arguments into wrong usage; failures of the work have classes of their own."""
    from osler.errors import Error

    try:
        yield
    except Error:
        raise
    except ValueError as error:
        raise UsageProblem(as_typed(str(error))) from error


def check_column(cases: Collection, option: str, column: str | None, path: str) -> None:
    """Refuse a column that the collection does not have, naming the nearest one."""
    if column is not None and column not in cases.schema:
        raise UsageProblem(f'{option}: no column "{column}" in {path}{nearest(column, list(cases.schema))}')


def check_where(cases: Collection, where: str | None) -> int:
    """Return how many items an expression admits; one that cannot be read is wrong usage."""
    try:
        return int(cases.count(where=where))
    except (ValueError, KeyError, TypeError) as error:
        if where is None:
            raise
        message = error.args[0] if error.args else error
        raise UsageProblem(f"--where: {message}") from None


def check_modality(cases: Collection, kind: Literal["image", "text"], what: str, instead: str | None = None) -> None:
    """Refuse an option that the collection's encoder cannot take, before it is loaded; a query may ask otherwise."""
    name = cases.info().encoder
    if name is None:
        advice = instead or "ask with --vector or --like"
        raise UsageProblem(f"{what} needs an encoder, and this collection has vectors only; {advice}")
    if kind not in cases.encoder.modalities:
        other = "--image" if kind == "text" else "--text"
        advice = instead or f"ask with {other}, --like or --vector"
        raise UsageProblem(f"{what} needs an encoder of {kind}s, and {name} is none; {advice}")


def check_takes_pictures(name: str, modalities: Sequence[str]) -> None:
    """Refuse to make or grow a collection of pictures with an encoder of texts."""
    if "image" in modalities:
        return
    from osler.encoders import list_encoders

    ready = [info for info in list_encoders() if "image" in info.modalities and info.state == "ready"]
    others = [info.name for info in ready if info.domain == "general"][:3] or [DEFAULT_ENCODER]
    raise UsageProblem(
        f"the encoder {name} takes no pictures; choose an encoder of images, such as {' or '.join(others)}, for a "
        "collection of its own; `osler encoder list` names all"
    )


def check_encoder(name: str | None) -> str:
    """Return the name or folder of an encoder that there is; the reference pair where none is named."""
    from osler.encoders import list_encoders

    if name is None:
        return DEFAULT_ENCODER
    names = [info.name for info in list_encoders()]
    if name not in names:
        folder = Path(name)
        if not folder.is_dir():
            hint = (
                nearest(name, names) or '; "osler encoder list" names them all, or give a folder with a manifest.json'
            )
            raise UsageProblem(f'no encoder "{name}"{hint}')
        if not (folder / "manifest.json").is_file():
            raise UsageProblem(f'the folder "{name}" has no manifest.json; see `osler encoder list` for names')
    return name


def load_encoder(name: str | None, device: Device) -> Encoder:
    """Load an encoder by name or folder; without a name the reference pair, said once on stderr."""
    from osler.encoders import load_encoder as load

    found = load(check_encoder(name), device=device)
    if name is None:
        say(f"encoder: {DEFAULT_ENCODER}, a pair for demonstration and no medical model; --encoder chooses another")
    return found


def open_index(path: str) -> Index:
    """Open an index file; a file of another kind is wrong usage, not damage."""
    from osler.index import Index

    with open(path, "rb") as stream:
        start = stream.read(len(_SIGNATURE))
    if start != _SIGNATURE:
        make = (
            f"osler index import {path} -o cases.osler" if path.lower().endswith(".usearch") else "osler index import"
        )
        raise UsageProblem(
            f'"{path}" is no collection and no index of Osler; give what `osler index build` made, or bring a usearch '
            f"file in with: {make}"
        )
    return Index.open(path)
