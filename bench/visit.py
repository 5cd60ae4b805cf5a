"""One engine on one set of vectors: its index on disk, built once, and workers that open it.

Owns a temporary folder below `bench/.cache`; an index is removed when the visit ends, so that one engine's files and
the control's are on disk at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np
from data import CACHE, Vectors
from measure import EngineFailed, Worker

DISK_SPARE = 4  # times the bytes of the rows that must be free before an index is built


class Visit:
    """What a case works with: `engine` and perhaps a `control`, the vectors, its settings."""

    def __init__(self, engine: str, vectors: Vectors, store: Store) -> None:
        self.engine, self.vectors, self.store = engine, vectors, store
        self.scratch = store.folder / "scratch.npy"

    def rows(self) -> dict[str, Any]:
        """Return how a worker is told of the rows."""
        return {"rows": str(self.vectors.rows), "count": self.vectors.count}

    @contextlib.contextmanager
    def opened(self, key: str, threads: int) -> Iterator[Worker]:
        """Yield a worker with the index of `key` opened."""
        folder = self.store.index(key)
        with Worker(key, threads) as worker:
            worker.opening = worker.ask("open", folder=str(folder), **self.rows())
            worker.ask("practise", path=str(self.vectors.practice) if self.vectors.practice else None)
            yield worker

    def sweep(self, worker: Worker, thin: int = 1) -> list[Any]:
        """Return the worker's widths; every `thin`-th of them, the last always."""
        widths = worker.ask("sweep", rows=self.vectors.count)
        return widths if thin == 1 else [*widths[:-1:thin], widths[-1]]

    def saved(self, array: np.ndarray, name: str) -> str:
        """Keep an array for a worker to read."""
        path = self.store.folder / f"{name}.npy"
        np.save(path, array)
        return str(path)


class Store:
    """The indexes on disk of one set of vectors: the control's for the whole time, the engines' one at a time."""

    def __init__(self, vectors: Vectors, cache: Path = CACHE) -> None:
        self.vectors, self.cache = vectors, cache
        work = cache / "work"
        self.folder = work / f"{vectors.digest}-{vectors.count}"
        work.mkdir(parents=True, exist_ok=True)
        self.lock = (work / f"{self.folder.name}.lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(
                f"another run measures {self.folder.name} now: two at once would disturb each other"
            ) from None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.built: dict[str, dict[str, Any]] = {}
        self.broken: dict[str, Exception] = {}

    def index(self, key: str) -> Path:
        """Return the folder of the index of `key`, built on all threads where it is not there."""
        name = self.recipe(key)
        if name in self.broken:
            raise self.broken[name]
        if name not in self.built:
            try:
                self.build(key, machine.cores(), keep=True)
            except Exception as error:
                self.broken[name] = error
                raise
        return self._place(key)

    def build(self, key: str, threads: int, *, keep: bool) -> dict[str, Any]:
        """Build once; with `keep` the index stays on disk until `drop`."""
        free = shutil.disk_usage(self.folder).free
        if free < DISK_SPARE * self.vectors.base.nbytes:
            raise EngineFailed(f"too little disk: {free / 2**30:.1f} GiB are free")
        place = self._place(key) if keep else self.folder / "timed"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        with Worker(key, threads) as worker:
            figures = worker.ask("build", folder=str(place), rows=str(self.vectors.rows), count=self.vectors.count)
        figures["disk_bytes"] = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        if keep:
            self.built[self.recipe(key)] = figures
        else:
            shutil.rmtree(place)
        return figures

    @staticmethod
    def recipe(key: str) -> str:
        """Return what the index of `key` is shared with: variants that differ in opening or asking only share one."""
        return {
            "osler:recall": "osler",
            "osler:recall-texts": "osler",
            "osler:recall-mapped": "osler",
            "osler:mapped": "osler",
            "osler:exact": "osler",
            "usearch:f32-view": "usearch:f32",
        }.get(key, key)

    def _place(self, key: str) -> Path:
        return self.folder / self.recipe(key).replace(":", "-")

    def drop(self, key: str, keep: set[str]) -> None:
        """Remove an engine's files unless the control needs them."""
        name = self.recipe(key)
        if name not in {self.recipe(one) for one in keep}:
            shutil.rmtree(self._place(key), ignore_errors=True)
            self.built.pop(name, None)

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.close()
