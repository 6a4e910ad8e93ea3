"""How a file of JSON is laid out: one object on each line, objects over several lines, or an array.

The latter two are rewritten block by block as JSON lines, so that one reader judges all of them: a
comma between two elements becomes the end of a line, and the ends of lines within them spaces.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from engine.core.types import InputPath
from engine.data.json_nesting import STEPS, StringScanner, is_blank
from engine.data.json_values import parse_line
from engine.errors import InputError

LINES, ARRAY, OBJECTS = "lines", "array", "objects"
_LOOKED_AT = 64  # lines or values of the head that tell the layout
_SPACE = b" \t\r\n"
_ARRAY = re.compile(rb'\[\s*(?:[\[{"\]]|(?:null|true|false|-?[\d.]+)\s*,)')


def layout_of(head: bytes, *, whole: bool) -> str:
    """`LINES`, `ARRAY` or `OBJECTS`, told by the first bytes of a file, or by the `whole` of it.

    What is neither an array nor begins with objects is taken for lines, which may all be bad.
    """
    content = head.lstrip(_SPACE)
    lines = [line for line in content.split(b"\n", _LOOKED_AT + 1)[:_LOOKED_AT] if line.strip()]
    if content.startswith(b"["):
        lists = len(lines) > 1 and all(map(_is_list_of_values, lines[:2]))
        return ARRAY if _ARRAY.match(content) and not lists else LINES
    if not content.startswith(b"{"):
        return LINES
    complete = lines if whole or len(lines) == _LOOKED_AT else lines[:-1]
    if complete and all(isinstance(parse_line(line), dict) for line in complete):
        return LINES
    return OBJECTS if _spans_lines(content, lines, whole) else LINES


def _is_list_of_values(line: bytes) -> bool:
    """Whether a line is a list by itself, and none of objects."""
    values = parse_line(line)
    return isinstance(values, list) and not any(isinstance(value, dict) for value in values)


def _spans_lines(content: bytes, lines: list[bytes], whole: bool) -> bool:
    """Whether objects span lines, or share lines in all of the head: one line that two share is a
    bad one."""
    if lines[0].strip() == b"{":
        return True
    alone = any(isinstance(parse_line(line), dict) for line in lines)
    text, end, decoder = content.decode(errors="replace"), 0, json.JSONDecoder()
    for _ in range(_LOOKED_AT):
        start = end + len(text[end:]) - len(text[end:].lstrip())
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            break
        behind = text[end : end + 64].lstrip(" \t\r")[:1]
        if "\n" in text[start:end]:
            return behind in ("\n", "")
        if behind == "{" and not alone:
            return True
    # One that is longer than the head.
    return not (whole or end) and not any(line.startswith(b"{") for line in lines[1:])


def as_lines(path: InputPath, blocks: Iterable[bytes], layout: str) -> Iterator[bytes]:
    """The blocks of a file as blocks of JSON lines, one line for each element or object.

    Raises:
        InputError: Where an element ends cannot be told; with the byte and its number.
    """
    splitter = _Splitter(path, layout)
    for block in blocks:
        if block and (lines := splitter.split(block)):
            yield lines
    yield splitter.end()


_IS_SPACE = np.zeros(256, bool)
_IS_SPACE[list(_SPACE)] = True


class _Splitter:
    """Finds the ends of elements, in strings or not, at whatever depth, and of blocks that end
    anywhere.

    Args:
        path: The file, for errors.
        layout: `ARRAY` or `OBJECTS`.
    """

    def __init__(self, path: InputPath, layout: str) -> None:
        self._path, self._layout = path, layout
        self._base = 1 if layout == ARRAY else 0  # depth at which elements begin
        self._depth = 0
        self._closed = self._begun = False
        self._strings = StringScanner()
        self._offset = self._count = 0  # bytes read and lines written
        self._last = b"\n"  # the last byte written

    def split(self, block: bytes) -> bytes:
        """The next bytes as lines, the last of which may go on."""
        if not self._strings.is_open and is_blank(block):
            self._offset += len(block)
            # Of spaces alone one is written where it keeps apart what stands around them.
            return self._written(b" ") if self._depth > self._base else b""
        if self._strings.goes_on(block):
            lines = block.replace(b"\n", b"\1")
            self._offset, self._last = self._offset + len(block), lines[-1:]
            return lines
        content = np.frombuffer(block, np.uint8).copy()
        inside = self._strings.inside(content)
        steps = np.where(inside, 0, STEPS[content])
        depths = self._depth + np.cumsum(steps, dtype=np.int32)
        self._check(content, inside, steps, depths)
        newline = content == ord("\n")
        content[newline & inside] = 1  # no valid string has one, nor this
        content[newline & ~inside] = ord(" ")
        dropped = _IS_SPACE[content] & ~inside & (depths == self._base)
        if self._layout == ARRAY:
            commas = (content == ord(",")) & ~inside & (depths == 1)
            content[commas] = ord("\n")
            dropped |= (steps == 1) & (depths == 1) | (depths == 0)
            lines = content[~dropped].tobytes()
        else:
            ends = np.flatnonzero((steps == -1) & (depths == 0))
            kept = np.insert(~dropped, ends + 1, True)
            lines = np.insert(content, ends + 1, ord("\n"))[kept].tobytes()
        self._depth, self._offset = int(depths[-1]), self._offset + len(block)
        return self._written(lines)

    def end(self) -> bytes:
        """What is left at the end of the file."""
        if self._depth:
            raise InputError(
                f"{self._path}: it ends within object {self._count} (counted from 0), at byte "
                f"{self._offset}",
                "the file is truncated, or a bracket or quotation mark of that object is missing; "
                "copy or write it again",
            )
        return b"," if self._layout == ARRAY and self._count and self._last == b"\n" else b""

    def _check(
        self,
        content: NDArray[np.uint8],
        inside: NDArray[np.bool_],
        steps: NDArray[np.int8],
        depths: NDArray[np.int32],
    ) -> None:
        """Raise InputError where something stands between two elements, before or behind them."""
        before, is_space = depths - steps, _IS_SPACE[content]
        if self._layout == OBJECTS:
            ends = (steps == -1) & (depths == 0)
            stray = (depths < 0) | ((depths == 0) & ~ends & ~is_space)
            self._refuse(np.flatnonzero(stray), "something between the objects")
            return
        ends = (steps == -1) & (depths == 0) & (content == ord("]"))
        stray = (depths < 0) | ((depths == 0) & ~ends & ~is_space)
        self._refuse(np.flatnonzero(stray), "something outside of the array")
        begins = np.flatnonzero((steps == 1) & (before == 0))
        self._refuse(begins[0 if self._begun else 1 :], "a second array")
        self._begun |= bool(len(begins))
        opens, closes = (steps == 1) & (before == 1), (steps == -1) & (depths == 1)
        commas = (content == ord(",")) & ~inside & (depths == 1)
        marks = np.flatnonzero(opens | closes | commas)
        follows = np.concatenate([[self._closed], closes[marks]])
        self._closed = bool(follows[-1])
        self._refuse(marks[opens[marks] & follows[:-1]], "no comma before an element,")

    def _refuse(self, positions: NDArray[np.intp], what: str) -> None:
        if not len(positions):
            return
        raise InputError(
            f"{self._path}: {what} at byte {self._offset + int(positions[0])} (counted from 0)",
            "a file has either one array, with a comma between two elements, or objects with "
            "nothing but spaces and ends of lines between them: fix it there",
        )

    def _written(self, lines: bytes) -> bytes:
        """The lines, in place of nothing between two commas a line that is bad."""
        if not lines:
            return lines
        if self._layout == ARRAY:
            if self._last == b"\n" and lines.startswith(b"\n"):
                lines = b"," + lines
            while b"\n\n" in lines:
                lines = lines.replace(b"\n\n", b"\n,\n")
        self._last, self._count = lines[-1:], self._count + lines.count(b"\n")
        return lines


_TOKEN = re.compile(rb'"(?:[^"\\\x00-\x1f]|\\.)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+|"')


def is_one_object(line: bytes) -> bool:
    """Whether a line that is no JSON is still one element, and hides none of its neighbours: its
    brackets match, and no string or object stands where none can."""
    if line.count(b"{") <= 1 and line.count(b"[") <= 1:
        return True
    open_brackets: list[bytes] = []
    tokens = [b",", *_TOKEN.findall(line), b","]
    for before, token, behind in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token == b'"' or (token[:1] == b'"' and not _is_value(before, behind)):
            return False
        if token in (b"{", b"["):
            in_list = not open_brackets or open_brackets[-1] == b"["
            if before not in ((b"[", b",") if in_list else (b":",)):
                return False
            open_brackets.append(token)
        elif token in (b"}", b"]"):
            pair = open_brackets.pop() + token if open_brackets else b""
            if pair not in (b"{}", b"[]"):
                return False
    return not open_brackets


def _is_value(before: bytes, behind: bytes) -> bool:
    return before in (b"{", b"[", b",", b":") and behind in (b"}", b"]", b",", b":")
