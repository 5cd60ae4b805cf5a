"""Files of each format version, in `fixtures`: `python tests/golden_files.py` makes those of the version in force,
once, with the build for tests, whose indexes of few rows have graphs and codes.

A version that was released is never made again: its files are what old readers wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
ROWS, DIM, K = 64, 16, 5
METRICS = ("cosine", "dot", "l2")


def vectors() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows that are the same on every machine: no library's random numbers."""
    numbers = np.arange(ROWS * DIM, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)
    return (numbers.astype(np.float32) / 2**23 - 1).reshape(ROWS, DIM)


def metric(name: str) -> str:
    """The metric of a form's file, so that all come up."""
    return METRICS[sum(map(ord, name)) % 3]


def items(numbers: range) -> dict[str, Any]:
    """Arguments of `add_vectors` for some items, each of two parts."""
    return {
        "keys": [f"case-{number:02}" for number in numbers],
        "vectors": vectors()[[row for number in numbers for row in (number, number + 30)]],
        "parts": np.repeat(np.arange(len(numbers)), 2),
        "metadata": [{"age": number, "site": "north" if number % 3 else None} for number in numbers],
        "locators": [{"frame": part} for _ in numbers for part in range(2)],
    }


def make() -> None:
    import osler
    from forms import EVERY
    from reliability import testing

    indexes, directory = FIXTURES / "index-4", FIXTURES / "collection-2"
    for folder in (indexes, directory):
        folder.mkdir(parents=True)
    with testing.small_indexes(), testing.small_graphs():
        for form in EVERY:
            index = osler.Index.build(vectors(), np.arange(100, 100 + ROWS), metric=metric(str(form)), **form.options)
            index.save(indexes / f"{str(form).replace(':', '-')}.index")
        cases = osler.Collection.create(directory / "cases.osler", dim=DIM, metric="dot")
        for start in (0, 10):
            cases.add_vectors(**items(range(start, start + 10)))
        cases.delete(["case-04", "case-07"])
        cases.close()


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "target" / "testing"), str(ROOT / "tests")]
    make()
