"""Takes an encoder of the registry from a checkpoint to answers, all through the command line, and keeps the figures.

`python tests/export/run.py NAME... [--precision fp16] [--options FILE]` in the environment of `make test-export`. The
weights are random and of the true shape; the figures go to bench/results/export.json, one record a name and precision.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from checkpoints import random_checkpoint
from osler.encoders.entry import Entry, entries, recipe
from osler.encoders.volume_recipe import takes_volumes
from table import built

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "export.json"
NEEDED = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.95}
# of vectors whose mean was taken off: random weights tell inputs apart less than trained ones do
CENTRED = {"fp32": 0.9999, "fp16": 0.99, "int8": 0.0}
KEPT = ("image", "text", "image_centred", "text_centred", "tokens", "inputs", "against", "bytes")

__all__ = ["osler", "prove", "record"]


def osler(*arguments: object) -> dict[str, Any]:
    """Run a command of osler in a process of its own and return the document that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "osler.cli", *map(str, arguments), "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"osler {' '.join(map(str, arguments))}\n{done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def prove(entry: Entry, folder: Path, precision: str = "fp32", options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Export, check, build a collection, search it; gives the record, having raised where anything is not right.

    Parameters
    ----------
    entry : Entry
    folder : Path
        Empty; it may take some GB.
    precision : {"fp32", "fp16", "int8"}
    options : dict, optional
        Of a model that is smaller than the true one; the caller has put it into the entry.
    """
    command = [sys.executable, __file__, "--checkpoint", str(folder / "checkpoint"), entry.name]
    if options is not None:
        (folder / "options.json").write_text(json.dumps(options))
        command += ["--options", str(folder / "options.json")]
    # in a process of its own, so that its memory is given back and is not the exporter's
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "python")})
    started = time.monotonic()
    place = folder / "encoder"
    made = osler("encoder", "export", entry.name, "--checkpoint", folder / "checkpoint", "--out", place,
                 "--precision", precision)  # fmt: skip
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    for kind in ("image", "text"):
        if getattr(entry, kind) is not None:
            assert made[kind] >= NEEDED[precision], (kind, made)
            assert made[f"{kind}_centred"] >= CENTRED[precision], (kind, made)
    if made["tokens"] is not None:
        assert made["tokens"] >= NEEDED[precision], made
    proved = osler("encoder", "check", place)
    assert proved["passed"], proved
    pictures = _inputs(entry, folder / "pictures")
    cases = folder / "cases.osler"
    if entry.image is not None:
        report = osler("index", "build", folder / "pictures", "--out", cases, "--encoder", place)
        assert report["added"] == len(pictures) and not report["failures"], report
        hits = osler("query", cases, "--image", pictures[0], "-k", 3)["hits"]
        assert hits[0]["score"] > 0.999, hits
        if entry.text is not None:
            assert len(osler("query", cases, "--text", "right lower lobe consolidation", "-k", 3)["hits"]) == 3
    return {
        "name": entry.name,
        "precision": precision,
        "built": built(entry),
        "weights": "random",
        "shape": "true" if options is None else "smaller",
        **{key: made[key] for key in KEPT},
        "seconds": round(seconds, 1),
        "peak_bytes": peak,
    }


def record(row: dict[str, Any]) -> None:
    """Put a record into the results in the place of an older one."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    rows = [one for one in rows if (one["name"], one["precision"]) != (row["name"], row["precision"])]
    rows = sorted([*rows, row], key=lambda one: (one["name"], one["precision"]))
    RESULTS.write_text("[\n" + ",\n".join(json.dumps(one) for one in rows) + "\n]\n")


def _inputs(entry: Entry, folder: Path) -> list[Path]:
    """Write what the encoder takes as files: the sample pictures, or three phantoms as NIfTI."""
    folder.mkdir()
    if entry.image is not None and takes_volumes(recipe(entry.image.recipe)):
        import nibabel
        from osler.encoders.export import _phantoms

        paths = [folder / f"{number}.nii.gz" for number in range(3)]
        for path, volume in zip(paths, _phantoms(), strict=True):
            nibabel.save(nibabel.Nifti1Image(volume.array, volume.affine), path)
        return paths
    from osler.encoders.export import _samples
    from PIL import Image

    paths = []
    for number, picture in enumerate(_samples(recipe(entry.image.recipe) if entry.image is not None else ())):
        paths.append(folder / f"{number}.png")
        Image.fromarray(picture).save(paths[-1])
    return paths


def main() -> None:
    """Prove the encoders that are named; with --checkpoint write one's random weights and no more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "fp16", "int8"])
    parser.add_argument("--options")
    parser.add_argument("--checkpoint")
    asked = parser.parse_args()
    options = json.loads(Path(asked.options).read_text()) if asked.options else None
    for name in asked.names:
        if asked.checkpoint:
            Path(asked.checkpoint).mkdir(parents=True)
            random_checkpoint(entries()[name], Path(asked.checkpoint), options)
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = prove(entries()[name], Path(folder), asked.precision, options)
        record(row)
        print(json.dumps(row))


if __name__ == "__main__":
    main()
