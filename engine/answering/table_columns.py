"""What is taken of a table in memory, and the columns of its answers: settled as those of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Unpack

import pyarrow as pa

from engine import data, tasks
from engine.bundle import format as bundle_format
from engine.core.activity import without_event
from engine.core.config import RunConfig
from engine.core.keywords import TableArguments, TableSettings
from engine.core.settings import check_names
from engine.core.types import Column, Columns, CorpusFile
from engine.data.origins import FILE
from engine.errors import ColumnError, InputError


class Loaded(Protocol):
    """A loaded bundle."""

    @property
    def folder(self) -> bundle_format.BundleFolder: ...


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table that is answered.

    Attributes:
        taken: What is read of it.
        results: Names and types of the result columns.
    """

    taken: Columns
    results: pa.Schema

    @property
    def answers(self) -> pa.Schema:
        """The kept columns, then the results."""
        return pa.schema([*self.taken.kept, *self.results])


def settle(
    file: CorpusFile, inputs: Sequence[Column], config: RunConfig, results: pa.Schema
) -> TableColumns:
    """The columns of one table.

    Args:
        file: As `data.table_file` makes it.
        inputs: The columns that the task takes.
        config: Of which `keep`, `result_prefix` and `max_row_bytes` matter.
        results: The result columns as the task calls them.

    Raises:
        ColumnError: A column is missing, of another type than the task takes, or called as a
            result column.
    """
    taken = data.settle([file], inputs, config.keep)
    if FILE in taken.derived:
        raise ColumnError(
            f"{file.path}: no column {FILE!r}, which only rows of files have",
            f"leave {FILE!r} out of keep; {'_row'!r} is the place of a row in its table",
        )
    taken = replace(taken, max_row_bytes=config.max_row_bytes)
    return TableColumns(taken, named_results(taken.kept, results, config.result_prefix))


def named_results(kept: pa.Schema, results: pa.Schema, prefix: str) -> pa.Schema:
    """The result columns under their names in the output.

    Raises:
        ColumnError: A kept column has the name of a result column.
    """
    results = pa.schema([field.with_name(prefix + field.name) for field in results])
    if both := sorted(set(kept.names) & set(results.names)):
        raise ColumnError(
            f"kept column {both[0]!r} is also the name of a result column",
            f"give the result columns other names, such as --result-prefix predicted_, or leave "
            f"{both[0]!r} out of --keep",
        )
    return results


def schema(
    bundle: Loaded | Path | str, input_schema: object, **settings: Unpack[TableArguments]
) -> pa.Schema:
    """Names and types of the columns that `Bundle.answer` gives, without loading a model.

    Args:
        bundle: A bundle's folder, or a loaded bundle.
        input_schema: Of the table: a pyarrow.Schema or what has the Arrow PyCapsule interface of
            one, or a table itself.
        settings: As for `Bundle.answer`; `text`, `keep`, `result_prefix` and the task's own matter.

    Raises:
        SettingsError, ColumnError: As `Bundle.answer`.
        InputError: `input_schema` is none.
        BundleError: Not a bundle.
    """
    folder = bundle_format.load(bundle) if isinstance(bundle, (str, Path)) else bundle.folder
    task, model_config = tasks.of_bundle(folder), folder.description.model_config
    config, options = divided(settings, task.defaults(model_config))
    settled = tasks.resolve_options(task, model_config, options)
    inputs = tasks.input_columns(task, config.text, settled)
    task.check(model_config, settled, len(inputs))
    table = _as_schema(input_schema, inputs[0].name).empty_table()
    file = data.table_file(table, "the table")
    return settle(file, inputs, config, task.schema(model_config, settled)).answers


def divided(
    settings: Mapping[str, Any], options: Iterable[str]
) -> tuple[RunConfig, dict[str, object]]:
    """The settings of a table, checked, and the options of the task, of which these are the names;
    an event that stops is neither.

    Raises:
        SettingsError: A name is unknown, or a setting out of range.
    """
    _, rest = without_event(settings)
    own = TableSettings.__annotations__
    check_names("setting", rest, {*own, *options})
    given = {name: value for name, value in rest.items() if name in own}
    config = RunConfig.of({"on_error": "reject", **given})
    return config, {name: value for name, value in rest.items() if name not in own}


def _as_schema(value: object, column: str) -> pa.Schema:
    if isinstance(value, pa.Schema):
        return value
    if hasattr(value, "__arrow_c_schema__") and not hasattr(value, "__arrow_c_array__"):
        try:
            return pa.schema(value)
        except pa.ArrowException as error:
            raise InputError(
                f"{type(value).__name__} is no schema of a table", "give a pyarrow.Schema"
            ) from error
    return data.to_table(value, column, "the schema").schema
