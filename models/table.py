"""Writes the table of all encoders into README.md here, from the registry and from what tests and runs have left.

`python models/table.py` writes, `python models/table.py --check` only says whether the table is up to date. Reads
manifests, entries, the goldens of tests/ and bench/results/export.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from osler.encoders.entry import Entry, entries, recipe
from osler.encoders.manifest import ImageTower, Manifest, PackageFile, TextTower, read_manifest
from osler.encoders.registry import shipped
from osler.encoders.volume_recipe import takes_volumes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BEGIN, END = "<!-- table: python models/table.py -->", "<!-- end of the table -->"
COLUMNS = ("name", "takes", "dim", "trained on", "licence", "size", "architecture", "recipe", "tokenizer")
TOO_LARGE = "not tried: {:.1f} billion parameters; an export takes four times its weights, on a machine of 24 GiB"

# which golden ids stand for a kind of tokenizer; see tests/fixtures/tokenizers
GOLDEN_IDS = {
    "clip": ("open_clip SimpleTokenizer", "CLIPTokenizer"),
    "wordpiece": ("BertTokenizer", "BertTokenizer, capitals kept", "open_clip HFTokenizer of BERT"),
    "sentencepiece": ("SiglipTokenizer",),
    "byte-bpe": ("RobertaTokenizer", "Merlin's sanitize_report, RobertaTokenizer"),
}


def read(path: str) -> Any:
    """Return the content of a JSON file of the project, or an empty list where it is not there yet."""
    found = ROOT / path
    return json.loads(found.read_text()) if found.is_file() else []


def megabytes(size: int) -> str:
    """Say a size in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


class Evidence:
    """What tests and runs have left, by the names that rows ask for."""

    def __init__(self) -> None:
        self.runs: dict[str, list[dict[str, Any]]] = {}
        for run in read("bench/results/export.json"):
            self.runs.setdefault(run["name"], []).append(run)
        self.recipes = read("tests/encoders/references/goldens.json")["recipes"]
        self.ids = read("tests/fixtures/tokenizers/golden.json")["ids"]

    def architecture(self, entry: Entry) -> str:
        """Say what came of exporting the entry with random weights."""
        if entry.impossible is not None:
            return f"not possible: {entry.impossible}"
        cells = []
        for run in self.runs.get(entry.name, []):
            parity = " / ".join(f"{run[kind]:.7f}" for kind in ("image", "text") if run[kind] is not None)
            shape = "true shape" if run["shape"] == "true" else f"{run['shape']} shape"
            cells.append(f"{run['precision']}, {shape}: {parity}")
        return "; ".join(cells) or self.reason(entry)

    def reason(self, entry: Entry) -> str:
        """Say why an entry was not exported at its own size, and which of the same builder were."""
        billions = {"laion-bigg14": 2.5, "laion-g14": 1.4}.get(entry.name)
        if billions:
            return TOO_LARGE.format(billions)
        assert entry.architecture is not None
        builder = entry.architecture.builder
        alike = [name for name in self.runs if (one := entries()[name].architecture) and one.builder == builder]
        shown = ", ".join(f"`{name}`" for name in alike[:3])
        return (
            f"not run yet at its size; built as {shown}"
            if shown
            else f"not run yet at its size; `{builder}` was, smaller"
        )

    def recipe(self, name: str) -> str:
        """Say against what a recipe was compared, and on how many inputs."""
        if takes_volumes(recipe(name)):
            return f"`{name}`: as MONAI, PyTorch and SciPy on eight geometries"
        groups = self.recipes.get(name, {})
        count = sum(len(group) for group in groups.values())
        return f"`{name}`: exact on {count} inputs" if count else f"`{name}`: the steps one by one, exact"

    def tokenizer(self, entry: Entry) -> str:
        """Say against what a tokenizer of the entry's kind was compared."""
        if entry.text is None:
            return "no text"
        kind, clean = entry.text.tokenizer.kind, entry.text.clean
        if kind == "tokenizer.json":
            return f"its own JSON, read as it is; rule `{clean}`"
        texts = sum(len(self.ids[name]) for name in GOLDEN_IDS[kind] if name in self.ids)
        return f"{kind}: {texts} golden texts; rule `{clean}`" if texts else f"{kind}; rule `{clean}`"


def published_row(entry: Entry, evidence: Evidence) -> list[str]:
    """Return the row of an encoder that others publish."""
    sizes = [file.size for source in entry.sources if source.kind == "checkpoint" for file in source.files if file.size]
    volume = entry.image is not None and takes_volumes(recipe(entry.image.recipe))
    takes = [("volume" if volume else kind) if kind == "image" else kind for kind in entry.modalities]
    return [
        f"`{entry.name}`",
        " and ".join(takes) or "not known",
        str(entry.dim or "not known"),
        entry.domain,
        entry.licence.id + (", gated" if entry.gate else ""),
        megabytes(sum(sizes)) if sizes else "not known",
        evidence.architecture(entry),
        evidence.recipe(entry.image.recipe) if entry.image is not None else "none",
        evidence.tokenizer(entry),
    ]


def shipped_row(name: str, manifest: Manifest, evidence: Evidence) -> list[str]:
    """Return the row of an encoder that ships, or whose weights come inside a package."""
    towers = [tower for tower in (manifest.image, manifest.text) if isinstance(tower, (ImageTower, TextTower))]
    size = sum(tower.file.size for tower in towers)
    files = [part for tower in towers for part in getattr(tower.file, "parts", (tower.file,))]
    packages = sorted({file.package for file in files if isinstance(file, PackageFile)})
    takes = [
        manifest.image.takes.replace("picture", "image")
        if kind == "image" and isinstance(manifest.image, ImageTower)
        else kind
        for kind in manifest.modalities
    ]
    steps = manifest.image.recipe if isinstance(manifest.image, ImageTower) else ()
    golden = f"golden vectors, cosine {manifest.golden.cosine} or more" if manifest.golden else "none"
    return [
        f"`{name}`",
        " and ".join(takes),
        str(manifest.dim),
        manifest.domain,
        manifest.licence.id,
        f"{megabytes(size)} in {', '.join(f'`{one}`' for one in packages)}" if packages else "borrows two towers",
        golden,
        ", ".join(step.op for step in steps) or "that of the tower it borrows" if manifest.image else "none",
        "its own JSON, golden vectors of texts" if manifest.text is not None else "no text",
    ]


def table() -> str:
    """Return the table as Markdown."""
    evidence = Evidence()
    rows = [shipped_row(name, read_manifest(folder), evidence) for name, folder in shipped().items()]
    rows += [published_row(entry, evidence) for entry in entries().values()]
    blank = [(row[0], column) for row in rows for column, cell in zip(COLUMNS, row, strict=True) if not cell.strip()]
    if blank:
        raise SystemExit(f"blank cells: {blank}")
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Write the table, or say that it is old."""
    path = HERE / "README.md"
    text = path.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    made = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if "--check" in sys.argv[1:]:
        raise SystemExit(0 if made == text else "the table in models/README.md is old: python models/table.py")
    path.write_text(made)


if __name__ == "__main__":
    main()
