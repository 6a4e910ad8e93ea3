"""A token a step for every row: the likeliest, unless another way to choose is given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints, Ragged
from engine.generation.logits_processors import log_softmax
from engine.generation.request import DecodedRows, Request, tails
from engine.generation.scheduler import Flags, KVCache, Scores, StepResult

Stop = Callable[[Ragged], NDArray[np.bool_]]


def likeliest(search: GreedySearch, groups: Ints, rows: Ints) -> Ints:
    """A `Choose`."""
    if not search.request.processors:
        tokens, best = search.cache.best()
        if search.request.scored:
            search.note(rows, best[groups, 0])
        return np.asarray(tokens[groups, 0])
    scores = search.scores(groups, rows)
    chosen = scores.argmax(axis=1)
    if search.request.scored:
        search.note(rows, log_softmax(scores)[np.arange(len(chosen)), chosen])
    return np.asarray(chosen)


class GreedySearch:
    """See `scheduler.SearchStrategy`. `output` is the answer.

    Args:
        stop, tail: As `generate` takes them.
        choose: The next token of each row.
    """

    width = 1

    def __init__(
        self,
        request: Request,
        cache: KVCache,
        choose: Choose = likeliest,
        stop: Stop | None = None,
        tail: int = 0,
    ) -> None:
        self.request, self.cache, self.choose = request, cache, choose
        self.stop, self.tail = stop, tail
        self.output = DecodedRows.empty(request)
        self.ends = np.array(request.decoder.end_ids, np.int64)[:, None]
        # What every slot is fed next.
        self.tokens = np.full(cache.slots, request.decoder.pad_id, np.int64)

    def admit(self, groups: Ints, rows: Ints) -> None:
        self.cache.admit(groups, rows)
        self.tokens[groups] = self.request.prompt[rows, -1]

    def step(self, groups: Ints, rows: Ints) -> StepResult:
        self.cache.step(self.tokens)
        output = self.output
        chosen = self.choose(self, groups, rows)
        lengths = output.lengths[rows]
        self.tokens[groups] = output.ids[rows, lengths] = chosen
        lengths += 1
        output.lengths[rows] = lengths
        # np.isin takes twenty times as long for so few.
        ended = (chosen == self.ends).any(axis=0)
        if self.stop is not None:
            self._ask(self.stop, rows, ended)
        output.ended[rows] = ended
        return StepResult(ended | (lengths == self.request.limits[rows]), len(groups))

    def note(self, rows: Ints, logprobs: Scores) -> None:
        """Log-probabilities of the tokens that rows are about to get, float32 (rows,)."""
        self.output.logprobs[rows, self.output.lengths[rows]] = logprobs

    def keep(self, order: Ints) -> None:
        self.tokens = self.tokens[order]

    def scores(self, groups: Ints, rows: Ints) -> Scores:
        """Logits of the latest step behind the logits processors, float32 (rows, vocabulary); a
        copy."""
        scores = self.cache.logits()[groups]
        if self.request.processors:
            self.request.process(scores, rows, self.output.ids[rows], self.output.lengths[rows])
        return scores

    def _ask(self, stop: Stop, rows: Ints, ended: Flags) -> None:
        """Add to `ended` the rows that `stop` ends; it is shown only those that still run."""
        running = np.flatnonzero(~ended)
        if not len(running):
            return
        shown, output = rows[running], self.output
        history = self.request.history(shown, output.ids[shown], output.lengths[shown])
        ended[running] = stop(tails(history, self.tail))


Choose = Callable[[GreedySearch, Ints, Ints], Ints]
"""The next token of each group that has a row, from the latest step of the search's cache."""
