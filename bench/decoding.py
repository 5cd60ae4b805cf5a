"""What it costs to decode files in processes of their own: the same folder added both ways, in pairs.

The folder holds the DICOM files that pydicom and pydicom-data ship, each a few times with other bytes at its end. Run
as `decoding.py`; writes `results/decoding.md`.
"""

from __future__ import annotations

import importlib.metadata
import os
import statistics
import tempfile
import time
from pathlib import Path

import machine

BENCH = Path(__file__).resolve().parent
PAIRS, COPIES, LARGEST = 7, 3, 3_000_000


def fill(folder: Path) -> int:
    """Copy the packages' files; returns how many there are then."""
    count = 0
    for name in ("pydicom", "pydicom-data"):
        for file in importlib.metadata.distribution(name).files or ():
            path = Path(str(file.locate()))
            if path.suffix in (".py", ".pyc", ".pyi") or not {"test_files", "data_store"} & set(path.parts):
                continue
            data = path.read_bytes()
            for copy in range(COPIES if len(data) < LARGEST else 0):
                (folder / f"{count:05}{path.suffix}").write_bytes(data + bytes(2 * copy))
                count += 1
    return count


def once(source: Path, in_process: bool) -> tuple[float, int]:
    import osler

    os.environ["OSLER_DECODE_IN_PROCESS"] = "1" if in_process else "0"
    with tempfile.TemporaryDirectory() as folder:
        cases = osler.Collection.create(Path(folder) / "cases.osler", encoder="reference")
        began = time.perf_counter()
        report = cases.add(source, progress=False)
        spent = time.perf_counter() - began
        cases.close()
    return spent, report.added


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        files = fill(source)
        once(source, True)
        pairs = []
        for _ in range(PAIRS):
            here, there = once(source, True), once(source, False)
            assert here[1] == there[1], "the two ways add other items"
            pairs.append((here[0], there[0]))
            print(f"in this process {here[0]:.2f} s, in processes of their own {there[0]:.2f} s", flush=True)
    ratio = statistics.median(here / there for here, there in pairs)
    here, there = (statistics.median(pair[at] for pair in pairs) for at in (0, 1))
    lines = [
        "# Decoding in processes of their own",
        "",
        f"Made by `bench/decoding.py`: {files:,} files added to a new collection with the reference encoder,",
        f"{PAIRS} pairs, medians.",
        "",
        machine.label(),
        "",
        "| decoded | seconds | files a second |",
        "|---|---|---|",
        f"| in the program | {here:.2f} | {files / here:.0f} |",
        f"| in processes of their own | {there:.2f} | {files / there:.0f} |",
        "",
        f"Speed of the second over the first, median of the pairs: {ratio:.2f}.",
    ]
    (BENCH / "results" / "decoding.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
