"""Progress of long work: a bar on a terminal, or the user's own callback, and one-line notices on stderr.

Prints on stderr only, and a bar only where stderr is a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Callback", "notice", "track"]

Callback = Callable[[int, int], Any]


def notice(text: str) -> None:
    """Write one line to stderr."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def track(progress: bool | Callback, verb: str, total: int) -> Iterator[Callback]:
    """Yield a function to be called with (done, total) while work goes on.

    Parameters
    ----------
    progress : bool or callable
        False: nothing is shown. True: a bar with rate and end, where stderr is a terminal. A callable gets
        (done, total); when it returns False the work stops with `KeyboardInterrupt`.
    verb : str
        What is being done, shown before the bar.
    total : int

    Examples
    --------
    >>> from osler.progress import track
    >>> seen = []
    >>> with track(lambda done, total: seen.append((done, total)), "encode", 2) as step:
    ...     step(1, 2)
    ...     step(2, 2)
    >>> seen
    [(1, 2), (2, 2)]
    """
    if callable(progress):
        user = progress

        def call(done: int, total: int) -> None:
            if user(done, total) is False:
                raise KeyboardInterrupt

        yield call
        return
    if not progress or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Rate(TextColumn):
        def render(self, task: Any) -> Any:
            from rich.text import Text

            return Text(f"{task.speed:,.0f}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(""), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(verb, total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)
