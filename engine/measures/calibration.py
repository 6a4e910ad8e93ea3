"""Whether scores are the shares of right answers that they look like.

C. Guo and others, "On calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BINS = 10


class Calibration:
    """Scores from 0 to 1 and whether their answers are right, in bins of one width, batch by batch.
    A score on an edge is of the lower bin, as in the paper."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, BINS))
        self.outside = 0

    def add(self, scores: NDArray[np.float64], is_right: NDArray[np.bool_]) -> None:
        """Count rows, (rows,) of both; scores that are no probabilities are only counted."""
        fits = (scores >= 0) & (scores <= 1)
        self.outside += int((~fits).sum())
        scores, is_right = scores[fits], is_right[fits]
        bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], scores)
        for i, weights in enumerate((None, scores, is_right)):
            self._sums[i] += np.bincount(bins, weights=weights, minlength=BINS)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of each bin, (10,)."""
        return np.asarray(self._sums[0], np.int64)

    @property
    def mean_scores(self) -> NDArray[np.float64]:
        """Of each bin, (10,); NaN where it has no rows."""
        return self._mean(1)

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """The share of right answers of each bin, (10,); NaN where it has no rows."""
        return self._mean(2)

    def _mean(self, which: int) -> NDArray[np.float64]:
        rows = self._sums[0]
        return np.asarray(np.where(rows > 0, self._sums[which] / np.maximum(rows, 1), np.nan))

    @property
    def expected_error(self) -> float:
        """The expected calibration error: how far accuracy and mean score of a bin are apart, on
        average over rows; NaN without rows."""
        rows, scores, right = self._sums
        return float(np.abs(right - scores).sum() / rows.sum()) if rows.any() else np.nan
