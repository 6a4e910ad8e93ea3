"""Numbers that come batch by batch: mean, extremes, percentiles and the interval of the mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.measures.significance import SEED, bootstrap_interval

MOST_VALUES = 1 << 22
"""Numbers that are kept; of more, a random sample of as many."""
_BINS = 1024
PERCENTILES = (1, 5, 50, 95, 99)


class Distribution:
    """Numbers, of which mean, least and largest are exact, and the rest is as long as all are kept:
    `MOST_VALUES`, 32 MB."""

    def __init__(self) -> None:
        self.rows, self.total = 0, 0.0
        self.least, self.most = np.inf, -np.inf
        self._parts: list[NDArray[np.float64]] = []
        self._kept = 0
        self._random = np.random.default_rng(SEED)

    def add(self, values: NDArray[np.float64]) -> None:
        """Take numbers, none of which is NaN."""
        if not len(values):
            return
        self.rows += len(values)
        self.total += float(values.sum())
        self.least = min(self.least, float(values.min()))
        self.most = max(self.most, float(values.max()))
        if self.rows > MOST_VALUES:  # each number stays with the same chance
            values = values[self._random.random(len(values)) < MOST_VALUES / self.rows]
        self._parts.append(values)
        self._kept += len(values)
        if self._kept > MOST_VALUES:
            kept = self._random.choice(np.concatenate(self._parts), MOST_VALUES, replace=False)
            self._parts, self._kept = [kept], len(kept)

    @property
    def mean(self) -> float:
        return self.total / self.rows if self.rows else np.nan

    @property
    def values(self) -> NDArray[np.float64]:
        """The numbers that are kept."""
        return np.concatenate([np.zeros(0), *self._parts])

    def percentiles(self) -> dict[str, float]:
        """Those of `PERCENTILES`, by name."""
        values = self.values
        if not len(values):
            return {}
        found = np.percentile(values, PERCENTILES)
        return {f"p{p}": float(v) for p, v in zip(PERCENTILES, found, strict=True)}

    def interval(self) -> tuple[float, float]:
        """Of the mean, see `bootstrap_interval`; numbers as near as a 1,024th of their range count
        as their mean."""
        values = self.values
        if not len(values):
            return np.nan, np.nan
        span = max(self.most - self.least, 1e-300)
        bins = np.minimum(((values - self.least) / span * _BINS).astype(np.int64), _BINS - 1)
        rows = np.bincount(bins, minlength=_BINS)
        means = np.bincount(bins, weights=values, minlength=_BINS) / np.maximum(rows, 1)
        return bootstrap_interval(means, rows)
