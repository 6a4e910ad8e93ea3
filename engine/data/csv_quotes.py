"""Quotation marks of CSV: whether every field that begins with one ends with one.

pyarrow takes text behind a closing mark for a part of the field, and all up to the next mark, rows
included, for the field that a stray mark opens: rows would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_QUOTE, _LF, _CR = b'"\n\r'


def without_end_marks(content: bytes) -> bytes:
    """Content without the quotation marks at its end."""
    # rstrip() takes 6 ms for a mebibyte of them, translate() less than one.
    if not content[:64].strip(b'"') and not content.translate(None, b'"'):
        return b""
    return content.rstrip(b'"')


def settle_marks(count: int, inside: bool, opens: bool) -> tuple[int, bool]:
    """How many marks of a run mean the same whatever follows, and whether a field is open then.

    Args:
        count: Marks of the run, at least one.
        inside: Whether a field with marks is open before them.
        opens: Whether the first one opens such a field, where none is.
    """
    if not inside and not opens:
        return count, False
    first = 0 if inside else 1
    return first + max(0, count - first - 1) // 2 * 2, True


class QuoteScanner:
    """Follows the quotation marks of a file from block to block.

    Attributes:
        fault: What is wrong with the first bad one, and its line, or "".
    """

    def __init__(self, delimiter: str) -> None:
        self._borders = [ord(delimiter), _LF, _CR]
        self._inside = False
        self._previous = _LF
        self._rest = b""  # quotation marks at the end of a block: what follows decides about them
        self._lines = 0
        self._opened = 0
        self.fault = ""

    def scan(self, blocks: Iterable[bytes]) -> str:
        """`fault` of a whole file."""
        for block in blocks:
            self._scan(block)
            if self.fault:
                return self.fault
        self._scan(b"\n")
        if self._inside and not self.fault:
            self.fault = f"line {self._opened}: nothing closes a field's quotation mark"
        return self.fault

    def _scan(self, block: bytes) -> None:
        content = self._rest + block
        whole = without_end_marks(content)
        self._rest = content[len(whole) :]
        if not whole:
            self._settle()
            return
        # Within a field, pairs change nothing.
        if b'"' in (whole.replace(b'""', b"--") if self._inside else whole):
            characters = np.frombuffer(whole, np.uint8)
            self._follow(characters, np.flatnonzero(characters == _QUOTE))
        self._lines += whole.count(b"\n")
        self._previous = whole[-1]

    def _settle(self) -> None:
        """Take the marks at the end as far as they are clear: there may be any number of them."""
        if not self._rest:
            return
        opens = self._previous in self._borders
        settled, inside = settle_marks(len(self._rest), self._inside, opens)
        if inside and not self._inside:
            self._opened = self._lines + 1
        self._rest, self._inside = self._rest[settled:], inside

    def _follow(self, characters: NDArray[np.uint8], marks: NDArray[np.int64]) -> None:
        before = np.where(marks > 0, characters[marks - 1], self._previous)
        behind = characters[marks + 1]
        opening = (np.arange(len(marks)) + self._inside) % 2 == 0
        beside = np.where(opening, before, behind)
        if np.isin(beside, [*self._borders, _QUOTE]).all():
            self._inside = bool(opening[-1])
            openings = np.flatnonzero(opening & (before != _QUOTE))
            if self._inside and len(openings):
                self._opened = self._line(characters, int(marks[openings[-1]]))
        else:
            self._follow_each(characters, marks.tolist(), before.tolist(), behind.tolist())

    def _follow_each(
        self, characters: NDArray[np.uint8], marks: list[int], before: list[int], behind: list[int]
    ) -> None:
        """As `_follow`, where some marks stand in fields without quotation marks."""
        i, opened = 0, -1
        while i < len(marks):
            if not self._inside:
                self._inside = before[i] in self._borders
                opened = marks[i]
            elif behind[i] == _QUOTE:
                i += 1  # two marks within a field are one
            elif behind[i] in self._borders:
                self._inside = False
            else:
                line = self._line(characters, marks[i])
                self.fault = f"line {line}: text follows the quotation mark that ends a field"
                return
            i += 1
        if self._inside and opened >= 0:
            self._opened = self._line(characters, opened)

    def _line(self, characters: NDArray[np.uint8], place: int) -> int:
        return self._lines + int((characters[:place] == _LF).sum()) + 1
