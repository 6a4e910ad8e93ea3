"""Whole numbers of the command line, which may have a unit: `--rows 10k`, `--seconds 2m`."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf

import typer

from engine.core.settings import check_whole, parse_count
from engine.errors import SettingsError

METAVAR = "<number>"
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


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


def seconds(text: object) -> int:
    """For `typer.Option(parser=...)`: seconds, 1 or more, from "90", "90s", "2m" or "1h".

    Raises:
        typer.BadParameter: The text is none.
    """
    match = re.fullmatch(r"(\d{1,9})\s*(s|m|min|h|)", str(text).strip().lower())
    if not match or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is not a duration, such as 90, 90s or 2m.")
    return int(match[1]) * _SECONDS[match[2]]
