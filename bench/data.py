"""Vectors to measure on, by the name a plan uses for them.

Reads `$OSLER_TEST_VECTORS`, or the folder `shared/data` beside the checkout; without either the vectors are made from
the installed packages and kept in `bench/.cache`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "bench" / ".cache"
sys.path.append(str(ROOT / "tests"))

from text_vectors import TextVectors  # noqa: E402
from text_vectors import load as load_text  # noqa: E402

MADE_ROWS, MADE_QUERIES = 20_000, 1_000


def load(name: str) -> TextVectors:
    """Return the vectors called `name`."""
    if name != "text":
        raise ValueError(f"the plan names data {name!r}; the only one there is is 'text'")
    beside = ROOT.parent / "shared" / "data"
    folder = os.environ.get("OSLER_TEST_VECTORS") or (beside if beside.is_dir() else None)
    return load_text(CACHE, folder=folder, rows=MADE_ROWS, queries=MADE_QUERIES)
