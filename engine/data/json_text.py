"""Arrow columns as JSON text, column by column and without a Python object for each row.

whole numbers, floats         numbers with every digit; NaN and infinities, which JSON lacks, null
decimals, durations           text of the digits, so that no reader rounds them; a whole number
dates, times                  ISO 8601 text, with a zone in UTC
bytes                         base64 text
lists, structs                arrays and objects of the same
maps                          arrays of objects with key and value
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_TEXT = pa.large_string()


def json_lines(columns: pa.RecordBatch) -> pa.Buffer:
    """Rows as JSON lines in UTF-8: an object for each row, which has every column."""
    if not columns.num_rows:
        return pa.py_buffer(b"")
    pieces: list[pa.Array | pa.Scalar] = []
    for number, (name, column) in enumerate(
        zip(columns.schema.names, columns.columns, strict=True)
    ):
        pieces += [_scalar(("," if number else "{") + _name(name)), json_text(column)]
    lines = _joined([*pieces, _scalar("}\n" if pieces else "{}\n")], columns.num_rows)
    return _content(lines)


def _content(text: pa.Array) -> pa.Buffer:
    """All texts one after the other, of an array that was just made."""
    offsets = np.frombuffer(text.buffers()[1], np.int64)
    return text.buffers()[2].slice(0, int(offsets[len(text)]))


def nested_lines(text: pa.Array) -> pa.Buffer:
    """JSON text as JSON lines of an object with one key, ""; a null as null."""
    values = pc.fill_null(text.cast(_TEXT), "null")
    return _content(_joined([_scalar('{"":'), values, _scalar("}\n")], len(text)))


def json_text(column: pa.Array) -> pa.Array:
    """The JSON text of each value, as large_string without nulls; null is `null`."""
    kind = column.type
    for of_kind, write in _WRITERS:
        if of_kind(kind):
            return pc.fill_null(write(column), "null")
    return _by_row(column)


def plain(column: pa.Array) -> pa.Array:
    """A column without dictionaries, run ends and extension types at its top."""
    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        elif pa.types.is_run_end_encoded(column.type):
            column = pc.run_end_decode(column)
        else:
            return column


def is_nested(kind: pa.DataType) -> bool:
    """Whether it is one of lists, structs or maps."""
    return bool(pa.types.is_nested(kind)) and not pa.types.is_run_end_encoded(kind)


def base64_text(column: pa.Array) -> pa.Array:
    """The base64 text of each value."""
    values = column.to_pylist()
    return pa.array([v if v is None else base64.b64encode(v).decode() for v in values], _TEXT)


def iso_text(column: pa.Array) -> pa.Array:
    """Dates and times in ISO 8601; those with a time zone in UTC."""
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz:
        column = column.cast(pa.timestamp(kind.unit, "UTC"))
    return pc.replace_substring(column.cast(_TEXT), " ", "T")


def _name(name: str) -> str:
    return json.dumps(name, ensure_ascii=False) + ":"


def _scalar(text: str) -> pa.Scalar:
    return pa.scalar(text, _TEXT)


def _joined(pieces: list[pa.Array | pa.Scalar], rows: int) -> pa.Array:
    if not any(isinstance(piece, pa.Array) for piece in pieces):
        return pa.repeat(_scalar("".join(piece.as_py() for piece in pieces)), rows)
    return pc.binary_join_element_wise(*pieces, _scalar(""))


def _quoted(text: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(_scalar('"'), text, _scalar('"'), _scalar(""))


def _from_text(column: pa.Array) -> pa.Array:
    """Text, in which only the characters that do occur are looked for."""
    text = column.cast(_TEXT)
    offsets, content = (np.frombuffer(b or b"", t) for b, t in _buffers(text))
    used = np.zeros(256, bool)
    if len(text):
        used[content[offsets[text.offset] : offsets[text.offset + len(text)]]] = True
    for code in (0x5C, 0x22, *range(0x20)):  # the backslash first, which the others bring in
        if used[code]:
            escaped = json.dumps(chr(code))[1:-1]
            text = pc.replace_substring(text, chr(code), escaped)
    return _quoted(text)


def _buffers(text: pa.Array) -> list[tuple[pa.Buffer | None, type[np.generic]]]:
    _, offsets, content = text.buffers()
    return [(offsets, np.int64), (content, np.uint8)]


def _from_float(column: pa.Array) -> pa.Array:
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    text = column.cast(_TEXT)
    whole = pc.match_substring_regex(text, r"^-?[0-9]+$")  # a reader would take it for an integer
    text = pc.if_else(whole, pc.binary_join_element_wise(text, _scalar(".0"), _scalar("")), text)
    return pc.if_else(pc.is_finite(column), text, pa.scalar(None, _TEXT))


def _from_list(column: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    values = pa.LargeListArray.from_arrays(offsets, json_text(column.flatten()))
    inner = pc.binary_join(values, _scalar(","))
    arrays = pc.binary_join_element_wise(_scalar("["), inner, _scalar("]"), _scalar(""))
    return pc.if_else(column.is_valid(), arrays, pa.scalar(None, _TEXT))


def _from_struct(column: pa.Array) -> pa.Array:
    fields = column.flatten()
    pieces: list[pa.Array | pa.Scalar] = []
    for number, (field, values) in enumerate(zip(column.type, fields, strict=True)):
        pieces += [_scalar(("," if number else "{") + _name(field.name)), json_text(values)]
    objects = _joined([*pieces, _scalar("}" if pieces else "{}")], len(column))
    return pc.if_else(column.is_valid(), objects, pa.scalar(None, _TEXT))


def _from_map(column: pa.Array) -> pa.Array:
    kind = column.type
    entry = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
    return _from_list(column.cast(pa.list_(entry)))


def _by_row(column: pa.Array) -> pa.Array:
    """Whatever else Arrow has."""
    values = column.to_pylist()
    return pa.array([json.dumps(v, default=_as_text) for v in values], _TEXT)


def _as_text(value: object) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_binary(kind: pa.DataType) -> bool:
    """Whether it is one of the types of bytes."""
    tests = ("binary", "large_binary", "fixed_size_binary", "binary_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def is_encoded(kind: pa.DataType) -> bool:
    """Whether `plain` changes it."""
    return (
        isinstance(kind, pa.BaseExtensionType)
        or pa.types.is_dictionary(kind)
        or pa.types.is_run_end_encoded(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether it is one of the types of lists."""
    tests = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    return any(getattr(pa.types, f"is_{test}")(kind) for test in tests)


def _is_date_or_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind))


_WRITERS: list[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], pa.Array]]] = [
    (is_encoded, lambda column: json_text(plain(column))),
    (pa.types.is_null, lambda column: pa.nulls(len(column), _TEXT)),
    (_is_text, _from_text),
    (pa.types.is_boolean, lambda column: column.cast(_TEXT)),
    (pa.types.is_integer, lambda column: column.cast(_TEXT)),
    (pa.types.is_floating, _from_float),
    (pa.types.is_decimal, lambda column: _quoted(column.cast(_TEXT))),
    (pa.types.is_duration, lambda column: column.cast(pa.int64()).cast(_TEXT)),
    (_is_date_or_time, lambda column: _quoted(iso_text(column))),
    (is_binary, lambda column: _quoted(base64_text(column))),
    (is_list, _from_list),
    (pa.types.is_struct, _from_struct),
    (pa.types.is_map, _from_map),
]
