"""The command line: arguments in, one library call, output. Subcommands load when they are used.

Imports click only; every heavy library loads inside the command that needs it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from osler.cli import output

__all__ = ["app", "main"]


class Commands(click.Group):
    """A group whose commands are imported when called, and which ends every run with one of our exit codes."""

    def __init__(self, *args: Any, homes: dict[str, tuple[str, str]] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._homes = homes or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a first day's work."""
        return [*self._homes, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command by its name."""
        if cmd_name in self._homes:
            command: click.Command = importlib.import_module(self._homes[cmd_name][0]).command
            return command
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest one."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            hint = output.nearest(args[0], names) or f"; there are {', '.join(names)}"
            raise output.UsageProblem(f'no command "{args[0]}"{hint}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        if not self._homes:
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in self._homes.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C that no command answers for has changed nothing."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise output.Interrupted("nothing was changed") from None

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **options: Any
    ) -> NoReturn:
        """Run, print at most one line of error, and exit."""
        options["standalone_mode"] = False
        run = super().main
        sys.exit(output.exit_code(lambda: run(args, prog_name or "osler", **options)))


def _version(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    output.version()
    ctx.exit()


@click.group(
    cls=Commands,
    homes={
        "index": ("osler.cli.index", "build a collection, add to it, look into it, exchange it"),
        "query": ("osler.cli.query", "find the cases like this one"),
        "classify": ("osler.cli.classify", "label items by what prompts say"),
        "filter": ("osler.cli.filter", "decide which items stay: scores and near-duplicates"),
        "encoder": ("osler.cli.encoder", "list encoders, look into one, fetch one"),
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def app() -> None:
    """Find the cases like this one: search medical images and reports by what they show.

    Not a medical device.
    """


def main() -> NoReturn:
    """Run the command line on the process's arguments."""
    app.main()
