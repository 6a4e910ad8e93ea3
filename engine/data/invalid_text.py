"""Texts that are not valid UTF-8, wherever in a row they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.data.plain_types import check_offsets, entries


def find_invalid(column: pa.Array) -> NDArray[np.bool_]:
    """Which rows of a column in a plain type have a text that is not valid UTF-8.

    Raises:
        pyarrow.ArrowInvalid: The column is damaged in another way, which is no single row's fault.
    """
    try:
        column.validate(full=True)
    except pa.ArrowException:
        return _invalid_rows(column)
    return np.zeros(len(column), bool)


def _invalid_rows(column: pa.Array) -> NDArray[np.bool_]:
    kind, invalid = column.type, np.zeros(len(column), bool)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _invalid_texts(column)
    check_offsets(column)
    if pa.types.is_struct(kind):
        for field in column.flatten():
            invalid |= find_invalid(field)
        return invalid
    if not pa.types.is_nested(kind):
        column.validate(full=True)  # raises what is wrong
    lists = entries(column) if pa.types.is_map(kind) else column
    inner = find_invalid(lists.flatten())
    invalid[pc.list_parent_indices(lists).to_numpy()[inner]] = True
    return invalid


def _invalid_texts(column: pa.Array) -> NDArray[np.bool_]:
    values = column.view(pa.large_binary() if "large" in str(column.type) else pa.binary())
    values.validate(full=True)  # the offsets
    return np.array([not _is_utf8(v) for v in values.to_pylist()], bool)


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False
