"""Put the peers into the environment that runs this file, one by one: one that fails does not keep out the rest.

Reads the groups `bench` and `bench-apart` of pyproject.toml. What cannot be installed is said here, and shows in the
results as missing with the reason of its import.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

# These choose their kernels when compiled, so they are compiled here, for this machine's processor.
FROM_SOURCE = ("hnswlib", "lorann")
SECONDS = 1_200


def install(requirement: str, *options: str) -> str | None:
    """Install one package; return the reason where that fails."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
    source = ["--no-binary", name] if name in FROM_SOURCE else []
    command = [sys.executable, "-m", "pip", "install", "--quiet", *options, *source, requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"not installed in {SECONDS} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return None if done.returncode == 0 else (lines[-1][:300] if lines else f"pip ended with {done.returncode}")


def main() -> None:
    """Install every package of both groups and say which could not be had."""
    groups = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["dependency-groups"]
    for requirement in groups["bench"]:
        if reason := install(requirement):
            print(f"{requirement}: {reason}", file=sys.stderr)
    for requirement in groups["bench-apart"]:
        if reason := install(requirement, "--no-deps"):
            print(f"{requirement}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
