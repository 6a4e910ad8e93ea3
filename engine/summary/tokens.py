"""Tokens of masks: which, how sure, and how much is left open."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.measures.categories import Categories
from engine.pages.blocks import Section
from engine.summary.answers import Batch
from engine.summary.figures import Spread, bars, pairs, spread_table
from engine.summary.labels import PROBABILITY
from engine.summary.looks import Floats, Look


class TokenSummary:
    """Candidates for the masks of rows, best first.

    Tokens are entries of the model's vocabulary, shown as labels are; the filled text never is.
    """

    reads = ()

    def __init__(self) -> None:
        self._tokens, self._scores = Categories(), Spread()
        self._entropy = Spread(unit="bits")
        self._masks = Spread(is_whole=True, unit="masks")

    def add(self, batch: Batch) -> Look:
        answers = batch.results
        column = answers[0].combine_chunks()
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(column)), lengths)
        flat = column.flatten()
        mask, scores = (
            np.asarray(
                pc.struct_field(flat, name).cast(pa.float64()).to_numpy(zero_copy_only=False)
            )
            for name in ("mask", "score")
        )
        starts = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(mask, prepend=-1) != 0))
        best = pa.array(starts)
        self._tokens.add(pc.fill_null(pc.struct_field(flat, "token_str").take(best), ""))
        self._scores.add(scores[starts])
        self._entropy.add(_entropy(scores, starts))
        self._masks.add(np.bincount(row[starts], minlength=len(column)))
        least = np.full(len(column), np.inf)
        np.fmin.at(least, row[starts], scores[starts])
        return Look(np.where(np.isfinite(least), least, np.nan))

    def sections(self) -> list[Section]:
        spreads = {
            "score of the best token": self._scores,
            "entropy in bits": self._entropy,
            "masks of a row": self._masks,
        }
        note = (
            "Entropy is of the candidates that were kept, all others together counting as one: it "
            "is at least as much of the whole vocabulary."
        )
        return [
            Section("Tokens", [bars(self._tokens, "Masks whose best token it is.", "masks"),
                               pairs({"different best tokens": len(self._tokens)})]),
            Section("Scores", [self._scores.histogram("Scores of the best token.", PROBABILITY),
                               self._entropy.histogram("Entropy of each mask."),
                               spread_table(spreads)], note),
        ]  # fmt: skip


def _entropy(scores: Floats, starts: NDArray[np.int64]) -> Floats:
    """In bits, of the candidates of each mask and one more for the rest of the probability."""
    if not len(starts):
        return np.zeros(0)
    own = np.add.reduceat(_bits(scores), starts)
    rest = np.maximum(1 - np.add.reduceat(scores, starts), 0)
    return own + _bits(rest)


def _bits(shares: Floats) -> Floats:
    return np.asarray(-shares * np.log2(np.where(shares > 0, shares, 1)))
