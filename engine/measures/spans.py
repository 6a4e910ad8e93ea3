"""Spans of a text: how much two of them have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def overlap_f1(
    starts: tuple[NDArray[Any], NDArray[Any]], ends: tuple[NDArray[Any], NDArray[Any]]
) -> NDArray[np.float64]:
    """F1 of the characters of two spans, of each row: 1 where both are empty, 0 apart."""
    shared = np.maximum(np.minimum(*ends) - np.maximum(*starts), 0)
    both = (ends[0] - starts[0]) + (ends[1] - starts[1])
    return np.asarray(np.where(both > 0, 2 * shared / np.maximum(both, 1), 1.0), np.float64)
