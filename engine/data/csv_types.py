"""The types of CSV columns: the one of booleans, whole numbers and floats that every value of a
file has, and text for all else.

A type has to give back what was written: 007, +1 and numbers with more digits than a float holds
are text, and so are dates and names of missing values such as NA. An empty field is null.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import pyarrow as pa
import pyarrow.compute as pc

_WHOLE = r"^(0|-?[1-9][0-9]*)$"
_FLOAT = r"^(-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?|nan|NaN|-?inf)$"
_BOOLEAN = r"^(true|false|True|False|TRUE|FALSE)$"
_DIGITS = 15  # of every number with so many a float gives them back


class ColumnTyper:
    """Finds the type of a column from its values, batch by batch."""

    def __init__(self) -> None:
        self._candidates = dict(_CANDIDATES)
        self._has_values = self._has_texts = False

    def add(self, texts: pa.Array) -> None:
        """Take in values, null where a field is empty and "" where it is quoted."""
        if texts.null_count == len(texts):
            return
        self._has_texts = True
        values = without_empty(texts).drop_null()
        self._has_values |= len(values) > 0
        for kind, holds in list(self._candidates.items()):
            if not holds(values):
                del self._candidates[kind]

    @property
    def kind(self) -> pa.DataType:
        """The type; null for a column of empty fields."""
        if self._has_values:
            return next(iter(self._candidates), pa.string())
        return pa.string() if self._has_texts else pa.null()


def converted(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Texts in another type, null where they are empty.

    Raises:
        pyarrow.ArrowException: A text is no value of the type, or has digits that it does not hold.
    """
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return texts.cast(kind)
    values = without_empty(texts)
    if pa.types.is_floating(kind) and not are_exact(values.drop_null()):
        raise pa.ArrowInvalid("a number has more digits than its type holds")
    return values.cast(kind)


def without_empty(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, texts.type), texts)


def are_exact(texts: pa.Array) -> bool:
    """Whether floats hold the digits of all numbers."""
    digits = pc.replace_substring_regex(texts, "[eE].*$", "")
    digits = pc.ascii_trim(pc.replace_substring(pc.ascii_trim(digits, "-"), ".", ""), "0")
    # A number may also be beyond the range of floats: by its exponent or by its length.
    beyond = pc.or_(
        pc.match_substring_regex(texts, "[eE][+-]?[0-9]{3}"),
        pc.greater(pc.binary_length(texts), 99),
    )
    doubtful = pc.or_(pc.greater(pc.binary_length(digits), _DIGITS), beyond)
    return all(_is_exact(text) for text in texts.filter(doubtful).to_pylist())


def _is_exact(text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    if not math.isfinite(number):
        return text in ("nan", "NaN", "inf", "-inf")
    try:
        return Decimal(repr(number)) == Decimal(text)
    except InvalidOperation:  # its exponent has dozens of digits
        return False


def _matches(texts: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, pattern), min_count=0).as_py())


def _casts(texts: pa.Array, kind: pa.DataType) -> bool:
    try:
        texts.cast(kind)
    except pa.ArrowException:
        return False
    return True


_CANDIDATES: dict[pa.DataType, Callable[[pa.Array], bool]] = {
    pa.bool_(): lambda texts: _matches(texts, _BOOLEAN),
    pa.int64(): lambda texts: _matches(texts, _WHOLE) and _casts(texts, pa.int64()),
    pa.uint64(): lambda texts: _matches(texts, _WHOLE) and _casts(texts, pa.uint64()),
    pa.float64(): lambda texts: _matches(texts, _FLOAT) and are_exact(texts),
}
"""The first of these types that holds every value of a column is its type."""
