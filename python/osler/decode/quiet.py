"""Keep other libraries from printing, warning or logging what they read in a file.

Touches the warning filters while a file is read, and the loggers of the decoders; their messages quote header values.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from osler.config import settings

__all__ = ["cause", "quiet"]

_LOGGERS = (
    "PIL.Image",
    "PIL.ImageFile",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.TiffImagePlugin",
    "imagecodecs",
    "nibabel.global",
    "pydicom",
    "pydicom.pixels.decoders.base",
    "pydicom.pixels.utils",
    "tifffile",
)
_thread = threading.local()
_lock = threading.Lock()
_readers = 0
_filters: warnings.catch_warnings[None] | None = None
_heeded = False


class _Drop(logging.Filter):
    """Drop a record that was made in a thread which is reading a file, and keep its text for that reader."""

    def filter(self, record: logging.LogRecord) -> bool:
        heard: list[str] | None = getattr(_thread, "heard", None)
        if heard is None:
            return True
        heard.append(record.getMessage())
        return False


_drop = _Drop()


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Silence warnings and log records of the decoders; yields the texts of the records that this thread dropped.

    The warning filters belong to the process, so the first reader sets them and the last one puts them back: several
    threads may read files at once. Within another of the same thread it costs next to nothing.

    Examples
    --------
    >>> import warnings
    >>> from osler.decode.quiet import quiet
    >>> with quiet():
    ...     warnings.warn("Invalid value: Doe^John")
    """
    global _readers, _filters, _heeded
    outer: list[str] | None = getattr(_thread, "heard", None)
    heard: list[str] = []
    if outer is not None:
        _thread.heard = heard
        try:
            yield heard
        finally:
            _thread.heard = outer
        return
    with _lock:
        if not _heeded:
            # They stay: what other threads log passes them.
            for name in _LOGGERS:
                logging.getLogger(name).addFilter(_drop)
            _heeded = True
        if _readers == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
        _readers += 1
    _thread.heard = heard
    try:
        yield heard
    finally:
        _thread.heard = None
        with _lock:
            _readers -= 1
            if _readers == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                _filters = None


def cause(error: BaseException) -> BaseException | None:
    """Return what a wrapped error may be chained to: nothing, since it may quote the file, unless debugging.

    Examples
    --------
    >>> from osler.decode.quiet import cause
    >>> cause(ValueError("Doe^John")) is None
    True
    """
    return error if settings().debug else None
