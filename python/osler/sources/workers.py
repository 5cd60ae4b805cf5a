"""Processes that decode files, so that a fault of a decoder costs one file and not the program.

Starts a few of them (`process`), hands each the files that it is for, and ends it. What such a process says is believed
no more than a file is.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from osler.config import LIMITS, settings
from osler.decode import format_of
from osler.decode.frames import Frames
from osler.errors import Error, SourceError
from osler.sources.answers import Broken, checked, checked_voxels, slice_header, wrong
from osler.sources.decoder import Decoded, Decoder, Here, SliceHeader, Voxels
from osler.sources.process import Process
from osler.sources.slide_process import SlideProcess
from osler.sources.slide_readers import OpenSlides
from osler.sources.slides import SlideReader

__all__ = ["Workers", "contained"]

# Formats whose decoders take long to load.
_HEAVY = ("dicom", "nifti")


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
        self._idle: queue.LifoQueue[Process | None] = queue.LifoQueue()
        for _ in range(self.threads):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._running: set[Process] = set()
        self._slides = OpenSlides(self.threads + 1)
        self._closed = False
        # A process ends with the thread that started it, so one thread, which lives as long as this, starts them all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="osler-decode")
        self._large: Process | None = None
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
    def _taken(self, dicom: bool) -> Iterator[Process]:
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
    def _told(self, process: Process) -> Iterator[None]:
        """Make what is wrong with a process the outcome of its file."""
        try:
            yield
        except Broken as error:
            process.rests = False
            if self._closed:
                # It was ended with all others, which says nothing of the file.
                raise Error("the processes that decode were ended", code="closed") from None
            self.broken += 1
            raise SourceError(str(error), code=error.code) from None
        finally:
            self.peak = max(self.peak, process.peak)

    def _fit(self, process: Process | None, dicom: bool) -> Process | None:
        """Return a process that can take another file, or end it."""
        if process is None or (process.rests and not self._closed and (process.dicom or not dicom)):
            return process
        self._gone(process)
        return None

    def _started_for(self, slide: Sequence[str], files: Sequence[int]) -> Process:
        return self._started(False, slide, files)

    def _started(self, dicom: bool, slide: Sequence[str] = (), files: Sequence[int] = ()) -> Process:
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

    def _start(self, dicom: bool, slide: Sequence[str], files: Sequence[int]) -> Process:
        process = Process(dicom, slide, files)
        self._running.add(process)
        return process

    def _gone(self, process: Process) -> None:
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
