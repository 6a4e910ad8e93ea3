"""Which label stands where the other has which: agreement, Cohen's kappa, F1."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MOST_LABELS = 10_000
"""Different labels at most: texts that are no labels would fill the memory."""


class Confusion:
    """Counts of pairs of labels, added batch by batch."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.overflows = False

    def add(self, expected: pa.Array, actual: pa.Array) -> None:
        """Count rows of labels, both without nulls."""
        if self.overflows:
            return
        first, second = self._ids(expected), self._ids(actual)
        if len(self._numbers) > MOST_LABELS:
            self.overflows = True
            self.pairs.clear()
            return
        width = len(self._numbers) + 1
        codes, counts = np.unique(first * width + second, return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            self.pairs[divmod(code, width)] += count

    def _ids(self, labels: pa.Array) -> NDArray[np.int64]:
        encoded = labels.cast(pa.large_string()).dictionary_encode()
        new = [self._numbers.setdefault(n, len(self._numbers)) for n in
               encoded.dictionary.to_pylist()]  # fmt: skip
        return np.array(new, np.int64)[encoded.indices.to_numpy()] if new else np.zeros(0, np.int64)

    @property
    def labels(self) -> list[str]:
        return list(self._numbers)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Rows of each expected and actual label, (labels, labels)."""
        counts = np.zeros((len(self._numbers),) * 2)
        for (first, second), rows in self.pairs.items():
            counts[first, second] = rows
        return counts

    def _margins(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Rows of each label in the expected ones, in the actual ones, and in both."""
        sums = np.zeros((3, len(self._numbers)))
        for (first, second), rows in self.pairs.items():
            sums[0, first] += rows
            sums[1, second] += rows
            sums[2, first] += rows * (first == second)
        return sums[0], sums[1], sums[2]

    @property
    def kappa(self) -> float:
        """Cohen's kappa; NaN where both only have one and the same label, or none."""
        expected, actual, both = self._margins()
        rows = expected.sum()
        chance = float((expected * actual).sum()) / max(rows, 1) ** 2
        return (float(both.sum()) / rows - chance) / (1 - chance) if chance < 1 and rows else np.nan

    @property
    def macro_f1(self) -> float:
        """The mean of the labels' F1, of all labels that one of the two has."""
        expected, actual, both = self._margins()
        return float((2 * both / (expected + actual)).mean()) if len(both) else np.nan

    def most(self, count: int, *, differing: bool = False) -> list[dict[str, object]]:
        """The pairs with most rows: a, b and rows."""
        names = self.labels
        pairs = ((p, n) for p, n in self.pairs.most_common() if not differing or p[0] != p[1])
        return [
            {"a": names[first], "b": names[second], "rows": rows}
            for ((first, second), rows), _ in zip(pairs, range(count), strict=False)
        ]
