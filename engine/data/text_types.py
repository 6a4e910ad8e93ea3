"""The types in which pyarrow reads columns of JSON lines and CSV, and the way back to their own."""

from __future__ import annotations

import base64

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.data import json_text


def read_back(kind: pa.DataType, format: str) -> pa.DataType:
    """The type in which pyarrow reads a column of a text format: its own, or else text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if format == "jsonl" and pa.types.is_map(kind):
        kind = _entries(kind)
    if any(of(kind) for of in _OWN):
        return kind
    if format == "jsonl" and json_text.is_list(kind):
        return pa.list_(read_back(kind.value_type, format))
    if format == "jsonl" and pa.types.is_struct(kind):
        return pa.struct([(f.name, read_back(f.type, format)) for f in kind])
    if pa.types.is_duration(kind):
        return pa.int64()
    return pa.float32() if pa.types.is_float16(kind) else pa.string()


_OWN = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_timestamp,
    pa.types.is_string,
    pa.types.is_large_string,
)


def _entries(kind: pa.DataType) -> pa.DataType:
    """The lists as which a map is written."""
    return pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))


def restored(column: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    """A column that was read back, in its own type.

    Raises:
        pyarrow.ArrowException: A value is none of that type, or the type is not read back.
    """
    if column.type == kind:
        return column
    if pa.types.is_string(column.type) and json_text.is_nested(kind):
        column = _from_json(column, read_back(kind, "jsonl"))
    if json_text.is_list(kind):
        offsets, values = _offsets(column), restored(column.flatten(), kind.value_type, name)
        lists = pa.LargeListArray.from_arrays(offsets, values, mask=column.is_null())
        return lists.cast(kind)
    if pa.types.is_map(kind):
        return _restored_map(restored(column, _entries(kind), name), kind)
    if pa.types.is_struct(kind) and kind.num_fields:
        fields = zip(column.flatten(), kind, strict=True)
        inner = [restored(values, field.type, name) for values, field in fields]
        return pa.StructArray.from_arrays(inner, fields=list(kind), mask=column.is_null())
    return _restored_value(column, kind, name)


def _restored_value(column: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    if pa.types.is_null(kind):
        return pa.nulls(len(column))
    if json_text.is_binary(kind):
        values = [v if v is None else base64.b64decode(v) for v in column.to_pylist()]
        return pa.array(values, kind)
    if pa.types.is_time(kind):
        moments = pc.binary_join_element_wise("1970-01-01 ", column, "")
        ticks = moments.cast(pa.timestamp(kind.unit)).cast(pa.int64())
        return ticks.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(kind)
    try:
        return column.cast(kind)
    except pa.ArrowNotImplementedError as error:
        raise pa.ArrowInvalid(f"column {name!r} of type {kind} is not read back") from error


def _offsets(column: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))))


def _restored_map(entries: pa.Array, kind: pa.DataType) -> pa.Array:
    missing = np.append(entries.is_null().to_numpy(zero_copy_only=False), False)
    offsets = pa.array(_offsets(entries).to_numpy().astype(np.int32), mask=missing)
    keys, items = entries.flatten().flatten()
    return pa.MapArray.from_arrays(offsets, keys, items).cast(kind)


def _from_json(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Nested values of JSON text."""
    import pyarrow.json as pj

    if not len(column):
        return pa.array([], kind)
    lines = json_text.nested_lines(column)
    table = pj.read_json(
        pa.BufferReader(lines),
        read_options=pj.ReadOptions(use_threads=False, block_size=lines.size + 1),
        parse_options=pj.ParseOptions(explicit_schema=pa.schema({"": kind})),
    )
    return table.column(0).combine_chunks()
