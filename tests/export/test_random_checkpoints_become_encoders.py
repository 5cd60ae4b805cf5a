"""From a checkpoint of the true shape to answers, all through the command line: export, check, build, search.

The weights are random. Each encoder's processes end before the next one begins, so one model is in memory at a time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from osler.encoders.entry import entries
from run import prove

pytest.importorskip("torch", reason="the extra export is not installed here")
pytestmark = [pytest.mark.slow, pytest.mark.sockets, pytest.mark.timeout(7200)]

NAMED = (
    "biomedclip",
    "unimed-b16",
    "quiltnet-b32",
    "conceptclip",
    "flair",
    "medclip-vit",
    "biovil",
    "mgca-vit",
    "merlin",
    "medicalnet-rn18",
    "kimianet",
    "dfn2b-b16",
    "medsiglip",
)


@pytest.mark.parametrize("name", NAMED)
def test_from_checkpoint_to_answers(name: str, tmp_path: Path) -> None:
    row = prove(entries()[name], tmp_path)
    assert row["shape"] == "true" and row["bytes"] > 0


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions(precision: str, tmp_path: Path) -> None:
    assert prove(entries()["quiltnet-b32"], tmp_path, precision)["precision"] == precision
