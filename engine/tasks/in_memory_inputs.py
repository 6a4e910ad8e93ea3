"""Input columns of a task from a list of Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from engine.core.types import Column
from engine.errors import InputError
from engine.tasks import Task


def to_columns(items: Sequence[object], task: Task) -> tuple[pa.Array, ...]:
    """The task's input columns from a list of items.

    Args:
        items: Each what the first column holds or, where the task takes several columns, a tuple
            or a dict of them; all items alike.

    Raises:
        InputError: An item is not what the task takes; its number is named.
    """
    if isinstance(items, (str, Mapping)):
        raise InputError("one item was given, not a list of them", "put it in a list")
    rows = [_cells(i, item, task) for i, item in enumerate(items)]
    width = len(rows[0]) if rows else len(task.required)
    for i, row in enumerate(rows):
        if len(row) != width:
            raise InputError(
                f"item {i} of the list has {len(row)} values and the first has {width}",
                "give every item the same columns",
            )
    columns = [[row[c] for row in rows] for c in range(width)]
    return tuple(_column(values, task.inputs[c]) for c, values in enumerate(columns))


def _cells(i: int, item: object, task: Task) -> tuple[object, ...]:
    if isinstance(item, Mapping):
        names = [c.name for c in task.inputs if c.needed or c.name in item]
        if set(names) != set(item):
            raise InputError(
                f"item {i} of the list has the keys {', '.join(map(str, item))}",
                f"{task.name} takes {', '.join(c.name for c in task.inputs)}",
            )
        return tuple(item[name] for name in names)
    several = len(task.inputs) > 1
    row = tuple(item) if several and isinstance(item, (tuple, list)) else (item,)
    if not len(task.required) <= len(row) <= len(task.inputs):
        takes = ", ".join(c.name for c in task.inputs)
        raise InputError(
            f"item {i} of the list has {len(row)} values", f"{task.name} takes {takes}"
        )
    return row


def _column(values: list[object], column: Column) -> pa.Array:
    as_lists = column.holds == "texts" or (
        column.holds == "either" and bool(values) and not isinstance(values[0], str)
    )
    for i, value in enumerate(values):
        if not (_is_texts(value) if as_lists else isinstance(value, str)):
            wanted = "a list of texts" if as_lists else "text"
            raise InputError(
                f"item {i} of the list holds {type(value).__name__}, not {wanted}",
                f"give {wanted} as {column.name}",
            )
    try:
        return pa.array(values, pa.list_(pa.string()) if as_lists else pa.string())
    except UnicodeEncodeError as error:
        raise InputError("a text holds half a surrogate pair", "give valid Unicode") from error


def _is_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
