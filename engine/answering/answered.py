"""What comes of a table: the answers, and the rows that have none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from engine import data
from engine.answering.table_columns import TableColumns
from engine.core.types import Answers

REJECTS = pa.schema(
    [data.REJECTS_SCHEMA.field(name) for name in ("row", "column", "code", "message")]
)
"""Of the columns in which a run records bad rows those that a table's have."""


@dataclass(frozen=True)
class Answered:
    """A table's answers.

    Attributes:
        table: The kept columns, then the result columns, one row for each row that could be
            answered, in order.
        rejects: The other rows: `row`, its place in the table (int64, from 0), `column`, the column
            at fault or null, `code` and `message`, why, as a run records it.
    """

    table: pa.Table
    rejects: pa.Table


def answered(windows: Iterable[Answers], columns: TableColumns, prefix: str) -> Answered:
    """All windows of a table as one; `prefix` is that of the names of results."""
    answers, rejects = [], []
    for window in windows:
        answers.append(kept_and_results(window, prefix))
        bad = window.rows.rejects
        if len(bad.rows):
            rejects.append(data.rejects_columns(bad).select(REJECTS.names))
    return Answered(
        pa.Table.from_batches(answers, columns.answers), pa.Table.from_batches(rejects, REJECTS)
    )


def kept_and_results(window: Answers, prefix: str) -> pa.RecordBatch:
    """The kept input columns of a window, then its results with a prefix before their names."""
    results = [field.with_name(prefix + field.name) for field in window.columns.schema]
    kept = window.rows.kept
    if kept is None or not kept.num_columns:
        return pa.RecordBatch.from_arrays(window.columns.columns, schema=pa.schema(results))
    columns = [*kept.columns, *window.columns.columns]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([*kept.schema, *results]))


def by_table(windows: Iterator[Answers]) -> Iterator[list[Answers]]:
    """The windows of one table after the other."""
    collected: list[Answers] = []
    for window in windows:
        collected.append(window)
        if window.rows.last:
            yield collected
            collected = []
