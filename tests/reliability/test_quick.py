"""The harnesses at their quick size: each prints what it counted, and one failure fails. `make soak` runs the full
sizes.

Every harness is a process of its own over the build for tests; `tests/reliability/run.py` says how to run one alone.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from reliability.run import NAMES

ROOT = Path(__file__).parents[2]
RUN = ROOT / "tests" / "reliability" / "run.py"
BUGS, FILES = 5, 3


def run(*arguments: str) -> None:
    if not (ROOT / "target" / "testing" / ".built").exists():
        pytest.fail("the build for tests is missing: make target/testing/.built")
    done = subprocess.run([sys.executable, str(RUN), *arguments], capture_output=True, text=True, timeout=1_800)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_harness_finds_nothing(name: str) -> None:
    run("--size", "quick", name)


@pytest.mark.slow
def test_every_bit_and_every_length_of_small_files_matters() -> None:
    run("--every", str(FILES), "--start", str(time.gmtime().tm_yday))


@pytest.mark.slow
def test_planted_bugs_are_seen() -> None:
    # Others each day, so that all come up without all being planted each time.
    run("--bugs", str(BUGS), "--start", str(time.gmtime().tm_yday))
