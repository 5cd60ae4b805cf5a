"""R12. Hostile files are added: the caller never crashes or hangs, each file has one outcome with a code and a sentence
that quotes nothing of it, in 512 MiB; files at which the decoder's process ends are among them."""

from __future__ import annotations

import dataclasses
import resource
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import osler
from hostile_files import CANARIES, CODES, generate
from osler.config import LIMITS
from osler.sources import interpreter, open_source, process, worker, workers

NAME, UNIT = "hostile files", "files"
SIZES = {"quick": 300, "ci": 2_000, "full": 100_000}
FILES = 100
# Only to stop what would never end: a piece takes seconds.
PATIENCE = 300
SMALL = dataclasses.replace(LIMITS, decode_bytes=512 << 20, decode_seconds=10, decode_processes=1)
# What the interpreter and the decoders take before they have seen a file.
LOADED = 128 << 20
# Besides the outcomes of a decoder those of a process, and of the columns.
OUTCOMES = CODES | {"crashed", "metadata"}
# What a process says of an exception that nothing in the library expects.
LAST_RESORT, LAST = "the file cannot be decoded; check", " of no known cause"
# At the end of a file at which the process is to end, as if a decoder had a fault.
FAULT = b"ENDSHERE"
PROGRAM = """
import json, os, sys
from osler.sources import worker
real = worker.Here.decode
worker.Here.decode = lambda self, data, keep=(): os.abort() if data[-8:] == b"ENDSHERE" else real(self, data, keep)
worker.main(int(sys.argv[1]), sys.argv[2] == "dicom")
"""


class Means:
    """An encoder that takes any picture."""

    name, dim, fingerprint, modalities, logit_scale, device = "means", 2, "f" * 64, ("image",), 1.0, "cpu"

    def encode_images(self, images: Any, batch_size: Any = None, progress: Any = False) -> Any:
        return np.array([[1.0 + np.mean(image[:64, :64]), 1.0] for image in images], np.float32)


def piece(seed: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name, _limited() as used:
        folder = Path(name, "files")
        folder.mkdir()
        for number in range(FILES):
            data = generate(rng)
            data += FAULT if rng.random() < 0.01 else b""
            (folder / f"{number:03}").write_bytes(data)
        with osler.Collection.create(Path(name, "cases.osler"), encoder=Means()) as cases:
            report = cases.add(folder, progress=False)
            assert report.added + report.duplicates + report.skipped == FILES, f"seed {seed}: {report!r}"
            assert len(cases) == report.added and len(report.failures) == report.skipped, f"seed {seed}: {report!r}"
            cases.verify()
        assert len({failure.source for failure in report.failures}) == report.skipped, f"seed {seed}: two of one file"
        for failure in report.failures:
            _check(failure, f"seed {seed}, file {failure.source}: {failure.code}: {failure.message}")
        assert used[0].peak < SMALL.decode_bytes + LOADED, f"seed {seed}: {used[0].peak >> 20} MiB were used"
        with workers.contained() as decoder:
            series = open_source(folder, items="series", decoder=decoder)
        assert sum(len(entry.members) or 1 for entry in series.entries) == FILES, f"seed {seed}: a file is in no series"
    refused = Counter(f"{failure.code}{LAST * (LAST_RESORT in failure.message)}" for failure in report.failures)
    return Counter({UNIT: FILES, "added": report.added, "duplicates": report.duplicates}) + refused


def _check(failure: Any, what: str) -> None:
    words = failure.message
    assert failure.code in OUTCOMES, what
    assert 10 < len(words) < 300 and "\n" not in words and not words.endswith("."), what
    assert not any(canary in words for canary in CANARIES), what


@contextmanager
def _limited() -> Iterator[list[Any]]:
    """One process that decodes, with small limits and the fault; yields those who own it."""
    used: list[Any] = []
    real = workers.Workers.__init__

    def noted(self: Any, count: int | None = None) -> None:
        real(self, count)
        used.append(self)

    def late(*_: Any) -> None:
        raise TimeoutError("it hangs")

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        with ExitStack() as stack:
            for module in (process, workers, worker, interpreter):
                stack.enter_context(mock.patch.object(module, "LIMITS", SMALL))
            stack.enter_context(mock.patch.object(process, "PROGRAM", PROGRAM))
            stack.enter_context(mock.patch.object(workers.Workers, "__init__", noted))
            yield used
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert peak < 4 << 30, f"the caller took {peak >> 20} MiB"
