"""The answers of a run, finished or not, as columns under the names that tasks give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine import data
from engine.core.suggestions import did_you_mean
from engine.errors import ColumnError
from engine.measures.rankings import is_list
from engine.runner import results
from engine.runner.manifest import Manifest
from engine.runner.records import Entry

TEXTS = ("translation_text", "summary_text", "generated_text")
KINDS: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {
    "embeddings": (("embedding",), (), ("scale", "start", "end")),
    "entities": (("entities",), (), ()),
    "tokens": (("candidates",), (), ()),
    "spans": (("answer", "answers"), (), ("score", "start", "end", "scores", "starts", "ends")),
    "labels": (("label", "labels"), (), ("score", "scores")),
    "texts": (TEXTS, ("output_tokens", "finish_reason"), ("score", "token_logprobs",
                                                          "prompt_tokens")),
    "documents": (("score",), ("scores", "order"), ()),
}  # fmt: skip
"""Kinds of answers: names of the first of the result columns, of others that are always there, and
of those that may be."""


@dataclass(frozen=True)
class Batch:
    """Rows of a part.

    Attributes:
        entry: The place of its record among `Answers.entries`.
        results: The result columns, under the names that the task gives them.
        kept: Columns of the input.
        places: Of the rows in the part, int64 (rows,).
    """

    entry: int
    results: pa.Table
    kept: pa.Table
    places: NDArray[np.int64]

    def filtered(self, chosen: pa.ChunkedArray) -> Batch:
        """The rows that a mask, bool (rows,), has."""
        places = self.places[chosen.to_numpy()]
        # A table without columns has no rows to be chosen of.
        kept = self.kept.filter(chosen) if self.kept.num_columns else self.kept
        return Batch(self.entry, self.results.filter(chosen), kept, places)


@dataclass(frozen=True)
class Answers:
    """The parts of a run that are there.

    Attributes:
        path: Of the run, as it may be shown.
        manifest: Its records.
        entries: Of the parts, in input order.
        inputs: The columns that the task read, as in `RunRecord`; () where that is not recorded.
        kind: One of `KINDS`; "" where no part is there.
        results: The result columns: the name that the task gives -> the type.
        kept: The other columns.
        prefix: What is put before the names of result columns.
        is_finished: Whether the run has all parts.
    """

    path: str
    manifest: Manifest
    entries: Sequence[Entry]
    inputs: Sequence[Mapping[str, Any]]
    kind: str
    results: Mapping[str, pa.DataType]
    kept: Mapping[str, pa.DataType]
    prefix: str
    is_finished: bool

    @property
    def main(self) -> str:
        """The result column whose null is the lack of an answer."""
        return next(iter(self.results))

    @property
    def rows(self) -> int:
        return sum(entry.counts["rows_out"] for entry in self.entries)

    def batches(self, kept: Sequence[str] = ()) -> Iterator[Batch]:
        """All rows in order, with these of the kept columns.

        Raises:
            InputError: A part is damaged.
        """
        names = [self.prefix + name for name in self.results]
        for number, entry in enumerate(self.entries):
            start = 0
            for batch in results.columns(self.manifest, entry, [*names, *kept]):
                arrays = [_plain(column) for column in batch.columns]
                yield Batch(
                    number,
                    pa.table(arrays[: len(names)], names=list(self.results)),
                    pa.table(arrays[len(names) :], names=list(kept)),
                    np.arange(start, start + batch.num_rows),
                )
                start += batch.num_rows

    def check(self, name: str, flag: str) -> None:
        """Raise ColumnError where no kept column has a name that was given for an option."""
        if self.kind and name not in self.kept:
            near = did_you_mean(name, self.kept)
            listed = ", ".join(list(self.kept)[:30])
            hint = f"{near}{flag} one of: {listed}" if listed else "run again with --keep all"
            raise ColumnError(f"{self.path}: no kept column {name!r}", hint)

    def row_names(self, places: Sequence[tuple[int, int]]) -> list[str]:
        """The input file and the row number in it (from 0, as in the bad rows) of rows.

        Args:
            places: Of each the place of its record, and its own in the part.
        """
        numbers = {entry: self._numbers(self.entries[entry]) for entry, _ in places}
        return [
            f"{Path(self.entries[entry].input.path).name}, row {numbers[entry][at]:,}"
            for entry, at in places
        ]

    def _numbers(self, entry: Entry) -> Any:
        first = entry.input.first_row
        numbers = np.arange(first, first + entry.counts["rows_in"])
        if entry.rejects is None:
            return numbers
        path = self.manifest.path(entry.rejects.file)
        bad = np.fromiter((row["row"] for row in data.read_rejects(path)), np.int64)
        return numbers[~np.isin(numbers, bad)]


def open_answers(out: Path | str) -> Answers:
    """The answers of a run.

    Args:
        out: Its folder, its file or its URL.

    Raises:
        OutputError: No run is there, or the record of a part is missing.
        InputError: A part is damaged.
        ColumnError: Its columns are of no task.
    """
    manifest = results.manifest_of(out)
    run = manifest.read_run() or {}
    is_finished = manifest.answered() is not None
    entries = results.answered(manifest) if is_finished else [
        entry for entry in manifest.entries() if entry.fingerprint == run.get("fingerprint")
    ]  # fmt: skip
    prefix = str(run.get("settings", {}).get("result_prefix") or "")
    kind, answers, kept = "", {}, {}
    if entries:
        first = entries[0]
        schema = data.schema_of(manifest.path(first.part.file), first.table_schema)
        types = dict(zip(schema.names, schema.types, strict=True))
        kind, count = _kind_of(schema.names, prefix, data.shown(str(out)))
        columns = list(types.items())
        kept = dict(columns[: len(columns) - count])
        answers = {n.removeprefix(prefix): t for n, t in columns[len(columns) - count :]}
    return Answers(
        path=data.shown(str(out)),
        manifest=manifest,
        entries=entries,
        inputs=run.get("inputs") or (),
        kind=kind,
        results=answers,
        kept=kept,
        prefix=prefix,
        is_finished=is_finished,
    )


def _kind_of(names: Sequence[str], prefix: str, path: str) -> tuple[str, int]:
    """The kind of the answers, and how many columns they have: the last ones."""
    for count in range(1, len(names) + 1):
        if not names[-count].startswith(prefix):
            break
        first, *others = (name.removeprefix(prefix) for name in names[-count:])
        for kind, (firsts, needed, more) in KINDS.items():
            if first in firsts and set(needed) <= set(others) <= {*needed, *more}:
                return kind, count
    raise ColumnError(f"{path}: has no answers of a known task", "give the output of engine run")


def _plain(column: pa.Array) -> pa.Array:
    """A column without a dictionary or a view, at its top and in its lists."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if is_list(kind) and pa.types.is_dictionary(kind.value_type):
        return column.cast(pa.list_(kind.value_type.value_type))
    return column
