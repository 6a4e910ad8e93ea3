"""How deep the lists and objects of JSON lines lie in each other.

pyarrow's parser takes a level of its stack for each, and the process ends without a word where the
stack does. So no line that is deeper than `LEVELS` comes to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = 500
"""Levels of lists and objects in a line at most."""
_BLOCK = 1 << 20
_SPACE = b" \t\r\n"

STEPS = np.zeros(256, np.int8)
"""Of each byte outside of strings, how much deeper what follows it lies."""
STEPS[list(b"{[")] = 1
STEPS[list(b"}]")] = -1


class StringScanner:
    """Finds the strings of JSON in blocks that end anywhere.

    Attributes:
        is_open: Whether the last block has ended within a string.
    """

    def __init__(self) -> None:
        self.is_open = self._escaped = False

    def goes_on(self, block: bytes) -> bool:
        """Whether the whole next block lies in the string that is open; then it is passed."""
        if not self.is_open or b'"' in block:
            return False
        slashes = len(block) - len(block.rstrip(b"\\"))
        before = self._escaped and slashes == len(block)
        self._escaped = (slashes - before) % 2 == 1
        return True

    def inside(self, content: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which bytes of the next block lie in strings, their first quotation mark included."""
        escaped = np.zeros(len(content), bool)
        slashes = np.flatnonzero(content == ord("\\"))
        if self._escaped:
            escaped[0] = True
            slashes = slashes[slashes > 0]
        self._escaped = False
        if len(slashes):
            # Of a run of backslashes each second one, or what follows it, is escaped.
            first = np.concatenate([[True], np.diff(slashes) > 1])
            starts = slashes[first]
            lengths = np.diff(np.append(np.flatnonzero(first), len(slashes)))
            behind = (starts + lengths)[lengths % 2 == 1]
            self._escaped = bool(len(behind)) and behind[-1] == len(content)
            escaped[behind[behind < len(content)]] = True
        quotes = (content == ord('"')) & ~escaped
        inside: NDArray[np.bool_] = (np.cumsum(quotes, dtype=np.uint8) + self.is_open) & 1 == 1
        self.is_open = bool(inside[-1])
        return inside


def deep_lines(chunk: bytes) -> list[int]:
    """Numbers of the lines of a chunk, from 0, that are deeper than `LEVELS`."""
    opening = chunk.count(b"{") + chunk.count(b"[")
    between = chunk.count(b"}\n{")  # each has a line before it with a bracket of its own
    if opening - between < LEVELS:
        return []
    end = chunk.find(b"\n")
    if end in (-1, len(chunk) - 1):
        return [0] if _is_deep(memoryview(chunk)) else []
    content = np.frombuffer(chunk, np.uint8)
    ends = np.append(np.flatnonzero(content == ord("\n")), len(content))
    lines = np.searchsorted(ends, np.flatnonzero(STEPS[content] == 1))
    numbers = np.flatnonzero(np.bincount(lines, minlength=len(ends)) > LEVELS)
    starts = np.concatenate([[0], ends[:-1] + 1])
    view = memoryview(chunk)
    return [n for n in numbers.tolist() if _is_deep(view[starts[n] : ends[n]])]


def _is_deep(line: memoryview) -> bool:
    """Whether some byte of a line, outside of strings, is deeper than `LEVELS`."""
    scanner, depth = StringScanner(), 0
    for start in range(0, len(line), _BLOCK):
        content = np.frombuffer(line[start : start + _BLOCK], np.uint8)
        steps = np.where(scanner.inside(content), 0, STEPS[content])
        depths = depth + np.cumsum(steps, dtype=np.int32)
        if depths.max() > LEVELS:
            return True
        depth = int(depths[-1])
    return False


def without_deep(chunk: bytes) -> tuple[bytes, list[int]]:
    """A chunk with blank lines in the place of those that are too deep, and their numbers."""
    numbers = deep_lines(chunk)
    if not numbers:
        return chunk, numbers
    lines = chunk.split(b"\n")
    for number in numbers:
        lines[number] = b""
    return b"\n".join(lines), numbers


_IS_SPACE = np.zeros(256, bool)
_IS_SPACE[list(b" \t\r\n")] = True


def is_blank(chunk: bytes) -> bool:
    """Whether a chunk of lines has nothing but spaces."""
    # strip() takes 6 ms for a mebibyte of them, translate() less than one.
    return not chunk[:64].strip(_SPACE) and not chunk.translate(None, _SPACE)


def filled_lines(chunk: bytes) -> list[tuple[int, bytes]]:
    """(number from 0, line without spaces around it) of the lines that are not blank.

    A file may have millions of blank lines: none of them costs a Python object.
    """
    if is_blank(chunk):
        return []
    if b"\n\n" not in chunk:
        stripped = ((n, line.strip(b" \t\r")) for n, line in enumerate(chunk.split(b"\n")))
        return [(n, line) for n, line in stripped if line]
    content = np.frombuffer(chunk, np.uint8)
    ends = np.append(np.flatnonzero(content == ord("\n")), len(content))
    numbers = np.unique(np.searchsorted(ends, np.flatnonzero(~_IS_SPACE[content])))
    starts = np.concatenate([[0], ends[:-1] + 1])
    return [(n, chunk[starts[n] : ends[n]].strip(b" \t\r")) for n in numbers.tolist()]
