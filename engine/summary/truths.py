"""Answers against a column of what is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import ColumnError
from engine.measures import entities
from engine.measures.calibration import BINS, Calibration
from engine.measures.confusion import MOST_LABELS
from engine.measures.rankings import is_list
from engine.measures.significance import bootstrap_interval
from engine.measures.truths import TruthCounts, check_judged, first_names
from engine.pages.blocks import Block, Grid, Lines, Section, Table
from engine.summary.figures import MOST_VALUES, OTHER, pairs
from engine.summary.looks import Floats

UNKNOWN, WRONG, RIGHT = -1, 0, 1
ENTITY_HEAD = ("kind", "true ones", "found", "right", "precision", "recall", "F1")


class TruthSummary:
    """Counts of right answers: of labels, texts and spans equal ones, of entities each one.

    Args:
        kind: Of the answers.
        column: That has the truths.
        type_: Of the column.

    Raises:
        SettingsError: Answers of the kind are not compared with truths.
        ColumnError: The column has none for them.
    """

    def __init__(self, kind: str, column: str, type_: pa.DataType) -> None:
        self._kind, self._column = kind, column
        self._is_entities = kind == "entities"
        if not self._is_entities:
            check_judged(kind)
        check_type(column, type_, entities=self._is_entities)
        self._counts = TruthCounts("labels" if self._is_entities else kind)
        self._calibration = Calibration()
        self._entities: dict[str, NDArray[np.int64]] = {}  # shared, true and found ones of a kind
        self._rows = 0

    def add(
        self, truths: pa.ChunkedArray, answers: pa.ChunkedArray, sureness: Floats
    ) -> NDArray[np.int64]:
        """Count rows; those whose truth is null are left out.

        Returns:
            RIGHT, WRONG or UNKNOWN of each row.
        """
        verdicts = np.full(len(truths), UNKNOWN)
        known = pc.is_valid(truths)
        where = np.asarray(known.to_numpy())
        if not where.any():
            return verdicts
        wanted, given = (c.filter(known).combine_chunks() for c in (truths, answers))
        self._rows += len(wanted)
        if self._is_entities:
            is_right = self._add_entities(wanted, given)
        else:
            is_right = self._counts.add(pc.cast(wanted, pa.large_string()), first_names(given))
            scored = where & np.isfinite(sureness)
            self._calibration.add(sureness[scored], is_right[scored[where]])
        verdicts[where] = is_right
        return verdicts

    def _add_entities(self, wanted: pa.Array, given: pa.Array) -> NDArray[np.bool_]:
        counts = entities.compare(wanted, given)
        for name, own in zip(counts.groups, counts.by_group, strict=True):
            self._entities[name] = self._entities.get(name, np.zeros(3, np.int64)) + own
        return np.asarray((counts.shared == counts.expected) & (counts.shared == counts.actual))

    def sections(self) -> list[Section]:
        title = f"Against {self._column}"
        if not self._rows:
            return [Section(title, (), f"No answered row has a value of {self._column}.")]
        if self._is_entities:
            note = "An entity is right with the same kind, start and end."
            return [Section(title, self._entity_blocks(), note)]
        if self._kind != "labels":
            return [Section(title, [pairs(self._figures())])]
        return [Section(title, *self._label_blocks()), *self._calibrated()]

    def _entity_blocks(self) -> list[Block]:
        kinds = sorted(self._entities.items(), key=lambda one: (-one[1][1:].sum(), one[0]))
        total = np.sum([np.zeros(3, np.int64), *self._entities.values()], axis=0)
        shown = [(name, *_entity_row(counts)) for name, counts in kinds[:MOST_VALUES]]
        table = Table(rows=[("all", *_entity_row(total)), *shown], head=ENTITY_HEAD)
        return [pairs({"rows with a truth": self._rows}), table]

    def _figures(self) -> dict[str, object]:
        counts = self._counts
        right = np.array([counts.right, counts.rows - counts.right])
        low, high = bootstrap_interval(np.array([1.0, 0.0]), right)
        figures: dict[str, object] = {
            "rows with a truth": counts.rows,
            "accuracy": counts.accuracy,
            "95% interval of it": f"{low:.4f} to {high:.4f}",
        }
        if counts.macro_f1 is not None:
            figures |= {"macro F1": counts.macro_f1, "weighted F1": counts.confusion.weighted_f1}
        return {**figures, "chrF": counts.chrf}

    def _label_blocks(self) -> tuple[list[Block], str]:
        confusion = self._counts.confusion
        if confusion.overflows:
            note = f"{self._column} and the labels have over {MOST_LABELS:,} different values."
            return [pairs(self._figures())], note
        names, counts = confusion.grid(MOST_VALUES, OTHER)
        caption = f"Rows by {self._column} (downwards) and label."
        return [
            pairs(self._figures()),
            Grid(rows=names, columns=names, counts=counts.tolist(), caption=caption),
            _label_table(confusion.by_label(MOST_VALUES)),
        ], ("" if self._counts.right else f"No value of {self._column} is the label of its row.")

    def _calibrated(self) -> list[Section]:
        own = self._calibration
        if own.outside or not own.rows.any():
            return []
        middles = (np.arange(BINS) + 0.5) / BINS
        series = {"accuracy": own.accuracies.tolist(), "mean score": own.mean_scores.tolist()}
        edges = [f"{i / BINS:.1f} to {(i + 1) / BINS:.1f}" for i in range(BINS)]
        columns = (edges, own.rows.tolist(), *series.values())
        table = Table(rows=[row for row in zip(*columns, strict=True) if row[1]],
                      head=("score", "rows", *series))  # fmt: skip
        note = (
            "Of rows with about one score, the share of right answers should be that score. The "
            "expected calibration error is how far the two are apart, on average over rows."
        )
        figures = pairs({"expected calibration error": own.expected_error})
        lines = Lines(
            x=middles.tolist(), series=series, x_unit="score", caption="Accuracy by score."
        )
        return [Section("Calibration", [figures, lines, table], note)]


def _entity_row(counts: NDArray[np.int64]) -> tuple[object, ...]:
    """True and found entities, right ones, precision, recall and F1."""
    shared, expected, actual = counts.tolist()
    precision = shared / actual if actual else None
    recall = shared / expected if expected else None
    return expected, actual, shared, precision, recall, entities.f1(shared, expected, actual)


def check_type(
    column: str, type_: pa.DataType, *, entities: bool = False, flag: str = "--truth"
) -> None:
    """Raise ColumnError for a column that has no names or numbers, or for truths of entities no
    lists of them."""
    if entities:
        fits = is_list(type_) and pa.types.is_struct(type_.value_type)
        names = {f.name for f in type_.value_type} if fits else set[str]()
        fits = {"start", "end"} <= names and bool({"entity", "entity_group"} & names)
        wanted = "lists of entities with entity_group, start and end"
    else:
        if pa.types.is_dictionary(type_):
            type_ = type_.value_type
        fits = any(of(type_) for of in PLAIN)
        wanted = "text, numbers or flags"
    if not fits:
        raise ColumnError(
            f"column {column!r} has the type {type_}", f"name a column of {wanted} for {flag}"
        )


PLAIN = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_null,
)
"""Types of columns whose values can be names of labels, or keys."""


def _label_table(figures: list[dict[str, Any]]) -> Table:
    names = ("expected", "actual", "precision", "recall", "f1")
    head = ("label", "true rows", "answers", "precision", "recall", "F1")
    rows = [(one["label"], *(one[name] for name in names)) for one in figures]
    return Table(rows=rows, head=head, caption="Of the labels with most rows.")
