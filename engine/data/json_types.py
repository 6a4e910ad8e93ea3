"""The types of the keys of JSON lines: one pass over a file, before the first batch.

pyarrow types a chunk at once; where a line is bad, or pyarrow would lose digits, values are looked
at one by one. The types of kept columns hold every value of the file, where there is such a type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.core.types import Column, CorpusFile, InputPath
from engine.data.columnar import Names, check_fields, reading
from engine.data.json_nesting import filled_lines, is_blank, without_deep
from engine.data.json_objects import has_long_number, read_objects
from engine.data.json_values import NATURAL, is_whole, parse_line, promoted, value_at, widened
from engine.data.line_chunks import chunks
from engine.data.wrong_kinds import check_kind
from engine.errors import ColumnError


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
            if is_blank(chunk):
                continue
            try:
                for block in _blocks(without_deep(chunk)[0]):
                    _widen(file.path, settled, block, names)
                    check_fields(file.path, settled.values())
            except RecursionError as error:
                raise ColumnError(
                    f"{file.path}: a column has lists or structs on hundreds of levels",
                    "leave that column out of --keep, or write it as text",
                ) from error
            if not types and names is not None and set(names) <= set(settled):
                break
        return pa.schema([(name, _without_marks(kind)) for name, kind in settled.items()])


def _widen(path: InputPath, settled: dict[str, pa.DataType], chunk: bytes, names: Names) -> None:
    """Take the keys of a chunk's lines, and the types of their values, into the settled ones."""
    # Beyond int64 pyarrow takes a whole number for a float or for text.
    by_row = has_long_number(chunk) or _is_wide(chunk)
    kinds = None if by_row else _inferred(chunk, names)
    if kinds is not None:
        for name, kind in kinds.items():
            settled[name] = promoted(settled.get(name, pa.null()), kind)
        return
    objects = _objects(chunk)
    keys = _wanted(dict.fromkeys(key for o in objects for key in o), names)
    check_fields(path, [pa.null()] * len(settled.keys() | set(keys)))
    for key in keys:
        settled[key] = widened(settled.get(key, pa.null()), [o.get(key) for o in objects])


_CELLS = 20_000_000
_WIDE = 2_000


def _blocks(chunk: bytes) -> Iterator[bytes]:
    """A chunk in blocks of lines that have few enough keys: pyarrow makes a column of each key, and
    a value for each line in it."""
    lines, keys = chunk.count(b"\n") + 1, chunk.count(b":")
    middle = chunk.find(b"\n", len(chunk) // 2) + 1
    middle = middle if 0 < middle < len(chunk) else chunk.rfind(b"\n", 0, len(chunk) // 2) + 1
    if lines * keys <= _CELLS or not middle:
        yield chunk
    else:
        yield from _blocks(chunk[:middle])
        yield from _blocks(chunk[middle:])


def _is_wide(chunk: bytes) -> bool:
    """Whether lines have so many keys that objects take less than columns of them."""
    return chunk.count(b":") > _WIDE * (chunk.count(b"\n") + 1)


def _objects(chunk: bytes) -> list[dict[str, Any]]:
    values = (_leniently(line) for _, line in filled_lines(chunk))
    return [value for value in values if isinstance(value, dict)]


def _leniently(line: bytes) -> Any:
    """The value of a line, in whose texts any bytes may be: pyarrow takes them, too, and keys must
    not depend on which of both reads a line. A key of such bytes has no name, and is left out; an
    object with one further in says nothing of its column's type."""
    try:
        line.decode()
    except UnicodeDecodeError:
        value = parse_line(line.decode(errors="replace").encode())
        if not isinstance(value, dict):
            return value
        named = {key: one for key, one in value.items() if _NO_NAME not in key}
        return {key: one if _has_names(one) else None for key, one in named.items()}
    return parse_line(line)


_NO_NAME = "\ufffd"


def _has_names(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_NO_NAME not in key and _has_names(one) for key, one in value.items())
    return not isinstance(value, list) or all(map(_has_names, value))


def _wanted(keys: Iterable[str], names: Names) -> list[str]:
    return [key for key in keys if names is None or key in names]


def _inferred(chunk: bytes, names: Names) -> dict[str, pa.DataType] | None:
    """pyarrow's types of a chunk's keys; None where some line is bad or the values of a key
    differ."""
    table = read_objects(chunk)
    try:
        if table is None or not table.schema.names:
            return None
        # There is one chunk; to join them fails for lists of nulls, whose lengths are wrong.
        wanted = _wanted(table.column_names, names)
        return {name: _type_of_array(table.column(name).chunk(0)) for name in wanted}
    except UnicodeError:  # a key, at whatever depth, is not UTF-8
        return None


def _type_of_array(values: pa.Array) -> pa.DataType:
    """The type without dates (text that looks like one is text), whole numbers marked where none is
    negative."""
    kind = values.type
    if pa.types.is_struct(kind):
        fields = ((kind.field(i).name, values.field(i)) for i in range(kind.num_fields))
        return pa.struct([(name, _type_of_array(field)) for name, field in fields])
    if pa.types.is_list(kind):
        return pa.list_(_type_of_array(values.values))
    if kind == pa.int64():
        least = pc.min(values).as_py()
        return kind if least is not None and least < 0 else NATURAL
    return pa.string() if pa.types.is_temporal(kind) else kind


def _without_marks(kind: pa.DataType) -> pa.DataType:
    """The type with int64 where it is marked that no number is negative."""
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _without_marks(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_without_marks(kind.value_type))
    return pa.int64() if kind == NATURAL else kind


def input_types(file: CorpusFile, inputs: Sequence[Column]) -> dict[str, pa.DataType]:
    """The types in which input columns are read, from the first lines; see `kinds.Kind.inputs`."""
    with reading(file.path, file.kind):
        stop = file.path.stat().st_size if file.kind == "jsonl" else 0
        head = next(chunks(file.path, file.kind, 0, stop), b"")
        check_kind(file, head)
        objects = _objects(without_deep(head)[0])
    return {column.name: _input_type(column, objects) for column in inputs}


def _input_type(column: Column, objects: list[dict[str, Any]]) -> pa.DataType:
    """Text or a list of texts; where the task takes either, the type of the first value."""
    found = (value_at(o, column.name) for o in objects)
    values = [value for value in found if value is not None]
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
