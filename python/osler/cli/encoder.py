"""`osler encoder`: which encoders there are, and what one is.

Reads manifests; loads no model.
"""

from __future__ import annotations

from typing import Any

import click

from osler.cli import Commands, output
from osler.cli.options import check_encoder, style_options

__all__ = ["command"]


@click.group("encoder", cls=Commands)
def command() -> None:
    """List encoders and look into one."""


@command.command("list")
@style_options
def list_(style: str) -> None:
    """List the encoders that come with osler, and what each still needs."""
    from osler.encoders import list_encoders

    rows = [info.to_dict() for info in list_encoders()]
    columns = ["name", "modalities", "dim", "licence", "state", "package", "title", "purpose"]
    cells = [[", ".join(row["modalities"]) if one == "modalities" else row[one] for one in columns] for row in rows]
    output.show(style, {"encoders": rows}, columns, cells, table_columns=columns[:5])


@command.command("info")
@click.argument("name", metavar="NAME|DIR")
@style_options
def info(name: str, style: str) -> None:
    """Say what an encoder is: its source, licence, purpose and fingerprint."""
    check_encoder(name)
    from osler.encoders.registry import describe

    described = describe(name)
    manifest = described.manifest
    document: dict[str, Any] = {
        "name": manifest.name,
        "title": manifest.title,
        "purpose": manifest.purpose,
        "modalities": list(manifest.modalities),
        "dim": manifest.dim,
        "logit_scale": manifest.logit_scale,
        "licence": manifest.licence.id,
        "licence_note": manifest.licence.note,
        "gate": manifest.gate,
        "citation": manifest.citation,
        "fingerprint": described.fingerprint,
        "files": [
            {"path": file.path, "sha256": file.sha256, "bytes": file.size, "package": getattr(file, "package", None)}
            for placed in (described.image, described.text)
            if placed is not None
            for file, _ in placed.files
        ],
    }
    shown = {**document, "modalities": ", ".join(manifest.modalities)}
    shown["files"] = ", ".join(f"{file['path']} ({file['bytes']:,} bytes)" for file in document["files"])
    output.show(style, document, ["name", "value"], [[key, value] for key, value in shown.items()])
