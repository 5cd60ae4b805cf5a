"""`osler encoder export`, `pool` and `check`: an encoder's folder from a checkpoint or another one, and its proof.

All they do is one call on the library each.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from osler.cli import output
from osler.cli.options import check_encoder, device_option, existing, load_encoder, style_options
from osler.cli.output import UsageProblem, say

__all__ = ["check", "export", "pool"]


@click.command("export")
@click.argument("name")
@click.option("--checkpoint", required=True, metavar="FILE|DIR", help="The published weights, or their folder.")
@click.option("--out", metavar="DIR", help="The folder to make; by default one where the encoder's name finds it.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True)
@click.option("--tokenizer", metavar="DIR", help="Folder of the tokenizer's files, if not beside the weights.")
@click.option("--recipe", metavar="NAME", help="A recipe of the registry, where published files ask for another.")
@click.option("--images", metavar="DIR", help="Pictures to compare on, instead of those that come with osler.")
@style_options
def export(
    name: str,
    checkpoint: str,
    out: str | None,
    precision: Any,
    tokenizer: str | None,
    recipe: str | None,
    images: str | None,
    style: str,
) -> None:
    """Turn a checkpoint into ONNX files, and measure how near they are to the original.

    Needs the extra export (PyTorch); the folder that it makes runs without.
    """
    from osler.encoders.export import export_encoder

    check_encoder(name)
    weights = existing(checkpoint)
    pictures = None if images is None else _pictures(images)
    try:
        made = export_encoder(
            name,
            weights,
            None if out is None else Path(out),
            precision=precision,
            tokenizer=None if tokenizer is None else existing(tokenizer),
            preparation=recipe,
            pictures=pictures,
        )
    except FileExistsError as error:
        raise UsageProblem(str(error)) from None
    document = made.to_dict()
    say(f"exported {name} ({precision}); it is ready as --encoder {name if out is None else out}")
    output.show(style, document, ["name", "value"], [[key, value] for key, value in document.items()])


@click.command("pool")
@click.argument("name", metavar="NAME|DIR")
@click.option("--out", required=True, metavar="DIR", help="The folder to make.")
@click.option("--pooling", default="mean", show_default=True, metavar="NAME|FILE",
              help="mean, median, max or std over the slices, or an ONNX file that pools.")  # fmt: skip
@click.option("--axis", type=click.Choice(["axial", "coronal", "sagittal"]), default="axial", show_default=True)
@click.option("--window", type=(float, float), metavar="LOW HIGH",
              help="Values that are black and white; by default percentiles of each volume.")  # fmt: skip
@style_options
def pool(name: str, out: str, pooling: str, axis: Any, window: tuple[float, float] | None, style: str) -> None:
    """Make an encoder of volumes of one of pictures: every slice, pooled to one vector."""
    from osler.encoders.registry import describe
    from osler.encoders.slice_encoder import make_slice_encoder

    check_encoder(name)
    try:
        folder = make_slice_encoder(name, Path(out), pooling, axis=axis, window=window)
    except (FileExistsError, ValueError) as error:
        raise UsageProblem(str(error)) from None
    # as a path: a name of the registry would win over a folder of that name
    made = describe(folder)
    document = {
        "encoder": made.manifest.name,
        "folder": str(folder),
        "fingerprint": made.fingerprint,
        "dim": made.manifest.dim,
    }
    shown = out if os.sep in out else f".{os.sep}{out}"
    say(f"made {shown}; it is ready as --encoder {shown}")
    output.show(style, document, ["name", "value"], [[key, value] for key, value in document.items()])


def _pictures(folder: str) -> list[Any]:
    """Return every picture below a folder as arrays; files that are none are left out and counted."""
    from osler.errors import SourceError
    from osler.sources import open_source

    source = open_source(existing(folder))
    found: list[Any] = []
    skipped = 0
    for entry in source.entries:
        try:
            found += source.read(entry).values
        except SourceError:
            skipped += 1
    if not found:
        raise UsageProblem("the folder of --images holds no picture that can be read")
    if skipped:
        say(f"{skipped} files of --images are no pictures and were left out")
    return found


@click.command("check")
@click.argument("name", metavar="NAME|DIR")
@device_option
@style_options
def check(name: str, device: Any, style: str) -> None:
    """Prove an encoder: golden vectors, that each comes again, parity of its export, devices and speed."""
    from osler.encoders.check import check_encoder as prove
    from osler.errors import EncoderError

    encoder = load_encoder(check_encoder(name), device)
    found = prove(encoder, speed=True)
    document = found.to_dict()
    rows: list[list[Any]] = [
        ["name", found.name],
        *([f"{kind}: device", device] for kind, device in found.devices.items()),
        ["precision", found.precision],
        ["golden", found.note or f"cosine {found.needed} is needed"],
        *([f"{kind}: least cosine of {len(values)}", f"{min(values):.6f}"] for kind, values in found.cosines.items()),
        *([f"{kind}: least cosine alone and among others", f"{value:.7f}"] for kind, value in found.steady.items()),
        *([f"{kind}: length farthest from 1", f"{length:.7f}"] for kind, length in found.lengths.items()),
        *([f"{kind}s a second", f"{rate:.1f}"] for kind, rate in found.speed.items()),
        *([f"{kind}: cosine with the original", f"{value:.7f}"] for kind, value in found.parity.items()),
        ["passed", "yes" if found.passed else "no"],
    ]
    output.show(style, document, ["name", "value"], rows)
    if found.note is not None:
        say(f"{found.name}: {found.note}")
    if found.fault is not None:
        wrong = {
            "golden_mismatch": "does not give its golden vectors on {}; its files, ONNX Runtime or the driver changed: "
            "export it again, or try --device cpu",
            "not_unit": "gives vectors on {} that are not of length 1; pull or export it again, or try --device cpu",
            "unsteady": "gives an input alone another vector than among others on {}; do not build a collection with "
            "it, try --device cpu, and report it",
        }
        raise EncoderError(f"{found.name} {wrong[found.fault].format(found.device)}", code=found.fault)
