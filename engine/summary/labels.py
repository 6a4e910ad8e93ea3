"""Labels: which, how often, how sure; and documents that were sorted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.measures.bins import SCORE, Bins
from engine.measures.categories import Categories
from engine.measures.rankings import Rankings, is_list
from engine.pages.blocks import Block, Histogram, Lines, Section
from engine.summary.answers import Batch
from engine.summary.figures import Spread, bars, pairs, spread_table
from engine.summary.looks import Floats, Look

FEW = 6
"""Labels that have a histogram of their own, if there are no more."""
PROBABILITY = (0.0, 1.0)


class LabelSummary:
    """Labels of rows, the best one or several.

    Args:
        are_shown: Whether labels are the model's or of a setting, not a column's of the input.
    """

    reads = ()

    def __init__(self, *, are_shown: bool = True) -> None:
        self._are_shown = are_shown
        self._labels, self._scores, self._leads = Categories(), Spread(), Spread()
        self._by_label: dict[str, Bins] | None = {}
        self._empty = 0

    def add(self, batch: Batch) -> Look:
        answers = batch.results
        names = answers.column_names[0]
        scores = "scores" if is_list(answers[names].type) else "score"
        ranked = Rankings.of(answers[names], answers[scores] if scores in answers.column_names
                             else None)  # fmt: skip
        has_label = ~ranked.is_empty
        self._empty += int((~has_label).sum())
        best, sureness = ranked.best.filter(pa.array(has_label)), ranked.best_scores
        self._labels.add(best)
        self._scores.add(sureness)
        if is_list(answers[names].type):
            self._leads.add(ranked.leads[np.diff(ranked.offsets) > 1])
        self._count_by_label(best, sureness[has_label])
        return Look(sureness)

    def _count_by_label(self, labels: pa.Array, scores: Floats) -> None:
        if self._by_label is None:
            return
        encoded = labels.dictionary_encode()
        names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        if len({*self._by_label, *names}) > FEW:
            self._by_label = None
            return
        for code, name in enumerate(names):
            own = scores[codes == code]
            self._by_label.setdefault(name, Bins(SCORE)).add(own[np.isfinite(own)])

    def sections(self) -> list[Section]:
        return [self._label_section(), *self._score_section()]

    def _label_section(self) -> Section:
        facts = pairs({"different labels": len(self._labels),
                       "rows without a label": self._empty or None})  # fmt: skip
        if not self._are_shown:
            note = "The labels are of a column of the input, and are not shown."
            return Section("Labels", [facts], note)
        return Section("Labels", [bars(self._labels, "Rows of each label."), facts])

    def _score_section(self) -> list[Section]:
        if not self._scores.count:
            return []
        spreads = {"score": self._scores, "lead over the second": self._leads}
        blocks: list[Block] = [
            self._scores.histogram("Scores of the best label.", PROBABILITY),
            *self._of_each_label(),
            spread_table(spreads),
        ]
        return [Section("Scores", blocks)]

    def _of_each_label(self) -> list[Block]:
        """Scores of each label where there are few: over one another where they are from 0 to 1,
        since all have the same bins there."""
        if not self._are_shown or not self._by_label or len(self._by_label) < 2:
            return []
        names = [name for name, _ in self._labels.most(FEW)]
        shown = [(*self._by_label[name].shown(PROBABILITY), name) for name in names]
        if all(len(edges) and edges[0] == 0 and edges[-1] == 1 for edges, *_ in shown):
            edges = shown[0][0]
            return [
                Lines(
                    x=((edges[:-1] + edges[1:]) / 2).tolist(),
                    series={name: counts.tolist() for _, counts, name in shown},
                    x_unit="score",
                    unit="rows",
                    caption="Scores of each label.",
                )
            ]
        return [
            Histogram(edges=edges.tolist(), counts=counts.tolist(), caption=f"Scores of {name}.")
            for edges, counts, name in shown
            if len(counts)
        ]


class DocumentSummary:
    """Documents of a query, sorted: scores, and how far sorting moved them."""

    reads = ()

    def __init__(self) -> None:
        self._scores, self._leads = Spread(), Spread()
        self._documents = Spread(is_whole=True, unit="documents")
        self._places = Spread(is_whole=True)
        self._first = 0

    def add(self, batch: Batch) -> Look:
        answers = batch.results
        ranked = Rankings.of(answers["order"], answers["scores"])
        has_any = ~ranked.is_empty
        sureness = ranked.best_scores
        best = pc.cast(ranked.best.filter(pa.array(has_any)), pa.int64()).to_numpy()
        self._scores.add(sureness)
        self._leads.add(ranked.leads[np.diff(ranked.offsets) > 1])
        self._documents.add(np.diff(ranked.offsets))
        self._places.add(best)
        self._first += int((best == 0).sum())
        return Look(sureness)

    def sections(self) -> list[Section]:
        rows = self._places.count
        spreads = {
            "score of the best": self._scores,
            "lead over the second": self._leads,
            "documents returned": self._documents,
            "where the best one was, from 0": self._places,
        }
        moved = {"rows whose first document is the best": self._first / rows if rows else None}
        return [
            Section("Scores", [self._scores.histogram("Scores of the best document.", PROBABILITY),
                               spread_table(spreads)]),
            Section("Order", [self._places.histogram("Where the best document was before."),
                              pairs(moved)]),
        ]  # fmt: skip
