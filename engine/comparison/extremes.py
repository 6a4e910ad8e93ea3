"""The rows in which two outputs differ most."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.comparison.pairing import Pairs
from engine.comparison.tallies import Rows

SHOWN = 10
"""Rows that are named."""


class Extremes:
    """Keeps the rows that differ most of all so far.

    Args:
        examples: For how many of them to keep what both sides have in the columns read.
    """

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._rows: list[tuple[float, dict[str, Any]]] = []

    def add(self, pairs: Pairs, rows: Rows) -> None:
        """Look at rows side by side."""
        count = max(SHOWN, self._examples)
        least = self._rows[-1][0] if len(self._rows) == count else 0.0
        index = np.flatnonzero(rows.difference > least)
        for i in index[np.argsort(-rows.difference[index], kind="stable")][:count].tolist():
            row = {"row": pairs.keys[i].as_py(), "agreement": float(rows.agreement[i])}
            if self._examples:
                row |= {n: t.slice(i, 1).to_pylist()[0] for n, t in zip("ab", (pairs.a, pairs.b),
                        strict=True)}  # fmt: skip
            self._rows.append((float(rows.difference[i]), row))
        self._rows = sorted(self._rows, key=lambda one: -one[0])[:count]

    def found(self) -> list[dict[str, Any]]:
        """The rows, most first: what names each, how much the sides agree, and, of the first ones
        where that was asked for, what each has."""
        return [
            row if i < self._examples else {n: row[n] for n in ("row", "agreement")}
            for i, (_, row) in enumerate(self._rows)
            if i < max(SHOWN, self._examples)
        ]
