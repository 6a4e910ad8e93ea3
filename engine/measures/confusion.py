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

    @property
    def accuracy(self) -> float:
        """The share of rows where both have the same label; NaN without rows."""
        expected, _, both = self._margins()
        return float(both.sum() / expected.sum()) if expected.any() else np.nan

    @property
    def weighted_f1(self) -> float:
        """The mean of the labels' F1, each as often as it is expected."""
        expected, actual, both = self._margins()
        f1 = 2 * both / (expected + actual)
        return float((f1 * expected).sum() / expected.sum()) if expected.any() else np.nan

    def by_label(self, count: int) -> list[dict[str, Any]]:
        """Of the labels with most rows: label, expected, actual (rows), precision, recall and f1;
        0 where a figure would divide by nothing, as in scikit-learn."""
        expected, actual, both = self._margins()
        names = self.labels
        return [
            {
                "label": names[i],
                "expected": int(expected[i]),
                "actual": int(actual[i]),
                "precision": float(both[i] / max(actual[i], 1)),
                "recall": float(both[i] / max(expected[i], 1)),
                "f1": float(2 * both[i] / (expected[i] + actual[i])),
            }
            for i in self._ordered()[:count]
        ]

    def grid(self, count: int, rest: str) -> tuple[list[str], NDArray[np.int64]]:
        """Labels with most rows and the counts of their pairs, expected ones downwards; all others
        together are one more label, named `rest`."""
        shown = self._ordered()
        names = self.labels
        place = {label: min(i, count) for i, label in enumerate(shown)}
        size = min(len(shown), count + 1)
        counts = np.zeros((size, size), np.int64)
        for (first, second), rows in self.pairs.items():
            counts[place[first], place[second]] += rows
        return [names[i] for i in shown[:count]] + [rest] * (size > count), counts

    def _ordered(self) -> list[int]:
        """Labels by their rows in both, most first, and then by name."""
        expected, actual, _ = self._margins()
        names = self.labels
        return sorted(range(len(names)), key=lambda i: (-expected[i] - actual[i], names[i]))

    def most(self, count: int, *, differing: bool = False) -> list[dict[str, object]]:
        """The pairs with most rows: a, b and rows."""
        names = self.labels
        pairs = ((p, n) for p, n in self.pairs.most_common() if not differing or p[0] != p[1])
        return [
            {"a": names[first], "b": names[second], "rows": rows}
            for ((first, second), rows), _ in zip(pairs, range(count), strict=False)
        ]
