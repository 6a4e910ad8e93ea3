"""Answers to questions: how long, how many are empty, how sure."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from engine.measures.rankings import Rankings
from engine.pages.blocks import Block, Section
from engine.summary.answers import Batch
from engine.summary.figures import Spread, pairs, share, spread_table
from engine.summary.labels import PROBABILITY
from engine.summary.looks import Look


class SpanSummary:
    """Parts of contexts that answer questions; of several the best one."""

    reads = ()

    def __init__(self) -> None:
        self._scores, self._leads = Spread(), Spread()
        self._lengths = Spread(is_whole=True, unit="characters")
        self._rows = self._empty = 0

    def add(self, batch: Batch) -> Look:
        answers = batch.results
        names = answers.column_names
        scores = next((name for name in ("score", "scores") if name in names), "")
        ranked = Rankings.of(answers[names[0]], answers[scores] if scores else None)
        lengths = pc.utf8_length(ranked.best).to_numpy().astype(np.float64)
        self._rows += len(answers)
        self._empty += int((lengths == 0).sum())
        self._lengths.add(lengths[lengths > 0])
        self._scores.add(ranked.best_scores)
        if names[0] == "answers":
            self._leads.add(ranked.leads[np.diff(ranked.offsets) > 1])
        return Look(ranked.best_scores, lengths, "characters")

    def sections(self) -> list[Section]:
        empty = {"rows": self._rows, "empty answers": share(self._empty, self._rows)}
        scores = {"score": self._scores, "lead over the second": self._leads}
        lengths: list[Block] = [
            pairs(empty),
            self._lengths.histogram("Characters of each answer."),
            spread_table({"characters": self._lengths}),
        ]
        return [
            Section("Answers to questions", lengths, "Lengths are of answers that are not empty."),
            Section("Scores", [self._scores.histogram("Scores of the best answer.", PROBABILITY),
                               spread_table(scores)]),
        ]  # fmt: skip
