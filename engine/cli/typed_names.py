"""Names of settings in messages, as they are typed on the command line: `--max-length`.

The engine names settings as Python does (`max_length`), since most of its callers are programs.
"""

from __future__ import annotations

import re
import sys
from functools import cache

_OF_COMMANDS = {"to", "rounds", "seconds", "examples"}
"""What functions behind other commands than a run call their settings."""

_BEFORE = r"(?<![\w'\"./=-])"
_SUBJECT = r"(?=(?:, \w+)*(?: is | are | changed nothing| names | was | wants ))"
"""What follows a name of one word where it names a setting: `limit is 3`, `seed changed nothing`.
Others are words of the language."""


def as_typed(text: str) -> str:
    """A message with names of settings as options; names in quotation marks stay as they are."""
    return _pattern().sub(lambda match: "--" + match[1].replace("_", "-"), text)


@cache
def _pattern() -> re.Pattern[str]:
    names = _names()
    several = "|".join(sorted((n for n in names if "_" in n), key=len, reverse=True))
    single = "|".join(sorted(n for n in names if "_" not in n))
    return re.compile(
        rf"{_BEFORE}((?:{several})(?![\w'\"=(-])|(?:(?<=^)|(?<=: )|(?<=, )|(?<=and ))(?:{single})"
        rf"{_SUBJECT})",
        re.MULTILINE,
    )


def _names() -> set[str]:
    """All settings of a run; those of tasks where these are loaded, as in a run they are."""
    from engine.core.config import RunConfig
    from engine.core.settings import declared

    names = set(declared(RunConfig)) - {"options"} | _OF_COMMANDS
    if tasks := sys.modules.get("engine.tasks"):
        names |= {name for task in tasks.TASKS.values() for name in declared(task.options)}
    return names
