"""Whole numbers of the command line, which may have a unit: `--rows 10k`."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import typer

from engine.core.settings import check_whole, parse_count
from engine.errors import SettingsError

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


def at_least(least: int, most: float = inf) -> Callable[[object], int]:
    """For `typer.Option(parser=...)`: a whole number of these bounds."""

    def number(text: object) -> int:
        value = whole(text)
        try:
            check_whole("it", value, least, most)
        except SettingsError as error:
            raise typer.BadParameter(f"{text!r} is not {error.hint}.") from None
        return value

    return number
