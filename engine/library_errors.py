"""What a library's exception says, without what it quotes: that may be the text of a row."""

from __future__ import annotations

import errno
import os
import re
import traceback

DEBUG = "CORPUS_ENGINE_DEBUG"
"""Environment variable: if set, a bug is shown with the lines of code that led to it."""

_QUOTE = re.compile(r"(?<!\w)['\"`]")
_QUOTED = re.compile(r"(?<!\w)'.*'(?!\w)|\".*\"|`.*`")
# Fields of a line of CSV, and numbers: pyarrow shows these without quotes.
_FIELDS = re.compile(r"(columns?, got \d+|[Vv]alue|[Ss]tring): (?!['\"`]).*")
_VALUE = re.compile(r"\b([Vv]alue|[Nn]umber|[Tt]imestamp) (?=[-+.\d])\S+")
_WHOLE_CHARACTERS = 2000
_OS_HINTS = {
    errno.ENAMETOOLONG: "use a shorter name: most disks take 255 bytes for each part of a path",
    errno.ELOOP: "one of its folders is a link to itself: name another path",
    errno.ENOTDIR: "a part of the path is a file and no folder: name another path",
    errno.EISDIR: "it is a folder: name a file",
}
"""What to do about errors of the system that come from the name that was given."""


def reason_of(error: BaseException, longest: int = 200) -> str:
    """The first line of an exception's message, with "..." for what it quotes; its class where it
    has none."""
    text = str(error).strip() or type(error).__name__
    first = text.partition("\n")[0]
    if isinstance(error, UnicodeError):
        return f"not valid text ({type(error).__name__})"
    if len(text) != len(first) or len(first) > _WHOLE_CHARACTERS:
        # Where a quotation ends is not known.
        first = _QUOTE.split(first[:_WHOLE_CHARACTERS])[0] + "..."
    for pattern, shown in ((_FIELDS, r"\1: ..."), (_QUOTED, "'...'"), (_VALUE, r"\1 ...")):
        first = pattern.sub(shown, first)
    return first[:longest]


class LibraryError(Exception):
    """A library's exception as the cause of one of ours: what it says, without what it quotes."""


def without_quotes(error: BaseException) -> LibraryError:
    """What to raise an error from, which a traceback shows as well."""
    cause = LibraryError(f"{type(error).__name__}: {reason_of(error)}")
    return cause.with_traceback(error.__traceback__)


def describe_bug(error: BaseException) -> tuple[str, str]:
    """What to say of an exception that nobody has translated, and a hint. Its message stays out."""
    what, frames = type(error).__name__, traceback.extract_tb(error.__traceback__)
    package = os.path.dirname(__file__)
    if ours := [frame for frame in frames if frame.filename.startswith(package)]:
        file = os.path.relpath(ours[-1].filename, os.path.dirname(package))
        what += f" at {file}:{ours[-1].lineno}"
    if isinstance(error, OSError) and error.strerror:
        path = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        hint = _OS_HINTS.get(error.errno or 0, "check the disk, and whether it may be used")
        return f"{error.strerror}{path} ({what})", hint
    return (
        f"{what}, a bug of the engine",
        f"please report it, with what {DEBUG}=1 shows of it: lines of code, and no text of a row",
    )


def code_of(error: BaseException | None) -> list[str]:
    """Where an exception and those behind it came from, for a report: lines of code without
    messages, which may quote a row."""
    lines: list[str] = []
    while error is not None:
        lines.append(f"{type(error).__name__}, raised at")
        lines += [
            line for entry in traceback.format_tb(error.__traceback__) for line in entry.split("\n")
        ]
        error = error.__cause__ or error.__context__
    return [line for line in lines if line.strip()]
