"""A decoder that does what the end of a file says, for tests of what holds one: run by `osler.sources.workers` in the
place of the real program."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
from osler.sources import worker, workers
from PIL import Image

PROGRAM = """
import json, os, signal, sys, time
sys.path[:] = json.loads(sys.argv[1])
from osler.sources import worker
import ctypes, socket
from dataclasses import replace
import numpy as np

def refused(call):
    try:
        call()
    except OSError:
        return
    os._exit(77)

class Evil(worker.Here):
    def decode(self, data, keep=()):
        found = super().decode(data, keep)
        what = data.rpartition(b"!!")[2].decode("latin-1")
        if what == "segv": ctypes.string_at(0)
        if what == "abort": os.abort()
        if what == "exit": os._exit(3)
        if what == "memory": bytearray(1 << 40)
        if what == "leak": self.kept = [b"x" * (1 << 20) for _ in range(1 << 20)]
        if what == "spin":
            while True: pass
        if what == "sleep": time.sleep(600)
        if what == "print":
            print("PatientName Doe^Jane"); os.write(1, b"x" * 1000); os.write(2, b"Doe^Jane")
        if what == "files":
            refused(lambda: open("/etc/hostname"))
            refused(lambda: open("/tmp/osler-was-here", "w"))
            refused(lambda: socket.socket())
            refused(lambda: os.listdir("/"))
        if what == "columns": return replace(found, columns={**found.columns, "PatientName": "Doe^Jane"})
        if what == "identifiers": return replace(found, identifiers={"patient_id": "x", "other": "y"})
        if what == "format": return replace(found, format="bmp")
        if what == "none": return replace(found, frames=())
        if what == "objects": return replace(found, frames=(np.zeros((2, 2), "<i8"),))
        if what == "deep": return replace(found, columns={**found.columns, "rows": [[1]]})
        if what == "error": raise worker.SourceError("Doe^Jane\\nis his name", code="decode_failed")
        if what == "fault": raise RuntimeError("Doe^Jane")
        if what == "garbage": worker._Worker.answer = lambda self, *_: os.write(self._replies, b"{" * 64)
        if what == "cut": worker._Worker.answer = lambda self, *_: (os.write(self._replies, b"1234"), os._exit(0))
        return found

worker.Here = Evil
worker.main(int(sys.argv[2]), sys.argv[3] == "dicom")
"""


def picture(what: str = "", value: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(stream, "png")
    return stream.getvalue() + (b"!!" + what.encode() if what else b"")


@contextmanager
def evil(seconds: int = 1) -> Iterator[None]:
    """Let this program decode, within small limits."""
    few = replace(workers.LIMITS, decode_seconds=seconds, decode_bytes=256 << 20)
    with (
        mock.patch.object(workers, "PROGRAM", PROGRAM),
        mock.patch.object(workers, "LIMITS", few),
        mock.patch.object(worker, "LIMITS", few),
        mock.patch.object(workers, "_PATIENCE", 2),
    ):
        yield
