"""models/README.md shows every encoder with evidence or a reason in each cell, as the script writes it from files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from osler.encoders.entry import entries
from osler.encoders.registry import shipped

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_what_the_script_writes() -> None:
    done = subprocess.run([sys.executable, "models/table.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_encoder_and_no_cell_is_missing() -> None:
    lines = [line for line in (ROOT / "models" / "README.md").read_text().splitlines() if line.startswith("| `")]
    rows = {
        cells[1].strip(): cells for cells in (line.replace("\\|", "").split("|") for line in lines) if len(cells) == 11
    }
    assert {f"`{name}`" for name in (*shipped(), *entries())} <= set(rows)
    assert all(cell.strip() for cells in rows.values() for cell in cells[1:-1])
