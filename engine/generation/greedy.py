"""A token a step for every row: the likeliest, unless another way to choose is given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints, Ragged
from engine.generation.logits_processors import FILLER
from engine.generation.request import Request
from engine.generation.scheduler import Cache, Flags, Scores

Stop = Callable[[Ragged], NDArray[np.bool_]]


def likeliest(search: Greedy, places: Ints, rows: Ints) -> Ints:
    """A `Choose`."""
    if not search.job.rules:
        return np.asarray(search.cache.best()[0][places, 0])
    return np.asarray(search.ruled(places, rows).argmax(axis=1))


class Greedy:
    """See `loop.Search`. `ids` (rows, max_new_tokens), `lengths` and `ended` are the result."""

    width = 1

    def __init__(
        self,
        job: Request,
        cache: Cache,
        stop: Stop | None = None,
        tail: int = 0,
        choose: Choose = likeliest,
    ) -> None:
        rows = len(job.prompt)
        self.job, self.cache, self.stop, self.tail = job, cache, stop, tail
        self.choose = choose
        self.ends = np.array(job.settings.end_ids, np.int64)
        self.ids = np.full((rows, job.max_new_tokens), job.settings.pad_id, np.int64)
        self.lengths = np.zeros(rows, np.int64)
        self.ended = np.zeros(rows, np.bool_)
        self.tokens = np.full(cache.slots, job.settings.pad_id, np.int64)

    def begin(self, places: Ints, rows: Ints) -> None:
        self.tokens[places] = self.job.prompt[rows, -1]

    def advance(self, places: Ints, rows: Ints) -> Flags:
        chosen = self.choose(self, places, rows)
        self.tokens[places] = self.ids[rows, self.lengths[rows]] = chosen
        self.lengths[rows] += 1
        ended = (chosen[:, None] == self.ends).any(axis=1)
        if self.stop is not None:
            self._ask(self.stop, rows, ended)
        self.ended[rows] = ended
        return np.asarray(ended | (self.lengths[rows] == self.job.max_new_tokens))

    def keep(self, order: Ints) -> None:
        self.tokens = self.tokens[order]

    def ruled(self, places: Ints, rows: Ints) -> Scores:
        """Logits of the latest step after the rules, float32 (places, vocabulary); a copy."""
        scores = self.cache.logits()[places]
        if self.job.rules:
            self.job.rule(scores, rows, self.ids[rows], self.lengths[rows])
        return scores

    def _ask(self, stop: Stop, rows: Ints, ended: Flags) -> None:
        """Add to `ended` the rows that `stop` ends; it is shown only those that still run."""
        running = np.flatnonzero(~ended)
        if not len(running):
            return
        asked = rows[running]
        tails = self.job.history(asked, self.ids[asked], self.lengths[asked])[:, -self.tail :]
        real = tails != FILLER
        ended[running] = stop(Ragged.of(tails[real], real.sum(axis=1)))


Choose = Callable[[Greedy, Ints, Ints], Ints]
"""The next token of each place that has a row, from the latest step of the search's cache."""
