"""Parquet files that others wrote. Bytes that lie can end the process of their reader, so each file is read in another
one first: a fault costs an error and not the program.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from osler.config import settings
from osler.sources.interpreter import command, environment, modules, no_interpreter
from osler.sources.worker import seconds_for

if TYPE_CHECKING:
    import polars as pl

__all__ = ["is_parquet", "read_parquet"]

_PROGRAM = "from osler.sources.parquet import _try; _try(json.loads(sys.stdin.buffer.readline()))"
_REFUSED = 3
# Other programs may have the processors: on the clock a file has this many times its processor time.
_PATIENCE = 10


def is_parquet(path: Path) -> bool:
    """Tell by its first bytes whether a file is Parquet.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import polars as pl
    >>> from osler.sources.parquet import is_parquet, read_parquet
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "cases.parquet"
    >>> pl.DataFrame({"key": ["a", "b"]}).write_parquet(path)
    >>> is_parquet(path), read_parquet(path)["key"].to_list()
    (True, ['a', 'b'])
    """
    with open(path, "rb") as stream:
        return stream.read(4) == b"PAR1"


def read_parquet(path: Path) -> pl.DataFrame:
    """Read a Parquet file that need not be trusted.

    Raises
    ------
    ValueError
        It is damaged or no Parquet file, or needs more memory or time than it may have.
    OSError
        It cannot be opened.
    Error
        Code ``no_worker``: no process can be started to try it in.
    """
    import polars as pl

    if not settings().decode_in_process:
        _tried(path)
    try:
        return _read(path)
    # A panic is no Exception.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise _damaged(path) from None


def _tried(path: Path) -> None:
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
    seconds = seconds_for(size)
    request = json.dumps([os.fspath(path.absolute()), seconds]).encode()
    try:
        ended = subprocess.run(
            command(_PROGRAM),
            input=modules() + request + b"\n",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=os.sep,
            env=environment(),
            # Ctrl-C at a terminal is for the program, which then ends this one.
            process_group=0,
            timeout=_PATIENCE * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _damaged(path) from None
    except OSError:
        raise no_interpreter() from None
    if ended.returncode < 0 or ended.returncode == _REFUSED:
        raise _damaged(path)
    if ended.returncode:
        raise no_interpreter()


def _try(request: tuple[str, int]) -> None:
    """Read a file, in a process of which nothing else is asked."""
    path, seconds = request
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds * (os.cpu_count() or 1),
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    import polars as pl

    try:
        _read(Path(path))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, MemoryError):
        os._exit(_REFUSED)


def _read(path: Path) -> pl.DataFrame:
    import polars as pl

    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        # Polars takes no other names.
        with open(path, "rb") as stream:
            return pl.read_parquet(stream)
    return pl.read_parquet(path, glob=False)


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"{path.name} is no Parquet file, is damaged, or needs more memory or time than it may have; write it again"
    )
