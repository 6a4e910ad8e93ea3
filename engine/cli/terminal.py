"""All that is printed: lines and JSON, in which names from outside are escaped.

Nothing else in this package writes to the streams, but for the bar of `progress` and the answers
of `pipe`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import typer

from engine.core.suggestions import did_you_mean
from engine.errors import SettingsError
from engine.printable import escaped_json, printable, printable_json, without_secrets

_UsageError: type[Any] = typer.BadParameter.__bases__[0]


def show(*lines: str, err: bool = False) -> None:
    """Print lines. Each stays one line, whatever is in it."""
    for line in lines:
        typer.echo(printable(without_secrets(line)), err=err)


def tell(line: str) -> None:
    """Print a line of progress or a remark to standard error, above a bar that is there."""
    if _bars:
        _bars[-1](printable(without_secrets(line)))
    else:
        show(line, err=True)


@contextmanager
def beside_bar(write: Callable[[str], None]) -> Iterator[None]:
    """Have lines written by what draws a bar meanwhile; `write` takes one without its end."""
    _bars.append(write)
    try:
        yield
    finally:
        _bars.pop()


_bars: list[Callable[[str], None]] = []
"""What writes lines above the bars that are drawn, the last one on top."""


def show_json(value: object, *, err: bool = False) -> None:
    """Print a value as one line of JSON, which reads back as it was."""
    typer.echo(printable_json(value), err=err)


def show_json_lines(text: str) -> None:
    """Print lines that are JSON already."""
    typer.echo(escaped_json(text), nl=False)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns below each other: the first aligned left, the others right. The last cell of a row
    with fewer cells may have any length."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    first = max(len(row[0]) for row in rows)
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)][1:]
    return [
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)]).rstrip() for row in rows
    ]


@contextmanager
def usage_errors(ctx: typer.Context | None = None) -> Iterator[None]:
    """What typer says of a wrong command line, as an error of ours: with a hint, and escaped, since
    a shell's glob puts names of files there.

    Args:
        ctx: Of the command line, which knows the command where the error does not.
    """
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # `engine` alone: the help
            raise
        raise SettingsError(*_usage(error, error.ctx or ctx)) from None


def _usage(error: Any, ctx: Any) -> tuple[str, str]:
    """What is wrong with a command line, and a hint with the names that were meant."""
    possible, error.possibilities = getattr(error, "possibilities", None) or (), None
    text = str(error.format_message()).rstrip(".")
    command = (
        " ".join([ctx.command_path, ctx.invoked_subcommand or ""]).strip() if ctx else "engine"
    )
    meant = did_you_mean(error.option_name, possible) if possible else ""
    return text[:1].lower() + text[1:], f"{meant}see {command} --help"


def accept_any_text() -> None:
    """Have both streams write what their encoding lacks as an escape: a terminal may be ASCII."""
    for stream in (sys.stdout, sys.stderr):
        _accept_any_text(stream)


def _accept_any_text(stream: TextIO | Any) -> None:
    if reconfigure := getattr(stream, "reconfigure", None):
        reconfigure(errors="backslashreplace")
