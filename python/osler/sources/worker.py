"""The program of a process that decodes files for another: bytes in, arrays out.

Started by `osler.sources.workers` and by nothing else. Once it has loaded the decoders it can open no file and no
socket, and makes no system call that decoding does not need; memory and processor time are limited for each file, it
leaves no core dump, and it ends with its parent.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS
from osler.decode.frames import KEPT_BYTES
from osler.errors import SourceError
from osler.sources.decoder import Here
from osler.sources.system_calls import only_decoding

__all__ = ["HEAD", "HEADER_BYTES", "PROGRAM", "VOXELS", "main", "seconds_for", "serve"]

# What a caller runs.
PROGRAM = "from osler.sources.worker import main; main(int(sys.argv[1]), sys.argv[2] == 'dicom')"
# Before each message: bytes of its header, which is JSON, and of what follows.
HEAD = struct.Struct("<QQ")
HEADER_BYTES = 4 << 20
# What is told of voxels besides the array, the columns and the identifiers.
VOXELS = ("format", "planes", "affine", "unit", "findings")
# A process that has grown by more than this ends after its file, so that limits mean the same for every file.
_GROWN_BYTES = 128 << 20
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_TOO_LARGE = "the file needs more memory to decode than one file may take; set OSLER_LIMIT_DECODE_BYTES to raise it"


def seconds_for(size: int) -> int:
    """Return the seconds of processor time that decoding a file of some bytes may take.

    Examples
    --------
    >>> from osler.config import LIMITS
    >>> from osler.sources.worker import seconds_for
    >>> seconds_for(5 << 20) - LIMITS.decode_seconds
    5
    """
    return LIMITS.decode_seconds + (size >> 20)


def main(parent: int, dicom: bool) -> None:
    """Answer requests until there are no more.

    Parameters
    ----------
    parent : int
        Process that asks; when it ends, so does this one.
    dicom : bool
        Load what DICOM and NIfTI need, too.
    """
    serve(parent, lambda: _load(dicom), _Worker)


def serve(parent: int, load: Callable[[], None], make: Callable[[int, int], _Worker]) -> None:
    """Load what is needed, contain this process, and answer requests until there are no more."""
    requests, replies = os.dup(0), os.dup(1)
    _end_with(parent)
    # Libraries that print must not be heard as answers.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    load()
    worker = make(requests, replies)
    worker.answer({"filtered": worker.contain()})
    while worker.turn():
        pass
    os._exit(0)


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        import ctypes

        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as stream:
            # Where memory runs out, this process goes and not the one that asks.
            stream.write("1000")
        # A limit of 0 does not stop a dump that the system pipes to a program; this does.
        prctl(_PR_SET_DUMPABLE, 0)
    if os.getppid() != parent:
        os._exit(0)


def _load(dicom: bool) -> None:
    # Quantiles load it when they are first asked for.
    import numpy.ma
    from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

    import osler.decode.pictures

    _ = numpy.ma, osler.decode.pictures
    _ = BmpImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
    if dicom:
        with suppress(ImportError):
            import nibabel.arrayproxy
            import nibabel.nifti2
            import nibabel.orientations

            _ = nibabel.arrayproxy, nibabel.nifti2, nibabel.orientations
        with suppress(ImportError):
            import pydicom.encaps
            from pydicom.charset import python_encoding

            import osler.sources.dicom
            from osler.decode.transfer import load_decoders

            _ = pydicom.encaps, osler.sources.dicom
            for name in {*python_encoding.values(), "latin-1", "utf-8"}:
                with suppress(LookupError):
                    codecs.lookup(name or "latin-1")
            load_decoders()


def _known(limits: tuple[int, int]) -> list[int]:
    """Return a soft and a hard limit with a number for none."""
    return [limit if limit != resource.RLIM_INFINITY else 2**62 for limit in limits]


class _Worker:
    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies
        self._memory = self._status = None
        with suppress(OSError):
            self._memory = os.open("/proc/self/statm", os.O_RDONLY)
            self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._base = self._size()
        # What the program itself was limited to holds here too.
        self._most = {kind: min(_known(resource.getrlimit(kind))) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU)}
        self._open: Sequence[NDArray[Any]] | None = None
        self._open_bytes = 0

    def contain(self) -> bool:
        """Give up what decoding does not need: core dumps, files, sockets; and other system calls, if this says so."""
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE):
            resource.setrlimit(kind, (0, 0))
        if self._memory is not None:
            # The limit of a file is below this, which cannot be raised again.
            most = min(self._most[resource.RLIMIT_AS], self._base + LIMITS.decode_bytes + 3 * LIMITS.bytes_per_file)
            soft, _ = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(soft, most), most))
        return only_decoding()

    def turn(self) -> bool:
        """Answer one request; False after the last one."""
        lengths = self._receive(HEAD.size)
        if lengths is None:
            return False
        header_length, length = HEAD.unpack(lengths)
        request = json.loads(self._receive(header_length) or b"")
        reply: dict[str, Any]
        try:
            self._limit(length if request["fresh"] else self._open_bytes)
            data = self._receive(length)
            if data is None:
                return False
            reply, frames = self._done(request, data)
        except SourceError as error:
            reply, frames = {"code": error.code, "message": str(error)}, ()
        except MemoryError:
            # The request may not have been read to its end: this process is of no more use.
            self.answer({"code": "too_large", "message": _TOO_LARGE, "last": True})
            return False
        except Exception:
            message = "the file cannot be decoded; check that it opens elsewhere"
            reply, frames = {"code": "decode_failed", "message": message}, ()
        grown = self._open is None and self._size() > self._base + _GROWN_BYTES
        self.answer(reply | {"last": grown}, frames)
        return not grown

    def _done(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], Sequence[NDArray[Any]]]:
        if request["op"] == "header":
            return {"header": Here().header(data)}, ()
        if request["op"] == "voxels":
            voxels = Here().voxels(data, request["keep"])
            reply = {name: getattr(voxels, name) for name in VOXELS}
            return reply | {"columns": voxels.columns, "identifiers": voxels.identifiers}, (voxels.array,)
        if request["op"] == "frame":
            if request["fresh"]:
                self._open, self._open_bytes = None, 0
                self._open, self._open_bytes = Here().decode(data).frames, len(data)
            assert self._open is not None
            return {}, (self._open[request["at"]],)
        found = Here().decode(data, request["keep"])
        frames = found.frames if isinstance(found.frames, tuple) else ()
        if sum(frame.nbytes for frame in frames) > KEPT_BYTES:
            frames = ()
        about = {"format": found.format, "columns": found.columns, "identifiers": found.identifiers}
        return about | {"count": len(found.frames), "planes": found.planes}, frames

    def answer(self, reply: dict[str, Any], frames: Sequence[NDArray[Any]] = ()) -> None:
        """Send one message."""
        reply["frames"] = [[frame.dtype.str, frame.shape] for frame in frames]
        reply["peak"] = self._peak()
        header = json.dumps(reply).encode()
        if len(header) > HEADER_BYTES:
            message = "the tags to keep hold more than a row of metadata can"
            return self.answer({"code": "metadata", "message": message})
        self._send(memoryview(HEAD.pack(len(header), sum(frame.nbytes for frame in frames)) + header))
        for frame in frames:
            self._send(np.ascontiguousarray(frame).data.cast("B"))
        return None

    def _send(self, rest: memoryview) -> None:
        while rest:
            rest = rest[os.write(self._replies, rest) :]

    def _receive(self, length: int) -> bytes | None:
        found = bytearray(length)
        rest = memoryview(found)
        while rest:
            count = os.readv(self._requests, [rest])
            if count == 0:
                return None
            rest = rest[count:]
        return bytes(found)

    def _limit(self, size: int) -> None:
        limits = {resource.RLIMIT_CPU: math.ceil(time.process_time()) + seconds_for(size)}
        if self._memory is not None:
            limits[resource.RLIMIT_AS] = self._base + LIMITS.decode_bytes + 3 * size
        for kind, soft in limits.items():
            _, most = resource.getrlimit(kind)
            resource.setrlimit(kind, (min(soft, self._most[kind]), most))

    def _peak(self) -> int:
        """Return the most resident memory that this process had; what its parent had before it counts elsewhere."""
        if self._status is None:
            return 0
        for line in os.pread(self._status, 1 << 16, 0).splitlines():
            if line.startswith(b"VmHWM"):
                return int(line.split()[1]) << 10
        return 0

    def _size(self) -> int:
        """Return the bytes of address space in use."""
        if self._memory is None:
            return 0
        return int(os.pread(self._memory, 64, 0).split()[0]) * resource.getpagesize()
