"""What the mappers of Ray Data and Spark have in common: every given row comes back, in its order.

    given table ─► Bundle.answer ─► kept columns, result columns, `reject`

A bad row has nulls as its results, and in `reject` the column at fault, a code and a message; that
column is null where the row was answered. Row text never gets into it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import engine
from engine.answering.answered import REJECTS
from engine.core.config import RunConfig
from engine.core.keywords import TableArguments, TableSettings
from engine.core.types import Ints
from engine.errors import BundleError, ColumnError, SettingsError

if TYPE_CHECKING:
    from engine import Answered

ALL = "all"
REJECT = pa.struct([field for field in REJECTS if field.name != "row"])
"""Why a row was not answered; null where it was."""
_SIZES = ("batch_tokens", "dedupe", "max_length", "truncation_side")


class MapArguments(TableArguments, total=False):
    """What a mapper takes: the settings of `Bundle.answer`, and the name of the reasons' column."""

    reject_column: str


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """How a mapper handles rows.

    Attributes:
        config: The settings of `Bundle.answer`. Of the given columns all are kept by default;
            `on_error` is "reject", which gives bad rows back with nulls and a reason, or "fail",
            which raises at the first.
        reject_column: The name of the column of reasons; with "fail" there is none.
        options: The task's own.
    """

    config: RunConfig
    reject_column: str = "reject"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> MapSettings:
        """The settings among keyword arguments; what they do not name are options of the task.

        Raises:
            SettingsError: One is malformed; options are checked by `schema` and by the bundle.
        """
        given = {n: v for n, v in arguments.items() if n in TableSettings.__annotations__}
        config = RunConfig.of({"keep": ALL, "on_error": "reject", **given})
        column = arguments.get("reject_column", "reject")
        if not isinstance(column, str) or not column:
            raise SettingsError(
                f"reject_column is {column!r}",
                "a name for the column that says why a row was not answered",
            )
        known = {*given, "reject_column"}
        options = {name: value for name, value in arguments.items() if name not in known}
        return cls(config=config, reject_column=column, options=options)

    @property
    def rejects(self) -> bool:
        """Whether bad rows are given back."""
        return self.config.on_error == "reject"

    @property
    def answering(self) -> dict[str, Any]:
        """The keyword arguments of `Bundle.answer` and `Bundle.stream`."""
        own = {name: getattr(self.config, name) for name in ("text", "on_error", *_SIZES)}
        return {**own, **self.options}


def schema(bundle: Any, given: pa.Schema, settings: MapSettings) -> pa.Schema:
    """The schema of what `whole` returns for tables of a schema; no runtime is loaded.

    Raises:
        BundleError: It is not a bundle.
        SettingsError, ColumnError: An option or a column is unknown, or two have one name.
    """
    results = engine.schema(bundle, given, text=settings.config.text, **settings.options)
    kept = pa.schema([given.field(name) for name in _kept(given, settings)])
    return _joined(kept, results, settings)


def whole(table: pa.Table, answered: Answered, settings: MapSettings) -> pa.Table:
    """A given table's kept columns, its results and why rows were not answered: a row for each
    given row, in order.

    Args:
        table: What was given.
        answered: The answers to it, without kept columns.
        settings: Of the mapper.

    Raises:
        ColumnError: A column to be kept is missing, or two have one name.
    """
    kept = table.select(_kept(table.schema, settings))
    wanted = _joined(kept.schema, answered.table.schema, settings)
    results, bad = answered.table, np.asarray(answered.rejects.column("row"), np.int64)
    if len(bad):
        results = results.take(_places(np.setdiff1d(np.arange(len(table)), bad), len(table)))
    columns = [*kept.columns, *results.columns]
    if settings.rejects:
        columns.append(_reasons(answered.rejects, bad, len(table)))
    return pa.Table.from_arrays(columns, schema=wanted)


def _joined(kept: pa.Schema, results: pa.Schema, settings: MapSettings) -> pa.Schema:
    """The schema of kept columns, results and the column of reasons.

    Raises:
        ColumnError: Two have one name.
    """
    prefix = settings.config.result_prefix
    fields = [pa.field(prefix + result.name, result.type) for result in results]
    if settings.rejects:
        fields.append(pa.field(settings.reject_column, REJECT))
    if both := sorted({f.name for f in fields} & set(kept.names)):
        raise ColumnError(
            f"the given rows have a column {both[0]!r}, which is also one of the results",
            f"give result_prefix='predicted_' or another reject_column, or leave {both[0]!r} out "
            "of keep",
        )
    return pa.schema([*kept, *fields])


def _kept(given: pa.Schema, settings: MapSettings) -> list[str]:
    """The names of the given columns that come back, in the order asked for."""
    keep = settings.config.keep
    if keep == (ALL,):
        return list(given.names)
    for name in keep:
        if name not in given.names:
            raise ColumnError(
                f"keep names column {name!r}, which the given rows do not have",
                f"they have: {', '.join(given.names) or 'no columns'}",
            )
    return list(keep)


def _places(rows: Ints, count: int) -> pa.Array:
    """For each of `count` rows which of some values is its own: that of the number at which `rows`
    has it, or null."""
    places, missing = np.zeros(count, np.int64), np.ones(count, bool)
    places[rows], missing[rows] = np.arange(len(rows)), False
    return pa.array(places, mask=missing)


def _reasons(rejects: pa.Table, bad: Ints, count: int) -> pa.Array:
    """A value of `REJECT` for each of `count` rows."""
    if not len(bad):
        return pa.nulls(count, REJECT)
    reasons = rejects.select(REJECT.names)
    return reasons.to_struct_array().combine_chunks().take(_places(bad, count))


def check_there(path: Path | str, hint: str) -> None:
    """Refuse a bundle that this machine does not have, and say which machine it is.

    Raises:
        BundleError: There is nothing at this path.
    """
    if not Path(path).exists():
        raise BundleError(f"{path}: no such bundle on {socket.gethostname()}", hint)
