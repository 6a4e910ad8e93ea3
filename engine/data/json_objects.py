"""JSON objects, one on each line: chunks of them by pyarrow's parser."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_LONG = 16  # digits of the shortest whole number that a float may not hold


def has_long_number(content: bytes) -> bool:
    """Whether 16 digits follow each other, but for those behind a point or a quotation mark.

    By arrays, since a regular expression takes three times as long as pyarrow's parser.
    """
    characters = np.frombuffer(content, np.uint8)
    runs = digits = (characters ^ ord("0")) < 10
    length = 1
    while length < _LONG and length < len(runs):
        runs = runs[:-length] & runs[length:]  # runs of twice as many digits, by their first
        length *= 2
    starts = np.flatnonzero(runs) if length == _LONG else np.empty(0, np.int64)
    starts = starts[starts > 0]
    before = starts - 1
    return bool((~digits[before] & ~np.isin(characters[before], list(b'."'))).any())


def count_objects(chunk: bytes) -> int:
    """The number of lines where each seems to be one object, or else 0.

    pyarrow also accepts objects that share a line or span several, and crashes on a lone null. But
    in valid JSON an object ends between a `}` at the end of a line and a `{` at the beginning of
    the next: where that is so between all lines, and rows are as many as lines, each line is one
    object.
    """
    lines = chunk.count(b"\n") + (not chunk.endswith(b"\n"))
    between = chunk.count(b"}\n{") + chunk.count(b"}\r\n{")
    braced = chunk.startswith(b"{") and chunk.endswith((b"}", b"}\n", b"}\r\n"))
    return lines if braced and between == lines - 1 else 0


def read_objects(chunk: bytes, schema: pa.Schema | None = None) -> pa.Table | None:
    """The objects of a chunk in pyarrow's own types or, without other keys, in those of a schema;
    None where pyarrow refuses some line, or a line is not one object."""
    import pyarrow.json as pj

    lines = count_objects(chunk)
    if not lines:
        return None
    others = "infer" if schema is None else "ignore"
    try:
        table = pj.read_json(
            pa.BufferReader(chunk),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(chunk) + 1),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
        )
    except pa.ArrowException:
        return None  # only the slow parse can say which line is bad
    return table if table.num_rows == lines else None
