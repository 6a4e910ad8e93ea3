"""Two outputs against what is true: accuracy, F1, chrF and McNemar's test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.comparison.sides import as_text
from engine.errors import SettingsError
from engine.measures import texts
from engine.measures.confusion import Confusion
from engine.measures.rankings import Rankings, is_list
from engine.measures.significance import mcnemar

JUDGED = ("labels", "texts", "spans")
"""Kinds of answers that can be equal to a truth."""


class Truths:
    """Counts of right answers.

    Args:
        kind: Of the answers, one of `JUDGED`.

    Raises:
        SettingsError: Answers of the kind are not compared with truths.
    """

    def __init__(self, kind: str) -> None:
        if kind not in JUDGED:
            raise SettingsError(
                f"--truth: {kind} are not compared with truths",
                f"leave --truth out; it is for {', '.join(JUDGED)}",
            )
        self._kind = kind
        self._confusions = (Confusion(), Confusion())
        self._right = np.zeros((2, 2), np.int64)
        self._ngrams = np.zeros((2, texts.ORDER, 3), np.int64)

    def add(self, truth: pa.ChunkedArray, a: pa.ChunkedArray, b: pa.ChunkedArray) -> None:
        """Count answers; rows whose truth is null are left out."""
        known = pc.is_valid(truth)
        wanted = as_text(truth.filter(known).combine_chunks())
        given = [_first(column.filter(known).combine_chunks()) for column in (a, b)]
        right = [pc.equal(wanted, one).to_numpy(zero_copy_only=False).astype(int) for one in given]
        np.add.at(self._right, tuple(right), 1)
        for i, answers in enumerate(given):
            if self._kind == "labels":
                self._confusions[i].add(wanted, answers)
            if self._kind == "texts":
                self._ngrams[i] += texts.ngram_counts(wanted, answers).sum(axis=0)

    def figures(self) -> dict[str, Any]:
        """Rows with a truth, both sides' accuracy and F1 or chrF, and McNemar's test."""
        rows = int(self._right.sum())
        if not rows:
            return {"rows": 0}
        only_a, only_b = int(self._right[1, 0]), int(self._right[0, 1])
        accuracy = [self._right[1].sum() / rows, self._right[:, 1].sum() / rows]
        figures: dict[str, Any] = {"rows": rows}
        figures |= {f"accuracy_{n}": float(v) for n, v in zip("ab", accuracy, strict=True)}
        if self._kind == "labels" and not any(c.overflows for c in self._confusions):
            f1 = [c.macro_f1 for c in self._confusions]
            figures |= {f"macro_f1_{n}": v for n, v in zip("ab", f1, strict=True)}
        if self._kind == "texts":
            chrf = texts.score(self._ngrams).tolist()
            figures |= {f"chrf_{n}": v for n, v in zip("ab", chrf, strict=True)}
        return {**figures, "only_a_right": only_a, "only_b_right": only_b,
                "mcnemar": mcnemar(only_a, only_b)}  # fmt: skip


def _first(column: pa.Array) -> pa.Array:
    """The best name of each row as text."""
    return Rankings.of(column, None).best if is_list(column.type) else as_text(column)
