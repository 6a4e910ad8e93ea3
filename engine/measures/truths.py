"""Answers against what is true: accuracy, F1 and chrF."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import SettingsError
from engine.measures import texts
from engine.measures.confusion import Confusion
from engine.measures.rankings import Rankings, is_list

JUDGED = ("labels", "texts", "spans")
"""Kinds of answers that can be equal to a truth."""


def check_judged(kind: str) -> None:
    """Raise SettingsError where answers of a kind are not compared with truths."""
    if kind not in JUDGED:
        raise SettingsError(
            f"--truth: {kind} are not compared with truths",
            f"leave --truth out; it is for {', '.join(JUDGED)}",
        )


class TruthCounts:
    """Right answers of one output, batch by batch.

    Args:
        kind: Of the answers, one of `JUDGED`.

    Attributes:
        rows, right: How many were counted, and how many of them are equal to their truth.
        confusion: Of labels: which truth has which.
        ngrams: Of texts: counts for `texts.score`.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.rows = self.right = 0
        self.confusion = Confusion()
        self.ngrams = np.zeros((texts.ORDER, 3), np.int64)

    def add(self, truths: pa.Array, answers: pa.Array) -> NDArray[np.bool_]:
        """Count rows; returns which of them are right, (rows,).

        Args:
            truths, answers: large_string, without nulls.
        """
        is_right = np.asarray(pc.equal(truths, answers).to_numpy(zero_copy_only=False))
        self.rows += len(is_right)
        self.right += int(is_right.sum())
        if self._kind == "labels":
            self.confusion.add(truths, answers)
        if self._kind == "texts":
            self.ngrams += texts.ngram_counts(truths, answers).sum(axis=0)
        return is_right

    @property
    def accuracy(self) -> float:
        """NaN without rows."""
        return self.right / self.rows if self.rows else np.nan

    @property
    def macro_f1(self) -> float | None:
        """Of labels; None of others, and where there are too many."""
        fits = self._kind == "labels" and not self.confusion.overflows
        return self.confusion.macro_f1 if fits else None

    @property
    def chrf(self) -> float | None:
        """Of texts; None of others."""
        return float(texts.score(self.ngrams)) if self._kind == "texts" else None


def first_names(answers: pa.Array) -> pa.Array:
    """The best name of each row as large_string, of lists or of one name a row, without nulls."""
    if is_list(answers.type):
        return Rankings.of(answers, None).best
    return pc.cast(answers, pa.large_string())
