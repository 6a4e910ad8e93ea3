"""Nearest names for hints: what a person may have meant who has mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

_MOST_NAMES = 2000
"""Names of a folder that are compared: one may have a million."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """For a hint: the known name that is nearest to one that is not known; "" where none is."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def path_meant(path: Path) -> str:
    """For a hint: the path that is nearest to one that does not exist, part by part; "" where a
    folder has nothing like it."""
    meant = Path(path.anchor)
    for part in path.parts[len(meant.parts) :]:
        near = [part]
        if not (meant / part).exists():
            near = difflib.get_close_matches(part, _names(meant), n=1)
        if not near:
            return ""
        meant /= near[0]
    return f"did you mean {str(meant)!r}? "


def _names(folder: Path) -> list[str]:
    try:
        return [p.name for p, _ in zip(folder.iterdir(), range(_MOST_NAMES), strict=False)]
    except OSError:
        return []
