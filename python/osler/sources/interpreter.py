"""How a Python interpreter is started for work that may end it: with this one's modules, and nothing else of its own.

Starts nothing itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from osler.config import LIMITS
from osler.errors import Error

__all__ = ["command", "environment", "modules", "no_interpreter"]

# The rest of the environment may hold secrets, and settings that are the caller's own.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
# The interpreter is started without a module path, and arguments have a length.
_PROLOGUE = "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline()); "


def command(program: str, arguments: Iterable[str] = ()) -> list[str]:
    """Return the command of an interpreter that reads `modules` as its first line, then runs a program.

    Raises
    ------
    Error
        Code ``no_worker``: there is no interpreter.

    Examples
    --------
    >>> import subprocess
    >>> from osler.sources.interpreter import command, environment, modules
    >>> program = command("import numpy; print(1 + 1)")
    >>> subprocess.run(program, input=modules(), env=environment(), capture_output=True).stdout
    b'2\\n'
    """
    from multiprocessing import spawn

    executable = spawn.get_executable()
    if not executable or getattr(sys, "frozen", False):
        raise no_interpreter()
    # Isolated and without site: no module and no setting but those that are named here.
    return [os.fsdecode(executable), "-I", "-S", "-c", _PROLOGUE + program, *arguments]


def modules() -> bytes:
    """Return the line that tells such an interpreter where modules lie.

    Not the folder that the program is in, which may hold the files that are read.
    """
    path = [entry for entry in [*sys.path, str(Path(__file__).parents[2])] if os.path.isabs(entry)]
    return json.dumps(path).encode() + b"\n"


def environment() -> dict[str, str]:
    """Return the environment of such an interpreter: what finds libraries, and this one's limits."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    limits = {f"OSLER_LIMIT_{name.upper()}": str(getattr(LIMITS, name)) for name in LIMITS.__slots__}
    # Settings ask for a home, which cannot be looked up where no file can be opened.
    return kept | limits | {"HOME": os.sep}


def no_interpreter() -> Error:
    """Return the error for a system on which none can be started."""
    return Error(
        "no Python process can be started to read files in; name an interpreter with multiprocessing.set_executable, "
        "or set OSLER_DECODE_IN_PROCESS=1 to read them in this process",
        code="no_worker",
    )
