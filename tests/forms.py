"""The forms in which an index can keep rows, and how near to the vectors what it keeps of them is.

Plain values; tests are parametrised by them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """`codes` and `keep` as `Index` takes them; `error`: most of a row's length that `get` may be off, on average."""

    codes: str
    keep: str
    error: float = 0.0

    def __str__(self) -> str:
        return f"{self.codes}-{self.keep}"

    @property
    def options(self) -> dict[str, str]:
        return {"codes": self.codes, "keep_vectors": self.keep}

    @property
    def keeps(self) -> bool:
        """Whether scores come from full vectors at any size."""
        return self.keep != "none"


FULL = [Form("f32", "ram"), Form("f16", "ram", 1e-3)]
WALKED = [
    Form("f32", "disk"),
    Form("f16", "disk", 1e-3),
    Form("f32", "none", 0.01),
    Form("sq8", "ram"),
    Form("sq8", "none", 0.01),
    Form("sq5", "disk"),
    Form("sq5", "none", 0.1),
]
SCANNED = [
    Form("pq", "disk"),
    Form("pq:10x8", "none", 0.7),
    Form("rabitq", "disk"),
    Form("rabitq:4", "ram"),
    Form("rabitq:7", "none", 0.03),
]
EVERY = FULL + WALKED + SCANNED
