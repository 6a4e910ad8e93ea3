"""Entities of rows: how many, of which kinds, how long and how sure."""

from __future__ import annotations

import numpy as np

from engine.measures import entities
from engine.measures.categories import Categories
from engine.pages.blocks import Section
from engine.summary.answers import Batch
from engine.summary.figures import Spread, bars, pairs, share, spread_table
from engine.summary.labels import PROBABILITY
from engine.summary.looks import Look


class EntitySummary:
    """Entities of rows."""

    reads = ()

    def __init__(self) -> None:
        self._groups, self._scores = Categories(), Spread()
        self._per_row = Spread(is_whole=True, unit="entities")
        self._lengths = Spread(is_whole=True, unit="characters")
        self._rows = self._without = 0

    def add(self, batch: Batch) -> Look:
        answers = batch.results
        found = entities.fields(answers[0])
        rows = len(answers)
        counts = np.bincount(found.row, minlength=rows)
        self._rows += rows
        self._without += int((counts == 0).sum())
        self._groups.add(found.group)
        self._scores.add(found.score)
        self._per_row.add(counts)
        self._lengths.add((found.end - found.start)[found.start > 0])
        least = np.full(rows, np.inf)
        np.fmin.at(least, found.row, found.score)
        least[~np.isfinite(least)] = np.nan
        return Look(least, counts.astype(np.float64), "entities")

    def sections(self) -> list[Section]:
        without = {"rows": self._rows, "rows without one": share(self._without, self._rows)}
        spreads = {
            "entities of a row": self._per_row,
            "length in characters": self._lengths,
            "score": self._scores,
        }
        return [
            Section("Entities", [bars(self._groups, "Entities of each kind.", "entities"),
                                 pairs(without), spread_table(spreads)]),
            Section("Entities of rows", [self._per_row.histogram("Entities of each row.")]),
            Section("Lengths", [self._lengths.histogram("Characters of each entity.")]),
            Section("Scores", [self._scores.histogram("Scores of entities.", PROBABILITY)]),
        ]  # fmt: skip
