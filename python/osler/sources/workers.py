"""Processes that decode files, so that a fault of a decoder costs one file and not the program.

Starts Python interpreters that run `osler.sources.worker` and speaks with them over pipes: JSON of bounded length and
plain arrays whose shape, type and size are checked here. What such a process says is believed no more than a file is.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osler.config import LIMITS, settings
from osler.decode import format_of
from osler.decode.frames import KEPT_BYTES, Frames
from osler.errors import Error, SourceError
from osler.sources.answers import Broken, checked, checked_voxels, frame_shape, slice_header, voxel_shape, wrong
from osler.sources.decoder import Decoded, Decoder, Here, SliceHeader, Voxels
from osler.sources.interpreter import command, environment, modules, no_interpreter
from osler.sources.slide_process import SlideProcess
from osler.sources.slide_readers import OpenSlides
from osler.sources.slide_worker import PROGRAM as SLIDE_PROGRAM
from osler.sources.slides import SlideReader
from osler.sources.worker import HEAD, HEADER_BYTES, PROGRAM, seconds_for

__all__ = ["Workers", "contained"]

_START_SECONDS = 120
# Other programs may have the processors: on the clock a file has this many times its processor time.
_PATIENCE = 10
_PIPE_BYTES, _SET_PIPE_SIZE = 1 << 20, 1031
_MESSAGE_LENGTH = 1_000
# Formats whose decoders take long to load.
_HEAVY = ("dicom", "nifti")


class _Process:
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


class Workers:
    """A few processes that decode: a `Decoder` whose crashes, memory and time cost a file and not the program.

    On Linux (x86-64, aarch64) code that a file brings to run in such a process can make no system call but those of
    `osler.sources.system_calls`; elsewhere it can open nothing, and has the rights of the user otherwise. What it
    answers is checked, and can be false.

    A process is started when there is work for it. One that crashes, takes too much memory or too long costs the file
    that it had: a `SourceError` with the code ``crashed``, ``too_large`` or ``too_slow``. Frames that are too large to
    be kept are decoded again when they are asked for, in a process of their own.

    Parameters
    ----------
    count : int, optional
        Processes at most; by default one a processor, within the limit.

    Attributes
    ----------
    threads : int
        How many callers can be served at once.
    peak : int
        Most resident memory, in bytes, that one of the processes ever had.
    broken : int
        Processes that ended before they had answered.

    Raises
    ------
    Error
        Code ``no_worker``, from the methods: no process can be started.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> from osler.sources.workers import Workers
    >>> workers = Workers(1)
    >>> found = workers.decode(Path(get_testdata_file("CT_small.dcm", download=False)).read_bytes())
    >>> workers.close()
    >>> found.columns["modality"], found.frames[0].shape
    ('CT', (128, 128))
    """

    def __init__(self, count: int | None = None) -> None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        processors = settings().threads or available
        self._program = os.getpid()
        self.threads = count or min(LIMITS.decode_processes, processors)
        self.peak = 0
        self.broken = 0
        # The last one to work is the next one to: a single caller starts a single process.
        self._idle: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(self.threads):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._running: set[_Process] = set()
        self._slides = OpenSlides(self.threads + 1)
        self._closed = False
        # A process ends with the thread that started it, so one thread, which lives as long as this, starts them all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="osler-decode")
        self._large: _Process | None = None
        self._large_data: bytes | None = None
        self._large_lock = threading.Lock()

    def decode(self, data: bytes, keep: Sequence[str] = ()) -> Decoded:
        """Decode a whole file; see `Decoder`."""
        kind = format_of(data)
        heavy = kind in _HEAVY
        with self._taken(heavy) as process:
            reply, frames = process.ask({"op": "decode", "fresh": True, "keep": list(keep)}, data, len(data))
            columns, identifiers, count, planes = checked(reply, frames, kind, keep)
        if frames:
            return Decoded(kind, tuple(frames), columns, identifiers, planes)
        return Decoded(kind, Frames(count, lambda i: self._frame(data, i, heavy)), columns, identifiers, planes)

    def voxels(self, data: bytes, keep: Sequence[str] = ()) -> Voxels:
        """Decode the values of a file; see `Decoder`."""
        kind = format_of(data)
        with self._taken(kind in _HEAVY) as process:
            reply, arrays = process.ask({"op": "voxels", "fresh": True, "keep": list(keep)}, data, len(data))
            return checked_voxels(reply, arrays, kind, keep)

    def header(self, head: bytes) -> SliceHeader | None:
        """Read the beginning of a file; see `Decoder`."""
        try:
            if format_of(head) != "dicom":
                return None
            with self._taken(True) as process:
                reply, _ = process.ask({"op": "header", "fresh": True}, head, len(head))
                return slice_header(reply.get("header"))
        except SourceError:
            return None

    def slide(self, paths: Sequence[Path], kind: str) -> SlideReader:
        """Open a slide in a process of its own; see `Decoder`."""
        return SlideProcess(paths, kind, self._slides, start=self._started_for, end=self._gone, told=self._told)

    def close(self) -> None:
        """End all processes; what is under way fails. Nothing is left running when this returns."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            process.stop()
        self._slides.close()
        # Pipes of a process that is asked are closed by the thread that asks it.
        with suppress(queue.Empty):
            while True:
                idle = self._idle.get_nowait()
                self._fit(idle, False)
        for _ in range(self.threads):
            self._idle.put(None)
        with self._large_lock:
            self._large = self._fit(self._large, False)
        self._starter.shutdown()

    @contextmanager
    def _taken(self, dicom: bool) -> Iterator[_Process]:
        """Take an idle process, or start one, and give it back if it is fit for another file."""
        if os.getpid() != self._program:
            # The thread that starts processes was not forked with this one.
            raise Error("the processes that decode belong to the program that this one was forked from", code="closed")
        process = self._idle.get()
        try:
            process = self._fit(process, dicom) or self._started(dicom)
            with self._told(process):
                yield process
        finally:
            self._idle.put(self._fit(process, False))

    @contextmanager
    def _told(self, process: _Process) -> Iterator[None]:
        """Make what is wrong with a process the outcome of its file."""
        try:
            yield
        except Broken as error:
            process.rests = False
            self.broken += 1
            raise SourceError(str(error), code=error.code) from None
        finally:
            self.peak = max(self.peak, process.peak)

    def _fit(self, process: _Process | None, dicom: bool) -> _Process | None:
        """Return a process that can take another file, or end it."""
        if process is None or (process.rests and not self._closed and (process.dicom or not dicom)):
            return process
        self._gone(process)
        return None

    def _started_for(self, slide: Sequence[str], files: Sequence[int]) -> _Process:
        return self._started(False, slide, files)

    def _started(self, dicom: bool, slide: Sequence[str] = (), files: Sequence[int] = ()) -> _Process:
        for last in (False, False, True):
            with self._lock:
                if self._closed:
                    raise Error("the processes that decode were ended", code="closed")
                process = self._starter.submit(self._start, dicom, slide, files).result()
            try:
                process.greet()
                return process
            except Error:
                self._gone(process)
                # One that is killed while it starts, as when memory is short, says nothing of the next.
                if last and not self._closed:
                    raise
            except BaseException:
                self._gone(process)
                raise
        raise Error("the processes that decode were ended", code="closed")

    def _start(self, dicom: bool, slide: Sequence[str], files: Sequence[int]) -> _Process:
        process = _Process(dicom, slide, files)
        self._running.add(process)
        return process

    def _gone(self, process: _Process) -> None:
        with self._lock:
            self._running.discard(process)
        process.kill()

    def _frame(self, data: bytes, at: int, dicom: bool) -> NDArray[Any]:
        """Decode one frame of a file that is too large to be kept; the last such file stays open."""
        with self._large_lock:
            process = self._fit(self._large, dicom)
            fresh = process is None or self._large_data is not data
            process = self._large = process or self._started(dicom)
            self._large_data = None
            try:
                with self._told(process):
                    request = {"op": "frame", "fresh": fresh, "at": at}
                    _, frames = process.ask(request, data if fresh else b"", len(data))
                    if len(frames) != 1:
                        raise wrong()
            finally:
                self._large = self._fit(process, False)
            self._large_data = data
            return frames[0]


@contextmanager
def contained() -> Iterator[Decoder]:
    """Give a decoder that runs in processes of its own, unless the settings say that it must be this one.

    Examples
    --------
    >>> from osler.sources.workers import contained
    >>> with contained() as decoder:
    ...     decoder.header(b"no file")
    """
    decoder: Decoder = Here() if settings().decode_in_process else Workers()
    try:
        yield decoder
    finally:
        decoder.close()


def _environment() -> dict[str, str]:
    # Threads and arenas would take address space, and nothing here uses them.
    return environment() | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


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
