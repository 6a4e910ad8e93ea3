"""Whole numbers of the command line, which may have a unit: `--rows 10k`."""

from __future__ import annotations

from collections.abc import Callable

import typer

from engine.core.settings import parse_count

METAVAR = "<number>"


def whole(text: object) -> int:
    """For `typer.Option(parser=...)`: a whole number.

    Raises:
        typer.BadParameter: The text is none.
    """
    try:
        return parse_count(str(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number, such as 500 or 10k.") from None


def at_least(least: int) -> Callable[[object], int]:
    """For `typer.Option(parser=...)`: a whole number of at least this size."""

    def number(text: object) -> int:
        if (value := whole(text)) < least:
            raise typer.BadParameter(f"{text!r} is not a whole number, {least} or more.")
        return value

    return number
