"""JSON lines, plain or compressed: whole chunks by pyarrow, and line by line where a line is bad.

pyarrow.json parses a chunk straight into columns but has no handler for a bad line, so a chunk that
it refuses is parsed again with the standard library to tell the bad lines from the good ones. The
types of kept columns are settled by the first chunk of the file and asked of every later one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from engine.errors import InputError
from engine.flow import Ints, Split
from engine.source.columnar import choose, empty_batch, reading

CHUNK = 1 << 20
LONGEST_LINE = 256 << 20
_BOM = b"\xef\xbb\xbf"
_COMPRESSION = {"jsonl": None, "jsonl.gz": "gzip", "jsonl.zst": "zstd"}


@dataclass(frozen=True, slots=True)
class Parsed:
    """Lines of a chunk: columns and row numbers of the good, (row, reason) of the bad."""

    columns: pa.RecordBatch
    rows: Ints
    bad: list[tuple[int, str]]


def read_jsonl(split: Split, text: Sequence[str], keep: Sequence[str]) -> Iterator[Parsed]:
    """The needed columns of a split's lines; a line's row number counts blank lines too.

    Raises:
        ColumnError: The first lines have no such column.
        InputError: The file can not be read or decompressed.
    """
    with reading(split.path, split.kind):
        schema = _schema(split, text, keep)
        row = split.first_row
        yield Parsed(empty_batch(schema, schema.names), np.empty(0, np.int64), [])
        for chunk in _chunks(split.path, split.kind, split.start, split.stop):
            yield _parse(chunk, row, schema, text)
            row += chunk.count(b"\n")


def _open(path: Path, kind: str) -> IO[bytes]:
    codec = _COMPRESSION[kind]
    stream: IO[bytes] = pa.input_stream(str(path), compression=codec, buffer_size=CHUNK)
    return stream


def _chunks(path: Path, kind: str, start: int, stop: int) -> Iterator[bytes]:
    """Stretches of whole lines of about CHUNK bytes, without a byte order mark."""
    left = stop - start if kind == "jsonl" else -1
    rest: list[bytes] = []
    with path.open("rb") if kind == "jsonl" else _open(path, kind) as stream:
        if start:
            stream.seek(start)
        first = start == 0
        while block := stream.read(CHUNK if left < 0 else min(CHUNK, left)):
            left -= len(block) if left > 0 else 0
            if first:
                block, first = block.removeprefix(_BOM), False
            end = block.rfind(b"\n") + 1
            if end:
                yield b"".join([*rest, block[:end]])
                rest = []
            rest.append(block[end:])
            if sum(map(len, rest)) > LONGEST_LINE:
                raise InputError(
                    f"{path}: a line is longer than {LONGEST_LINE >> 20} MiB",
                    "is this really JSON lines? one object a line is expected",
                )
            if left == 0:
                break
    if last := b"".join(rest):
        yield last


def _schema(split: Split, text: Sequence[str], keep: Sequence[str]) -> pa.Schema:
    """Types of the needed columns, from the first chunk of the whole file.

    Text columns are strings here; a line with something else in them is told apart later.
    """
    stop = split.path.stat().st_size if split.kind == "jsonl" else 0
    head = next(_chunks(split.path, split.kind, 0, stop), b"")
    objects = [o for o in map(_loads, head.split(b"\n")) if isinstance(o, dict)]
    if not objects:
        kept = [] if tuple(keep) == ("all",) else list(keep)
        return pa.schema([(n, pa.string()) for n in dict.fromkeys([*text, *kept])])
    there = list(dict.fromkeys(key for o in objects for key in o))
    wanted = choose(split.path, there, text, keep)
    kept = [n for n in wanted if n not in text]
    types = {n: _type_of([o.get(n) for o in objects]) for n in kept}
    return pa.schema([(n, types.get(n, pa.string())) for n in dict.fromkeys([*text, *wanted])])


def _type_of(values: list[Any]) -> pa.DataType:
    """The type that holds all values or, where none does, the first one's: the odd rows are bad."""
    present = [v for v in values if v is not None]
    for sample in (present, present[:1]):
        try:
            return pa.array(sample).type if sample else pa.string()
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return pa.string()


def _loads(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _parse(chunk: bytes, row: int, schema: pa.Schema, text: Sequence[str]) -> Parsed:
    import pyarrow.json as pj

    lines = chunk.count(b"\n") + (not chunk.endswith(b"\n"))
    try:
        table = pj.read_json(
            pa.BufferReader(chunk),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(chunk) + 1),
            parse_options=pj.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore"
            ),
        )
        # Fewer or more rows than lines: blank lines, or two objects on one.
        if table.num_rows == lines and table.schema.equals(schema):
            table.validate(full=True)
            columns = table.combine_chunks().to_batches()[0]
            return Parsed(columns, np.arange(row, row + lines), [])
    except pa.ArrowException:
        pass  # some line is bad, and only the slow parse can say which
    return _parse_lines(chunk, row, schema, text)


def _parse_lines(chunk: bytes, row: int, schema: pa.Schema, text: Sequence[str]) -> Parsed:
    good: list[dict[str, Any]] = []
    rows: list[int] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(chunk.split(b"\n"), row):
        if not line.strip():
            continue
        found = _judge(line, schema, text)
        if isinstance(found, str):
            bad.append((number, found))
        else:
            good.append(found)
            rows.append(number)
    columns = pa.RecordBatch.from_pylist(good, schema=schema)
    return Parsed(columns, np.array(rows, np.int64), bad)


def _judge(line: bytes, schema: pa.Schema, text: Sequence[str]) -> dict[str, Any] | str:
    """The needed values of a line, or a reason of `rows.REASONS`."""
    try:
        found = json.loads(line.decode())
    except UnicodeDecodeError:
        return "invalid_utf8"
    except (ValueError, RecursionError):
        return "broken_json"
    if not isinstance(found, dict):
        return "not_object"
    values = {name: found.get(name) for name in schema.names}
    if not all(isinstance(values[name], (str, type(None))) for name in text):
        return "not_text"
    return _misfit(values, schema) or values


def _misfit(values: dict[str, Any], schema: pa.Schema) -> str:
    """Why Arrow can not hold the values, or nothing."""
    try:
        pa.RecordBatch.from_pylist([values], schema=schema)
    except UnicodeEncodeError:
        return "invalid_utf8"  # half a surrogate pair, escaped
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return "kept_type"
    return ""
