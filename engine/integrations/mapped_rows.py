"""What the mappers of Ray Data and Spark have in common: every given row comes back, in its order.

    given table ─► Bundle.answer ─► kept columns, result columns, `reject`

A bad row has nulls as its results, and in `reject` the column at fault, a code and a message; that
column is null where the row was answered. Row text never gets into it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import engine
from engine.core.config import ON_ERROR
from engine.core.settings import as_texts, check_choice
from engine.core.types import Ints
from engine.errors import BundleError, ColumnError, SettingsError
from engine.tasks.keywords import TaskOptions

if TYPE_CHECKING:
    from engine import Answered

ALL = "all"
REJECT = pa.struct([("column", pa.string()), ("code", pa.string()), ("message", pa.string())])
"""Why a row was not answered; null where it was."""
_SIZES = ("batch_tokens", "dedupe", "max_length", "truncation_side")


class MapArguments(TaskOptions, total=False):
    """What a mapper takes: how it handles rows, sizes, and the options of the bundle's task."""

    text: str | Sequence[str]
    keep: str | Sequence[str]
    result_prefix: str
    on_error: str
    reject_column: str
    batch_tokens: int
    dedupe: bool
    max_length: int
    truncation_side: str


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """How a mapper handles rows.

    Attributes:
        text: Input columns in the order of the task; by default those that `engine tasks` names.
        keep: Columns that come back beside the results; "all" for every one.
        result_prefix: What the names of the result columns begin with.
        on_error: "reject" gives bad rows back with nulls and a reason, "fail" raises at the first.
        reject_column: The name of the column of reasons; with "fail" there is none.
        sizes: batch_tokens, dedupe, max_length and truncation_side, as `Bundle.answer` has them.
        options: The task's own.
    """

    text: tuple[str, ...] = ()
    keep: tuple[str, ...] = (ALL,)
    result_prefix: str = ""
    on_error: str = "reject"
    reject_column: str = "reject"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> MapSettings:
        """The settings among keyword arguments; what they do not name are options of the task.

        Raises:
            SettingsError: One is malformed; options are checked by `schema` and by the bundle.
        """
        own = {n: arguments[n] for n in ("result_prefix", "on_error", "reject_column")
               if n in arguments}  # fmt: skip
        columns = {n: as_texts(n, arguments[n]) for n in ("text", "keep") if n in arguments}
        sizes = {n: arguments[n] for n in _SIZES if n in arguments}
        known = {*own, *columns, *sizes}
        options = {n: value for n, value in arguments.items() if n not in known}
        settings = cls(**own, **columns, sizes=sizes, options=options)
        check_choice("on_error", settings.on_error, ON_ERROR)
        for name in ("result_prefix", "reject_column"):
            if not isinstance(value := getattr(settings, name), str):
                raise SettingsError(f"{name} is {value!r}", "a text, such as 'predicted_'")
        if settings.on_error == "reject" and not settings.reject_column:
            raise SettingsError(
                "reject_column is empty, and on_error is reject",
                "name the column that says why a row was not answered, or set on_error='fail'",
            )
        return settings

    @property
    def answering(self) -> dict[str, Any]:
        """The keyword arguments of `Bundle.answer` and `Bundle.stream`."""
        return {"text": self.text, "on_error": self.on_error, **self.sizes, **self.options}


def schema(bundle: Any, given: pa.Schema, settings: MapSettings) -> pa.Schema:
    """The schema of what `whole` returns for tables of a schema; no runtime is loaded.

    Raises:
        BundleError: It is not a bundle.
        SettingsError, ColumnError: An option or a column is unknown, or two have one name.
    """
    results = engine.schema(bundle, given, text=settings.text, **settings.options)
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
    if settings.on_error == "reject":
        columns.append(_reasons(answered.rejects, bad, len(table)))
    return pa.Table.from_arrays(columns, schema=wanted)


def _joined(kept: pa.Schema, results: pa.Schema, settings: MapSettings) -> pa.Schema:
    """The schema of kept columns, results and the column of reasons.

    Raises:
        ColumnError: Two have one name.
    """
    prefix = settings.result_prefix
    fields = [pa.field(prefix + result.name, result.type) for result in results]
    if settings.on_error == "reject":
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
    if settings.keep == (ALL,):
        return list(given.names)
    for name in settings.keep:
        if name not in given.names:
            raise ColumnError(
                f"keep names column {name!r}, which the given rows do not have",
                f"they have: {', '.join(given.names) or 'no columns'}",
            )
    return list(settings.keep)


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
    reasons = rejects.select(REJECT.names).cast(pa.schema(list(REJECT)))
    return reasons.to_struct_array().combine_chunks().take(_places(bad, count))


def check_there(path: Path | str, hint: str) -> None:
    """Refuse a bundle that this machine does not have, and say which machine it is.

    Raises:
        BundleError: There is nothing at this path.
    """
    if not Path(path).exists():
        raise BundleError(f"{path}: no such bundle on {socket.gethostname()}", hint)
