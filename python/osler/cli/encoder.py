"""`osler encoder`: which encoders there are, what one is, and how it gets here.

Reads manifests; loads no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from osler.cli import Commands, output
from osler.cli.export import check, export, pool
from osler.cli.options import check_encoder, style_options
from osler.cli.pull import pull

if TYPE_CHECKING:
    from osler.encoders.entry import Entry

__all__ = ["command"]


@click.group("encoder", cls=Commands)
def command() -> None:
    """List encoders, look into one, fetch, export, pool and prove one."""


for one in (pull, export, pool, check):
    command.add_command(one)


@command.command("list")
@style_options
def list_(style: str) -> None:
    """List every encoder of the registry, and what each still needs."""
    from osler.encoders import list_encoders

    rows = [info.to_dict() for info in list_encoders()]
    columns = ["name", "domain", "modalities", "dim", "licence", "state", "gate", "package", "title", "purpose"]
    cells = [[", ".join(row["modalities"]) if one == "modalities" else row[one] for one in columns] for row in rows]
    output.show(style, {"encoders": rows}, columns, cells, table_columns=columns[:6])


@command.command("info")
@click.argument("name", metavar="NAME|DIR")
@style_options
def info(name: str, style: str) -> None:
    """Say what an encoder is: its source, licence, purpose and fingerprint."""
    check_encoder(name)
    from osler.encoders.entry import entries
    from osler.encoders.registry import home_folder

    entry = entries().get(name)
    if entry is not None and not (home_folder(name) / "manifest.json").is_file():
        document = _published(entry)
    else:
        document = _here(name)
    shown = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in document.items()}
    for key in ("files", "sources"):
        if key in document:
            shown[key] = ", ".join(f"{one['path']} ({one['bytes'] or '?'} bytes)" for one in document[key])
    if document.get("uncertain"):
        shown["uncertain"] = "; ".join(f"{field}: {why}" for field, why in document["uncertain"].items())
    output.show(style, document, ["name", "value"], [[key, value] for key, value in shown.items()])


def _here(name: str) -> dict[str, Any]:
    from osler.encoders.registry import anchor_of, describe

    described = describe(name)
    manifest = described.manifest
    classes = getattr(described.image.tower, "classes", None) if described.image is not None else None
    return {
        "name": manifest.name,
        "title": manifest.title,
        "purpose": manifest.purpose,
        "domain": manifest.domain,
        "state": "here",
        "modalities": list(manifest.modalities),
        "dim": manifest.dim,
        "logit_scale": manifest.logit_scale,
        "logit_bias": manifest.logit_bias,
        "classes": list(classes.names) if classes is not None else [],
        "classes_note": classes.note if classes is not None else "",
        "licence": manifest.licence.id,
        "licence_note": manifest.licence.note,
        "gate": manifest.gate,
        "citation": manifest.citation,
        "entry": manifest.entry,
        "anchor": anchor_of(manifest.entry),
        "fingerprint": described.fingerprint,
        "files": [
            {"path": file.path, "sha256": file.sha256, "bytes": file.size, "package": getattr(file, "package", None)}
            for placed in (described.image, described.text)
            if placed is not None
            for file, _ in placed.files
        ],
        "uncertain": dict(manifest.uncertain),
    }


def _published(entry: Entry) -> dict[str, Any]:
    from osler.encoders.registry import anchor_of, what_to_do

    return {
        "name": entry.name,
        "title": entry.title,
        "purpose": entry.purpose,
        "domain": entry.domain,
        "state": what_to_do(entry),
        "modalities": list(entry.modalities),
        "dim": entry.dim,
        "logit_scale": entry.logit_scale,
        "logit_bias": entry.logit_bias,
        "licence": entry.licence.id,
        "licence_note": entry.licence.note,
        "gate": entry.gate,
        "citation": entry.citation,
        "anchor": anchor_of(entry.name),
        "sources": [
            {
                "kind": source.kind,
                "from": source.hub or source.page,
                "revision": source.revision,
                "path": file.path if file is not None else source.page,
                "sha256": file.sha256 if file is not None else None,
                "bytes": file.size if file is not None else None,
            }
            for source in entry.sources
            for file in source.files or (None,)
        ],
        "uncertain": dict(entry.uncertain),
    }
