"""How sure a figure is: an interval of a mean, and a test of two answers against truths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS, CONFIDENCE, SEED = 2000, 0.95, 0


def bootstrap_interval(
    values: NDArray[Any], rows: NDArray[Any], *, seed: int = SEED
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean, of 95%, by 2,000 draws.

    A draw of n rows with replacement is a multinomial draw of how often each value comes, so that
    nothing grows with the rows; with the values 0 and 1 it is a binomial one.

    B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 1979.

    Args:
        values: Different values, (k,).
        rows: How many rows have each, (k,), whole numbers.
    """
    total = int(rows.sum())
    if not total:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).multinomial(total, rows / total, size=DRAWS)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws @ values / total, [tail, 100 - tail])
    return float(low), float(high)


def mcnemar(only_a: int, only_b: int) -> dict[str, float]:
    """McNemar's test: whether A and B are right equally often.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 1947; chi2 with Edwards' correction.

    Args:
        only_a, only_b: Rows that only A, and only B, has right.

    Returns:
        The exact two-sided p, chi2, and its p for one degree of freedom.
    """
    rows = only_a + only_b
    if not rows:
        return {"p_exact": 1.0, "chi2": 0.0, "p_chi2": 1.0}
    chi2 = (abs(only_a - only_b) - 1) ** 2 / rows
    exact = min(1.0, 2 * _lower_tail(min(only_a, only_b), rows))
    return {"p_exact": exact, "chi2": chi2, "p_chi2": math.erfc(math.sqrt(chi2 / 2))}


def _lower_tail(most: int, rows: int) -> float:
    """The probability of at most `most` heads in `rows` throws of a coin."""
    heads = np.arange(1, most + 1)
    logs = np.cumsum(np.log(rows - heads + 1) - np.log(heads))
    logs = np.concatenate(([0.0], logs)) - rows * math.log(2)
    peak = float(logs.max())
    return float(np.exp(logs - peak).sum() * math.exp(peak))
