"""A decoder led along given tokens: what it would have said at every step of somebody's answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints
from engine.generation.request import Request
from engine.generation.scheduler import Cache, Flags


@dataclass(frozen=True)
class StepTrace:
    """What a decoder found likeliest, step by step.

    Attributes:
        tokens: int64 (rows, steps); behind a row's `lengths` they say nothing.
        lengths: int64 (rows,), the end token included.
        margins: By how many logits the likeliest token was ahead of the second, float32 (rows,
            steps).
    """

    tokens: Ints
    lengths: Ints
    margins: NDArray[np.float32]


class TeacherForcedSearch:
    """See `loop.Search`: feeds the tokens of `along`, or the likeliest where it is None.

    `found` is the result.
    """

    width = 1

    def __init__(self, job: Request, cache: Cache, along: StepTrace | None) -> None:
        rows, steps = len(job.prompt), job.max_new_tokens
        self.job, self.cache, self.along = job, cache, along
        self.ends = np.array(job.settings.end_ids, np.int64)
        self.tokens = np.full(cache.slots, job.settings.pad_id, np.int64)
        self.found = StepTrace(
            np.zeros((rows, steps), np.int64),
            np.zeros(rows, np.int64),
            np.zeros((rows, steps), np.float32),
        )

    def begin(self, places: Ints, rows: Ints) -> None:
        self.tokens[places] = self.job.prompt[rows, -1]

    def advance(self, places: Ints, rows: Ints) -> Flags:
        at = self.found.lengths[rows]
        best, scores = self.cache.best()
        self.found.tokens[rows, at] = best[places, 0]
        self.found.margins[rows, at] = scores[places, 0] - scores[places, 1]
        self.found.lengths[rows] += 1
        led = self.along or self.found
        self.tokens[places] = fed = led.tokens[rows, at]
        if self.along:
            return np.asarray(at + 1 == self.along.lengths[rows])
        ended = (fed[:, None] == self.ends).any(axis=1)
        return np.asarray(ended | (at + 1 == self.job.max_new_tokens))

    def keep(self, order: Ints) -> None:
        self.tokens = self.tokens[order]
