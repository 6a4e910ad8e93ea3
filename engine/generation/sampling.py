"""Sampling: the next token is drawn from what transformers' warpers leave of the distribution.

What a row draws follows from its logits and from (seed, row, step) alone. The token that a random
number stands for is looked up in the order of token ids, not of likelihood: where two logits are so
close that another batch size rounds them to the opposite order, the answer stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import GenerationConfig
from engine.core.types import Ints
from engine.generation.beam_state import top
from engine.generation.greedy import GreedySearch
from engine.generation.logits_processors import log_softmax
from engine.generation.scheduler import Scores

Words = NDArray[np.uint64]

# Constants of Philox4x32-10.
_ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True)
class Sampling:
    """A `greedy.Choose` that draws.

    Of tokens that score the same as the last of the top_k, those with the lowest ids are kept;
    transformers keeps all of them.

    Attributes:
        seed: Of the run, from 0 and below 2**64; or of each row, uint64 (rows,).
        numbers: Of each row, its number in the input wherever it is decoded, int64 (rows,).
        sequences: Of each row, which of the sequences of one text it is, int64 (rows,); the first
            draws what a single one would.
    """

    seed: int | Words
    numbers: Ints
    sequences: Ints

    def __call__(self, search: GreedySearch, groups: Ints, rows: Ints) -> Ints:
        tokens, scores = _candidates(search, groups, rows)
        seed = self.seed if isinstance(self.seed, int) else self.seed[rows]
        lengths = search.output.lengths[rows]
        chance = uniform(seed, self.numbers[rows], lengths, self.sequences[rows])
        left = warp(scores, search.request.config)
        chosen = draw(left, chance)
        if search.request.scored:
            search.note(rows, log_softmax(left)[np.arange(len(chosen)), chosen])
        return chosen if tokens is None else tokens[np.arange(len(chosen)), chosen]


def _candidates(search: GreedySearch, groups: Ints, rows: Ints) -> tuple[Ints | None, Scores]:
    """Tokens by ascending id, (groups, n), and their logits; all of them for None."""
    top_k = search.request.config.top_k
    if top_k and not search.request.processors:
        tokens, scores = search.cache.best()
        tokens, scores = tokens[groups], scores[groups]
    else:
        scores = search.scores(groups, rows)
        if not top_k:
            return None, scores
        tokens = top(scores, min(top_k, scores.shape[1]))
        scores = np.take_along_axis(scores, tokens, axis=1)
    order = tokens.argsort(axis=1)
    return np.take_along_axis(tokens, order, axis=1), np.take_along_axis(scores, order, axis=1)


def warp(scores: Scores, config: GenerationConfig) -> Scores:
    """Logits after temperature, top-p and min-p, in transformers' order.

    Args:
        scores: float32 (rows, n), those that top-k has left.
        config: Temperature, top-p and min-p.

    Returns:
        The same minus a constant for each row, -inf where a token is out.
    """
    kept = scores
    if config.temperature != 1:
        # From the highest on, so that a temperature near 0 leaves that one rather than infinities.
        with np.errstate(over="ignore", invalid="ignore"):
            kept = scores - scores.max(axis=1, keepdims=True)
            kept /= max(np.float32(config.temperature), np.finfo(np.float32).tiny)
    if config.top_p < 1:
        kept = np.where(_in_top_p(kept, config.top_p), kept, np.float32(-np.inf))
    if config.min_p > 0:
        shares = _softmax(kept)
        out = shares < np.float32(config.min_p) * shares.max(axis=1, keepdims=True)
        kept = np.where(out, np.float32(-np.inf), kept)
    return np.asarray(kept)


def _in_top_p(scores: Scores, top_p: float) -> NDArray[np.bool_]:
    """All but the least likely that make up 1 - top_p together; the likeliest always."""
    order = scores.argsort(axis=1, kind="stable")
    ascending = np.take_along_axis(_softmax(scores), order, axis=1)
    # Summed up as torch does on a CPU: in float64, each sum as float32.
    sums = ascending.cumsum(axis=1, dtype=np.float64).astype(np.float32)
    ordered = sums > np.float32(1 - top_p)
    ordered[:, -1] = True
    kept = np.empty_like(ordered)
    np.put_along_axis(kept, order, ordered, axis=1)
    return kept


def draw(scores: Scores, chance: NDArray[np.float64]) -> Ints:
    """Where the distribution function of each row's softmax passes `chance`, from 0 to below 1.

    Never where the score is -inf; at 0 if all are, which is what greedy search takes there.
    """
    sums = _softmax(scores).cumsum(axis=1, dtype=np.float64)
    whole = sums[:, -1]
    # A product that is rounded up to the whole would fall behind the last token.
    reached = np.minimum(chance * whole, np.nextafter(whole, 0))
    return np.asarray((sums <= reached[:, None]).sum(axis=1))


def _softmax(scores: Scores) -> Scores:
    with np.errstate(invalid="ignore"):
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
    return np.asarray(shares)


def uniform(
    seed: int | Words, rows: Ints, steps: Ints, sequences: Ints | None = None
) -> NDArray[np.float64]:
    """A number from 0 to below 1 for each (seed, row, step, sequence), with 53 random bits.

    Args:
        seed: From 0 and below 2**64; one for all, or uint64 (n,).
        rows, steps, sequences: int64 (n,), from 0; steps and sequences below 2**32. Sequences are
            0 where None.
    """
    row, step = rows.astype(np.uint64), steps.astype(np.uint64)
    last = np.zeros_like(step) if sequences is None else sequences.astype(np.uint64)
    counter = np.stack([row & _LOW, row >> _HALF, step, last])
    words = np.atleast_1d(np.asarray(seed, np.uint64))
    high, low, *_ = philox(counter, np.stack([words & _LOW, words >> _HALF]))
    bits = ((high >> np.uint64(5)) << np.uint64(26)) | (low >> np.uint64(6))
    return np.asarray(bits * 2.0**-53)


def philox(counter: Words, key: Words | tuple[int, int]) -> Words:
    """Philox4x32-10: 128 random bits for each counter, without any state.

    J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2,
    3", SC11, 2011.

    Args:
        counter: Words of 32 bits in uint64 (4, n).
        key: Two such words for all, (2, 1), or for each, (2, n).

    Returns:
        Words of 32 bits in uint64 (4, n).
    """
    even, odd = counter[0::2], counter[1::2]
    key = np.asarray(key, np.uint64).reshape(2, -1)
    for _ in range(_ROUNDS):
        products = (even * _MULTIPLIERS)[::-1]
        even, odd = products >> _HALF ^ odd ^ key, products & _LOW
        key = (key + _WEYL) & _LOW
    return np.stack([even[0], odd[0], even[1], odd[1]])
