"""Long fields of CSV, held apart from the records that pyarrow parses.

A mark stands for each field of `LONG_TEXT` bytes, as in `long_lines`; a reader gets whole records.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.core.types import Ints
from engine.data.csv_layout import MOST_COLUMNS
from engine.data.csv_quotes import settle_marks, without_end_marks
from engine.data.long_lines import LONG_TEXT, LONGEST, SALT

_QUOTE, _LF, _CR = b'"\n\r'
_TURN = re.compile(rb'["\n\r]')
_MARK = re.compile(rb"long text \d+ " + SALT.encode())


class LongFields:
    """Takes the long fields out of a file whose quotation marks pair up.

    Args:
        delimiter: What stands between two fields.
        is_quoted: Whether fields may have quotation marks.
        most: Bytes of a field that is held at most; 0 where none is needed.

    Attributes:
        texts: The text of each mark; the reader takes those out that it has used.
        too_long: The marks of fields that are longer.
        dropped: Why a record is none of which anything is held, by the mark in its place.
    """

    def __init__(self, delimiter: str, is_quoted: bool, most: int) -> None:
        self.texts: dict[str, pa.Buffer] = {}
        self.too_long: set[str] = set()
        self.dropped: dict[str, str] = {}
        self._delimiter, self._is_quoted, self._most = ord(delimiter), is_quoted, most
        self._numbers = count()
        self._records = bytearray()
        self._field = bytearray()  # one that is not at its end yet
        self._is_long = self._has_marks = self._is_over = False
        self._inside = False
        self._previous = _LF
        self._drops = ""  # the mark of an open record that is dropped
        self._fields = 0  # of the open record, so far

    def records(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Whole records with marks, those of about a block together."""
        rest = b""  # quotation marks at the end of a block: what follows decides about them
        for block in chain(blocks, [b"\n"]):
            content = rest + block
            whole = without_end_marks(content)
            rest = content[len(whole) :]
            if not whole and rest:
                opens = self._previous in (self._delimiter, _LF, _CR)
                settled, self._inside = settle_marks(len(rest), self._inside, opens)
                self._add(rest[:settled])
                rest = rest[settled:]
            elif whole and (end := self._take(whole)):
                yield bytes(self._records[:end])
                del self._records[:end]
        if self._records:
            yield bytes(self._records)

    def _take(self, block: bytes) -> int:
        """Take a block; bytes of the whole records so far."""
        if self._drops and not _TURN.search(block):
            self._previous = block[-1]
            return 0
        if self._inside and b'"' not in block.replace(b'""', b"--"):
            self._add(block)
            self._previous = block[-1]
            return 0
        characters = np.frombuffer(block, np.uint8)
        borders = self._borders(characters)
        behind = characters[np.minimum(borders + 1, len(block) - 1)]
        ends = characters[borders] == _LF
        # A return at the end of a block may have its line feed in the next one.
        ends |= (characters[borders] == _CR) & (behind != _LF) & (borders + 1 < len(block))
        if self._drops and ends.any():
            first = int(np.flatnonzero(ends)[0])
            block, borders, ends = block[borders[first] :], borders[first:], ends[first:]
            borders = borders - borders[0]
            self._records += self._drops.encode()
            self._drops = ""
        last = int(np.flatnonzero(ends)[-1]) + 1 if ends.any() else 0
        cut = int(borders[last - 1]) + 1 if last else 0
        self._split(block[:cut], borders[:last])
        whole = len(self._records) if last else 0
        self._split(block[cut:], borders[last:] - cut)
        self._previous = block[-1]
        self._fields = len(borders) - last + (0 if last else self._fields)
        if self._fields > MOST_COLUMNS or len(self._records) - whole > LONGEST:
            self._drop(whole)
        return whole

    def _drop(self, start: int) -> None:
        """Put a mark in the place of the open record, which begins at `start` of the records."""
        for mark in _MARK.findall(self._records[start:]):
            self.texts.pop(mark.decode(), None)
        del self._records[start:]
        self._field = bytearray()
        self._is_long = self._has_marks = self._is_over = False
        self._drops = f"long text {next(self._numbers)} {SALT}"
        self.dropped[self._drops] = "fields" if self._fields > MOST_COLUMNS else "too_long"
        self.too_long.add(self._drops)

    def _split(self, part: bytes, borders: Ints) -> None:
        """Add a part to the records, or to the field that it leaves open."""
        if self._drops:
            return
        done = 0
        if len(borders):
            self._add(part[: borders[0]])
            self._close()
            done = int(borders[0])
            for n in np.flatnonzero(np.diff(borders) > LONG_TEXT).tolist():
                start, stop = int(borders[n]) + 1, int(borders[n + 1])
                self._records += part[done:start]
                self._add(part[start:stop])
                self._close()
                done = stop
            self._records += part[done : borders[-1] + 1]
            done = int(borders[-1]) + 1
        self._add(part[done:])

    def _add(self, piece: bytes) -> None:
        """Add to the open field."""
        if self._drops:
            return
        if not self._is_long:
            self._field += piece
            if len(self._field) < LONG_TEXT:
                return
            piece, self._field = bytes(self._field), bytearray()
            self._is_long = True
            self._has_marks = self._is_quoted and piece[0] == _QUOTE
            piece = piece[1:] if self._has_marks else piece
        if self._is_over:
            return
        # Two marks are never in two pieces.
        self._field += piece.replace(b'""', b'"') if self._has_marks else piece
        if len(self._field) > self._most + self._has_marks:
            self._is_over, self._field = True, bytearray()

    def _close(self) -> None:
        """Put the open field, or its mark, behind the records."""
        if not self._is_long:
            self._records += self._field
            self._field.clear()
            return
        mark = f"long text {next(self._numbers)} {SALT}"
        self._records += mark.encode()
        if self._has_marks and not self._is_over:
            del self._field[-1:]
        if self._is_over:
            self.too_long.add(mark)
        else:
            self.texts[mark] = pa.py_buffer(self._field)
        self._field = bytearray()
        self._is_long = self._has_marks = self._is_over = False

    def _borders(self, characters: NDArray[np.uint8]) -> Ints:
        """Where fields end."""
        ends = (characters == _LF) | (characters == _CR) | (characters == self._delimiter)
        borders = np.flatnonzero(ends)
        if not self._is_quoted:
            return borders
        marks = self._turns(characters, np.flatnonzero(characters == _QUOTE))
        within: NDArray[np.bool_] = (np.searchsorted(marks, borders) + self._inside) % 2 == 1
        self._inside ^= len(marks) % 2 == 1
        return borders[~within]

    def _turns(self, characters: NDArray[np.uint8], marks: Ints) -> Ints:
        """The quotation marks that open or close a field; pairs within one may be among them."""
        if not len(marks):
            return marks
        before = np.where(marks > 0, characters[marks - 1], self._previous)
        behind = characters[marks + 1]
        borders = [self._delimiter, _LF, _CR]
        opening = (np.arange(len(marks)) + self._inside) % 2 == 0
        if np.isin(np.where(opening, before, behind), [*borders, _QUOTE]).all():
            return marks
        turns, inside, n = [], self._inside, 0
        while n < len(marks):
            if inside and behind[n] == _QUOTE:
                n += 1  # two marks within a field are one
            elif inside or before[n] in borders:
                inside = not inside
                turns.append(marks[n])
            n += 1
        return np.array(turns, np.int64)


def marks_in(column: pa.Array, texts: Mapping[str, pa.Buffer]) -> list[str]:
    """The marks of held texts in a column, in its order."""
    if not texts:
        return []
    return list(column.filter(pc.is_in(column, pa.array(list(texts)))).to_pylist())
