"""Tables to windows of rows, and their answers back to tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from engine import data, tasks
from engine.answering import table_columns
from engine.answering.answered import Answered, answered, by_table
from engine.answering.in_flight import answer_windows
from engine.answering.stages import Stages
from engine.answering.table_columns import TableColumns
from engine.core.config import RunConfig
from engine.core.types import Column, CorpusFile, Rows


def answer_tables(
    stages: Stages, tables: Iterable[object], config: RunConfig
) -> Iterator[Answered]:
    """The answers of one table after the other; `pipeline.Bundle.answer` says what is raised, at
    the first table what is wrong with one, and here what is wrong with settings."""
    context = stages.context
    inputs = tasks.input_columns(stages.task, config.text, context.options)
    stages.task.check(context.model_config, context.options, len(inputs))
    reader = _Reader(stages, inputs, config)
    windows = by_table(answer_windows(stages, reader.windows(tables)))
    return (answered(of_table, reader.columns) for of_table in windows)


class _Reader:
    """Reads tables of the same columns.

    Attributes:
        columns: Those of the answers, settled by the first table.
    """

    def __init__(self, stages: Stages, inputs: tuple[Column, ...], config: RunConfig) -> None:
        self._stages, self._inputs, self._config = stages, inputs, config
        self._columns: TableColumns | None = None

    @property
    def columns(self) -> TableColumns:
        assert self._columns, "no table was read"
        return self._columns

    def windows(self, tables: Iterable[object]) -> Iterator[Rows]:
        rows_before = 0
        for table in tables:
            arrow = data.to_table(table, self._inputs[0].name)
            file = data.table_file(arrow, "the table")
            for rows in self._windows(file):
                assert rows.numbers is not None
                # What is sampled for a row depends on its place among the rows of all tables.
                yield replace(rows, numbers=rows.numbers + rows_before)
            rows_before += arrow.num_rows

    def _windows(self, file: CorpusFile) -> Iterator[Rows]:
        stages, config = self._stages, self._config
        self._columns = table_columns.settle(file, self._inputs, config, stages.schema)
        window = min(config.window, stages.task.window(stages.context.options))
        for rows in data.read(data.table_split(file), self.columns.taken, window=window):
            prepared = stages.prepare(rows)
            bad = data.first_error(prepared)
            if bad and config.on_error == "fail":
                bad.hint = 'fix the row, or on_error="reject" sets bad rows aside and goes on'
                raise bad
            yield prepared
