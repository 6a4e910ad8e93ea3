"""Rows that are shown as examples: the least sure, the longest, wrong ones and bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.pages.blocks import Section, Table
from engine.printable import cut
from engine.runner import results
from engine.summary.answers import Answers, Batch
from engine.summary.looks import Floats, Look
from engine.summary.truths import WRONG

LONGEST = 400
"""Characters of a cell."""
_SHOWN = (("word", "entity_group", "score"), ("word", "entity", "score"), ("token_str", "score"))


@dataclass
class Extremes:
    """The rows with the largest values of all so far; of equal ones the first.

    Args:
        count: How many.
        head: What the value is, in words; "" where a column of the row has it.
    """

    count: int
    head: str = ""
    values: Floats = field(default_factory=lambda: np.zeros(0))
    places: list[tuple[int, int]] = field(default_factory=list)
    table: pa.Table | None = None

    def add(self, values: Floats, batch: Batch, table: pa.Table) -> None:
        """Look at rows; a NaN is never kept.

        Args:
            values: float64 (rows,).
            batch: That has them.
            table: What is shown of rows.
        """
        least = self.values[-1] if len(self.values) == self.count else -np.inf
        index = np.flatnonzero(values > least)
        index = index[np.argsort(-values[index], kind="stable")][: self.count]
        if not len(index):
            return
        own = table.take(pa.array(index))
        tables = [own] if self.table is None else [self.table, own]
        values = np.concatenate([self.values, values[index]])
        places = self.places + [(batch.entry, at) for at in batch.places[index].tolist()]
        order = np.argsort(-values, kind="stable")[: self.count]
        self.values, self.places = values[order], [places[i] for i in order.tolist()]
        self.table = pa.concat_tables(tables).take(pa.array(order)).combine_chunks()

    def shown(self, answers: Answers, sign: int) -> Table | None:
        """The rows; `sign` is that of the values as they are shown."""
        if self.table is None:
            return None
        columns = [[_text(value) for value in column.to_pylist()] for column in self.table.columns]
        names = answers.row_names(self.places)
        if self.head:
            columns = [(sign * self.values).tolist(), *columns]
        head = ("row", *([self.head] if self.head else []), *self.table.column_names)
        return Table(rows=list(zip(names, *columns, strict=True)), head=head)


class Examples:
    """Rows of a run that are shown.

    Args:
        count: Of each kind at most.
    """

    def __init__(self, count: int) -> None:
        self._least, self._wrong, self._longest = (Extremes(count) for _ in range(3))
        self._count = count

    def add(self, batch: Batch, look: Look, verdicts: NDArray[np.int64] | None) -> None:
        """Look at answered rows."""
        names = [*batch.kept.column_names, *batch.results.column_names]
        table = pa.table([*batch.kept.columns, *batch.results.columns], names=_different(names))
        self._least.head = self._wrong.head = (
            "" if "score" in batch.results.column_names else "score"
        )
        self._least.add(-look.sureness, batch, table)
        if look.size is not None:
            self._longest.head = look.longest
            self._longest.add(look.size, batch, table)
        if verdicts is not None:
            score = np.where(verdicts == WRONG, np.nan_to_num(look.sureness), np.nan)
            self._wrong.add(score, batch, table)

    def sections(self, answers: Answers) -> list[Section]:
        """Tables of the rows, and of bad ones."""
        shown = {
            "Least sure": self._least.shown(answers, -1),
            "Wrong and most sure": self._wrong.shown(answers, 1),
            "Longest": self._longest.shown(answers, 1),
            "Rejected": self._rejected(answers),
        }
        return [Section(f"Examples: {n.lower()}", [t]) for n, t in shown.items() if t]

    def _rejected(self, answers: Answers) -> Table | None:
        rows = list(islice(results.rejects_of(answers.manifest), self._count))
        head = ("row", "code", "message", "text")
        has_text = any("text" in row for row in rows)
        cells = [
            (f"{Path(row['file']).name}, row {row['row']:,}", row["code"], row["message"],
             *([_text(row.get("text"))] if has_text else []))
            for row in rows
        ]  # fmt: skip
        return Table(rows=cells, head=head[: 3 + has_text]) if rows else None


def _different(names: Sequence[str]) -> list[str]:
    """Names of columns, apart where a kept and a result column have the same."""
    return [n if n not in names[:i] else f"{n} of the answer" for i, n in enumerate(names)]


def _text(value: object) -> object:
    return value if isinstance(value, (int, float, type(None))) else cut(_plain(value), LONGEST)


def _plain(value: object) -> str:
    """A value of a row in words, lists and structs, too."""
    if isinstance(value, list):
        return ", ".join(map(_plain, value[:LONGEST]))
    if isinstance(value, dict):
        shown = next((names for names in _SHOWN if set(names) <= value.keys()), value)
        return " ".join(_plain(value[name]) for name in shown)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
