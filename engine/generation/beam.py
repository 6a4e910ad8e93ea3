"""Beam search as transformers 4.57 does it, each row as if it were decoded by itself.

Scores are float32, and what must not be chosen is put down by 1e9 rather than taken out, because
sums of that size swallow what is added to them and the order of such losers is part of the result.
Among equal scores the lower index wins. torch.topk promises no order for these (on a CPU it is what
a partial sort leaves), so an exact tie may be decided differently there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
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
    """The running beams of every group, best first; arrays (groups, beams).

    Attributes:
        scores: Sums of their tokens' log-probabilities, float32.
        slots: Which slot holds the cache and the tokens of each, int64.
    """

    scores: Scores
    slots: Ints

    @classmethod
    def empty(cls, groups: int, width: int) -> Beams:
        slots = np.arange(groups * width).reshape(groups, width)
        return cls(np.full(slots.shape, LOW, np.float32), slots)

    def take(self, index: Ints) -> Beams:
        return Beams(self.scores[index], self.slots[index])

    def put(self, index: Ints, state: Beams) -> None:
        self.scores[index], self.slots[index] = state.scores, state.slots


@dataclass
class Finished:
    """The best sequences of every group that have ended, best first; arrays (groups, beams, ...).

    Attributes:
        ids: Their tokens, int64 (groups, beams, most).
        logprobs: Log-probabilities of these, float32 (groups, beams, most); no columns where they
            are not wanted.
        lengths: How many each has, int64.
        scores: After the length penalty, float32; LOW for those not yet `taken`.
        taken: bool.
    """

    ids: Ints
    logprobs: Scores
    lengths: Ints
    scores: Scores
    taken: Flags

    @classmethod
    def empty(cls, groups: int, request: Request) -> Finished:
        shape, length = (groups, request.config.num_beams), request.most
        return cls(
            ids=np.full((*shape, length), request.decoder.pad_id, np.int64),
            logprobs=np.zeros((*shape, length if request.scored else 0), np.float32),
            lengths=np.zeros(shape, np.int64),
            scores=np.full(shape, LOW, np.float32),
            taken=np.zeros(shape, np.bool_),
        )

    def take(self, index: Ints) -> Finished:
        return Finished(*(getattr(self, f.name)[index] for f in fields(self)))

    def put(self, index: Ints, state: Finished) -> None:
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(state, f.name)

    def best_with(self, more: Finished) -> Finished:
        """The best of these and of `more`, as many as these are."""
        scores = np.concatenate([self.scores, more.scores], axis=1)
        best = top(scores, self.scores.shape[1])
        pairs = ((getattr(self, f.name), getattr(more, f.name)) for f in fields(self))
        return Finished(*(_picked(np.concatenate(pair, axis=1), best) for pair in pairs))


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

    def take(self, groups: Ints) -> Candidates:
        return Candidates(*(getattr(self, f.name)[groups] for f in fields(self)))

    def put(self, groups: Ints, state: Candidates) -> None:
        for f in fields(self):
            getattr(self, f.name)[groups] = getattr(state, f.name)

    def picked(self, index: Ints) -> Candidates:
        """Those at `index` of each group, int64 (groups, k)."""
        at = _flat(index, self.tokens.shape[1])
        return Candidates(*(getattr(self, f.name).take(at) for f in fields(self)))


class BeamSearch:
    """See `scheduler.SearchStrategy`. `output` is the answer, `num_return_sequences` a row.

    Tokens lie where the cache is: a beam that stays in its parent's slot adds one to what is there.

    Args:
        stop, tail: As `generate_sequences` takes them.
    """

    def __init__(
        self, request: Request, cache: KVCache, stop: Stop | None = None, tail: int = 0
    ) -> None:
        self.request, self.cache = request, cache
        self.stop, self.tail = stop, tail
        self.width = request.config.num_beams
        self.ends = np.array(request.decoder.end_ids)
        self.output = DecodedRows.empty(request, request.config.num_return_sequences)
        # What every slot is fed next.
        self.tokens = np.full(cache.slots, request.decoder.pad_id, np.int64)
        self.ages = np.zeros(len(request.prompt), np.int64)
        groups = cache.slots // self.width
        self.beams = Beams.empty(groups, self.width)
        self.finished = Finished.empty(groups, request)
        # Of each slot and generated position: the token, its log-probability, the slot that
        # computed it.
        self.ids = np.full((cache.slots, request.most), request.decoder.pad_id, np.int64)
        self.logprobs = np.zeros((cache.slots, request.most if request.scored else 0), np.float32)
        self.origins = np.zeros((cache.slots, request.most), np.int64)
        # Of what the logits processors are shown.
        self.scratch = np.empty((0, request.decoder.vocabulary), np.float32)

    def admit(self, groups: Ints, rows: Ints) -> None:
        """Only the first beam counts at first, or all would be the same."""
        slots = slots_of(groups, self.width)
        self.cache.admit(slots, np.repeat(rows, self.width))
        fresh = Beams(
            np.full((len(groups), self.width), LOW, np.float32), slots.reshape(-1, self.width)
        )
        fresh.scores[:, 0] = 0
        self.beams.put(groups, fresh)
        self.finished.put(groups, Finished.empty(len(groups), self.request))
        self.ids[slots] = self.request.decoder.pad_id
        self.logprobs[slots] = 0
        self.tokens[fresh.slots] = self.request.prompt[rows, -1][:, None]

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
        self._collect_finished(groups, beams, candidates, ages)
        scores, taken = self.finished.scores[groups], self.finished.taken[groups]
        going_on = _best_going_on(beams, candidates)
        beams.scores = going_on.scores
        running = _may_improve(beams, scores, taken, config, ages, limits)
        running &= ~_has_enough(taken, config) & ~candidates.ending.all(axis=1)
        if not running.all():
            self._store(rows[~running], self.finished.take(groups[~running]))
        self._assign_slots(beams, going_on.parents, running, int(ages.max()))
        self._append(beams.slots, going_on, ages)
        self.beams.put(groups, beams)
        return StepResult(~running, len(groups))

    def keep(self, order: Ints) -> None:
        slots = slots_of(order, self.width)
        renumbered = np.zeros(len(self.tokens), np.int64)
        renumbered[slots] = np.arange(len(slots))
        self.tokens, self.ids = self.tokens[slots], self.ids[slots]
        self.logprobs = self.logprobs[slots]
        self.beams, self.finished = self.beams.take(order), self.finished.take(order)
        self.beams.slots = renumbered[self.beams.slots]
        # Only whether these are equal matters, and only within a group.
        self.origins = self.origins[slots]

    def _candidates(self, beams: Beams, rows: Ints, ages: Ints) -> Candidates:
        """Twice as many as beams, or more where several tokens end a row: enough that do not."""
        if self.request.reads_logits:
            return self._of_all(beams, rows, ages)
        tokens, scores = self.cache.best()
        tokens, scores = tokens[beams.slots], scores[beams.slots]
        choose = self._of_processed if self.request.processors else self._best
        return choose(beams, rows, ages, scores, tokens)

    def _of_processed(
        self, beams: Beams, rows: Ints, ages: Ints, scores: Scores, tokens: Ints
    ) -> Candidates:
        """Of the likeliest tokens, some of which the logits processors weaken or ban. Where one
        that is not among them might come before these, of all tokens.

        Args:
            scores, tokens: Of the likeliest, best first; (groups, beams, n).
        """
        bounds = scores[..., -1] + beams.scores
        by_id = tokens.argsort(axis=2)
        tokens = np.take_along_axis(tokens, by_id, axis=2)
        index = tokens.reshape(-1, tokens.shape[2])
        every = self._unknown(len(index))
        flat = np.take_along_axis(scores, by_id, axis=2).reshape(index.shape)
        np.put_along_axis(every, index, flat, axis=1)
        settled = self._process(every, beams, rows, ages).reshape(beams.slots.shape).all(axis=1)
        scores = np.take_along_axis(every, index, axis=1).reshape(tokens.shape)
        found = self._best(beams, rows, ages, scores, tokens)
        unsure = (bounds >= found.scores[:, -1:]).any(axis=1) & (tokens.shape[2] < every.shape[1])
        every = every.reshape(*beams.slots.shape, -1)
        if len(some := np.flatnonzero(settled)):
            known = beams.take(some), rows[some], ages[some], every[some]
            found.put(some, self._best(*known))
        if len(some := np.flatnonzero(unsure & ~settled)):
            found.put(some, self._of_all(beams.take(some), rows[some], ages[some]))
        return found

    def _unknown(self, count: int) -> Scores:
        """Scores of all tokens, none of which is known yet; (count, vocabulary)."""
        if len(self.scratch) < count:
            self.scratch = np.empty((count, self.request.decoder.vocabulary), np.float32)
        self.scratch[:count].fill(-np.inf)
        return self.scratch[:count]

    def _of_all(self, beams: Beams, rows: Ints, ages: Ints) -> Candidates:
        scores = log_softmax(self.cache.logits()[beams.slots.ravel()])
        self._process(scores, beams, rows, ages)
        return self._best(beams, rows, ages, scores.reshape(*beams.slots.shape, -1))

    def _process(self, scores: Scores, beams: Beams, rows: Ints, ages: Ints) -> Flags:
        """See `Request.process`; scores of every beam, (groups x beams, vocabulary)."""
        ids, owners = self.ids[beams.slots.ravel()], np.repeat(rows, self.width)
        return self.request.process(scores, owners, ids, np.repeat(ages - 1, self.width))

    def _best(
        self, beams: Beams, rows: Ints, ages: Ints, scores: Scores, tokens: Ints | None = None
    ) -> Candidates:
        """The best continuations by log-probabilities, (groups, beams, n), of `tokens`; of all
        tokens for None."""
        sums = scores + beams.scores[..., None]
        options = sums.shape[2]
        sums = sums.reshape(len(rows), -1)
        best = top(sums, self.request.candidates)
        at = _flat(best, sums.shape[1])
        parents = best // options
        chosen = best % options if tokens is None else tokens.take(at)
        ending = (chosen[..., None] == self.ends).any(axis=2)
        ending |= (ages >= self.request.limits[rows])[:, None]
        return Candidates(chosen, parents, sums.take(at), scores.take(at), ending)

    def _ask(self, stop: Stop, beams: Beams, candidates: Candidates, rows: Ints) -> None:
        """Add to `ending` the candidates that `stop` ends; it is shown only those that go on."""
        group, which = np.nonzero(~candidates.ending)
        if not len(group):
            return
        ages = self.ages[rows]
        ids, _ = self._sequences(beams, candidates, ages)
        history = self.request.history(rows[group], ids[group, which], ages[group])
        candidates.ending[group, which] = stop(tails(history, self.tail))

    def _sequences(self, beams: Beams, candidates: Candidates, ages: Ints) -> tuple[Ints, Scores]:
        """All tokens of each candidate and their log-probabilities, (groups, candidates, most)."""
        parents = _picked(beams.slots, candidates.parents)
        last = (ages - 1)[:, None, None]
        ids, logprobs = self.ids[parents], self.logprobs[parents]
        np.put_along_axis(ids, last, candidates.tokens[..., None], axis=2)
        if logprobs.shape[2]:
            np.put_along_axis(logprobs, last, candidates.logprobs[..., None], axis=2)
        return ids, logprobs

    def _collect_finished(
        self, groups: Ints, beams: Beams, candidates: Candidates, ages: Ints
    ) -> None:
        """Keep the best of the sequences that had ended and those that end now among the first
        `num_beams` candidates.

        transformers also keeps finished rows from changing; here they have left by then. A group
        without any that ends stays as it is: its candidates would lose against all that it has.
        """
        ending = candidates.ending.copy()
        ending[:, self.width :] = False
        some = np.flatnonzero(ending.any(axis=1))
        if not len(some):
            return
        groups, ages, ending = groups[some], ages[some], ending[some]
        candidates = candidates.take(some)
        ids, logprobs = self._sequences(beams.take(some), candidates, ages)
        scores = candidates.scores / _penalty(ages, self.request.config) + _low(~ending)
        lengths = np.broadcast_to(ages[:, None], scores.shape)
        ended = Finished(ids, logprobs, lengths, scores, ending)
        self.finished.put(groups, self.finished.take(groups).best_with(ended))

    def _store(self, rows: Ints, finished: Finished) -> None:
        output, count = self.output, self.request.config.num_return_sequences
        at = (rows[:, None] * count + np.arange(count)).ravel()
        for into, of in (
            (output.ids, finished.ids),
            (output.logprobs, finished.logprobs),
            (output.lengths, finished.lengths),
            (output.scores, finished.scores),
        ):
            into[at] = of[:, :count].reshape(len(at), *of.shape[2:])
        output.mark_ended(at, self.request.decoder.end_ids)
        if self.stop is not None:
            owners = np.repeat(rows, count)
            history = self.request.history(owners, output.ids[at], output.lengths[at])
            output.ended[at] |= self.stop(tails(history, self.tail))

    def _assign_slots(self, beams: Beams, parents: Ints, running: Flags, most: int) -> None:
        """Find every beam a slot with its parent's cache and tokens, of which there are `most` at
        most.

        The only beam of a parent stays in the parent's slot. Of several, the others go into slots
        that nobody continues; there only what differs has to be copied, from the first position on
        that another slot has computed.
        """
        stays = _first_of_equals(parents)
        parent_slots = _picked(beams.slots, parents)
        continued = np.zeros(parents.shape, np.bool_)
        continued.ravel()[_flat(parents, parents.shape[1])] = True
        slots = np.where(stays, parent_slots, 0)
        slots[~stays] = beams.slots[~continued]
        copied = ~stays & running[:, None]
        targets, sources = slots[copied], parent_slots[copied]
        beams.slots = slots
        if not len(targets):
            return
        differ = self.origins[targets, :most] != self.origins[sources, :most]
        starts = np.where(differ.any(axis=1), differ.argmax(axis=1), most)
        self.cache.copy(targets, sources, starts)
        for of_slots in (self.origins, self.ids, self.logprobs):
            of_slots[targets, :most] = of_slots[sources, :most]

    def _append(self, slots: Ints, chosen: Candidates, ages: Ints) -> None:
        """Give each slot, (groups, beams), its token."""
        last = ages[:, None] - 1
        self.tokens[slots] = self.ids[slots, last] = chosen.tokens
        if self.logprobs.shape[1]:
            self.logprobs[slots, last] = chosen.logprobs


def _first_of_equals(values: Ints) -> Flags:
    """Which values have no equal before them in their row; int64 (rows, n)."""
    same = values[:, :, None] == values[:, None, :]
    same &= np.tri(values.shape[1], k=-1, dtype=np.bool_)
    return np.asarray(~same.any(axis=2))


def _best_going_on(beams: Beams, candidates: Candidates) -> Candidates:
    """The best that do not end, as many as beams; their scores are those of running beams."""
    scores = candidates.scores + _low(candidates.ending)
    best = top(scores, beams.scores.shape[1])
    return replace(candidates.picked(best), scores=_picked(scores, best))


def _penalty(lengths: Ints, config: GenerationConfig) -> Scores:
    """What sums of log-probabilities are divided by, float32 (rows, 1)."""
    return np.asarray((lengths[:, None] ** config.length_penalty).astype(np.float32))


def _low(losing: Flags) -> Scores:
    return np.where(losing, LOW, np.float32(0))


def _may_improve(
    beams: Beams,
    finished: Scores,
    taken: Flags,
    config: GenerationConfig,
    ages: Ints,
    limits: Ints,
) -> Flags:
    """Which rows have a running beam that might still beat a finished one; bool (rows,)."""
    longest = config.early_stopping == "never" and config.length_penalty > 0
    best = beams.scores[:, :1] / _penalty(limits if longest else ages, config)
    worst = np.where(taken, finished.min(axis=1, keepdims=True), LOW)
    return np.asarray((best > worst).any(axis=1))


def _has_enough(taken: Flags, config: GenerationConfig) -> Flags:
    """Which rows have as many finished sequences as early stopping asks for; bool (rows,)."""
    full = np.asarray(taken.all(axis=1))
    return full if config.early_stopping is True else np.zeros_like(full)


def _picked(array: NDArray[Any], index: Ints) -> NDArray[Any]:
    """Elements (rows, k, ...) of an array (rows, n, ...) at `index`, int64 (rows, k)."""
    return array[np.arange(len(array))[:, None], index]


def _flat(index: Ints, width: int) -> Ints:
    """Where elements (rows, k) of an array (rows, width) are in the flat array: int64 (rows, k)."""
    return np.asarray(index + width * np.arange(len(index))[:, None])


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
