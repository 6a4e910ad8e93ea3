"""Plain text: each line a row of the one column `text`.

A line ends at `\\n` or `\\r\\n`; a blank one is a row whose text is empty.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from engine.core.types import Columns, CorpusFile, Split
from engine.data.columnar import Names, reading
from engine.data.line_chunks import blocks
from engine.data.long_lines import LARGEST, LONG
from engine.data.stretches import Bad, Stretch
from engine.data.wrong_kinds import check_kind

COLUMN = "text"


def text_schema(file: CorpusFile, names: Names, types: bool = True) -> pa.Schema:
    """The column `text`, if it is among the names; see `kinds.Kind.schema`."""
    with reading(file.path, file.kind):
        check_kind(file, next(blocks(file.path, file.kind, 0, file.path.stat().st_size), b""))
    taken = names is None or COLUMN in names
    return pa.schema([(COLUMN, pa.large_string())] if taken else [])


def read_text(split: Split, columns: Columns) -> Iterator[Stretch]:
    """The lines of a split as rows, an empty stretch first."""
    with reading(split.path, split.kind):
        row, most = split.first_row, min(columns.max_row_bytes or LARGEST, LARGEST)
        yield _stretch(b"", row)
        for chunk in _chunks(split, most):
            stretch = _too_long(row, most) if chunk is None else _stretch(chunk, row)
            yield stretch
            row += len(stretch)


def _chunks(split: Split, most: int) -> Iterator[bytes | bytearray | None]:
    """Whole lines, some together and a long one alone; None for one of more than `most` bytes."""
    line = bytearray()  # of which the end is not read yet
    skipped = False
    for block in blocks(split.path, split.kind, split.start, split.stop):
        first = block.find(b"\n") + 1
        line += b"" if skipped else block[: first or len(block)]
        if len(line) > most + len(b"\r\n"):
            line, skipped = bytearray(), True
        if not first:
            continue
        end = block.rfind(b"\n") + 1
        if skipped or len(line) > LONG:
            yield None if skipped else line
            line = bytearray()
        if lines := line + block[first:end]:
            yield lines
        line, skipped = bytearray(block[end:]), False
    if skipped or line:
        yield None if skipped else line


def _too_long(row: int, most: int) -> Stretch:
    bad = Bad(row, "too_long", COLUMN, f"at most {most} bytes", "more")
    return Stretch(_stretch(b"", row).columns, np.empty(0, np.int64), [bad])


def _stretch(chunk: bytes | bytearray, row: int) -> Stretch:
    if len(chunk) > LONG and chunk.find(b"\n", 0, -1) < 0:
        return _long_stretch(chunk, row)
    content = np.frombuffer(chunk, np.uint8)
    ends = np.flatnonzero(content == ord("\n"))
    if len(content) and content[-1] != ord("\n"):
        ends = np.append(ends, len(content))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    # An array of texts ends each where the next begins: what ends a line is left out before.
    returns = ends[(ends > starts) & (content[np.maximum(ends, 1) - 1] == ord("\r"))] - 1
    kept = content != ord("\n")
    kept[returns] = False
    lengths = ends - starts
    lengths[np.isin(ends, returns + 1)] -= 1
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content[kept])]
    texts = pa.Array.from_buffers(pa.large_string(), len(ends), buffers)
    columns = pa.RecordBatch.from_arrays([texts], [COLUMN])
    return Stretch(columns, np.arange(row, row + len(ends)), [])


def _long_stretch(line: bytes | bytearray, row: int) -> Stretch:
    """One line, which is not copied."""
    end = len(line) - line.endswith(b"\n")
    end -= end < len(line) and line.endswith(b"\r\n")
    buffers = [None, pa.py_buffer(np.array([0, end], np.int64)), pa.py_buffer(line)]
    text = pa.Array.from_buffers(pa.large_string(), 1, buffers)
    columns = pa.RecordBatch.from_arrays([text], [COLUMN])
    return Stretch(columns, np.array([row], np.int64), [])
