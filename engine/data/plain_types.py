"""Columns in plain types: as the tools write them, without dictionaries, views and run ends.

    dictionary, run-end encoded     the type of their values
    string_view, binary_view        large_string, large_binary
    list_view, large_list_view      list, large_list
    arrow.json and the like         text, where an extension type stores text

At any depth: lists, structs and maps have plain types within. pyarrow can neither filter nor take
views, and the dictionary of an IPC file is one for all batches but Parquet has one a row group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PART_OF_STRUCT = b"part"
"""Key of the metadata of a struct of which only some fields are needed."""

_Kinds = dict[Callable[[pa.DataType], bool], Callable[[pa.Field], pa.DataType]]
_LISTS: _Kinds = {
    pa.types.is_list: pa.list_,
    pa.types.is_large_list: pa.large_list,
    pa.types.is_list_view: pa.list_,
    pa.types.is_large_list_view: pa.large_list,
}


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type in which a column of that type is read."""
    if isinstance(kind, pa.BaseExtensionType):
        storage = plain_type(kind.storage_type)
        return storage if _is_text(storage) else kind
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    return _plain_nested(kind)


def _plain_nested(kind: pa.DataType) -> pa.DataType:
    if make := _list_maker(kind):
        return make(_plain_field(kind.value_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pa.types.is_map(kind):
        return pa.map_(
            _plain_field(kind.key_field), _plain_field(kind.item_field), kind.keys_sorted
        )
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(kind.field(i)) for i in range(kind.num_fields)])
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    """Without metadata, such as the categories of Polars."""
    return pa.field(field.name, plain_type(field.type), field.nullable)


def _list_maker(kind: pa.DataType) -> Callable[[pa.Field], pa.DataType] | None:
    return next((make for is_kind, make in _LISTS.items() if is_kind(kind)), None)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class Decoder:
    """Makes columns plain; a dictionary that many slices share is made plain once.

    Raises:
        pyarrow.ArrowException: From its methods, where a column is damaged: an index or a run end
            that is out of its range would read other memory.
    """

    def __init__(self) -> None:
        # The dictionaries are kept as well, so that no other one gets their address.
        self._dictionaries: dict[tuple[int, ...], tuple[pa.Array, pa.Array]] = {}

    def plain_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for i, field in enumerate(batch.schema):
            kind = plain_type(field.type)
            if kind != field.type:
                column = self.plain(batch.column(i))
                batch = batch.set_column(i, field.name, column)
        return batch

    def plain(self, column: pa.Array) -> pa.Array:
        """The column in its `plain_type`."""
        kind, wanted = column.type, plain_type(column.type)
        if kind == wanted:
            return column
        if isinstance(column, pa.ExtensionArray):
            return self.plain(column.storage)
        if pa.types.is_dictionary(kind):
            return self._dictionary(column.dictionary).take(_checked_indices(column))
        if pa.types.is_run_end_encoded(kind):
            return self.plain(column.values).take(_run_indices(column))
        if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
            column.view(pa.binary_view()).validate(full=True)  # of its offsets, not of UTF-8
            return column.cast(wanted)
        return self._plain_nested(column, wanted)

    def _plain_nested(self, column: pa.Array, wanted: pa.DataType) -> pa.Array:
        check_offsets(column)
        nulls = column.is_null()
        if pa.types.is_struct(wanted):
            fields = [self.plain(column.field(i)) for i in range(wanted.num_fields)]
            return pa.StructArray.from_arrays(fields, fields=list(wanted), mask=nulls)
        if pa.types.is_fixed_size_list(wanted):
            size = wanted.list_size
            values = column.values.slice(column.offset * size, len(column) * size)
            return pa.FixedSizeListArray.from_arrays(self.plain(values), type=wanted, mask=nulls)
        if pa.types.is_map(wanted):
            column = entries(column)
        values, offsets = column.flatten(), _offsets(column, wanted)
        if pa.types.is_map(wanted):
            keys, items = (self.plain(values.field(i)) for i in (0, 1))
            return pa.MapArray.from_arrays(offsets, keys, items, type=wanted, mask=nulls)
        large = pa.types.is_large_list(wanted)
        make: Any = pa.LargeListArray if large else pa.ListArray
        return make.from_arrays(offsets, self.plain(values), type=wanted, mask=nulls)

    def _dictionary(self, dictionary: pa.Array) -> pa.Array:
        address = (
            len(dictionary),
            dictionary.offset,
            *(b.address if b else 0 for b in dictionary.buffers()),
        )
        if address not in self._dictionaries:
            self._dictionaries = dict([*self._dictionaries.items()][-15:])
            self._dictionaries[address] = dictionary, self.plain(dictionary)
        return self._dictionaries[address][1]


def check_offsets(column: pa.Array) -> None:
    """Raise pyarrow.ArrowInvalid where a list's offsets are beyond its values; these are not looked
    at."""
    column.validate()
    kind = column.type
    if _list_maker(kind) or pa.types.is_map(kind):
        values = pa.nulls(len(column.items if pa.types.is_map(kind) else column.values))
        hollow = _HOLLOW.get(type(column), pa.list_(pa.null()))
        count = 3 if "view" in str(hollow) else 2
        pa.Array.from_buffers(
            hollow, len(column), column.buffers()[:count], offset=column.offset, children=[values]
        ).validate(full=True)


_HOLLOW = {
    pa.LargeListArray: pa.large_list(pa.null()),
    pa.ListViewArray: pa.list_view(pa.null()),
    pa.LargeListViewArray: pa.large_list_view(pa.null()),
}


def entries(column: pa.MapArray) -> pa.ListArray:
    """A column of maps as lists of keys and values, which pyarrow can flatten."""
    fields = [column.type.key_field, column.type.item_field]
    pairs = pa.StructArray.from_arrays([column.keys, column.items], fields=fields)
    return pa.ListArray.from_buffers(
        pa.list_(pairs.type),
        len(column),
        column.buffers()[:2],
        offset=column.offset,
        children=[pairs],
    )


def _offsets(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Of lists whose values are `column.flatten()`, where null lists have none."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    return pa.array(offsets, pa.int64() if pa.types.is_large_list(wanted) else pa.int32())


def _checked_indices(column: pa.DictionaryArray) -> pa.Array:
    """The indices of a dictionary column, none of which lies beyond the dictionary."""
    bounds = pc.min_max(column.indices).as_py()
    if bounds["max"] is not None and not 0 <= bounds["min"] <= bounds["max"] < len(
        column.dictionary
    ):
        raise pa.ArrowInvalid("an index is beyond its dictionary")
    return column.indices


def _run_indices(column: pa.RunEndEncodedArray) -> pa.Array:
    """The run of each row, int64 (rows,)."""
    ends = column.run_ends.to_numpy().astype(np.int64)
    rows = np.arange(column.offset, column.offset + len(column))
    ascending = bool((np.diff(ends, prepend=0) > 0).all())
    if not ascending or len(ends) != len(column.values) or (len(rows) and ends[-1] <= rows[-1]):
        raise pa.ArrowInvalid("the ends of runs are not those of its rows")
    return pa.array(np.searchsorted(ends, rows, side="right"))
