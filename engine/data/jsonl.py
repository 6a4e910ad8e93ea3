"""JSON lines, plain or compressed: whole chunks by pyarrow, and line by line where a line is bad.

pyarrow.json parses a chunk straight into columns, but refuses the whole chunk for one bad line.
Then the lines that look bad to the standard library are parsed one by one, and the others together,
halved until what pyarrow refuses is a single line: the result for a line does not depend on its
neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.core.types import Columns, CorpusFile, Split
from engine.data.columnar import empty_batch, is_chat, is_text, reading
from engine.data.json_layout import LINES, is_one_object
from engine.data.json_nesting import LEVELS, filled_lines, is_blank, without_deep
from engine.data.json_objects import has_long_number, read_objects
from engine.data.json_types import input_types
from engine.data.json_values import (
    converted,
    find_fault,
    narrowed,
    natural_type,
    parse_exactly,
    parse_line,
    without_large,
    word,
)
from engine.data.line_chunks import chunks, layout
from engine.data.long_lines import LongLine, Wanted, fill
from engine.data.plain_types import PART_OF_STRUCT
from engine.data.reject_texts import with_lines
from engine.data.stretches import Bad, Stretch
from engine.errors import InputError


def read_jsonl(split: Split, columns: Columns) -> Iterator[Stretch]:
    """The needed columns of a split's lines; a line's row number counts blank lines too.

    Raises:
        InputError: The file cannot be read or decompressed.
    """
    with reading(split.path, split.kind):
        schema = _read_schema(split.file, columns)
        row = split.first_row
        yield Stretch(empty_batch(schema, schema.names), np.empty(0, np.int64), [])
        wanted = Wanted.of(columns, schema)
        for chunk in chunks(split.path, split.kind, split.start, split.stop, wanted):
            stretch = _parse_any(chunk, row, schema, columns.texts)
            _check_borders(split, chunk, row, stretch.bad)
            if columns.reject_text and stretch.bad:
                stretch.bad = with_lines(stretch.bad, chunk, row)
            yield stretch
            row += chunk.count(b"\n")


def _check_borders(split: Split, chunk: bytes, row: int, bad: Sequence[Bad]) -> None:
    """Raise InputError where a bad object of an array, or of those over several lines, may have
    taken its neighbours in."""
    broken = [one.row for one in bad if one.code == "broken_json"]
    if not broken or layout(split.path, split.kind) == LINES:
        return
    lines = chunk.split(b"\n")
    hidden = [n for n in broken if not (lines[n - row] and is_one_object(lines[n - row]))]
    if hidden:
        raise InputError(
            f"{split.path}: object {hidden[0]} (counted from 0) is not JSON, its end is unclear",
            "a bracket or a quotation mark is missing or one too many there: fix it, or write the "
            "file as JSON lines, where each line is judged alone",
        )


def _read_schema(file: CorpusFile, columns: Columns) -> pa.Schema:
    """Types of the needed columns: the settled ones of kept columns, and for input columns the type
    that the task takes. Lines with something else there are bad rows."""
    fields = {field.name: field.with_type(without_large(field.type)) for field in columns.kept}
    for name in columns.given & fields.keys():
        kind = columns.kept.field(name).type
        converts = "" if natural_type(kind) == pa.string() and not is_text(kind) else "yes"
        fields[name] = pa.field(name, natural_type(kind), metadata={_GIVEN: converts})
    inputs = input_types(file, columns.inputs)
    return pa.schema([*(fields | {n: pa.field(n, kind) for n, kind in inputs.items()}).values()])


# Key of the metadata of a field whose type the person gave; "" where other types are not converted.
_GIVEN = b"given"


def _is_given(field: pa.Field) -> bool:
    return bool(field.metadata) and _GIVEN in field.metadata


def _parse(chunk: bytes, row: int, schema: pa.Schema, text: Sequence[str]) -> Stretch:
    if is_blank(chunk):
        return Stretch(empty_batch(schema, schema.names), np.empty(0, np.int64), [])
    chunk, deep = without_deep(chunk)
    stretch = _parse_level(chunk, row, schema, text)
    if deep:
        levels = f"at most {LEVELS} levels of lists and objects", "more"
        bad = [Bad(row + number, "too_deep", "", *levels) for number in deep]
        stretch.bad = sorted([*stretch.bad, *bad])
    return stretch


def _parse_level(chunk: bytes, row: int, schema: pa.Schema, text: Sequence[str]) -> Stretch:
    """The rows of a chunk none of whose lines is too deep."""
    if not _may_lose(chunk, schema, text) and (columns := _parse_whole(chunk, schema)):
        return Stretch(columns, np.arange(row, row + columns.num_rows), [])
    return _parse_lines(chunk, row, schema, text)


def _parse_any(chunk: bytes, row: int, schema: pa.Schema, text: Sequence[str]) -> Stretch:
    """The rows of a chunk, or the row of a long line."""
    if not isinstance(chunk, LongLine):
        return _parse(chunk, row, schema, text)
    if chunk.bad:
        columns = empty_batch(schema, schema.names)
        return Stretch(columns, np.empty(0, np.int64), [chunk.as_bad(row)])
    stretch = _parse(chunk, row, schema, text)
    return Stretch(fill(stretch.columns, chunk.texts), stretch.rows, stretch.bad)


def _may_lose(content: bytes, schema: pa.Schema, text: Sequence[str]) -> bool:
    """Whether pyarrow may take content for good and change it: leave out keys, or the
    last digits of a whole number among floats, or take text for a decimal; in objects it leaves out
    keys that are not UTF-8."""
    if any(_has(kind, pa.types.is_struct) for kind in schema.types) and not _is_utf8(content):
        return True
    if _of_chats(schema, text) or any(_has(kind, pa.types.is_decimal) for kind in schema.types):
        return True
    if any(_is_given(field) and _has(field.type, pa.types.is_struct) for field in schema):
        return True  # keys that are not in the type
    return any(_has(kind, pa.types.is_floating) for kind in schema.types) and has_long_number(
        content
    )


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has(kind: pa.DataType, is_kind: Callable[[pa.DataType], bool]) -> bool:
    nested = [kind.field(i).type for i in range(kind.num_fields)]
    return is_kind(kind) or any(_has(one, is_kind) for one in nested)


def _of_chats(schema: pa.Schema, text: Sequence[str]) -> bool:
    """Whether lines hold messages, of which pyarrow leaves out fields that are not in the schema:
    what it accepts may yet be bad."""
    return any(is_chat(schema.field(name).type) for name in text)


def _parse_whole(chunk: bytes, schema: pa.Schema) -> pa.RecordBatch | None:
    """The columns of a chunk whose every line is one good object, or None."""
    table = read_objects(chunk, schema)
    if table is None or not table.schema.equals(schema):
        return None
    try:
        table.validate(full=True)
    except pa.ArrowException:
        return None  # some text is not UTF-8
    return table.combine_chunks().to_batches()[0]


def _parse_lines(chunk: bytes, row: int, schema: pa.Schema, text: Sequence[str]) -> Stretch:
    lines = [(row + n, line) for n, line in filled_lines(chunk)]
    suspect = {n for n, line in lines if _looks_bad(line, schema, text)}
    parts = [*_parse_halves([pair for pair in lines if pair[0] not in suspect], schema, text)]
    for number, line in (pair for pair in lines if pair[0] in suspect):
        # A line that the standard library refuses may yet be good.
        readable = _of_chats(schema, text) or parse_line(line) is not None or not _is_utf8(line)
        if _may_lose(line, schema, text) and readable:
            parts.append(_parse_one(number, line, schema, text))
        else:
            parts += _parse_halves([(number, line)], schema, text)
    rows = np.concatenate([np.empty(0, np.int64), *(p.rows for p in parts)])
    columns = pa.concat_batches([empty_batch(schema, schema.names), *(p.columns for p in parts)])
    order = np.argsort(rows)
    bad = sorted(one for p in parts for one in p.bad)
    return Stretch(columns.take(pa.array(order)), rows[order], bad)


def _looks_bad(line: bytes, schema: pa.Schema, text: Sequence[str]) -> bool:
    content = parse_line(line)
    if not isinstance(content, dict) or (
        not _of_chats(schema, text) and _may_lose(line, schema, text)
    ):
        return True
    return any(find_fault(content.get(name), schema.field(name).type, name) for name in text)


def _parse_halves(
    lines: list[tuple[int, bytes]], schema: pa.Schema, text: Sequence[str]
) -> Iterator[Stretch]:
    """Lines that pyarrow takes together, or else their halves, down to single lines."""
    if columns := _parse_whole(b"\n".join(line for _, line in lines), schema):
        yield Stretch(columns, np.array([number for number, _ in lines], np.int64), [])
    elif len(lines) > 1:
        half = len(lines) // 2
        yield from _parse_halves(lines[:half], schema, text)
        yield from _parse_halves(lines[half:], schema, text)
    else:
        yield from (_parse_one(number, line, schema, text) for number, line in lines)


def _parse_one(number: int, line: bytes, schema: pa.Schema, text: Sequence[str]) -> Stretch:
    columns = _parse_strictly(line, schema, text)
    if isinstance(columns, Bad):
        bad = [columns._replace(row=number)]
        return Stretch(empty_batch(schema, schema.names), np.empty(0, np.int64), bad)
    return Stretch(columns, np.array([number], np.int64), [])


def _parse_strictly(line: bytes, schema: pa.Schema, text: Sequence[str]) -> pa.RecordBatch | Bad:
    """The needed columns of a line that pyarrow refuses, or why it is bad, as row 0."""
    try:
        content = parse_exactly(line.decode())
    except UnicodeDecodeError:
        return Bad(0, "invalid_utf8")
    except (ValueError, RecursionError):
        return Bad(0, "broken_json")
    if not isinstance(content, dict):
        return Bad(0, "not_object", "", "object", word(content))
    for field in sorted(schema, key=lambda field: field.name not in text):
        name, value = field.name, content.get(field.name)
        if field.metadata and PART_OF_STRUCT in field.metadata:
            content[name] = value = narrowed(value, field.type)
        if _is_given(field) and field.metadata[_GIVEN]:
            content[name] = converted(value, field.type)
            value = value if find_fault(content[name], field.type, name) else content[name]
        if fault := find_fault(value, field.type, name):
            return Bad(0, "not_text" if name in text else "kept_type", *fault)
    return _convert([content.get(name) for name in schema.names], schema)


def _convert(values: list[Any], schema: pa.Schema) -> pa.RecordBatch | Bad:
    """One row of values that their types hold."""
    columns = []
    for value, field in zip(values, schema, strict=True):
        try:
            columns.append(pa.array([value], field.type))
        except UnicodeEncodeError:  # half a surrogate pair, escaped
            return Bad(0, "invalid_utf8", field.name)
    return pa.RecordBatch.from_arrays(columns, schema=schema)
