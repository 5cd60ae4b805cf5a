"""Writes the table of all encoders into README.md here, from the registry and from what tests and runs have left.

`python models/table.py` writes, `python models/table.py --check` only says whether the table is up to date. Reads
manifests, entries, the goldens of tests/ and bench/results/export.json.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from osler.encoders.entry import Entry, entries, recipe, recipe_json
from osler.encoders.manifest import ImageTower, Manifest, PackageFile, TextTower, read_manifest
from osler.encoders.registry import shipped
from osler.encoders.volume_recipe import takes_volumes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BEGIN, END = "<!-- table: python models/table.py -->", "<!-- end of the table -->"
COLUMNS = ("name", "takes", "dim", "trained on", "licence", "size", "architecture", "recipe", "tokenizer")
TOO_LARGE = "not tried: {:.1f} billion parameters; an export takes three times its weights, on a machine of 24 GiB"

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar", ".torch", ".zip")

# whose golden ids stand for a kind of tokenizer under a cleaning rule, or for an entry's own JSON by the beginning of
# its name; see tests/fixtures/tokenizers
GOLDEN_IDS = {
    ("clip", "open_clip_lower"): "open_clip SimpleTokenizer",
    ("clip", "none"): "CLIPTokenizer",
    ("wordpiece", "open_clip_whitespace"): "open_clip HFTokenizer of BERT",
    ("wordpiece", "none"): "BertTokenizer",
    ("sentencepiece", "siglip"): "SiglipTokenizer",
    ("byte-bpe", "merlin"): "Merlin's sanitize_report, RobertaTokenizer",
}
OF_THE_KIND = {"wordpiece": "BertTokenizer"}
OWN_JSON = {"conch": "PreTrainedTokenizerFast as CONCH", "siglip2": "PreTrainedTokenizerFast as SigLIP2"}


def read(path: str) -> Any:
    """Return the content of a JSON file of the project, or an empty list where it is not there yet."""
    found = ROOT / path
    return json.loads(found.read_text()) if found.is_file() else []


def megabytes(size: int) -> str:
    """Say a size in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"


def built(entry: Entry) -> str:
    """Return a digest of what decides what a run of an entry proves: architecture, recipe, reading of texts."""
    text = entry.text
    parts = [
        entry.architecture.model_dump(mode="json") if entry.architecture is not None else None,
        recipe_json(entry.image.recipe) if entry.image is not None else None,
        [text.max_length, text.clean, text.pad_id, text.tokenizer.kind] if text is not None else None,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class Evidence:
    """What tests and runs have left, by the names that rows ask for."""

    def __init__(self) -> None:
        self.runs: dict[str, list[dict[str, Any]]] = {}
        for run in read("bench/results/export.json"):
            # what an entry was before it changed proves nothing of it now
            if run["built"] == built(entries()[run["name"]]):
                self.runs.setdefault(run["name"], []).append(run)
        self.recipes = read("tests/encoders/references/goldens.json")["recipes"]
        self.ids = read("tests/fixtures/tokenizers/golden.json")["ids"]

    def architecture(self, entry: Entry) -> str:
        """Say what came of exporting the entry with random weights."""
        if entry.impossible is not None:
            return f"not possible: {entry.impossible}"
        cells = []
        runs, of = self.runs.get(entry.name, []), ""
        if not runs:
            digest = built(entry)
            alike = next((name for name, found in self.runs.items() if found[0]["built"] == digest), None)
            if alike is not None:
                runs, of = self.runs[alike], f"as `{alike}`, which is built and fed alike: "
        for run in runs:
            kinds = [kind for kind in ("image", "text", "tokens") if run.get(kind) is not None]
            parity = " / ".join(f"{run[kind]:.7f}" for kind in kinds)
            shape = "true shape" if run["shape"] == "true" else f"{run['shape']} shape"
            cells.append(f"{run['precision']}, {shape}: {parity}")
        return of + "; ".join(cells) if cells else self.reason(entry)

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
        groups = self.recipes.get(name)
        if groups is None:
            return f"`{name}`: the steps one by one, exact"
        pictures, files = len(groups["eight_bit"]) + len(groups["deep"]), len(groups["files"])
        return f"`{name}`: exact on {pictures} pictures" + (f" and {files} kinds of file" if files else "")

    def tokenizer(self, entry: Entry) -> str:
        """Say against what a tokenizer of the entry's kind was compared."""
        if entry.text is None:
            return "no text"
        kind, clean = entry.text.tokenizer.kind, entry.text.clean
        if kind == "tokenizer.json":
            own = next((OWN_JSON[name] for name in OWN_JSON if entry.name.startswith(name)), None)
            return "its own JSON, " + (self.ids_of(own) if own is not None else f"read as it is; rule `{clean}`")
        alike = GOLDEN_IDS.get((kind, clean))
        if alike is not None:
            return f"{kind}: {self.ids_of(alike)}"
        return f"{kind}: {self.ids_of(OF_THE_KIND[kind])}; rule `{clean}` by its definition"

    def ids_of(self, original: str) -> str:
        """Say whose ids were compared, and on how many texts."""
        return f"the ids of {original} on {len(self.ids[original])} texts"

    def size(self, entry: Entry) -> str:
        """Say how large the weights are, as published or else as they were exported."""
        files = [
            file for source in entry.sources if source.kind == "checkpoint" and source.hub for file in source.files
        ]
        files = files or [file for source in entry.sources if source.kind == "checkpoint" for file in source.files]
        weights = [file.size for file in files if file.path.endswith(WEIGHTS)]
        if weights and None not in weights:
            return megabytes(sum(size for size in weights if size is not None))
        run = next((run for run in self.runs.get(entry.name, []) if run["precision"] == "fp32"), None)
        return f"{megabytes(run['bytes'])} exported" if run is not None else "not known"


def published_row(entry: Entry, evidence: Evidence) -> list[str]:
    """Return the row of an encoder that others publish."""
    volume = entry.image is not None and takes_volumes(recipe(entry.image.recipe))
    takes = [("volume" if volume else kind) if kind == "image" else kind for kind in entry.modalities]
    return [
        f"`{entry.name}`",
        " and ".join(takes) or "not known",
        str(entry.dim or "not known"),
        entry.domain,
        entry.licence.id + (", gated" if entry.gate else ""),
        evidence.size(entry),
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
