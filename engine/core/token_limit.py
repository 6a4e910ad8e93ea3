"""A number of new tokens that may depend on how many tokens a row's text has: 48, 1.5x+10, 50-x."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from engine.core.settings import check_whole
from engine.core.types import Ints
from engine.errors import SettingsError

_TERM = re.compile(r"([+-]?)(?:(\d{1,9}(?:\.\d{1,9})?)?(x)|(\d{1,9}))", re.ASCII)
_HINT = "a whole number, or one with x for the tokens of the row's text: 1.5x+10, 2x, 100-x"


@dataclass(frozen=True)
class TokenLimit:
    """`factor` × the tokens that the model reads of a row + `constant`, rounded down."""

    factor: float
    constant: int

    @classmethod
    def of(cls, value: object, *, name: str = "max_new_tokens", least: int = 1) -> TokenLimit:
        """A whole number of at least `least`, or a text such as 1.5x+10.

        Raises:
            SettingsError: It is neither; `name` is in the message.
        """
        if not isinstance(value, str):
            check_whole(name, value, least)
            return cls(0.0, int(str(value)))
        limit = cls._parsed(name, value)
        if not limit.factor:
            check_whole(name, limit.constant, least)
        return limit

    @classmethod
    def _parsed(cls, name: str, text: str) -> TokenLimit:
        compact = "".join(text.split())
        terms = list(_TERM.finditer(compact))
        whole = "".join(term[0] for term in terms)
        numbers = sum(not term[3] for term in terms)
        signed = all(term[1] for term in terms[1:])
        if not terms or whole != compact or not signed or numbers > 1 or len(terms) - numbers > 1:
            raise SettingsError(f"{name} is {text!r}", _HINT)
        factor, constant = 0.0, 0
        for sign, times, x, number in (term.groups() for term in terms):
            size = -1 if sign == "-" else 1
            if x:
                factor = size * float(times or 1)
            else:
                constant = size * int(number)
        return cls(factor, constant)

    @property
    def fixed(self) -> int | None:
        """The limit where it is the same for every row."""
        return None if self.factor else self.constant

    @property
    def setting(self) -> int | str:
        """What `of` makes it from: the number, or the shortest text."""
        if not self.factor:
            return self.constant
        times = f"{abs(self.factor):g}x" if abs(self.factor) != 1 else "x"
        if self.factor > 0:
            return times + (f"{self.constant:+d}" if self.constant else "")
        return f"{self.constant}-{times}" if self.constant > 0 else f"-{times}{self.constant:+d}"

    def of_rows(self, lengths: Ints, least: int = 0) -> Ints:
        """The limit of rows of so many tokens, `least` at least; int64 (rows,)."""
        # A factor such as 1.1 is a little below or above what was written.
        tokens = np.floor(self.factor * lengths + self.constant + 1e-9)
        return np.asarray(np.maximum(tokens.astype(np.int64), least))


def as_limit(name: str, value: object) -> int | str:
    """A `Setting.read` of `TokenLimit` from 1 on."""
    return TokenLimit.of(value, name=name).setting


def as_minimum(name: str, value: object) -> int | str:
    """A `Setting.read` of `TokenLimit` from 0 on."""
    return TokenLimit.of(value, name=name, least=0).setting
