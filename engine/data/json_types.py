"""The types of the keys of JSON lines: one pass over a file, before the first batch.

pyarrow types a chunk at once; where a line is bad, or pyarrow would lose digits, values are looked
at one by one. The types of kept columns hold every value of the file, where there is such a type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from engine.core.types import Column, CorpusFile
from engine.data.columnar import Names, reading, unify
from engine.data.json_objects import has_long_number, is_whole, parse_line, read_objects
from engine.data.line_chunks import check_kind, chunks


def schema(file: CorpusFile, names: Names, types: bool) -> pa.Schema:
    """Names and types of the keys of a file's lines; see `kinds.Kind.schema`.

    A type is the one that holds every value of the file or, where none does, the type of the first
    values; then lines with others are bad rows. Without `types`, lines are read until all `names`
    have been seen.
    """
    settled: dict[str, pa.DataType] = {}
    stop = file.path.stat().st_size if file.kind == "jsonl" else 0
    with reading(file.path, file.kind):
        for number, chunk in enumerate(chunks(file.path, file.kind, 0, stop)):
            if not number:
                check_kind(file, chunk)
            for name, kind in _chunk_types(chunk, names):
                settled[name] = _promoted(settled.get(name, pa.null()), kind)
            if not types and names is not None and set(names) <= set(settled):
                break
        return pa.schema(list(settled.items()))


def _chunk_types(chunk: bytes, names: Names) -> list[tuple[str, pa.DataType]]:
    """Keys of a chunk's lines, and the type of the values of each."""
    # Beyond int64 pyarrow takes a whole number for a float or for text.
    fields = None if has_long_number(chunk) else _inferred(chunk)
    if fields is not None:
        return [(f.name, _json_type(f.type)) for f in fields if names is None or f.name in names]
    objects = [o for o in map(parse_line, chunk.split(b"\n")) if isinstance(o, dict)]
    keys = list(dict.fromkeys(key for o in objects for key in o))
    wanted = [key for key in keys if names is None or key in names]
    return [(key, _type_of([o.get(key) for o in objects])) for key in wanted]


def _inferred(chunk: bytes) -> pa.Schema | None:
    """pyarrow's types of a chunk; None where some line is bad or the values of a key differ."""
    table = read_objects(chunk)
    try:
        return table.schema if table is not None and table.schema.names else None
    except UnicodeError:  # a key is not UTF-8
        return None


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


def _type_of(values: list[Any]) -> pa.DataType:
    """The type that holds all values or, where none does, the type of the first one."""
    present = [v for v in values if v is not None]
    if present and all(map(is_whole, present)) and 2**63 <= max(present) < 2**64:
        return pa.uint64()
    for sample in (present, present[:1]):
        try:
            return pa.array(sample).type if sample else pa.null()
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return pa.string()


def input_types(file: CorpusFile, inputs: Sequence[Column]) -> dict[str, pa.DataType]:
    """The types in which input columns are read, from the first lines; see `kinds.Kind.inputs`."""
    with reading(file.path, file.kind):
        stop = file.path.stat().st_size if file.kind == "jsonl" else 0
        head = next(chunks(file.path, file.kind, 0, stop), b"")
        check_kind(file, head)
        objects = [o for o in map(parse_line, head.split(b"\n")) if isinstance(o, dict)]
    return {column.name: _input_type(column, objects) for column in inputs}


def _input_type(column: Column, objects: list[dict[str, Any]]) -> pa.DataType:
    """Text or a list of texts; where the task takes either, the type of the first value."""
    values = [o[column.name] for o in objects if o.get(column.name) is not None]
    listed = column.holds in ("either", "chat") and isinstance(next(iter(values), None), list)
    if listed and column.holds == "chat":
        return _chat_type(values)
    if column.holds == "key" and is_whole(next(iter(values), None)):
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
