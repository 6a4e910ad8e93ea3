"""Two outputs compared row by row: `engine compare`.

Rows are read in batches and paired (`pairing`), counted by kind (`tallies`, with the measures of
a recipe's acceptance test), and memory grows with neither output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.comparison.extremes import Extremes
from engine.comparison.pairing import Pairing, Pairs, Unpaired, check_order
from engine.comparison.sides import KEPT, Side, check_mapping, open_side
from engine.comparison.tallies import Kind, Tally, VectorTally, kind_of
from engine.comparison.truths import Truths
from engine.core.suggestions import did_you_mean
from engine.errors import ColumnError, InputError, SettingsError
from engine.measures.significance import bootstrap_interval

__all__ = ["Comparison", "compare"]
_ORIGIN = ("_file", "_row")


@dataclass(frozen=True)
class Comparison:
    """What two outputs have in common.

    Attributes:
        kind: Of answers: labels, scores, spans, entities, tokens, documents, texts or embeddings.
        paired_by: The columns of the key, or "order".
        rows: Rows compared.
        agreement: The share of them with the same answer; of embeddings the mean cosine. NaN where
            no row was compared.
        interval: Of the agreement, 95%, by bootstrap (2,000 draws, seed 0).
        agreement_of_all: The same where a row that only one side has or has answered, and a key
            that comes several times, counts as 0: what `--min-agreement` looks at.
        figures: More, by name, see `docs/command-line.md`.
        unpaired: Rows that are not compared, see `pairing.Unpaired`.
        null_a, null_b: Paired rows that have no answer on this side.
        differ_most: The rows that differ most: `row` (its key, or file and number), `agreement`,
            and what both sides have where examples were asked for.
        truth: Figures against truths, {} without them.
        sides: Of A and B the path, bytes, and of a run rows, seconds and device.
    """

    kind: str
    paired_by: str
    rows: int
    agreement: float
    interval: tuple[float, float]
    agreement_of_all: float
    figures: Mapping[str, Any]
    unpaired: Unpaired
    null_a: int
    null_b: int
    differ_most: Sequence[Mapping[str, Any]]
    truth: Mapping[str, Any]
    sides: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN is None."""
        plain = _without_nan(asdict(self))
        assert isinstance(plain, dict)
        return plain


def compare(
    a: str | Path,
    b: str | Path,
    *,
    key: Sequence[str] | str = (),
    mapping: Mapping[str, str] = MappingProxyType({}),
    truth: str = "",
    examples: int = 0,
    by_order: bool = False,
) -> Comparison:
    """Compare the answers of two outputs, row by row.

    Without a key, two runs of one corpus are paired by their records, and outputs that both have
    `_file` and `_row` by these.

    Args:
        a, b: Folders or files of runs, or Parquet, Arrow, JSON lines or CSV of anybody's.
        key: The columns by whose values rows belong together.
        mapping: Our name of a column -> the name that it has in an output of others.
        truth: A column of A, or else of B, that has what is true.
        examples: Of how many of the rows that differ most to keep what both sides have, texts too.
        by_order: Both have the same rows in the same order, whatever they are.

    Raises:
        SettingsError: The rows cannot be paired, or have no answers in common.
        ColumnError: A column is missing.
        InputError: An output is missing or damaged, or embeddings have two lengths.
        OutputError: A run has not finished.
    """
    sides = open_side(a, mapping), open_side(b, mapping)
    check_mapping(sides, mapping)
    runs = [side.names for side in sides if side.entries]
    kind = kind_of(sides[0].names, sides[1].names, runs)
    keys = _key_of(sides, [key] if isinstance(key, str) and key else list(key), by_order)
    holder, truth = _truth_of(sides, truth)
    tallied = [_tallied(side, kind) for side in sides]
    columns = [_columns(side, tallied[i], truth * (i == holder), examples)
               for i, side in enumerate(sides)]  # fmt: skip
    pairing = Pairing(sides, keys, (columns[0], columns[1]))
    work = _Work(kind.tally(tallied[0][0]), tallied, Extremes(examples))
    if truth:
        work.truths, work.truth = Truths(kind.name), (holder, truth)
    for pairs in pairing:
        work.add(pairs)
    return work.result(kind.name, pairing)


def _key_of(sides: tuple[Side, Side], key: list[str], by_order: bool) -> list[str]:
    if not key and not by_order and not all(side.entries for side in sides):
        key = list(_ORIGIN) if all(set(_ORIGIN) <= set(s.names) for s in sides) else []
    if not key:
        check_order(*sides, by_order=by_order)
    for side in sides:
        for name in key:
            _check(side, name, "--key")
    return key


def _truth_of(sides: tuple[Side, Side], truth: str) -> tuple[int, str]:
    """Which side has the truths, and under which of our names; -1 for no truths."""
    if not truth:
        return -1, ""
    for name in (f"{truth}{KEPT}", truth):
        for i, side in enumerate(sides):
            if name in side.names:
                return i, name
    _check(sides[1], truth, "--truth")
    return -1, ""


def _check(side: Side, name: str, flag: str) -> None:
    if name not in side.names:
        near = did_you_mean(name, side.names)
        listed = ", ".join(side.names[:30])
        raise ColumnError(f"{side.path}: no column {name!r}", f"{near}{flag} one of: {listed}")


def _tallied(side: Side, kind: Kind) -> list[str]:
    """The columns that are compared, the answers' first: a run's come after what it has kept."""
    needed = [name for name in kind.needed if name in side.names]
    answers = max(needed, key=side.names.index) if side.entries else needed[0]
    return [answers, *(name for name in kind.others if name in side.names)]


def _columns(side: Side, tallied: Sequence[str], truth: str, examples: int) -> list[str]:
    """The columns to read: of the answers, and with examples all that are text."""
    wanted = [*tallied, *([truth] if truth else [])]
    kinds = dict(zip(side.names, side.schema.types, strict=True))
    if examples:
        is_text = (pa.types.is_string, pa.types.is_large_string)
        wanted += [n for n, type_ in kinds.items() if any(of(type_) for of in is_text)]
    return [name for name in dict.fromkeys(wanted) if name in kinds]


@dataclass
class _Work:
    """What is counted while rows are read."""

    tally: Tally
    tallied: list[list[str]]
    extremes: Extremes
    truths: Truths | None = None
    truth: tuple[int, str] = (-1, "")
    rows: int = 0
    total: float = 0.0
    nulls: list[int] = field(default_factory=lambda: [0, 0, 0])

    def add(self, pairs: Pairs) -> None:
        """Count rows side by side."""
        answered = [
            pc.is_valid(table[names[0]]).combine_chunks()
            for table, names in zip((pairs.a, pairs.b), self.tallied, strict=True)
        ]
        if not all(pc.all(valid).as_py() is not False for valid in answered):
            missing = [pc.sum(pc.invert(valid)).as_py() for valid in answered]
            both = pc.and_(*answered)
            either = pc.sum(pc.or_(*answered)).as_py()
            self.nulls[0] += missing[0]
            self.nulls[1] += missing[1]
            self.nulls[2] += either - pc.sum(both).as_py()
            pairs = Pairs(*(part.filter(both) for part in (pairs.a, pairs.b, pairs.keys)))
        if not len(pairs.a):
            return
        rows = self.tally.add(pairs.a.select(self.tallied[0]), pairs.b.select(self.tallied[1]))
        self.extremes.add(pairs, rows)
        self.rows += len(pairs.a)
        self.total += float(rows.agreement.sum())
        if self.truths:
            table = (pairs.a, pairs.b)[self.truth[0]]
            answers = pairs.a[self.tallied[0][0]], pairs.b[self.tallied[1][0]]
            self.truths.add(table[self.truth[1]], *answers)

    def result(self, kind: str, pairing: Pairing) -> Comparison:
        """All figures."""
        unpaired = pairing.unpaired
        rest = unpaired.only_a + unpaired.only_b + unpaired.duplicate_keys + self.nulls[2]
        if not self.rows + rest:
            raise InputError("the two outputs have no rows", "compare outputs that have rows")
        return Comparison(
            kind=kind,
            paired_by=", ".join(pairing.key) or "order",
            rows=self.rows,
            agreement=self.total / self.rows if self.rows else math.nan,
            interval=self._interval(),
            agreement_of_all=self.total / (self.rows + rest),
            figures=self.tally.figures() if self.rows else {},
            unpaired=unpaired,
            null_a=self.nulls[0],
            null_b=self.nulls[1],
            differ_most=self.extremes.found(),
            truth=self.truths.figures() if self.truths else {},
            sides={
                name: {"path": side.path, **side.speed()}
                for name, side in zip("ab", pairing.sides, strict=True)
            },
        )

    def _interval(self) -> tuple[float, float]:
        if isinstance(self.tally, VectorTally):
            return self.tally.interval()
        same = int(self.total)
        return bootstrap_interval(np.array([1.0, 0.0]), np.array([same, self.rows - same]))


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_agreement(value: float) -> None:
    """Raise SettingsError unless a least agreement is from 0 to 1."""
    if not 0 <= value <= 1:
        raise SettingsError(
            f"--min-agreement is {value}, not from 0 to 1", "such as --min-agreement 0.99"
        )
