"""Two outputs against what is true: accuracy, F1, chrF and McNemar's test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.comparison.sides import as_text
from engine.measures.significance import mcnemar
from engine.measures.truths import TruthCounts, check_judged, first_names


class Truths:
    """Counts of right answers.

    Args:
        kind: Of the answers, one of `measures.truths.JUDGED`.

    Raises:
        SettingsError: Answers of the kind are not compared with truths.
    """

    def __init__(self, kind: str) -> None:
        check_judged(kind)
        self._sides = (TruthCounts(kind), TruthCounts(kind))
        self._right = np.zeros((2, 2), np.int64)

    def add(self, truth: pa.ChunkedArray, a: pa.ChunkedArray, b: pa.ChunkedArray) -> None:
        """Count answers; rows whose truth is null are left out."""
        known = pc.is_valid(truth)
        wanted = as_text(truth.filter(known).combine_chunks())
        right = [
            side.add(wanted, first_names(column.filter(known).combine_chunks())).astype(int)
            for side, column in zip(self._sides, (a, b), strict=True)
        ]
        np.add.at(self._right, tuple(right), 1)

    def figures(self) -> dict[str, Any]:
        """Rows with a truth, both sides' accuracy and F1 or chrF, and McNemar's test."""
        rows = int(self._right.sum())
        if not rows:
            return {"rows": 0}
        only_a, only_b = int(self._right[1, 0]), int(self._right[0, 1])
        figures: dict[str, Any] = {"rows": rows}
        for name in ("accuracy", "macro_f1", "chrf"):
            values = [getattr(side, name) for side in self._sides]
            if None not in values:
                figures |= {f"{name}_{n}": v for n, v in zip("ab", values, strict=True)}
        return {**figures, "only_a_right": only_a, "only_b_right": only_b,
                "mcnemar": mcnemar(only_a, only_b)}  # fmt: skip
