"""A decoder fed with given tokens: what it finds likeliest at every step of another's answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints
from engine.generation.greedy import Choose, GreedySearch


@dataclass(frozen=True)
class StepTrace:
    """What a decoder finds likeliest, step by step.

    Attributes:
        tokens: int64 (rows, steps); anything from a row's `lengths` on.
        lengths: int64 (rows,), the end token included.
        margins: By how many logits the likeliest token is ahead of the second, float32 (rows,
            steps).
    """

    tokens: Ints
    lengths: Ints
    margins: NDArray[np.float32]

    @classmethod
    def empty(cls, rows: int, steps: int) -> StepTrace:
        shape = rows, steps
        return cls(np.zeros(shape, np.int64), np.zeros(rows, np.int64), np.zeros(shape, np.float32))


def tracing(trace: StepTrace, along: StepTrace | None) -> Choose:
    """Notes the likeliest tokens in `trace`; chooses those of `along`, or the same where None."""

    def choose(search: GreedySearch, groups: Ints, rows: Ints) -> Ints:
        at = trace.lengths[rows]
        tokens, scores = search.cache.best()
        trace.tokens[rows, at] = tokens[groups, 0]
        trace.margins[rows, at] = scores[groups, 0] - scores[groups, 1]
        trace.lengths[rows] += 1
        return np.asarray((along or trace).tokens[rows, at])

    return choose


def recording(logits: NDArray[np.float32], forced: Ints) -> Choose:
    """Notes every step's logits, float32 (rows, steps, vocabulary); chooses `forced`, int64 (rows,
    steps)."""

    def choose(search: GreedySearch, groups: Ints, rows: Ints) -> Ints:
        at = search.output.lengths[rows]
        logits[rows, at] = search.cache.logits()[groups]
        return np.asarray(forced[rows, at])

    return choose
