"""Beam search as transformers 4.57 does it, each row as if it were decoded by itself.

Scores are float32, and what must not be chosen is put down by 1e9 rather than taken out, because
sums of that size swallow what is added to them and the order of such losers is part of the result.
Among equal scores the lower index wins. torch.topk promises no order for these (on a CPU it is what
a partial sort leaves), so an exact tie may be decided differently there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.format import GenerationConfig
from engine.core.types import Ints
from engine.generation.greedy import Stop
from engine.generation.logits_processors import log_softmax
from engine.generation.request import DecodedRows, Request, tails
from engine.generation.scheduler import Flags, KVCache, Scores, StepResult, slots_of

LOW = np.float32(-1e9)
# Scores of a row up to which sorting all of them is as fast as finding the best.
_FEW = 64


@dataclass
class Beams:
    """The state of every group; arrays (groups, beams, ...).

    Attributes:
        ids: Tokens of the beams that go on, best first, int64 (groups, beams, most).
        logprobs: Log-probabilities of these tokens, float32 (groups, beams, most); no columns where
            they are not wanted.
        scores: Sums of their log-probabilities, float32 (groups, beams).
        slots: Which slot holds the cache of each, int64 (groups, beams).
        done_ids, done_logprobs, done_lengths, done_scores, taken: The best that have ended, best
            first, their scores after the length penalty; those not yet `taken` have a score of LOW.
    """

    ids: Ints
    logprobs: Scores
    scores: Scores
    slots: Ints
    done_ids: Ints
    done_logprobs: Scores
    done_lengths: Ints
    done_scores: Scores
    taken: Flags

    @classmethod
    def empty(cls, groups: int, request: Request) -> Beams:
        shape, length = (groups, request.config.num_beams), request.most
        pad = request.decoder.pad_id
        logprobs = np.zeros((*shape, length if request.scored else 0), np.float32)
        return cls(
            ids=np.full((*shape, length), pad, np.int64),
            logprobs=logprobs,
            scores=np.full(shape, LOW, np.float32),
            slots=np.arange(shape[0] * shape[1]).reshape(shape),
            done_ids=np.full((*shape, length), pad, np.int64),
            done_logprobs=logprobs.copy(),
            done_lengths=np.zeros(shape, np.int64),
            done_scores=np.full(shape, LOW, np.float32),
            taken=np.zeros(shape, np.bool_),
        )

    def take(self, index: Ints) -> Beams:
        return Beams(*(getattr(self, f.name)[index] for f in fields(self)))

    def put(self, index: Ints, state: Beams) -> None:
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(state, f.name)


@dataclass(frozen=True)
class Candidates:
    """Continuations of the running beams, best first; (groups, candidates).

    Attributes:
        tokens, parents: The new token, and the beam that it continues.
        scores: As `Beams.scores`.
        logprobs: Of the new token.
        ending: Those whose token is an end or the last one allowed, or completes a stop text.
    """

    tokens: Ints
    parents: Ints
    scores: Scores
    logprobs: Scores
    ending: Flags

    def sequences(self, beams: Beams, ages: Ints) -> tuple[Ints, Scores]:
        """All tokens of each and their log-probabilities, as `Beams.ids` and `Beams.logprobs`."""
        last = (ages - 1)[:, None, None]
        ids = _picked(beams.ids, self.parents)
        np.put_along_axis(ids, last, self.tokens[..., None], axis=2)
        logprobs = _picked(beams.logprobs, self.parents)
        if logprobs.shape[2]:
            np.put_along_axis(logprobs, last, self.logprobs[..., None], axis=2)
        return ids, logprobs


class BeamSearch:
    """See `scheduler.SearchStrategy`. `output` is the answer, `num_return_sequences` a row.

    Args:
        stop, tail: As `generate_sequences` takes them.
    """

    def __init__(
        self, request: Request, cache: KVCache, stop: Stop | None = None, tail: int = 0
    ) -> None:
        self.request, self.cache = request, cache
        self.stop, self.tail = stop, tail
        self.width = request.config.num_beams
        self.output = DecodedRows.empty(request, request.config.num_return_sequences)
        # What every slot is fed next.
        self.tokens = np.full(cache.slots, request.decoder.pad_id, np.int64)
        self.ages = np.zeros(len(request.prompt), np.int64)
        self.beams = Beams.empty(cache.slots // self.width, request)
        # Of each slot and generated position: the slot that computed it.
        self.origins = np.zeros((cache.slots, request.most), np.int64)

    def admit(self, groups: Ints, rows: Ints) -> None:
        """Only the first beam counts at first, or all would be the same."""
        slots = slots_of(groups, self.width)
        self.cache.admit(slots, np.repeat(rows, self.width))
        request = self.request
        fresh = Beams.empty(len(groups), request)
        fresh.scores[:, 0] = 0
        fresh.slots[:] = slots.reshape(-1, self.width)
        self.beams.put(groups, fresh)
        self.tokens[fresh.slots] = request.prompt[rows, -1][:, None]

    def step(self, groups: Ints, rows: Ints) -> StepResult:
        self.cache.step(self.tokens)
        config, limits = self.request.config, self.request.limits[rows]
        beams = self.beams.take(groups)
        self.ages[rows] += 1
        ages = self.ages[rows]
        self.origins[beams.slots, ages[:, None] - 1] = beams.slots
        candidates = self._candidates(beams, rows, ages)
        if self.stop is not None:
            self._ask(self.stop, beams, candidates, rows)
        _collect_finished(beams, candidates, config, ages)
        parents = _continue_best(beams, candidates, ages)
        running = _may_improve(beams, config, ages, limits)
        running &= ~_has_enough(beams, config) & ~candidates.ending.all(axis=1)
        finished = np.flatnonzero(~running)
        if len(finished):
            self._store(rows[finished], beams.take(finished))
        self._assign_slots(beams, parents, running)
        self.beams.put(groups, beams)
        last = np.take_along_axis(beams.ids, (ages - 1)[:, None, None], axis=2)[..., 0]
        self.tokens[beams.slots] = last
        return StepResult(~running, len(groups))

    def keep(self, order: Ints) -> None:
        slots = slots_of(order, self.width)
        renumbered = np.zeros(len(self.tokens), np.int64)
        renumbered[slots] = np.arange(len(slots))
        self.tokens, self.beams = self.tokens[slots], self.beams.take(order)
        self.beams.slots = renumbered[self.beams.slots]
        # Only whether these are equal matters, and only within a group.
        self.origins = self.origins[slots]

    def _candidates(self, beams: Beams, rows: Ints, ages: Ints) -> Candidates:
        """Twice as many as beams, or more where several tokens end a row: enough that do not."""
        ends, limits = self.request.decoder.end_ids, self.request.limits[rows]
        tokens, scores = self._scored(beams, rows, ages - 1)
        sums = scores + beams.scores[..., None]
        options = sums.shape[2]
        sums = sums.reshape(len(rows), -1)
        best = top(sums, self.request.candidates)
        parents = best // options
        chosen = best % options
        if tokens is not None:
            chosen = _picked(tokens.reshape(len(rows), -1), best)
        ending = np.isin(chosen, ends) | (ages >= limits)[:, None]
        logprobs = _picked(scores.reshape(len(rows), -1), best)
        return Candidates(chosen, parents, _picked(sums, best), logprobs, ending)

    def _ask(self, stop: Stop, beams: Beams, candidates: Candidates, rows: Ints) -> None:
        """Add to `ending` the candidates that `stop` ends; it is shown only those that go on."""
        group, which = np.nonzero(~candidates.ending)
        if not len(group):
            return
        ages = self.ages[rows]
        ids, _ = candidates.sequences(beams, ages)
        history = self.request.history(rows[group], ids[group, which], ages[group])
        candidates.ending[group, which] = stop(tails(history, self.tail))

    def _scored(self, beams: Beams, rows: Ints, ages: Ints) -> tuple[Ints | None, Scores]:
        """Log-probabilities (groups, beams, n) and the tokens they are of; all of them for None."""
        shape = (*beams.slots.shape, -1)
        if not self.request.processors:
            tokens, scores = self.cache.best()
            return tokens[beams.slots], scores[beams.slots]
        scores = log_softmax(self.cache.logits()[beams.slots.ravel()])
        owners = np.repeat(rows, self.width)
        ids = beams.ids.reshape(len(owners), -1)
        self.request.process(scores, owners, ids, np.repeat(ages, self.width))
        return None, scores.reshape(shape)

    def _store(self, rows: Ints, beams: Beams) -> None:
        output, count = self.output, self.request.config.num_return_sequences
        at = (rows[:, None] * count + np.arange(count)).ravel()
        for into, done in (
            (output.ids, beams.done_ids),
            (output.logprobs, beams.done_logprobs),
            (output.lengths, beams.done_lengths),
            (output.scores, beams.done_scores),
        ):
            into[at] = done[:, :count].reshape(len(at), *done.shape[2:])
        output.mark_ended(at, self.request.decoder.end_ids)
        if self.stop is not None:
            owners = np.repeat(rows, count)
            history = self.request.history(owners, output.ids[at], output.lengths[at])
            output.ended[at] |= self.stop(tails(history, self.tail))

    def _assign_slots(self, beams: Beams, parents: Ints, running: Flags) -> None:
        """Find every beam a slot with its parent's cache.

        The only beam of a parent stays in the parent's slot. Of several, the others go into slots
        that nobody continues; there only what differs has to be copied, from the first position on
        that another slot has computed.
        """
        stays = _first_of_equals(parents)
        parent_slots = _picked(beams.slots, parents)
        continued = np.zeros(parents.shape, np.bool_)
        np.put_along_axis(continued, parents, True, axis=1)
        slots = np.where(stays, parent_slots, 0)
        slots[~stays] = beams.slots[~continued]
        copied = ~stays & running[:, None]
        targets, sources = slots[copied], parent_slots[copied]
        beams.slots = slots
        if not len(targets):
            return
        differ = self.origins[targets] != self.origins[sources]
        starts = np.where(differ.any(axis=1), differ.argmax(axis=1), self.request.most)
        self.cache.copy(targets, sources, starts)
        self.origins[targets] = self.origins[sources]


def _first_of_equals(values: Ints) -> Flags:
    """Which values have no equal before them in their row; int64 (rows, n)."""
    same = values[:, :, None] == values[:, None, :]
    return np.asarray(~np.tril(same, -1).any(axis=2))


def _continue_best(beams: Beams, candidates: Candidates, ages: Ints) -> Ints:
    """Make the best that do not end the running beams, and return whom each one continues."""
    scores = candidates.scores + _low(candidates.ending)
    best = top(scores, beams.scores.shape[1])
    going_on = Candidates(*(_picked(getattr(candidates, f.name), best) for f in fields(candidates)))
    beams.ids, beams.logprobs = going_on.sequences(beams, ages)
    beams.scores = _picked(scores, best)
    return going_on.parents


def _collect_finished(
    beams: Beams, candidates: Candidates, config: GenerationConfig, ages: Ints
) -> None:
    """Keep the best of the sequences that had ended and those that end now among the first
    `num_beams` candidates.

    transformers also keeps finished rows from changing; here they have left by then.
    """
    count = beams.scores.shape[1]
    ending = candidates.ending & (np.arange(candidates.scores.shape[1]) < count)
    penalty = (ages[:, None] ** config.length_penalty).astype(np.float32)
    scores = candidates.scores / penalty + _low(~ending)
    ids, logprobs = candidates.sequences(beams, ages)
    lengths = np.broadcast_to(ages[:, None], scores.shape)
    merged = np.concatenate([beams.done_scores, scores], axis=1)
    best = top(merged, count)
    beams.done_scores = _picked(merged, best)
    beams.done_ids = _picked(np.concatenate([beams.done_ids, ids], axis=1), best)
    beams.done_logprobs = _picked(np.concatenate([beams.done_logprobs, logprobs], axis=1), best)
    beams.done_lengths = _picked(np.concatenate([beams.done_lengths, lengths], axis=1), best)
    beams.taken = _picked(np.concatenate([beams.taken, ending], axis=1), best)


def _low(losing: Flags) -> Scores:
    return np.where(losing, LOW, np.float32(0))


def _may_improve(beams: Beams, config: GenerationConfig, ages: Ints, limits: Ints) -> Flags:
    """Which rows have a running beam that might still beat a finished one; bool (rows,)."""
    longest = config.early_stopping == "never" and config.length_penalty > 0
    lengths = limits if longest else ages
    penalty = (lengths[:, None] ** config.length_penalty).astype(np.float32)
    best = beams.scores[:, :1] / penalty
    worst = np.where(beams.taken, beams.done_scores.min(axis=1, keepdims=True), LOW)
    return np.asarray((best > worst).any(axis=1))


def _has_enough(beams: Beams, config: GenerationConfig) -> Flags:
    """Which rows have as many finished sequences as early stopping asks for; bool (rows,)."""
    full = np.asarray(beams.taken.all(axis=1))
    return full if config.early_stopping is True else np.zeros_like(full)


def _picked(array: NDArray[Any], index: Ints) -> NDArray[Any]:
    """Elements (rows, k, ...) of an array (rows, n, ...) at `index`, int64 (rows, k)."""
    return array[np.arange(len(array))[:, None], index]


def top(scores: Scores, count: int) -> Ints:
    """Where each row's `count` highest scores are, highest first and equal ones by index.

    Args:
        scores: float32 (rows, n), n at least `count`.

    Returns:
        Indices, int64 (rows, count).
    """
    if scores.shape[1] <= _FEW:
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    best = np.argpartition(scores, -count, axis=1)[:, -count:]
    least = _picked(scores, best).min(axis=1, keepdims=True)
    for row in np.flatnonzero((scores >= least).sum(axis=1) > count):
        above = np.flatnonzero(scores[row] > least[row])
        level = np.flatnonzero(scores[row] == least[row])
        best[row] = np.concatenate([above, level])[:count]
    best.sort(axis=1)
    return _picked(best, np.argsort(-_picked(scores, best), axis=1, kind="stable"))
