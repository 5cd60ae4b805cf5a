"""Every exception that Osler raises on purpose, one tree under `Error`.

Knows nothing of the rest of the package; the compiled module looks these classes up by name.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CommitUnknownError",
    "CorruptIndexError",
    "EncoderError",
    "Error",
    "ForkedHandleError",
    "FormatVersionError",
    "InternalError",
    "LockedError",
    "ReadOnlyError",
    "ServerError",
    "SourceError",
]


class Error(Exception):
    """Base of all exceptions of Osler.

    A message says what is wrong, where, and what to do, and holds no patient value.

    Parameters
    ----------
    message : str
        One sentence for a person.
    code : str, optional
        Stable name of the failure for programs; by default the class's own.

    Examples
    --------
    >>> import osler
    >>> try:
    ...     raise osler.ReadOnlyError("this index is mapped; open it with mmap=False to change it")
    ... except osler.Error as error:
    ...     error.code
    'read_only'
    """

    code = "error"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class CorruptIndexError(Error, ValueError):
    """A file of an index or a collection is damaged.

    Attributes
    ----------
    findings : tuple of dict
        Each damage found, with the keys ``file``, ``section``, ``offset`` and ``problem``.
    """

    code = "corrupt"

    def __init__(self, message: str = "", *, code: str | None = None, findings: Any = ()) -> None:
        super().__init__(message, code=code)
        self.findings = tuple(findings)


class FormatVersionError(Error):
    """The file was written in a format that this version of Osler does not read."""

    code = "format_version"


class ReadOnlyError(Error):
    """The index or collection was opened for reading only."""

    code = "read_only"


class LockedError(Error):
    """Another process is writing to the collection."""

    code = "locked"


class CommitUnknownError(Error):
    """A commit failed after it was published; reopening the collection tells what it holds."""

    code = "commit_unknown"


class ForkedHandleError(Error):
    """A handle that cannot cross a fork was used in the child process; open it again there."""

    code = "forked"


class EncoderError(Error):
    """An encoder cannot be loaded, or does not do what its manifest says."""

    code = "encoder"


class SourceError(Error, ValueError):
    """A file cannot be read as an image; its `code` is the outcome that ingest reports."""

    code = "unreadable"


class ServerError(Error):
    """A server that a source reads from cannot be reached, refuses or fails; what was added before is kept."""

    code = "server"


class InternalError(Error):
    """A fault in Osler itself; please report it."""

    code = "internal"
