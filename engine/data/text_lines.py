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
from engine.data.long_lines import LONGEST
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
        row = split.first_row
        yield _stretch(b"", row)
        for chunk in _chunks(split):
            stretch = _too_long(row) if chunk is None else _stretch(chunk, row)
            yield stretch
            row += len(stretch)


def _chunks(split: Split) -> Iterator[bytes | None]:
    """Whole lines, some together; None for one that is too long to be held."""
    rest: list[bytes] = []
    skipped = False
    for block in blocks(split.path, split.kind, split.start, split.stop):
        begin = 0
        if skipped:
            begin = block.find(b"\n") + 1
            if not begin:
                continue
            skipped = False
        end = block.rfind(b"\n", begin) + 1
        if end:
            yield b"".join([*rest, block[begin:end]])
            rest = []
        rest.append(block[end or begin :])
        if sum(map(len, rest)) > LONGEST:
            yield None
            rest, skipped = [], True
    if last := b"".join(rest):
        yield last


def _too_long(row: int) -> Stretch:
    bad = Bad(row, "too_long", COLUMN, f"at most {LONGEST} bytes", "more")
    return Stretch(_stretch(b"", row).columns, np.empty(0, np.int64), [bad])


def _stretch(chunk: bytes, row: int) -> Stretch:
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
