"""Made vectors that lie as CLIP's do: images in a narrow cone, texts in another one, a gap between the two.

Writes `bench/.cache` block by block, so that memory does not grow with the number of rows, and every block has its own
stream of chance, so that a smaller set is a prefix of a larger one.

What is kept of real image-text encoders: unit rows of 512 dimensions; a common direction with a few dominant ones,
so that two images have a cosine of about one half; clusters of very unequal size, each of about 30 dimensions of its
own; a floor of noise in all dimensions. Texts have another common direction, nearly orthogonal to the images' (the
modality gap of Liang et al., "Mind the Gap", 2022), and know the cluster and little of the place within it.

    python bench/clip_like.py ROWS
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

CACHE = Path(__file__).resolve().parent / ".cache"
BLOCK = 10_000
IMAGE_QUERIES, TEXT_QUERIES = 1_000, 2_000  # the second thousand of texts is for calibration, never reported


@dataclass(frozen=True)
class Shape:
    """The numbers that make a set; another number makes another set under another name."""

    version: int = 1  # of the way rows are drawn: to be raised when `Maker` changes
    seed: int = 414
    dim: int = 512
    clusters: int = 2_000
    atoms: int = 240  # directions that the clusters share
    own: int = 30  # of them in one cluster
    spread: float = 0.8  # within a cluster, against the distance of its centre
    noise: float = 0.2
    cone: float = 1.3  # the common direction, against the rest
    text_detail: float = 0.35  # how much of its place in the cluster a text knows
    text_noise: float = 0.6


class Maker:
    """The clusters of one shape, and blocks of rows drawn from them."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        chance = self._chance(0)
        self.atoms = np.linalg.qr(chance.standard_normal((shape.dim, shape.atoms)))[0].T.astype(np.float32)
        fall = 1 / np.sqrt(1 + np.arange(shape.atoms))
        centres = chance.standard_normal((shape.clusters, shape.atoms)) * fall
        self.centres = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
        weights = 1 / (8 + np.arange(shape.clusters)) ** 0.85
        self.weights = weights / weights.sum()
        # Every cluster stretches along its own choice of atoms, each less than the one before.
        widths = np.zeros((shape.clusters, shape.atoms), np.float32)
        steps = 1 / np.sqrt(1 + np.arange(shape.own))
        steps *= shape.spread / np.linalg.norm(steps)
        for cluster in range(shape.clusters):
            picked = chance.choice(shape.atoms, shape.own, replace=False)
            widths[cluster, picked] = steps * chance.lognormal(0, 0.25)
        self.widths = widths
        self.image_cone, self.text_cone = self._cone(chance), self._cone(chance)

    def _chance(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([self.shape.seed, *place])

    def _cone(self, chance: np.random.Generator) -> np.ndarray:
        direction = chance.standard_normal(self.shape.dim)
        direction[chance.choice(self.shape.dim, 4, replace=False)] *= 6
        return (self.shape.cone * direction / np.linalg.norm(direction)).astype(np.float32)

    def _draw(self, chance: np.random.Generator, count: int, detail: float, noise: float) -> np.ndarray:
        cluster = chance.choice(self.shape.clusters, count, p=self.weights)
        place = chance.standard_normal((count, self.shape.atoms), dtype=np.float32) * self.widths[cluster]
        rows = (self.centres[cluster] + np.float32(detail) * place) @ self.atoms
        rows += np.float32(noise / np.sqrt(self.shape.dim)) * chance.standard_normal(rows.shape, dtype=np.float32)
        return rows

    @staticmethod
    def _unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def block(self, at: int) -> np.ndarray:
        """Return the rows of block `at`, (BLOCK, dim) float32 of unit length."""
        return self._unit(self._draw(self._chance(1, at), BLOCK, 1.0, self.shape.noise) + self.image_cone)

    def images(self, count: int) -> np.ndarray:
        """Return image queries: drawn as rows are, but not among them."""
        return self._unit(self._draw(self._chance(2), count, 1.0, self.shape.noise) + self.image_cone)

    def texts(self, count: int) -> np.ndarray:
        """Return text queries, from across the gap."""
        drawn = self._draw(self._chance(3), count, self.shape.text_detail, self.shape.text_noise)
        return self._unit(drawn + self.text_cone)


def mark(shape: Shape) -> str:
    """Return 12 hexadecimal digits over the shape."""
    return hashlib.sha256(repr(sorted(asdict(shape).items())).encode()).hexdigest()[:12]


def load(rows: int, shape: Shape | None = None, cache: Path = CACHE) -> dict[str, Path]:
    """Return the files of `rows`, `images`, `texts` and `practice`; the first may hold more rows than were asked."""
    shape = shape or Shape()
    stem = f"clip-{mark(shape)}"
    cache.mkdir(parents=True, exist_ok=True)
    paths = {name: cache / f"{stem}-{name}.npy" for name in ("images", "texts", "practice")}
    have = sorted((int(path.stem.rpartition("-")[2]), path) for path in cache.glob(f"{stem}-rows-*.npy"))
    fitting = next((path for count, path in have if count >= rows), None)
    maker = None if fitting and all(path.is_file() for path in paths.values()) else Maker(shape)
    if maker and not all(path.is_file() for path in paths.values()):
        texts = maker.texts(TEXT_QUERIES)
        half = TEXT_QUERIES // 2
        for name, made in (
            ("images", maker.images(IMAGE_QUERIES)),
            ("texts", texts[:half]),
            ("practice", texts[half:]),
        ):
            np.save(paths[name], made)
    if fitting is None:
        assert maker is not None
        blocks = -(-rows // BLOCK)
        fitting = cache / f"{stem}-rows-{blocks * BLOCK}.npy"
        partial = fitting.with_suffix(f".{os.getpid()}.part")
        table = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(blocks * BLOCK, shape.dim))
        for at in range(blocks):
            table[at * BLOCK : (at + 1) * BLOCK] = maker.block(at)
            table.flush()
        del table
        partial.rename(fitting)
        for _, path in have:  # a prefix of what was just made
            path.unlink()
    return {"rows": fitting, **paths}


def figures(paths: dict[str, Path], rows: int) -> dict[str, float]:
    """Return what says whether the set is like the real thing: mean cosines, and those of the nearest neighbours."""
    base = np.load(paths["rows"], mmap_mode="r")[: min(rows, 100_000)]
    images, texts = np.load(paths["images"]), np.load(paths["texts"])
    found: dict[str, float] = {"image-image": float((base[:2000] @ base[2000:4000].T).mean())}
    found["text-text"] = float((texts[:500] @ texts[500:].T).mean())
    found["text-image"] = float((texts @ base[:4000].T).mean())
    for name, queries in (("image", images), ("text", texts)):
        scores = -np.sort(-(queries[:500] @ base.T), axis=1)[:, :100]
        found |= {f"{name} {at}": float(scores[:, at - 1].mean()) for at in (1, 10, 100)}
        apart = np.sqrt(np.maximum(2 - 2 * scores, 1e-9))
        found[f"{name} local dimension"] = float(np.mean(1 / np.log(apart[:, -1:] / apart[:, :-1]).mean(axis=1)))
    return found


if __name__ == "__main__":
    count = int(sys.argv[1])
    for name, value in figures(load(count), count).items():
        print(f"{name:24} {value:.3f}")
