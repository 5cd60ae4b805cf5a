"""The vectors to measure on, by name and number of rows: files that every process maps.

`text` is made by `texts.py`, `clip` by `clip_like.py`. For `text-ready` the 60,000 rows of `$OSLER_TEST_VECTORS`, or of
`shared/data` beside the checkout, save the encoding; where there are none, the first rows of `text` are encoded.
Writes `bench/.cache` only.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import clip_like
import numpy as np
import texts

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "bench" / ".cache"


@dataclass(frozen=True)
class Vectors:
    """`count` unit rows at the head of the file `rows`, and files of queries by their kind."""

    name: str
    digest: str
    origin: str
    rows: Path
    count: int
    queries: dict[str, Path]
    practice: Path | None = None  # queries of another kind, for calibration; never reported

    @property
    def base(self) -> np.ndarray:
        """Return the rows, (count, dim) float32, mapped."""
        return np.load(self.rows, mmap_mode="r")[: self.count]

    def asked(self, kind: str, count: int | None = None) -> np.ndarray:
        """Return the queries of a kind, (m, dim) float32."""
        return np.ascontiguousarray(np.load(self.queries[kind])[:count])


def _ready() -> Path | None:
    beside = ROOT.parent / "shared" / "data"
    folder = os.environ.get("OSLER_TEST_VECTORS") or (beside if beside.is_dir() else None)
    return Path(folder) if folder else None


def _unit_file(source: Path, cache: Path) -> Path:
    mark = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    path = cache / f"ready-{mark}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        rows = np.load(source).astype(np.float32)
        np.save(path, rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return path


def made(name: str, rows: int | None, cache: Path = CACHE) -> bool:
    """Return whether `load` needs to make nothing that takes long."""
    return name != "text" or texts.made(rows, cache)


def load(name: str, rows: int | None, cache: Path = CACHE) -> Vectors:
    """Return the first `rows` vectors of the set called `name`, all of them with None."""
    if name == "clip":
        if rows is None:
            raise ValueError("the set 'clip' is as large as you say: name a number of rows")
        paths = clip_like.load(rows, cache=cache)
        kinds = {kind: paths[kind] for kind in ("images", "texts")}
        digest = f"clip-{clip_like.mark(clip_like.Shape())}"
        return Vectors(
            name, digest, "made CLIP-like images (clip_like.py)", paths["rows"], rows, kinds, paths["practice"]
        )
    ready = _ready()
    if name == "text-ready" and ready is not None:
        base, queries = (_unit_file(ready / f"text_{part}.npy", cache) for part in ("base", "queries"))
        count = len(np.load(base, mmap_mode="r"))
        if rows is None or rows <= count:
            origin = "medical terms, the ready-made 60,000 of text_base.npy"
            return Vectors(name, base.stem, origin, base, rows or count, {"texts": queries})
    elif name not in ("text", "text-ready"):
        raise ValueError(f"the plan names data {name!r}; there are 'text', 'text-ready' and 'clip'")
    base, queries, origin = texts.load(rows, cache)
    count = len(np.load(base, mmap_mode="r"))
    return Vectors("text", base.stem.rsplit("-", 2)[0], origin, base, min(rows or count, count), {"texts": queries})
