"""What the command line says: results on stdout as a table, JSON or CSV, all else on stderr, and exit codes.

The only module of the command line that prints. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 files were skipped,
130 interrupted.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date, time, timedelta
from typing import Any

import click

__all__ = ["Interrupted", "UsageProblem", "as_typed", "exit_code", "fail", "nearest", "say", "show", "version"]

# The library speaks of its arguments; here they are options of the same names.
_ARGUMENT = re.compile(r"\b(encoder|fraction|image|like|scale|text|threshold|vector|where)=")
# letters of a name that tell it: fewer stand in too many
_PART = 3

# What pip calls a package, where that is not its name in Python.
_DISTRIBUTIONS = {"PIL": "pillow"}

DONE, FAILED, USAGE, SKIPPED, INTERRUPTED = 0, 1, 2, 3, 130


class UsageProblem(click.UsageError):
    """What was typed cannot be done: exit code 2."""


class Interrupted(Exception):
    """The user stopped the work; the message says what is kept."""


def say(text: str) -> None:
    """Write one line to stderr."""
    print(_printable(text), file=sys.stderr, flush=True)


def fail(text: str) -> None:
    """Write one error line to stderr."""
    say(f"error: {' '.join(text.split())}")


def version() -> None:
    """Write the version to stdout, with what decides the speed of this machine: SIMD level and ONNX Runtime."""
    from importlib import metadata

    import osler
    from osler.index import simd_level

    runtimes = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(metadata.PackageNotFoundError):
            runtimes.append(f"{name} {metadata.version(name)}")
    sys.stdout.write(f"osler {osler.__version__} (simd {simd_level()}, {' and '.join(runtimes) or 'no onnxruntime'})\n")


def show(
    style: str,
    document: Mapping[str, Any],
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    table_columns: Sequence[str] | None = None,
) -> None:
    """Write a result to stdout.

    Parameters
    ----------
    style : {"table", "json", "csv"}
    document : mapping
        What ``json`` prints, with stable names.
    columns, rows
        What ``csv`` prints.
    table_columns : sequence of str, optional
        The columns that a table shows; all if it is None.
    """
    if style == "json":
        text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if sys.stdout.isatty():
            text = "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)
    elif style == "csv":
        page = io.StringIO()
        writer = csv.writer(page, lineterminator="\n")
        writer.writerow(columns)
        # Where lines end with "\n", the csv module leaves a bare "\r" unquoted, and its reader then refuses it.
        quoting = csv.writer(page, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:
            cells = [_cell(cell, exact=True) for cell in row]
            (quoting if any("\r" in cell for cell in cells) else writer).writerow(cells)
        # Exact for a program that reads it; a terminal must not be steered by what comes from outside.
        text = _printable(page.getvalue()) if sys.stdout.isatty() else page.getvalue()
    else:
        where = [columns.index(column) for column in table_columns or () if column in columns]
        where = where or list(range(len(columns)))
        chosen = [columns[at] for at in where]
        numeric = [all(_is_number(row[at]) for row in rows) for at in where]
        lines = [[_printable(_cell(row[at], exact=False)) for at in where] for row in rows]
        if sys.stdout.isatty():
            _rich_table(chosen, numeric, lines)
            return
        text = _plain_table(chosen, numeric, lines)
    sys.stdout.write(text)
    sys.stdout.flush()


def exit_code(work: Callable[[], Any]) -> int:
    """Run a command and turn its end, good or bad, into an exit code and at most one line.

    With ``OSLER_DEBUG`` a failure also prints its traceback.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            result = work()
    except BaseException as error:
        if os.environ.get("OSLER_DEBUG", "") not in ("", "0") and not isinstance(error, click.ClickException):
            traceback.print_exc(file=sys.stderr)
        return _failure(error)
    return result if isinstance(result, int) else DONE


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning of the library as one line, without the place in the code that Python would add."""
    say(f"warning: {' '.join(str(message).split())}")


def _failure(error: BaseException) -> int:
    from osler.errors import Error

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else FAILED
    if isinstance(error, Interrupted):
        say(f"interrupted: {error}")
        return INTERRUPTED
    if isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        say("interrupted: nothing was changed")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # The reader of stdout has seen enough; what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    if isinstance(error, click.NoSuchOption):
        fail(f'no option "{error.option_name}"{nearest(error.option_name, error.possibilities or ())}')
        return USAGE
    if isinstance(error, click.ClickException):
        own = isinstance(error, UsageProblem)
        fail(error.message if own else _lowered(error.format_message()))
        return error.exit_code
    if isinstance(error, OSError):
        fail(_system(error))
    elif isinstance(error, MemoryError):
        fail("out of memory; give the machine more, or work on fewer items at a time")
    elif isinstance(error, KeyError) and error.args:
        fail(str(error.args[0]))
    elif isinstance(error, ModuleNotFoundError) and error.name and str(error).startswith("No module named"):
        package = error.name.partition(".")[0]
        fail(f"the package {package} is missing; pip install {_DISTRIBUTIONS.get(package, package)}")
    elif isinstance(error, Error | ValueError | ImportError):
        fail(as_typed(str(error)) or type(error).__name__)
    else:
        fail(f"a fault in osler ({type(error).__name__}); run again with OSLER_DEBUG=1 and report what it prints")
    return FAILED


def as_typed(message: str) -> str:
    """Return a sentence of the library with the options of the command line in place of its arguments."""
    return _ARGUMENT.sub(r"--\1", message)


def nearest(name: str, names: Sequence[str] | Any) -> str:
    """Return `` (did you mean "...")`` for the nearest of `names`, or the first that holds it, or an empty text."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(names), n=1, cutoff=0.5)
    if not found and len(name) >= _PART:
        found = [other for other in names if name.lower() in str(other).lower()][:1]
    return f' (did you mean "{found[0]}"?)' if found else ""


def _system(error: OSError) -> str:
    """Say what the operating system refused, without a path that the user did not type."""
    if type(error).__module__ != "builtins" or error.errno is None:
        return str(error)
    text = (error.strerror or type(error).__name__).lower()
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"{text}; free some space or choose another place, then run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{text}; choose a place that you may write to, or ask its owner"
    return text


def _lowered(message: str) -> str:
    """Bring a sentence of click into the form of our own."""
    message = message.strip().removesuffix(".").replace("'", '"')
    return message[:1].lower() + message[1:]


def _plain(value: Any) -> Any:
    """Turn any value into what JSON holds; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _cell(value: Any, *, exact: bool) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if exact else f"{value:.3f}"
    if isinstance(value, int):
        return str(value)
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | None) and not isinstance(value, bool)


def _printable(text: str) -> str:
    """Drop what could steer a terminal: file names and metadata come from outside."""
    return "".join(one if one.isprintable() or one in "\n\t" else "?" for one in text)


def _rich_table(columns: Sequence[str], numeric: Sequence[bool], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # NO_COLOR is taken at its word: no escape sequence at all, which also keeps terminals without bold legible.
    table = Table(box=None, pad_edge=False, header_style="" if os.environ.get("NO_COLOR") else "bold")
    for column, is_number in zip(columns, numeric, strict=True):
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=sys.stdout).print(table)


def _plain_table(columns: Sequence[str], numeric: Sequence[bool], cells: Sequence[Sequence[str]]) -> str:
    lines = [list(columns), *[[" ".join(cell.split()) for cell in row] for row in cells]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    text = []
    for line in lines:
        padded = [
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, numeric, strict=True)
        ]
        text.append("  ".join(padded).rstrip() + "\n")
    return "".join(text)
