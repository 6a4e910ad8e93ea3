"""JSON lines, plain or compressed: whole chunks by pyarrow, and line by line where a line is bad.

pyarrow.json parses a chunk straight into columns, but refuses the whole chunk for one bad line.
Then the lines that look bad to the standard library are parsed one by one, and the others together,
halved until what pyarrow refuses is a single line: the result for a line does not depend on its
neighbours. The types of kept columns hold every value of the file, where there is such a type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
import pyarrow as pa

from engine.core.types import Column, Columns, CorpusFile, Split
from engine.data.columnar import Names, empty_batch, is_chat, reading, unify
from engine.data.stretches import Bad, Stretch
from engine.errors import InputError

CHUNK = 1 << 20
LONGEST_LINE = 256 << 20
_BOM = b"\xef\xbb\xbf"
_COMPRESSION = {"jsonl": None, "jsonl.gz": "gzip", "jsonl.zst": "zstd"}
_FOREIGN = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def read_jsonl(split: Split, columns: Columns) -> Iterator[Stretch]:
    """The needed columns of a split's lines; a line's row number counts blank lines too.

    Raises:
        InputError: The file cannot be read or decompressed.
    """
    with reading(split.path, split.kind):
        schema = _read_schema(split.file, columns)
        row = split.first_row
        yield Stretch(empty_batch(schema, schema.names), np.empty(0, np.int64), [])
        for chunk in _chunks(split.path, split.kind, split.start, split.stop):
            yield _parse(chunk, row, schema, columns.texts)
            row += chunk.count(b"\n")


def _open(path: Path, kind: str) -> IO[bytes]:
    codec = _COMPRESSION[kind]
    if not path.stat().st_size:
        raise InputError(f"{path}: empty, which no {codec} file is", "copy or write it again")
    stream: IO[bytes] = pa.input_stream(str(path), compression=codec, buffer_size=CHUNK)
    return stream


def _chunks(path: Path, kind: str, start: int, stop: int) -> Iterator[bytes]:
    """Whole lines, about CHUNK bytes at a time, without a byte order mark."""
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
                    "JSON lines have one object on each line",
                )
            if left == 0:
                break
    if last := b"".join(rest):
        yield last


def schema(file: CorpusFile, names: Names, types: bool) -> pa.Schema:
    """Names and types of the keys of a file's lines; see `kinds.Kind.schema`.

    A type is the one that holds every value of the file or, where none does, the type of the first
    values; then lines with others are bad rows. Without `types`, lines are read until all `names`
    have been seen.
    """
    settled: dict[str, pa.DataType] = {}
    stop = file.path.stat().st_size if file.kind == "jsonl" else 0
    with reading(file.path, file.kind):
        for number, chunk in enumerate(_chunks(file.path, file.kind, 0, stop)):
            if not number:
                _check_kind(file, chunk)
            for name, kind in _chunk_types(chunk, names):
                settled[name] = _promoted(settled.get(name, pa.null()), kind)
            if not types and names is not None and set(names) <= set(settled):
                break
        return pa.schema(list(settled.items()))


def _chunk_types(chunk: bytes, names: Names) -> list[tuple[str, pa.DataType]]:
    """Keys of a chunk's lines, and the type of the values of each."""
    # Beyond int64 pyarrow takes a whole number for a float or for text.
    fields = None if _has_long_number(chunk) else _inferred(chunk)
    if fields is not None:
        return [(f.name, _json_type(f.type)) for f in fields if names is None or f.name in names]
    objects = [o for o in map(_loads, chunk.split(b"\n")) if isinstance(o, dict)]
    keys = list(dict.fromkeys(key for o in objects for key in o))
    wanted = [key for key in keys if names is None or key in names]
    return [(key, _type_of([o.get(key) for o in objects])) for key in wanted]


def _inferred(chunk: bytes) -> pa.Schema | None:
    """pyarrow's types of a chunk; None where some line is bad or the values of a key differ."""
    table = _read_objects(chunk)
    try:
        return table.schema if table is not None and table.schema.names else None
    except UnicodeError:  # a key is not UTF-8
        return None


_LONG = 16  # digits of the shortest whole number that a float may not hold


def _has_long_number(content: bytes) -> bool:
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


def _json_type(kind: pa.DataType) -> pa.DataType:
    """The type without dates: text that looks like one is text."""
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return pa.struct([(field.name, _json_type(field.type)) for field in fields])
    if pa.types.is_list(kind):
        return pa.list_(_json_type(kind.value_type))
    return pa.string() if pa.types.is_temporal(kind) else kind


def _promoted(before: pa.DataType, kind: pa.DataType) -> pa.DataType:
    """The type that holds the values of both, or the former where none does."""
    try:
        return unify(before, kind)
    except pa.ArrowException:
        return before


def _read_schema(file: CorpusFile, columns: Columns) -> pa.Schema:
    """Types of the needed columns: the settled ones of kept columns, and for input columns the type
    that the task takes. Lines with something else there are bad rows."""
    types = {field.name: field.type for field in columns.kept}
    return pa.schema(list((types | input_types(file, columns.inputs)).items()))


def input_types(file: CorpusFile, inputs: Sequence[Column]) -> dict[str, pa.DataType]:
    """The types in which input columns are read, from the first lines; see `kinds.Kind.inputs`."""
    with reading(file.path, file.kind):
        stop = file.path.stat().st_size if file.kind == "jsonl" else 0
        head = next(_chunks(file.path, file.kind, 0, stop), b"")
        _check_kind(file, head)
        objects = [o for o in map(_loads, head.split(b"\n")) if isinstance(o, dict)]
    return {column.name: _input_type(column, objects) for column in inputs}


def _check_kind(file: CorpusFile, head: bytes) -> None:
    """Raise InputError where a file begins as one of another kind."""
    if kind := next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None):
        raise InputError(f"{file.path}: {kind}, not JSON lines", "rename it to its own ending")


def _input_type(column: Column, objects: list[dict[str, Any]]) -> pa.DataType:
    """Text or a list of texts; where the task takes either, the type of the first value."""
    values = [o[column.name] for o in objects if o.get(column.name) is not None]
    listed = column.holds in ("either", "chat") and isinstance(next(iter(values), None), list)
    if listed and column.holds == "chat":
        return _chat_type(values)
    if column.holds == "key" and _is_whole(next(iter(values), None)):
        return pa.int64()
    return pa.list_(pa.string()) if listed or column.holds == "texts" else pa.string()


def _chat_type(values: list[Any]) -> pa.DataType:
    """Lists of messages with the fields that are texts in the first lines; any other is a bad
    row's."""
    messages = [m for chat in values if isinstance(chat, list) for m in chat if isinstance(m, dict)]
    fields = {name: pa.string() for m in messages for name, text in m.items() if _is_text(text)}
    return pa.list_(pa.struct(({"role": pa.string(), "content": pa.string()} | fields).items()))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _type_of(values: list[Any]) -> pa.DataType:
    """The type that holds all values or, where none does, the type of the first one."""
    present = [v for v in values if v is not None]
    if present and all(map(_is_whole, present)) and 2**63 <= max(present) < 2**64:
        return pa.uint64()
    for sample in (present, present[:1]):
        try:
            return pa.array(sample).type if sample else pa.null()
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return pa.string()


def _loads(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _parse(chunk: bytes, row: int, schema: pa.Schema, text: Sequence[str]) -> Stretch:
    if not _may_lose(chunk, schema, text) and (columns := _parse_whole(chunk, schema)):
        return Stretch(columns, np.arange(row, row + columns.num_rows), [])
    return _parse_lines(chunk, row, schema, text)


def _may_lose(content: bytes, schema: pa.Schema, text: Sequence[str]) -> bool:
    """Whether pyarrow may take content for good and leave a part of it out: fields of messages, or
    the last digits of a whole number among floats."""
    if _of_chats(schema, text):
        return True
    return any(map(_has_floats, schema.types)) and _has_long_number(content)


def _has_floats(kind: pa.DataType) -> bool:
    nested = [kind.field(i).type for i in range(kind.num_fields)]
    return pa.types.is_floating(kind) or any(map(_has_floats, nested))


def _of_chats(schema: pa.Schema, text: Sequence[str]) -> bool:
    """Whether lines hold messages, of which pyarrow leaves out fields that are not in the schema:
    what it accepts may yet be bad."""
    return any(is_chat(schema.field(name).type) for name in text)


def _count_objects(chunk: bytes) -> int:
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


def _read_objects(chunk: bytes, schema: pa.Schema | None = None) -> pa.Table | None:
    """The objects of a chunk in pyarrow's own types or, without other keys, in those of a schema;
    None where pyarrow refuses some line, or a line is not one object."""
    import pyarrow.json as pj

    lines = _count_objects(chunk)
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


def _parse_whole(chunk: bytes, schema: pa.Schema) -> pa.RecordBatch | None:
    """The columns of a chunk whose every line is one good object, or None."""
    table = _read_objects(chunk, schema)
    if table is None or not table.schema.equals(schema):
        return None
    try:
        table.validate(full=True)
    except pa.ArrowException:
        return None  # some text is not UTF-8
    return table.combine_chunks().to_batches()[0]


def _parse_lines(chunk: bytes, row: int, schema: pa.Schema, text: Sequence[str]) -> Stretch:
    stripped = ((n, line.strip(b" \t\r")) for n, line in enumerate(chunk.split(b"\n"), row))
    lines = [(n, line) for n, line in stripped if line]
    suspect = {n for n, line in lines if _looks_bad(line, schema, text)}
    parts = [*_parse_halves([pair for pair in lines if pair[0] not in suspect], schema, text)]
    for number, line in (pair for pair in lines if pair[0] in suspect):
        # A line that the standard library refuses may yet be good.
        readable = _of_chats(schema, text) or _loads(line) is not None
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
    content = _loads(line)
    if not isinstance(content, dict) or (
        not _of_chats(schema, text) and _may_lose(line, schema, text)
    ):
        return True
    return not all(_fits(content.get(name), schema.field(name).type) for name in text)


def _fits(value: object, kind: pa.DataType) -> bool:
    """Whether a value can stand in an input column of that type."""
    if is_chat(kind) and isinstance(value, list):
        names = {field.name for field in kind.value_type}
        return all(_is_message(message, names) for message in value)
    if pa.types.is_list(kind) and isinstance(value, list):
        return all(isinstance(v, (str, type(None))) for v in value)
    if pa.types.is_integer(kind):
        return value is None or (_is_whole(value) and -(2**63) <= value < 2**63)
    return value is None or (pa.types.is_string(kind) and isinstance(value, str))


def _is_message(value: object, names: set[str]) -> bool:
    return isinstance(value, dict) and all(
        text is None or (name in names and isinstance(text, str)) for name, text in value.items()
    )


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
    if isinstance(columns, str):
        bad = [Bad(number, columns)]
        return Stretch(empty_batch(schema, schema.names), np.empty(0, np.int64), bad)
    return Stretch(columns, np.array([number], np.int64), [])


def _parse_strictly(line: bytes, schema: pa.Schema, text: Sequence[str]) -> pa.RecordBatch | str:
    """The needed columns of a line that pyarrow refuses, or a code of `windows.REASONS`."""
    try:
        content = json.loads(line.decode())
    except UnicodeDecodeError:
        return "invalid_utf8"
    except (ValueError, RecursionError):
        return "broken_json"
    if not isinstance(content, dict):
        return "not_object"
    values = {name: content.get(name) for name in schema.names}
    if not all(_fits(values[name], schema.field(name).type) for name in text):
        return "not_text"
    return _convert(values, schema)


def _convert(values: dict[str, Any], schema: pa.Schema) -> pa.RecordBatch | str:
    try:
        columns = pa.RecordBatch.from_pylist([values], schema=schema)
    except UnicodeEncodeError:
        return "invalid_utf8"  # half a surrogate pair, escaped
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return "kept_type"
    return columns if _equal(values, columns.to_pylist()[0]) else "kept_type"


def _equal(value: Any, stored: Any) -> bool:
    """Whether Arrow has stored a value unchanged: in a column of integers it turns 9.5 into 9."""
    if isinstance(value, dict) and isinstance(stored, dict):
        return all(_equal(value.get(name), field) for name, field in stored.items())
    if isinstance(value, list) and isinstance(stored, list):
        return len(value) == len(stored) and all(map(_equal, value, stored))
    if isinstance(value, bool) != isinstance(stored, bool):
        return False
    return bool(value == stored) or str(value) == str(stored) == "nan"
