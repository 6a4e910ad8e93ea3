"""Long lines of JSON, read block by block with the long texts in them held apart.

A parser copies a line several times. From `LONG` bytes on, each string of `LONG_TEXT` bytes is
decoded on the way into a buffer of its own, and a mark stands for it in the line that is parsed.
Strings that the run does not take are read past, and so is a line that is too long.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.core.types import Columns
from engine.data.columnar import is_text, is_texts
from engine.data.stretches import Bad

LONG = 8 << 20
LONG_TEXT = 64 << 10
LONGEST = 256 << 20
"""Bytes of a line that are held at most, besides its input texts."""
LARGEST = (1 << 31) - 3
"""Bytes in an Arrow column of texts, beside the end of a line."""

# At the end of a block: an escape, the first half of a pair, or a character that goes on behind it.
_UNFINISHED = re.compile(
    rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2})?\\(?:u[0-9a-fA-F]{0,3})?\Z"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\Z"
    rb"|[\xc2-\xdf]\Z|[\xe0-\xef][\x80-\xbf]?\Z|[\xf0-\xf4][\x80-\xbf]{0,2}\Z"
)
_KEY = re.compile(rb'"((?:[^"\\]|\\.)*)"[ \t\r]*:[ \t\r]*"\Z')
_LONGEST_KEY = 4096
SALT = secrets.token_hex(16)  # no text of a corpus is taken for a mark


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which long strings of a line are held.

    Attributes:
        inputs: Names of the input columns.
        kept: Names of the kept columns.
        nested: Whether a string behind another key may belong to one of them.
        most: Bytes of the input texts of a row at most.
    """

    inputs: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    nested: bool = False
    most: int = LONGEST

    @classmethod
    def of(cls, columns: Columns, schema: pa.Schema) -> Wanted:
        """What the columns of a run take of lines that are read in a schema."""
        flat = (is_text(kind) or is_texts(kind) or not kind.num_fields for kind in schema.types)
        inputs = frozenset(columns.texts)
        return cls(inputs, frozenset(columns.kept.names), not all(flat), columns.max_row_bytes)


NOTHING = Wanted()


class LongLine(bytes):
    """A long line with marks for its long texts.

    Attributes:
        texts: The text of each mark, where it is held.
        bad: The code, column, expected and found of a line that cannot be a row; then it is empty.
    """

    texts: Mapping[str, pa.Buffer]
    bad: tuple[str, ...]

    @classmethod
    def of(
        cls, line: bytes | bytearray, texts: Mapping[str, pa.Buffer], bad: tuple[str, ...]
    ) -> LongLine:
        made = cls(line)
        made.texts, made.bad = texts, bad
        return made

    def as_bad(self, row: int) -> Bad:
        """Why it is no row."""
        return Bad(row, *self.bad)


class _FaultError(Exception):
    """A line that cannot be a row, with what `LongLine.bad` has."""


@dataclass(slots=True)
class _Text:
    """A string that is being read.

    Attributes:
        column: The input column that it is the value of, or "".
        held: Whether its content is needed.
        mark: What stands for it in the line; "" while it is short.
        raw: What goes into the line: its content, or its mark.
    """

    column: str
    held: bool
    mark: str = ""
    raw: bytearray = field(default_factory=bytearray)


class LongLineReader:
    """Reads one line, block by block.

    Args:
        wanted: What is held of it.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._line = bytearray()
        self._texts: dict[str, bytearray] = {}
        self._carry = b""
        self._text: _Text | None = None
        self._sizes = {True: 0, False: 0}  # bytes held, of input columns and of others
        self._numbers = count()
        self._bad: tuple[str, ...] = ()

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the line, without its end."""
        self._take(block, last=False)

    def end(self, newline: bytes) -> LongLine:
        """The line, all of which has been fed."""
        self._take(b"", last=True)
        if not self._bad:
            self._bad = self._fault_at_end()
        if self._bad:
            return LongLine.of(newline, {}, self._bad)
        texts = {mark: pa.py_buffer(text) for mark, text in self._texts.items()}
        self._line += newline
        return LongLine.of(self._line, texts, ())

    def _fault_at_end(self) -> tuple[str, ...]:
        if self._text is not None:
            return ("broken_json",)
        long_key = re.search(rb'%s"[ \t\r]*:' % SALT.encode(), self._line)
        return ("too_long", "", f"keys of at most {LONG_TEXT} bytes", "more") if long_key else ()

    def _take(self, block: bytes, *, last: bool) -> None:
        if self._bad:
            return
        block = self._carry + block
        # Where a backslash is left, it escapes what follows, which is no quotation mark.
        plain = block
        if b"\\" in block:
            plain = block.replace(b"\\\\", b"--").replace(b'\\"', b"--")
        unfinished = None if last else _UNFINISHED.search(plain, max(0, len(plain) - 11))
        stop = unfinished.start() if unfinished else len(block)
        self._carry = block[stop:]
        try:
            self._split(block[:stop], plain[:stop])
            if len(self._line) + self._sizes[False] > LONGEST:
                raise _FaultError("too_long", "", f"at most {LONGEST} bytes", "more")
        except _FaultError as fault:
            self._bad = fault.args
            self._line.clear()
            self._texts.clear()
            self._text = None

    def _split(self, block: bytes, plain: bytes) -> None:
        """Add what is outside of long strings to the line, and their contents to the texts."""
        done = 0
        for start, stop, closed in self._strings(plain):
            self._line += block[done:start]
            if self._text is None:
                self._text = self._begin()
            self._add(self._text, block[start:stop])
            if closed:
                self._line += self._text.raw
                self._text = None
            done = stop
        self._line += block[done:]

    def _strings(self, plain: bytes) -> Iterator[tuple[int, int, bool]]:
        """Start, stop and whether it ends here of each string that is long or reaches over a border
        of the block."""
        quotes = np.flatnonzero(np.frombuffer(plain, np.uint8) == ord('"'))
        if self._text is not None:
            quotes = np.concatenate([[-1], quotes])
        is_open = len(quotes) % 2 == 1
        edges = np.concatenate([quotes, [len(plain)]]) if is_open else quotes
        starts, stops = edges[::2] + 1, edges[1::2]
        chosen = stops - starts >= LONG_TEXT
        if len(chosen):
            chosen[0] |= self._text is not None
            chosen[-1] |= is_open
        last = len(starts) - 1
        for n in np.flatnonzero(chosen).tolist():
            yield int(starts[n]), int(stops[n]), not (is_open and n == last)

    def _begin(self) -> _Text:
        """A string that begins behind the line so far."""
        key = _KEY.search(self._line[-_LONGEST_KEY:])
        name = _loads(key[1]) if key else ""
        wanted = self._wanted
        known = name in wanted.inputs or name in wanted.kept
        held = known or wanted.nested or (not key and bool(wanted.inputs or wanted.kept))
        return _Text(name if name in wanted.inputs else "", held)

    def _add(self, text: _Text, piece: bytes) -> None:
        if not text.mark:
            text.raw += piece
            if len(text.raw) < LONG_TEXT:
                return
            text.mark = f"long text {next(self._numbers)} {SALT}"
            piece, text.raw = bytes(text.raw), bytearray(text.mark.encode())
        if self._wanted is NOTHING:
            return  # whether it is valid is found when rows are read
        decoded = _unescaped(piece)
        if not text.held:
            return
        of_input = bool(text.column)
        self._sizes[of_input] += len(decoded)
        most = min(self._wanted.most or LARGEST, LARGEST)
        if self._sizes[True] > most:
            raise _FaultError("too_long", text.column, f"at most {most} bytes", "more")
        held = self._texts.setdefault(text.mark, bytearray())
        held += decoded


def _loads(key: bytes) -> str:
    try:
        return str(json.loads(b'"' + key + b'"'))
    except ValueError:
        return ""


def _unescaped(piece: bytes) -> bytes:
    """A part of a string as UTF-8. What is not valid stays so: it is found in the column, if the
    run takes it."""
    if b"\\" not in piece:
        if len(piece) and np.frombuffer(piece, np.uint8).min() < ord(" "):
            raise _FaultError("broken_json")
        return piece
    try:
        text = str(json.loads(f'"{piece.decode(errors="surrogateescape")}"'))
    except ValueError as error:
        raise _FaultError("broken_json") from error
    return text.encode(errors="surrogatepass")


def fill(columns: pa.RecordBatch, texts: Mapping[str, pa.Buffer]) -> pa.RecordBatch:
    """The columns with texts in the place of their marks."""
    arrays = [_filled(column, texts) for column in columns.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=columns.schema)


def _filled(array: pa.Array, texts: Mapping[str, pa.Buffer]) -> pa.Array:
    kind = array.type
    if is_text(kind):
        return _with_texts(array, texts)
    if pa.types.is_struct(kind):
        fields = [_filled(array.field(n), texts) for n in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = _filled(array.values, texts)
        buffers = array.buffers()[:2]
        return pa.Array.from_buffers(kind, len(array), buffers, -1, array.offset, [values])
    return array


def _with_texts(array: pa.Array, texts: Mapping[str, pa.Buffer]) -> pa.Array:
    """Texts with those of their marks; one alone is not copied."""
    marked = pc.is_in(array, value_set=pa.array(list(texts), array.type))
    if not pc.any(marked).as_py():
        return array
    values = [texts.get(text, text) for text in array.to_pylist()]
    values = [text.encode() if isinstance(text, str) else text or b"" for text in values]
    whole = values[0] if len(values) == 1 else pa.py_buffer(b"".join(values))
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    offsets = np.cumsum([0, *map(len, values)]).astype(width)
    # Nulls are as before; their bits come first in the array's own buffers.
    valid = pa.array(array.is_valid()).buffers()[1] if array.null_count else None
    return pa.Array.from_buffers(array.type, len(array), [valid, pa.py_buffer(offsets), whole])
