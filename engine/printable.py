"""Text from outside as it may be shown: names of files, columns, labels and what messages quote.

A name may hold anything: a newline, an escape sequence that recolours or clears a terminal, a mark
that turns the writing around, a byte that is no UTF-8. `printable` shows all of these as Python
writes them in a string. What it leaves is text of one line, and safe in any terminal or log.
"""

from __future__ import annotations

import json
import re
from unicodedata import category

_SCHEME = r"(?<![\w+.-])(?!abfss?:)[A-Za-z][\w+.-]{0,20}:/{1,3}"  # abfs://container@account
_USER = re.compile(rf"({_SCHEME})[^\s/?#'\"]*@")
_QUERY = re.compile(rf"({_SCHEME}[^\s?'\"]*)\?[^\s'\"]*=[^\s'\"]*?(?=[:,.;]?(?:[\s'\"]|$))")

LONGEST = 20_000
"""Characters of a line; of a longer one the middle is left out."""


def printable(text: str, longest: int = LONGEST) -> str:
    """A text in one line: control and format characters, separators of lines and halves of
    surrogate pairs are escaped, so \\n or \\x1b or \\u202e; a byte of a file's name that is no
    UTF-8 is \\xff. Applied twice it does nothing more."""
    line = cut(text, longest)
    if line.isprintable():
        return line
    return "".join(map(_escaped, line))


def printable_json(value: object) -> str:
    """A value as JSON in one line, with the same characters escaped as JSON escapes them, so that
    it reads back as it was. What JSON has no form for is written as its `str`."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return escaped_json(text)


def escaped_json(text: str) -> str:
    """JSON in one line or several, which it stays, with the characters escaped that would act on a
    terminal."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c == "\n" or not _acts(c) else json.dumps(c)[1:-1] for c in text)


def without_secrets(text: str) -> str:
    """A text whose web addresses have lost user:password@ and their query, as they may hold a
    password, a token or a signature. Paths that were made of such an address are meant, too."""
    if ":/" not in text:
        return text
    return _QUERY.sub(r"\1?...", _USER.sub(r"\1...@", text))


def cut(text: str, longest: int) -> str:
    """A text of no more characters, but for a remark, its middle left out."""
    if len(text) <= longest:
        return text
    head, tail = longest * 2 // 3, longest // 3
    return f"{text[:head]} [... {len(text) - head - tail:,} characters ...] {text[-tail:]}"


def is_text(name: str) -> bool:
    """Whether a file's name is valid UTF-8."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def encodable(name: str) -> str:
    """A file's name as a column can hold it: its bytes that are no UTF-8 are \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def plain_name(name: str) -> str:
    """A name for a file of ours after one from outside: valid text that nothing need escape."""
    return name if name.isprintable() else "".join("_" if _acts(c) else c for c in name)


def _escaped(character: str) -> str:
    if not _acts(character):
        return character
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _acts(character: str) -> bool:
    """Whether it is of categories C (control, format, surrogate, private, unassigned), Zl or Zp."""
    return category(character)[0] == "C" or category(character) in ("Zl", "Zp")
