"""Poolings: the states of a row's tokens become one vector. Pure, and the same in every batch.

Sums run from token to token, in order: a matrix product would sum in an order that depends on the
padded length (OpenBLAS with AVX-512), and so on the row's neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from engine.core.types import Floats, Ints

NONE = "none"
JOIN = "+"


def mean(hidden: Floats, mask: Ints) -> Floats:
    """Mean over the tokens: hidden (rows, length, d) and mask (rows, length) to (rows, d)."""
    return _weighted("mean", hidden, mask)


def mean_sqrt_len_tokens(hidden: Floats, mask: Ints) -> Floats:
    """The sum over the tokens, divided by the square root of their number."""
    return _weighted("mean_sqrt_len_tokens", hidden, mask)


def weightedmean(hidden: Floats, mask: Ints) -> Floats:
    """Mean over the tokens, the n-th of a row with the weight n (SGPT, arXiv:2202.08904)."""
    return _weighted("weightedmean", hidden, mask)


def cls(hidden: Floats, mask: Ints) -> Floats:
    """The hidden state of the first token."""
    return np.asarray(hidden[:, 0])


def highest(hidden: Floats, mask: Ints) -> Floats:
    """The highest value of each dimension over the tokens; -1e9 for a row without tokens."""
    real = np.where(mask[:, :, None] == 1, hidden, np.float32(-1e9))
    return np.asarray(real.max(axis=1))


def last(hidden: Floats, mask: Ints) -> Floats:
    """The hidden state of the last token; of the first position for a row without tokens."""
    return np.asarray(hidden[np.arange(len(hidden)), _last(mask)])


POOLINGS: Mapping[str, Callable[[Floats, Ints], Floats]] = {
    "mean": mean,
    "cls": cls,
    "max": highest,
    "last": last,
    "weightedmean": weightedmean,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens,
}
# The same as weights (rows, length) of the tokens, whose weighted sum `divisor` divides.
WEIGHTS: Mapping[str, Callable[[Ints], Floats]] = {
    "mean": lambda mask: mask.astype(np.float32),
    "cls": lambda mask: _one_hot(mask, np.zeros(len(mask), np.int64)),
    "last": lambda mask: _one_hot(mask, _last(mask)),
    "weightedmean": lambda mask: (mask * np.arange(1, mask.shape[1] + 1)).astype(np.float32),
    "mean_sqrt_len_tokens": lambda mask: mask.astype(np.float32),
}


def divisor(pooling: str, weights: Floats) -> Floats:
    """What divides the weighted sum of `WEIGHTS`: (rows, 1)."""
    # Whole numbers, which float64 adds up exactly in any order.
    whole = weights.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    total = np.maximum(whole, np.float32(1e-9))
    return np.asarray(np.sqrt(total) if pooling == "mean_sqrt_len_tokens" else total)


def names(pooling: str) -> list[str]:
    """The poolings whose results are concatenated."""
    return pooling.split(JOIN)


def _weighted(pooling: str, hidden: Floats, mask: Ints) -> Floats:
    weights = WEIGHTS[pooling](mask)
    total = (hidden * weights[:, :, None]).sum(axis=1)
    return np.asarray(total / divisor(pooling, weights), np.float32)


def _last(mask: Ints) -> Ints:
    """The position of each row's last token, 0 without tokens."""
    back = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    return np.asarray(np.where(mask.any(axis=1), back, 0))


def _one_hot(mask: Ints, position: Ints) -> Floats:
    """1 at the position of each row, 0 elsewhere."""
    return np.asarray(np.arange(mask.shape[1]) == position[:, None], np.float32)
