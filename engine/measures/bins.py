"""Counts of numbers between edges, of a range that is not known beforehand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST = 2048
"""Bins that are counted."""
SHOWN = 40
"""Bins of a figure at most."""
SCORE = 2.0**-10
"""A first width for scores: with a power of two all edges are exact."""
_EXACT = 2.0**52  # larger multiples of a width are no whole numbers any more

_LARGEST = float(np.finfo(np.float64).max)


class Bins:
    """Counts of values in bins of one width, batch by batch.

    Edges are multiples of the width, which doubles, and pairs of bins become one, whenever values
    would need more than `MOST` bins. So the counts depend on the values alone, not on how they came
    in batches.

    Args:
        width: The first one, above 0; 1 for whole numbers.
        is_whole: Values are whole numbers: a bin then has those from its lower edge up to the
            upper one, without it. Else the last bin has its upper edge, too, as in NumPy.
    """

    def __init__(self, width: float, *, is_whole: bool = False) -> None:
        self._width, self._is_whole = width, is_whole
        self._first, self._counts = 0, np.zeros(0, np.int64)
        self.least, self.most = np.inf, -np.inf

    def add(self, values: NDArray[np.float64]) -> None:
        """Count values, all finite."""
        if not len(values):
            return
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))
        while self._is_too_wide():
            self._first, self._counts = _pairs(self._first, self._counts)
            self._width *= 2
        places = np.floor(values / self._width).astype(np.int64)
        if self.least < 0:  # the smallest ones divided are 0
            places[(values < 0) & (places == 0)] = -1
        if not len(self._counts):
            self._first = int(places.min())
        first = min(self._first, int(places.min()))
        stop = max(self._first + len(self._counts), int(places.max()) + 1)
        counts = np.bincount(places - first, minlength=stop - first)
        counts[self._first - first :][: len(self._counts)] += self._counts
        self._first, self._counts = first, counts

    def _is_too_wide(self) -> bool:
        low, high = self.least / self._width, self.most / self._width
        return bool(high - low >= MOST - 1 or max(abs(low), abs(high)) >= _EXACT)

    def shown(
        self, within: tuple[float, float] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Edges, float64 (bins + 1,), and counts, int64 (bins,), of at most `SHOWN` bins.

        Args:
            within: Edges of the whole figure where no value is outside of it, multiples of the
                first width.
        """
        first, counts, width = self._first, self._counts, self._width
        if not len(counts):
            return np.zeros(0), np.zeros(0, np.int64)
        if within and within[0] <= self.least and self.most <= within[1]:
            low, high = (int(edge // width) for edge in within)
            wide = np.zeros(high + 1 - low, np.int64)
            wide[first - low : first - low + len(counts)] = counts
            first, counts = low, wide
        while len(counts) - self._closes(first, counts, width) > SHOWN:
            first, counts = _pairs(first, counts)
            width *= 2
        if self._closes(first, counts, width):
            counts = np.append(counts[:-2], counts[-2] + counts[-1])
        with np.errstate(over="ignore"):
            edges = (first + np.arange(len(counts) + 1)) * width
        return np.clip(edges, -_LARGEST, _LARGEST), counts

    def _closes(self, first: int, counts: NDArray[np.int64], width: float) -> bool:
        """Whether the last bin has nothing but its lower edge, which the one before takes."""
        top = (first + len(counts) - 1) * width
        return not self._is_whole and len(counts) > 1 and self.most <= top


def _pairs(first: int, counts: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Bins of twice the width: the number of the first one, and counts."""
    before = first % 2
    counts = np.pad(counts, (before, (before + len(counts)) % 2))
    return first // 2, counts.reshape(-1, 2).sum(axis=1)
