"""One process that decodes: a Python interpreter that runs `worker` or `slide_worker`, spoken with over pipes.

JSON of bounded length and plain arrays whose shape, type and size are checked by `answers`; limits on memory and time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS
from osler.decode.frames import KEPT_BYTES
from osler.errors import SourceError
from osler.sources.answers import Broken, frame_shape, voxel_shape, wrong
from osler.sources.interpreter import command, environment, modules, no_interpreter
from osler.sources.slide_worker import PROGRAM as SLIDE_PROGRAM
from osler.sources.worker import HEAD, HEADER_BYTES, PROGRAM, seconds_for

__all__ = ["Process"]

_START_SECONDS = 120
# Other programs may have the processors: on the clock a file has this many times its processor time.
_PATIENCE = 10
_PIPE_BYTES, _SET_PIPE_SIZE = 1 << 20, 1031
_MESSAGE_LENGTH = 1_000
# What the C library of a process keeps of freed memory; below what it may grow by before it is ended.
_KEPT_MEMORY = 64 << 20


class Process:
    """One process that decodes.

    Attributes
    ----------
    dicom : bool
        It has loaded what DICOM and NIfTI need.
    rests : bool
        Its last answer was whole and right, and it takes another file.
    filtered : bool
        Once it has greeted, whether it can make no system call but those that decoding needs.
    peak : int
        Most resident memory that it says it had.
    """

    def __init__(self, dicom: bool, slide: Sequence[str] = (), files: Sequence[int] = ()) -> None:
        self.dicom = dicom
        self.rests = True
        self.filtered = False
        self.peak = 0
        arguments = slide or ["dicom" if dicom else "picture"]
        try:
            self._process = subprocess.Popen(
                command(SLIDE_PROGRAM if slide else PROGRAM, [str(os.getpid()), *arguments]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=files,
                cwd=os.sep,
                env=_environment(),
                # Ctrl-C at a terminal is for the program, which then ends this one.
                process_group=0,
            )
        except OSError:
            raise no_interpreter() from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        for pipe in (self._to, self._from):
            os.set_blocking(pipe, False)
            _widen(pipe)

    def ask(self, request: dict[str, Any], data: bytes, size: int) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """Send a request, and return its answer and the arrays that follow it.

        Raises
        ------
        SourceError
            The file's outcome, as the process says.
        Broken
            There is no right answer.
        """
        self.rests = False
        try:
            end = time.monotonic() + _PATIENCE * seconds_for(size)
            header = json.dumps(request).encode()
            try:
                for piece in (HEAD.pack(len(header), len(data)), header, data):
                    self._send(piece, end)
            except Broken:
                # It may have said why it would not read on.
                if self._process.poll() is None:
                    raise
            return self._answer(end, request["op"] == "voxels")
        except TimeoutError:
            raise Broken(
                f"the file was not decoded after {_PATIENCE * seconds_for(size)} seconds; set "
                "OSLER_LIMIT_DECODE_SECONDS to raise that",
                "too_slow",
            ) from None

    def stop(self) -> None:
        """End the process, and what it may have started, and wait until it is gone; whoever is asking it is told."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                # It leads a group of its own.
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End the process and close its pipes: for the one who asks it, or where nobody does."""
        self.rests = False
        self.stop()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def greet(self) -> None:
        """Wait until the process has loaded the decoders."""
        try:
            end = time.monotonic() + _START_SECONDS
            self._send(modules(), end)
            reply, _ = self._answer(end)
            self.filtered = reply.get("filtered") is True
        except (TimeoutError, Broken):
            raise no_interpreter() from None

    def _send(self, piece: bytes, end: float) -> None:
        rest = memoryview(piece)
        with _without_pipe_signal():
            while rest:
                self._wait(self._to, select.POLLOUT, end)
                try:
                    rest = rest[os.write(self._to, rest[:_PIPE_BYTES]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise self._ended(end) from None

    def _answer(self, end: float, voxels: bool = False) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        header_length, length = HEAD.unpack(self._receive(np.empty(HEAD.size, np.uint8), end).data)
        if header_length > HEADER_BYTES:
            raise wrong()
        try:
            reply = json.loads(self._receive(np.empty(header_length, np.uint8), end).tobytes())
            shape = voxel_shape if voxels else frame_shape
            shapes = [shape(described) for described in reply.pop("frames")]
            code, message, peak = reply.get("code"), reply.get("message"), reply.pop("peak")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            raise wrong() from None
        if type(peak) is not int or not 0 <= peak < 2**63:
            raise wrong()
        self.peak = peak
        sizes = [np.dtype(kind).itemsize * int(np.prod(shape, dtype=np.int64)) for kind, shape in shapes]
        if sum(sizes) != length or (length > KEPT_BYTES and len(sizes) > 1) or len(sizes) > LIMITS.frames:
            raise wrong()
        frames = [np.empty(shape, kind) for kind, shape in shapes]
        for frame in frames:
            self._receive(frame, end)
            frame.setflags(write=False)
        self.rests = not reply.pop("last", False)
        if code is not None:
            if not (isinstance(code, str) and code.isidentifier() and isinstance(message, str)):
                raise wrong()
            plain = "".join(letter if letter.isprintable() else " " for letter in message[:_MESSAGE_LENGTH])
            raise SourceError(plain, code=code)
        return reply, frames

    def _receive(self, into: NDArray[Any], end: float) -> NDArray[Any]:
        rest = into.data.cast("B")
        while rest:
            self._wait(self._from, select.POLLIN, end)
            try:
                count = os.readv(self._from, [rest])
            except BlockingIOError:
                continue
            if count == 0:
                raise self._ended(end)
            rest = rest[count:]
        return into

    def _wait(self, pipe: int, event: int, end: float) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1_000):
            raise TimeoutError

    def _ended(self, end: float) -> Broken:
        """Say why the process is no more."""
        try:
            status = self._process.wait(max(0.1, min(10.0, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            return wrong()
        if status == -signal.SIGXCPU:
            return Broken(
                "the file takes more processor time to decode than one file may; set OSLER_LIMIT_DECODE_SECONDS to "
                "raise that",
                "too_slow",
            )
        if status == -signal.SIGKILL:
            return Broken(
                "the process that decoded the file was killed, as systems do when memory runs out or a limit on "
                "processor time is reached; free some memory, or set OSLER_LIMIT_DECODE_PROCESSES lower"
            )
        names = {one.value: one.name for one in signal.Signals}
        how = f"with {names.get(-status, f'signal {-status}')}" if status < 0 else f"with status {status}"
        return Broken(f"the process that decoded the file ended {how}; a decoder has a fault that the file reaches")


def _environment() -> dict[str, str]:
    return environment() | {
        # Threads and arenas would take address space, and nothing here uses them.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        # Memory of one file serves the next: given back and taken anew, its pages cost as much as decoding a JPEG.
        "MALLOC_MMAP_THRESHOLD_": str(_KEPT_MEMORY // 2),
        "MALLOC_TRIM_THRESHOLD_": str(_KEPT_MEMORY),
    }


def _widen(pipe: int) -> None:
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(pipe, _SET_PIPE_SIZE, _PIPE_BYTES)
        except OSError:
            return


@contextmanager
def _without_pipe_signal() -> Iterator[None]:
    """Let writing to a process that ended be an error, also where the program lets that signal end it."""
    held = {signal.SIGPIPE}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        if not before & held:
            if hasattr(signal, "sigtimedwait"):
                signal.sigtimedwait(held, 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
