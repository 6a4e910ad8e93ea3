"""Values as a page shows them."""

from __future__ import annotations

import math
import re
from html import escape

from engine.printable import printable, without_secrets

LONGEST = 400
"""Characters of a cell, so that a page with examples stays small."""
_NUMBER = re.compile(r"[-+]?[\d,.]+( ?[%×a-zA-Zµ/]{1,8})?")


def shown(value: object) -> str:
    """A value as it may stand in HTML: numbers with commas, and nothing as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "–"
    return escape(printable(without_secrets(str(value)), LONGEST))


def is_number(value: object) -> bool:
    """Whether a value is a number, or a text that is one with its unit, such as 12.5 MB."""
    if isinstance(value, str):
        return bool(_NUMBER.fullmatch(value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if 10_000 <= size < 1e15 else f"{value:,.4g}"
