"""Input columns of a task from a list of Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from engine.core.types import Column
from engine.errors import InputError
from engine.tasks import Task


def to_columns(items: Sequence[object], task: Task, *, chats: bool = False) -> tuple[pa.Array, ...]:
    """The task's input columns from a list of items.

    Args:
        items: Each what the first column holds or, where the task takes several columns, a tuple
            or a dict of them; all items alike.
        chats: Items may be lists of messages; a text is one message of the user.

    Raises:
        InputError: An item is not what the task takes; its number is named.
    """
    if isinstance(items, (str, Mapping)):
        raise InputError("one item was given, not a list of them", "put it in a list")
    if chats:
        return (_chats(items),)
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


def _chats(items: Sequence[object]) -> pa.Array:
    listed = [[{"role": "user", "content": i}] if isinstance(i, str) else i for i in items]
    for i, chat in enumerate(listed):
        if not _is_chat(chat):
            raise InputError(
                f"item {i} of the list is neither a text nor a list of messages, each a dict of "
                "texts with role and content",
                'give chats as [{"role": "user", "content": "..."}], one or more in a list',
            )
    return _array(listed, None if items else pa.string())


def _is_chat(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(message, Mapping)
        and {"role", "content"} <= message.keys()
        and all(isinstance(text, str | None) for text in message.values())
        for message in value
    )


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
    if column.holds == "key":
        return _keys(values, column)
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
    return _array(values, pa.list_(pa.string()) if as_lists else pa.string())


def _keys(values: list[object], column: Column) -> pa.Array:
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise InputError(
                f"item {i} of the list has {type(value).__name__} as {column.name}",
                "give a text or a whole number",
            )
    return _array([str(value) for value in values], pa.string())


def _array(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError as error:
        raise InputError("a text holds half a surrogate pair", "give valid Unicode") from error


def _is_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value)
