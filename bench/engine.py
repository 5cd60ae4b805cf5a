"""What every engine of the benchmark can be asked, and the answer "no" for what it cannot do.

An engine is one file in `bench/engines/` with a class `Engine`. Its variants are data: a name and the settings that
differ. An engine keeps everything it saves below one folder, because the benchmark builds in one process and searches
in another, as users do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

GRAPH_LINKS = 16
BUILD_WIDTH = 200
WIDTHS = (10, 12, 16, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448)


class NotOffered(Exception):
    """The engine has no such thing: a filter, a batch call, a variant. Its text is the reason that a table shows."""


class Peer(ABC):
    """One engine in one variant. Subclasses fill in what they can do.

    `rows` are unit rows (n, dim) float32 and the wanted order is that of the inner product. A `width` is one point of
    the engine's sweep: whatever trades recall for speed. Answers are row numbers.
    """

    package: ClassVar[str]
    variants: ClassVar[dict[str, dict[str, Any]]] = {"": {}}
    widths: ClassVar[tuple[Any, ...]] = WIDTHS

    def __init__(self, variant: str = "") -> None:
        if variant not in self.variants:
            raise NotOffered(f"no variant {variant!r}")
        self.variant, self.settings = variant, self.variants[variant]
        self.index: Any = None
        self.threads = 1

    def describe(self) -> dict[str, Any]:
        """Return `name`, `version` and `parameters`: what a figure is filed under."""
        from importlib.metadata import version

        return {"name": self.title(), "version": version(self.package), "parameters": self.parameters()}

    def title(self) -> str:
        name = type(self).__module__.rpartition(".")[2]
        return f"{name} {self.variant}".strip()

    @abstractmethod
    def parameters(self) -> str:
        """Return the settings that a figure is filed under."""

    def sweep(self, rows: int) -> list[Any]:
        """Return the widths to measure on an index of `rows` rows."""
        return list(self.widths)

    @abstractmethod
    def build(self, rows: np.ndarray, folder: Path, threads: int) -> None:
        """Build in `self.index`; an engine that builds on disk does so in `folder`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the index below `folder`."""

    @abstractmethod
    def open(self, folder: Path, rows: np.ndarray, threads: int) -> None:
        """Load what `save` wrote. `rows` is mapped from the file of the vectors, for engines that re-rank from it."""

    def practise(self, queries: np.ndarray) -> None:  # noqa: B027 - most engines learn nothing, so doing nothing is the right default
        """Learn from queries that are never reported, right after `open`; most engines have no use for them."""

    @abstractmethod
    def single(self, k: int, width: Any) -> Callable[[np.ndarray], Any]:
        """Return a function from one query (dim,) to k row numbers, on one thread."""

    def batch(self, queries: np.ndarray, k: int, width: Any) -> np.ndarray:
        """Return row numbers (m, k) from one call over all queries, on the threads that `open` was given."""
        raise NotOffered("has no call for a batch")

    def filtered(self, mask: np.ndarray, k: int, where: list[Any]) -> Callable[[np.ndarray, Any], Any]:
        """Return a function from a query and a width to row numbers that `mask` (n,) allows; prepared once.

        `where` says the same as `[column, limit]`: rows whose column of `filters.columns` is below the limit.
        """
        raise NotOffered("has no filter in Python")

    def join(self, rows: np.ndarray, threshold: float, threads: int) -> int:
        """Return how many unordered pairs of different rows have an inner product of at least `threshold`."""
        raise NotOffered("has no join")

    def ram(self) -> int | None:
        """Return the bytes that the engine says it must hold in memory, or None where it does not say."""
        return None


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
