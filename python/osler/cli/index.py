"""`osler index`: build a collection, add to it, delete from it, look into it, exchange it.

Each command is one call on a collection, after every check that can be made before work starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from osler.cli import Commands, output, upkeep
from osler.cli.options import (
    Device,
    check_encoder,
    check_output,
    check_takes_pictures,
    check_where,
    device_option,
    encoder_option,
    existing,
    load_encoder,
    open_collection,
    open_index,
    style_options,
)
from osler.cli.output import Interrupted, UsageProblem
from osler.errors import ServerError

if TYPE_CHECKING:
    from osler.collection import AddReport, Collection
    from osler.collection.ingest import Plan

__all__ = ["command"]

_metadata_option = click.option("--metadata", metavar="FILE", help="CSV or Parquet: more columns, joined by file name.")
_keep_option = click.option("--keep", metavar="TAG", multiple=True, help="Store this DICOM tag as it is; repeatable.")
_items_option = click.option(
    "--items", type=click.Choice(["file", "series"]), default="file", show_default=True, help="What is one item."
)
_tiles_option = click.option(
    "--tiles",
    metavar="SIZE@MPP",
    help="Cut whole slides into tiles of SIZE pixels at MPP micrometres per pixel, as 224@0.5 or 224@20x.",
)
_gaps_option = click.option(
    "--gaps",
    type=click.Choice(["refuse", "fill"]),
    default="refuse",
    show_default=True,
    help="For an encoder of volumes: skip a series with missing slices, or fill them between their neighbours.",
)
_parts_option = click.option(
    "--parts",
    type=click.Choice(["whole", "multiscale"]),
    default="whole",
    show_default=True,
    help="What of a picture is searched: all of it, or also crops of it.",
)
_shard_option = click.option(
    "--shard", metavar="I/N", help="Only this share of the files, 1/4 to 4/4; merge them later."
)
_strict_option = click.option("--strict", is_flag=True, help="Exit with 3 if a file was skipped.")
_dry_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and touch nothing.")


@click.group("index", cls=Commands)
def command() -> None:
    """Build a collection, add to it, look into it, keep it sound, exchange it."""


for _kept in upkeep.COMMANDS:
    command.add_command(_kept)


@command.command("build")
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option("-o", "--out", metavar="DIR", help="The collection to make, such as cases.osler.")
@encoder_option
@_metadata_option
@_keep_option
@_items_option
@_tiles_option
@_parts_option
@_gaps_option
@_shard_option
@device_option
@click.option("--resume", is_flag=True, help="Go on with a collection that is there already.")
@click.option("--secret", metavar="FILE", help="Share the pseudonyms of another collection, as shards must.")
@_dry_option
@_strict_option
@style_options
def build(
    sources: tuple[str, ...],
    out: str | None,
    encoder: str | None,
    metadata: str | None,
    keep: tuple[str, ...],
    items: str,
    tiles: str | None,
    parts: str,
    gaps: str,
    shard: str | None,
    device: Device,
    resume: bool,
    secret: str | None,
    dry_run: bool,
    strict: bool,
    style: str,
) -> int:
    """Make a collection from pictures, DICOM files and volumes.

    A SOURCE is a file, a folder, a CSV or Parquet table that names pictures, or, alone, the address of a DICOMweb
    server such as https://host/dicom-web?Modality=CT, with credentials in OSLER_DICOMWEB_TOKEN, or in
    OSLER_DICOMWEB_USER and OSLER_DICOMWEB_PASSWORD.

    The key of a plain picture is its path relative to the folder that was given, such as ward/1.png; of a file that
    was given, its name; of several SOURCEs, its path relative to the folder that they have in common. A table may give
    keys in a column key. The key of a DICOM file is a pseudonym, made from its bytes and the collection's secret.
    """
    if out is None:
        raise UsageProblem("--out is missing; name the collection to make, as in --out cases.osler")
    target = Path(out)
    if target.exists() and not resume:
        raise UsageProblem(f'"{out}" exists; go on with --resume, or choose another name')
    _check_parent(target, out)
    part = _check_shard(shard)
    plan = _check_sources(sources, metadata, keep, items, tiles, whole=dry_run)
    named = check_encoder(encoder)
    if not target.exists():
        from osler.encoders.registry import describe

        check_takes_pictures(named, describe(named).manifest.modalities)
    if dry_run:
        return _show_plan(style, plan, {"encoder": named, "collection": out, "keep": list(keep), "items": items})
    how: dict[str, Any] = {
        "metadata": metadata,
        "keep": keep,
        "items": items,
        "tiles": tiles,
        "parts": parts,
        "gaps": gaps,
        "shard": part,
    }
    if target.exists():
        if secret is not None:
            raise UsageProblem(f'--secret is for a new collection, and "{out}" has its own; leave it out')
        with open_collection(out, "a", encoder=encoder, device=device) as cases:
            _check_encoder_of(cases)
            return _add(cases, sources, out, style, strict, **how)
    found = load_encoder(encoder, device)
    from osler.collection import Collection
    from osler.collection.privacy import Secret, secret_path

    own = None if secret is None else existing(secret)
    had_secret = Secret.lies_at(secret_path(target))
    with Collection.create(target, encoder=found, secret=own) as cases, _whole_or_gone(cases, had_secret):
        return _add(cases, sources, out, style, strict, **how)


@command.command("add")
@click.argument("collection")
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@_metadata_option
@_keep_option
@_items_option
@_tiles_option
@_parts_option
@_gaps_option
@_shard_option
@device_option
@_dry_option
@_strict_option
@style_options
def add(
    collection: str,
    sources: tuple[str, ...],
    metadata: str | None,
    keep: tuple[str, ...],
    items: str,
    tiles: str | None,
    parts: str,
    gaps: str,
    shard: str | None,
    device: Device,
    dry_run: bool,
    strict: bool,
    style: str,
) -> int:
    """Add pictures, DICOM files and volumes; what is there already is left as it is."""
    part = _check_shard(shard)
    with open_collection(collection, "r" if dry_run else "a", device=device) as cases:
        plan = _check_sources(sources, metadata, keep, items, tiles, whole=dry_run)
        if dry_run:
            named = cases.info().encoder
            return _show_plan(
                style, plan, {"encoder": named, "collection": collection, "keep": list(keep), "items": items}
            )
        _check_encoder_of(cases)
        return _add(
            cases,
            sources,
            collection,
            style,
            strict,
            metadata=metadata,
            keep=keep,
            items=items,
            tiles=tiles,
            parts=parts,
            gaps=gaps,
            shard=part,
        )


@command.command("delete")
@click.argument("collection")
@click.option("--key", "keys", metavar="KEY", multiple=True, help="An item to delete; repeatable.")
@click.option("--where", metavar="EXPR", help="Delete the items for which this holds.")
@_dry_option
@style_options
def delete(collection: str, keys: tuple[str, ...], where: str | None, dry_run: bool, style: str) -> None:
    """Delete items, so that nothing finds them; `osler index erase` also removes what they leave on disk."""
    if bool(keys) == (where is not None):
        raise UsageProblem("give either --key, once or more, or --where")
    with open_collection(collection, "r" if dry_run else "a") as cases:
        if where is not None:
            count = check_where(cases, where)
            if not dry_run:
                count = cases.delete(where=where)
        else:
            count = sum(key in cases for key in set(keys)) if dry_run else cases.delete(keys)
        done = "would_delete" if dry_run else "deleted"
        output.show(style, {done: count, "items": len(cases)}, [done, "items"], [[count, len(cases)]])


@command.command("info")
@click.argument("collection")
@style_options
def info(collection: str, style: str) -> None:
    """Say what a collection, or an index file, holds and how it was made."""
    if existing(collection).is_file():
        document = dict(open_index(collection).stats())
    else:
        with open_collection(collection) as cases:
            document = cases.info().to_dict()
    output.show(style, document, ["name", "value"], [[name, value] for name, value in _flat(document)])


@command.command("import")
@click.argument("source", metavar="FILE")
@click.option("-o", "--out", metavar="DIR", required=True, help="The collection to make, such as cases.osler.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "dot", "l2"]),
    help="How vectors are compared; by default as a faiss index says, else cosine. A usearch index alone says it.",
)
@style_options
def import_(source: str, out: str, metric: Literal["cosine", "dot", "l2"] | None, style: str) -> None:
    """Make a collection of vectors.

    FILE is an index of usearch, faiss (flat, HNSW or IVF over whole vectors) or hnswlib, a NumPy matrix, or a Parquet
    table with key and vector. It is known by its ending: .usearch, .faiss, .hnswlib, .bin (hnswlib), .npy, .parquet;
    any other is tried as usearch, or as faiss if it begins like that.
    """
    if not existing(source).is_file():
        raise UsageProblem(f'"{source}" is a folder; give a .usearch, .faiss, .hnswlib, .npy or .parquet file')
    target = Path(out)
    if target.exists():
        raise UsageProblem(f'"{out}" exists; choose another name')
    _check_parent(target, out)
    from osler.collection import interchange

    named = metric or "cosine"
    makers: dict[str, Any] = {
        ".npy": lambda: interchange.import_npy(source, target, metric=named),
        ".parquet": lambda: interchange.import_parquet(source, target, metric=named),
        ".hnswlib": lambda: interchange.import_hnswlib(source, target, metric=named),
        ".faiss": lambda: interchange.import_faiss(source, target, metric=metric),
        ".usearch": lambda: interchange.import_usearch(source, target),
    }
    makers[".bin"] = makers[".hnswlib"]
    kind = Path(source).suffix.lower()
    if kind not in makers:
        kind = ".faiss" if interchange.is_faiss(source) else ".usearch"
    make = makers[kind]
    with make() as cases:
        _show_exchanged(style, "added", len(cases), "collection", out)


@command.command("export")
@click.argument("collection")
@click.option(
    "-o",
    "--out",
    metavar="FILE",
    required=True,
    help="The file to write, .usearch, .faiss, .hnswlib, .npy or .parquet.",
)
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16", "i8"]),
    default="f32",
    show_default=True,
    help="Precision in a usearch file.",
)
@click.option(
    "--kind",
    type=click.Choice(["flat", "hnsw", "ivf"]),
    default="flat",
    show_default=True,
    help="What a faiss file is searched by.",
)
@style_options
def export(
    collection: str,
    out: str,
    dtype: Literal["f32", "f16", "i8"],
    kind: Literal["flat", "hnsw", "ivf"],
    style: str,
) -> None:
    """Write a collection's vectors for others: with its columns as .parquet, without as any other."""
    check_output(out, ".usearch", ".faiss", ".hnswlib", ".npy", ".parquet")
    if Path(out).exists():
        raise UsageProblem(f'"{out}" exists; choose another name')
    from osler.collection import interchange

    writers: dict[str, Any] = {
        ".usearch": lambda cases: interchange.export_usearch(cases, out, dtype=dtype),
        ".faiss": lambda cases: interchange.export_faiss(cases, out, kind=kind),
        ".hnswlib": lambda cases: interchange.export_hnswlib(cases, out),
        ".npy": lambda cases: interchange.export_npy(cases, out),
        ".parquet": lambda cases: interchange.export_parquet(cases, out),
    }
    with open_collection(collection) as cases:
        writers[Path(out).suffix.lower()](cases)
        _show_exchanged(style, "items", len(cases), "file", out)


def _show_exchanged(style: str, what: str, count: int, where: str, path: str) -> None:
    output.show(style, {what: count, where: path}, [what, where], [[count, path]])


def _check_encoder_of(cases: Collection) -> None:
    name = cases.info().encoder
    if name is None:
        raise UsageProblem(
            "this collection has vectors only, and no encoder for pictures; make another with: "
            "osler index build SOURCE -o cases.osler"
        )
    check_takes_pictures(name, cases.encoder.modalities)


def _check_shard(shard: str | None) -> tuple[int, int] | None:
    if shard is None:
        return None
    number, slash, count = shard.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise UsageProblem(f'--shard is "{shard}"; give a number and how many there are, as in 2/4')
    return int(number), int(count)


def _check_parent(target: Path, typed: str) -> None:
    if not target.absolute().parent.is_dir():
        raise UsageProblem(f'the folder of "{typed}" does not exist; make it first')


def _check_sources(
    sources: Sequence[str],
    metadata: str | None,
    keep: Sequence[str],
    items: str,
    tiles: str | None,
    *,
    whole: bool,
) -> Plan:
    """Return what would be read, after all checks that need no pixel; a server is listed only if that is `whole`."""
    if not sources:
        raise UsageProblem("SOURCE is missing; name a folder, a file, or a table of pictures")
    paths = _paths(sources)
    server = any(isinstance(path, str) for path in paths)
    table = existing(metadata) if metadata is not None else None
    from osler.collection.ingest import Plan, plan

    try:
        if server and not whole and len(paths) == 1 and tiles is None:
            from osler.sources.dicomweb import probe

            found = Plan(int(probe(sources[0], keep=keep, metadata=table)), 0, {}, 0)
        else:
            found = plan(paths, metadata=table, keep=keep, items=items, tiles=tiles)
    except (ValueError, KeyError) as error:
        raise UsageProblem(str(error.args[0] if error.args else error)) from None
    if not found.files and server:
        # The address may name a patient, so it is not repeated.
        raise UsageProblem("the server has nothing of what the address asks for; ask for less, or look for it there")
    if not found.files:
        raise UsageProblem(f'there is no file in "{sources[0]}"; name a folder with pictures or DICOM files')
    if found.kinds.get("slide") and tiles is None:
        from osler.sources import Tiles

        output.say(f"slides: tiles of {Tiles().describe()}; --tiles chooses others")
    return found


def _paths(sources: Sequence[str]) -> list[str | Path]:
    """Return addresses of servers as they are, and all else as paths of what is there."""
    from osler.sources.address import is_address

    return [source if is_address(source) else existing(source) for source in sources]


def _show_plan(style: str, plan: Plan, settings: dict[str, Any]) -> int:
    document = {**plan.to_dict(), **settings}
    shown = {**document, "kinds": ", ".join(f"{count:,} {kind}" for kind, count in plan.kinds.items())}
    shown["keep"] = ", ".join(settings["keep"]) or "no identifier"
    output.show(style, {"plan": document}, ["plan", "value"], [[name, value] for name, value in shown.items()])
    if style == "table":
        output.say("nothing was encoded or written; run it again without --dry-run")
    return output.DONE


def _add(cases: Collection, sources: Sequence[str], name: str, style: str, strict: bool, **options: Any) -> int:
    """Add, and report each file's outcome; an interruption says what is kept."""
    before = len(cases)
    fresh = set(options["keep"]) - set(cases.info().policy["keep"])
    if before and fresh:
        output.say(f"--keep applies to new items only; the {before:,} that are there stay as they are")
    try:
        report = cases.add(_paths(sources), **options)
    except ServerError as error:
        kept = len(cases) - before
        if not kept:
            raise
        again = "again" if before else "with --resume"
        raise ServerError(
            f'{error}; {kept:,} items were added and are safe in "{name}": run the same command {again} to go on',
            code=error.code,
        ) from None
    except KeyboardInterrupt:
        kept = len(cases) - before
        if not kept and not before:
            raise Interrupted("nothing was committed, and nothing was left behind") from None
        raise Interrupted(
            f'{kept:,} items were added and are safe in "{name}"; run the same command '
            f"{'again' if before else 'with --resume'} to go on"
        ) from None
    if not len(cases):
        raise ValueError(_nothing(report))
    _report(style, report, name)
    if style != "json" and report.unmatched:
        _say_unmatched(report, options["metadata"])
    return output.SKIPPED if strict and report.skipped else output.DONE


def _say_unmatched(report: AddReport, metadata: str) -> None:
    from osler.sources.tables import read_table

    frame = read_table(metadata, "the metadata")
    text = f"{report.unmatched:,} of {len(frame):,} metadata rows matched no file"
    by_name = {"key", "path", "file", "filename"} & {name.lower() for name in frame.columns}
    if report.duplicates and not by_name:
        # A join on SOPInstanceUID is made by reading, and what is in the collection already is not read again.
        text += " that is new; files that were there already were not read again"
    elif by_name and report.unmatched == len(frame):
        text += "; name the files in a column path or file as their paths below SOURCE"
    output.say(text)


def _nothing(report: AddReport) -> str:
    codes = Counter(failure.code for failure in report.failures)
    why = ", ".join(f"{count:,} {code}" for code, count in codes.most_common(3))
    return (
        f"none of the {report.skipped:,} files could be read as a picture ({why}); nothing was made; "
        "give PNG, JPEG, TIFF or DICOM files"
    )


def _report(style: str, report: AddReport, name: str) -> None:
    document = {**report.to_dict(), "collection": name}
    columns = ["added", "skipped", "duplicates", "collection"]
    output.show(style, document, columns, [[document[column] for column in columns]])
    if style != "table" or not report.failures:
        return
    reasons = {failure.code: failure.message for failure in reversed(report.failures)}
    for code, count in Counter(failure.code for failure in report.failures).most_common():
        output.say(f"skipped {count:,} ({code}){', such as' if count > 1 else ''}: {reasons[code]}")
    output.say("--json names each file that was skipped")


@contextmanager
def _whole_or_gone(cases: Collection, had_secret: bool) -> Iterator[None]:
    """Remove a collection that this run made and that never got an item, so that the same command can be run again."""
    from osler.collection.privacy import Secret, secret_path
    from osler.collection.store import Store
    from osler.errors import CommitUnknownError

    try:
        yield
    except CommitUnknownError:
        raise
    except BaseException:
        if not len(cases):
            # Its lock is held, so nobody else has put anything in it.
            Store.remove(cases.path)
            if not had_secret:
                Secret.remove(secret_path(cases.path))
        raise


def _flat(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, dict):
            for inner, one in _flat(value):
                yield f"{name}.{inner}", one
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
