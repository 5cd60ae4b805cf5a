"""Real text embeddings for tests and benchmarks: read from a folder, or made from the packages at hand.

Touches `$OSLER_TEST_VECTORS` and a cache folder given by the caller; makes vectors with Osler's own text encoder from
the attribute names of the DICOM dictionary and the code meanings of the DICOM content mapping resource, as pydicom
ships them.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MADE_ROWS = 5_000
MADE_QUERIES = 500


@dataclass(frozen=True)
class TextVectors:
    """Unit rows (n, dim) and held-out query rows (m, dim), float32, and where they came from."""

    base: np.ndarray
    queries: np.ndarray
    origin: str

    @property
    def digest(self) -> str:
        """Return 16 hexadecimal digits over both arrays."""
        parts = (self.base.tobytes(), self.queries.tobytes())
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def medical_terms() -> list[str]:
    """Return distinct terms in a fixed order that mixes their sources."""
    from pydicom.datadict import DicomDictionary
    from pydicom.sr.codedict import codes

    terms = {entry[2] for entry in DicomDictionary.values() if entry[2]}
    for scheme in codes.schemes():
        collection = getattr(codes, scheme)
        for name in collection.dir():
            value = getattr(collection, name)
            terms.update(code.meaning for code in (value if isinstance(value, list) else [value]))
    return sorted(terms, key=lambda term: hashlib.sha256(term.encode()).digest())


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def load(
    cache: Path, *, folder: str | Path | None = None, rows: int = MADE_ROWS, queries: int = MADE_QUERIES
) -> TextVectors:
    """Return vectors of `folder` (by default `$OSLER_TEST_VECTORS`); without one, made once and kept under `cache`.

    `rows` and `queries` count what is made; a folder gives all it has.
    """
    folder = folder or os.environ.get("OSLER_TEST_VECTORS")
    if folder:
        base, asked = (_unit(np.load(Path(folder) / f"text_{part}.npy")) for part in ("base", "queries"))
        return TextVectors(base, asked, "text_base.npy and text_queries.npy")
    import osler

    encoder = osler.load_encoder("minilm", device="cpu")
    texts = medical_terms()[: rows + queries]
    mark = hashlib.sha256("\n".join([encoder.fingerprint, *texts]).encode()).hexdigest()[:16]
    path = cache / f"text-{mark}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        vectors = encoder.encode_texts(texts, batch_size=64)
        partial = path.with_suffix(f".{os.getpid()}.part")
        with partial.open("wb") as file:
            np.save(file, vectors)
        partial.rename(path)
    vectors = _unit(np.load(path))
    return TextVectors(vectors[queries:], vectors[:queries], "terms of pydicom through minilm")
