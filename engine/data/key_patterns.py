"""Patterns of the names of objects, such as logs/**/*.parquet.

A store lists what lies below a folder; which of it a pattern means is decided here, as the glob
module decides it for a local copy: no wildcard stands for a slash, but for ** alone, and none for
the dot at the beginning of a name.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import lru_cache

_ANY = "**"


def matches(key: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a key matches a pattern, both in their parts between slashes."""
    if not pattern:
        return not key
    first, *rest = pattern
    if first == _ANY:
        while rest and rest[0] == _ANY:
            rest = rest[1:]
        if not rest:
            return bool(key) and not any(name.startswith(".") for name in key)
        return matches(key, rest) or (
            bool(key) and not key[0].startswith(".") and matches(key[1:], [_ANY, *rest])
        )
    return bool(key) and _is_like(key[0], first) and matches(key[1:], rest)


def _is_like(name: str, part: str) -> bool:
    if name.startswith(".") and not part.startswith("."):
        return False
    return bool(_expression(part).match(name))


@lru_cache(maxsize=256)
def _expression(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part))
