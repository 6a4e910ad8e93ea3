"""Lets a docstring's entry name several things, as in `tokens, truncated: Of the whole folder.`

mkdocstrings knows the type of an entry by its one name, so each name gets an entry with that text.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# Indented names, a colon, and the text with its deeper indented lines.
_ENTRY = re.compile(r"^( +)(\w+(?:, \w+)+):(.*(?:\n\1 +\S.*)*)$", re.MULTILINE)


class OneNameEach(griffe.Extension):  # type: ignore[misc] # griffe is not installed for mypy
    """Rewrites the docstrings that griffe has read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = _ENTRY.sub(_entries, obj.docstring.value)


def _entries(entry: re.Match[str]) -> str:
    indent, names, text = entry.groups()
    return "\n".join(f"{indent}{name}:{text}" for name in names.split(", "))
