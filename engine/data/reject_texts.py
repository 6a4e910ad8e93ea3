"""The texts of bad rows, for a run that asks for them: no message or log ever has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from engine.core.types import Ints
from engine.data.long_lines import LongLine
from engine.data.stretches import Bad

LONGEST = 10_000
"""Characters of a text that are recorded."""


def with_lines(bad: Sequence[Bad], chunk: bytes, row: int) -> list[Bad]:
    """Bad rows with their lines; a line that was read in pieces has none.

    Args:
        bad: Of a chunk of lines.
        chunk: The chunk.
        row: The number of its first line.
    """
    if isinstance(chunk, LongLine):
        return list(bad)
    lines = chunk.split(b"\n")
    return [one._replace(text=_text(lines[one.row - row].rstrip(b"\r"))) for one in bad]


def with_texts(bad: Mapping[int, Bad], texts: pa.RecordBatch, rows: Ints) -> dict[int, Bad]:
    """Bad rows with their texts; those of several columns as JSON by name.

    Args:
        bad: By row number.
        texts: The input columns.
        rows: The number of each of their rows.
    """
    numbers = sorted(bad)
    places = np.searchsorted(rows, numbers)
    columns = [_values(column.take(pa.array(places))) for column in texts.columns]
    described = dict(bad)
    for number, values in zip(numbers, zip(*columns, strict=True), strict=True):
        named = dict(zip(texts.schema.names, values, strict=True))
        text = values[0] if len(values) == 1 and isinstance(values[0], str) else _json(named)
        described[number] = bad[number]._replace(text=text[:LONGEST])
    return described


def _values(column: pa.Array) -> list[object]:
    """Python's values; a text that is not UTF-8 as well as it can be read."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        plain = pa.large_binary() if pa.types.is_large_string(kind) else pa.binary()
        return [v if v is None else _text(v) for v in column.view(plain).to_pylist()]
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [None] * len(column)


def _json(named: Mapping[str, object]) -> str:
    present = {name: value for name, value in named.items() if value is not None}
    return json.dumps(present, ensure_ascii=False, default=str) if present else ""


def _text(line: bytes) -> str:
    return line[: 4 * LONGEST].decode(errors="replace")[:LONGEST]
