"""Tables to windows of rows, and their answers back to tables."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

import pyarrow as pa

from engine import data, tasks
from engine.answering import table_columns
from engine.answering.answered import Answered, answered, by_table
from engine.answering.in_flight import answer_windows
from engine.answering.stages import Stages
from engine.answering.table_columns import TableColumns
from engine.core.config import RunConfig
from engine.core.types import Answers, Column, Columns, CorpusFile, Rows
from engine.errors import ColumnError


def answer_tables(
    stages: Stages,
    tables: Iterable[tuple[str, object]],
    config: RunConfig,
    *,
    one_table: bool = False,
) -> Generator[Answered, None, None]:
    """The answers of one table after the other.

    Args:
        stages: Bound to the options.
        tables: What messages call each table, and the table.
        config: `text`, `keep`, `result_prefix` and `on_error`.
        one_table: There is one only.

    Raises:
        SettingsError: Now, where the settings do not fit the task; `pipeline.Bundle.answer` says
            what is raised at a table.
    """
    context = stages.context
    inputs = tasks.input_columns(stages.task, config.text, context.options)
    stages.task.check(context.model_config, context.options, len(inputs))
    reader = _Reader(stages, inputs, config)
    windows = answer_windows(stages, reader.windows(tables), one_table=one_table)
    return _of_tables(windows, reader, config.result_prefix)


def _of_tables(
    all_windows: Generator[Answers, None, None], reader: _Reader, prefix: str
) -> Generator[Answered, None, None]:
    with closing(all_windows) as windows:
        for of_table in by_table(windows):
            yield answered(of_table, reader.columns, prefix)


class _Reader:
    """Reads tables of the same columns.

    Attributes:
        columns: Those of the answers, settled by the first table.
    """

    def __init__(self, stages: Stages, inputs: tuple[Column, ...], config: RunConfig) -> None:
        self._stages, self._inputs, self._config = stages, inputs, config
        self._columns: TableColumns | None = None
        self._schema: pa.Schema
        self._latest: Columns

    @property
    def columns(self) -> TableColumns:
        assert self._columns, "no table was read"
        return self._columns

    def windows(self, tables: Iterable[tuple[str, object]]) -> Iterator[Rows]:
        """The windows of all tables, the last one of each marked."""
        rows_before = 0
        for name, value in tables:
            table = data.to_table(value, self._inputs[0].name, name)
            file = data.table_file(table, name)
            for rows in self._windows(file, self._taken(file, table.schema)):
                assert rows.numbers is not None
                # What is sampled for a row depends on its place among the rows of all tables.
                yield replace(rows, numbers=rows.numbers + rows_before)
            rows_before += table.num_rows

    def _taken(self, file: CorpusFile, schema: pa.Schema) -> Columns:
        """What is read of a table: the kept columns in the types that they have in the first."""
        if self._columns and schema.equals(self._schema):
            return self._latest
        settled = table_columns.settle(file, self._inputs, self._config, self._stages.schema)
        self._columns = first = self._columns or settled
        if more := {*settled.taken.kept.names} ^ {*first.taken.kept.names}:
            raise ColumnError(
                f"{file.path}: column {min(more)!r} is not in every table of the stream",
                "keep columns by name, and those that every table has",
            )
        self._schema = schema
        self._latest = replace(settled.taken, kept=first.taken.kept)
        return self._latest

    def _windows(self, file: CorpusFile, taken: Columns) -> Iterator[Rows]:
        stages = self._stages
        window = min(self._config.window, stages.task.window(stages.context.options))
        for rows in data.read(data.table_split(file), taken, window=window):
            prepared = stages.prepare(rows)
            bad = data.first_error(prepared)
            if bad and self._config.on_error == "fail":
                bad.hint = 'fix the row, or on_error="reject" sets bad rows aside and goes on'
                raise bad
            yield prepared
