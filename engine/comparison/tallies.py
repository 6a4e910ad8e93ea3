"""What is counted of each kind of answers, batch by batch, with the measures of `measures`.

A tally is handed the answers of rows that both sides have, without nulls. It says of each row how
much the two agree (from 0 to 1; of embeddings the cosine) and how much they differ, which orders
the rows that differ most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.comparison.sides import as_text
from engine.errors import InputError, SettingsError
from engine.measures import entities, rankings, spans, texts, vectors
from engine.measures.confusion import Confusion
from engine.measures.distribution import Distribution
from engine.measures.rankings import Floats, Rankings

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """What a tally says of rows.

    Attributes:
        agreement, difference: float64 (rows,).
    """

    agreement: Floats
    difference: Floats


class Tally(Protocol):
    """Counts of one kind of answers."""

    def add(self, a: pa.Table, b: pa.Table) -> Rows:
        """Count rows side by side.

        Args:
            a, b: Tables of one length with the columns of the kind; their answers are not null.

        Raises:
            SettingsError, InputError: Answers of embeddings have no cosine.
        """

    def figures(self) -> dict[str, Any]:
        """What was counted, by name, as `docs/command-line.md` lists it; plain values."""


class RankingTally:
    """Labels, documents or tokens, best first, or one of them for each row."""

    def __init__(self, names: str, scores: str) -> None:
        self._names, self._scores = names, scores
        self._confusion, self._shift = Confusion(), Distribution()
        self._sums = np.zeros(3)
        self._same = 0

    def add(self, a: pa.Table, b: pa.Table) -> Rows:
        first, second = (self._rankings(table) for table in (a, b))
        same = rankings.same_best(first, second)
        self._same += int(same.sum())
        self._confusion.add(first.best, second.best)
        scores = [np.nan_to_num(side.best_scores) for side in (first, second)]
        if "scores" in self._scores or self._scores in a.column_names:
            self._shift.add(rankings.shifts(first, second))
            self._sums += (len(same), scores[0].sum(), scores[1].sum())
        return Rows(same.astype(np.float64), np.where(same, 0.0, 1 + scores[0] + scores[1]))

    def _rankings(self, table: pa.Table) -> Rankings:
        names = next(n for n in (self._names, self._names + "s") if n in table.column_names)
        if names == "candidates":
            return Rankings.of_candidates(table[names].combine_chunks())
        scores = self._scores + "s" * rankings.is_list(table[names].type)
        return Rankings.of(table[names], table[scores] if scores in table.column_names else None)

    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"kappa": self._confusion.kappa}
        if self._confusion.overflows:
            figures = {}
        if self._shift.rows:
            rows, a, b = self._sums
            figures |= {
                "mean_score_shift": self._shift.mean,
                "largest_score_shift": self._shift.most,
                "mean_score_a": a / rows,
                "mean_score_b": b / rows,
            }
        return figures | {
            "labels": len(self._confusion.labels),
            "confusion": self._confusion.most(100),
            "confused_most": self._confusion.most(10, differing=True),
        }


class ScoreTally:
    """Scores alone: equal to the bit or not, and how far apart."""

    def __init__(self) -> None:
        self._shift = Distribution()

    def add(self, a: pa.Table, b: pa.Table) -> Rows:
        scores = [
            t["score"].cast(pa.float64()).combine_chunks().to_numpy(zero_copy_only=False)
            for t in (a, b)
        ]
        apart = np.nan_to_num(np.abs(scores[0] - scores[1]), nan=1.0)
        self._shift.add(apart)
        return Rows((apart == 0).astype(np.float64), apart)

    def figures(self) -> dict[str, Any]:
        shift = self._shift
        names = {f"score_shift_{name}": value for name, value in shift.percentiles().items()}
        return {"mean_score_shift": shift.mean, "largest_score_shift": shift.most, **names}


class SpanTally:
    """Answers to questions: equal text, and characters in common where both say where it is."""

    def __init__(self) -> None:
        self._overlap, self._ranking = Distribution(), RankingTally("answer", "score")

    def add(self, a: pa.Table, b: pa.Table) -> Rows:
        rows = self._ranking.add(a, b)
        if not all({"start", "end"} <= set(t.column_names) for t in (a, b)):
            return rows
        starts, ends = (
            (_whole_numbers(a[name]), _whole_numbers(b[name])) for name in ("start", "end")
        )
        overlap = spans.overlap_f1(starts, ends)
        self._overlap.add(overlap)
        return Rows(rows.agreement, np.where(rows.agreement == 1, 0, 2 - overlap))

    def figures(self) -> dict[str, Any]:
        scores = {n: v for n, v in self._ranking.figures().items() if "score" in n}
        return ({"overlap_f1": self._overlap.mean} if self._overlap.rows else {}) | scores


class EntityTally:
    """Entities: rows with the same ones, and F1 over all of them."""

    def __init__(self) -> None:
        self._counts = np.zeros(3, np.int64)
        self._shift = Distribution()

    def add(self, a: pa.Table, b: pa.Table) -> Rows:
        counts = entities.compare(a["entities"], b["entities"])
        self._counts += [n.sum() for n in (counts.shared, counts.expected, counts.actual)]
        self._shift.add(np.nan_to_num(counts.shifts, nan=1.0))
        apart = counts.expected + counts.actual - 2 * counts.shared
        return Rows((apart == 0).astype(np.float64), apart.astype(np.float64))

    def figures(self) -> dict[str, Any]:
        shared, a, b = self._counts.tolist()
        figures = {"entity_f1": entities.f1(shared, a, b), "entities_a": a, "entities_b": b,
                   "entities_in_both": shared}  # fmt: skip
        if self._shift.rows:
            figures["mean_score_shift"] = self._shift.mean
        return figures


class TextTally:
    """Texts: equal, and chrF of B's with A's as the references."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._counts = np.zeros((texts.ORDER, 3), np.int64)
        self._lengths = np.zeros(3, np.int64)

    def add(self, a: pa.Table, b: pa.Table) -> Rows:
        first, second = (as_text(t[self._column].combine_chunks()) for t in (a, b))
        same = pc.equal(first, second).to_numpy(zero_copy_only=False)
        counts = texts.ngram_counts(first, second)
        self._counts += counts.sum(axis=0)
        lengths = (pc.sum(pc.utf8_length(t)).as_py() or 0 for t in (first, second))
        self._lengths += (len(same), *lengths)
        score = texts.score(counts)
        return Rows(same.astype(np.float64), np.where(same, 0, 101 - score))

    def figures(self) -> dict[str, Any]:
        rows, a, b = (self._lengths / max(int(self._lengths[0]), 1)).tolist()
        has_ngrams = bool(self._counts[:, 1:].any())
        chrf = float(texts.score(self._counts)) if has_ngrams else 100.0
        return {"chrf": chrf, "mean_characters_a": a, "mean_characters_b": b} if rows else {}


class VectorTally:
    """Embeddings: cosines."""

    def __init__(self) -> None:
        self._cosines = Distribution()

    def add(self, a: pa.Table, b: pa.Table) -> Rows:
        first, second = (_matrix(table["embedding"]) for table in (a, b))
        if first.shape != second.shape:
            raise InputError(
                f"embeddings of {first.shape[1]:,} and of {second.shape[1]:,} numbers have no "
                "cosine",
                "compare outputs of models whose embeddings have one length",
            )
        cosines = vectors.cosines(first, second)
        self._cosines.add(cosines)
        return Rows(cosines, 1 - cosines)

    def figures(self) -> dict[str, Any]:
        percentiles = {f"cosine_{n}": v for n, v in self._cosines.percentiles().items()}
        return {"mean_cosine": self._cosines.mean, "worst_cosine": self._cosines.least,
                **percentiles}  # fmt: skip

    def interval(self) -> tuple[float, float]:
        return self._cosines.interval()


def _matrix(column: pa.ChunkedArray) -> Floats:
    kind = column.type
    if not rankings.is_list(kind) or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise SettingsError(
            f"column 'embedding' holds {kind}, not one list of numbers for each row",
            "embeddings of tokens are not compared: run without --pooling none",
        )
    lengths = pc.unique(pc.list_value_length(column))
    if len(lengths) > 1:
        raise InputError(
            "column 'embedding' has lists of different lengths", "write it again by one model"
        )
    return vectors.matrix(column)


def _whole_numbers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(column.cast(pa.int64()), 0).to_numpy())


@dataclass(frozen=True)
class Kind:
    """A kind of answers.

    Attributes:
        name: What it is called.
        needed: Columns of which a side has one.
        others: Columns that are read where they are there.
        tally: A new one, of the column's name.
    """

    name: str
    needed: Sequence[str]
    others: Sequence[str]
    tally: Callable[[str], Tally]


_TEXTS = ("translation_text", "summary_text", "generated_text")
KINDS = (
    Kind("embeddings", ("embedding",), (), lambda _: VectorTally()),
    Kind("entities", ("entities",), (), lambda _: EntityTally()),
    Kind("tokens", ("candidates",), (), lambda _: RankingTally("candidates", "scores")),
    Kind("documents", ("order",), ("scores",), lambda _: RankingTally("order", "score")),
    Kind("spans", ("answer",), ("score", "start", "end"), lambda _: SpanTally()),
    Kind(
        "labels", ("labels", "label"), ("scores", "score"), lambda _: RankingTally("label", "score")
    ),
    *(Kind("texts", (name,), (), TextTally) for name in _TEXTS),
    Kind("scores", ("score",), (), lambda _: ScoreTally()),
)


def kind_of(a: Sequence[str], b: Sequence[str], runs: Sequence[Sequence[str]] = ()) -> Kind:
    """The kind of answers that both have.

    Args:
        a, b: Names of their columns.
        runs: Those of the two that are of a run, whose answers come after what it has kept: a
            column `answer` before `translation_text` is one of its inputs.

    Raises:
        SettingsError: They have none in common.
    """

    def place(kind: Kind) -> int:
        return max((n.index(name) for n in runs for name in kind.needed if name in n), default=-1)

    common = [kind for kind in KINDS if all(set(kind.needed) & set(names) for names in (a, b))]
    # Scores alone are what rows have whose other answers have no column.
    if common:
        return max(common[:-1] if common[1:] and common[-1] is KINDS[-1] else common, key=place)
    raise SettingsError(
        f"no answers in common: A has {_listed(a)}; B has {_listed(b)}",
        "name B's column with --map, such as --map label=prediction or --map generated_text=output",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(list(names)[:20]) or "no columns"
