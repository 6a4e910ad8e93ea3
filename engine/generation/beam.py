"""Beam search as transformers 4.57 does it, each row as if it were decoded by itself.

Scores are float32, and what must not be chosen is put down by 1e9 rather than taken out, because
sums of that size swallow what is added to them and the order of such losers is part of the result.
Among equal scores the lower index wins. torch.topk promises no order for these (on a CPU it is what
a partial sort leaves), so an exact tie may be decided differently there.
"""

from __future__ import annotations

import numpy as np

from engine.bundle.format import GenerationConfig
from engine.core.types import Ints
from engine.generation.beam_state import (
    LOW,
    Beams,
    Candidates,
    Continuations,
    Finished,
    Running,
    picked,
    top,
)
from engine.generation.greedy import Stop
from engine.generation.logits_processors import log_softmax
from engine.generation.request import DecodedRows, Request, tails
from engine.generation.scheduler import Flags, KVCache, Scores, StepResult, slots_of


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
        # The groups of the latest step; what `beams` and `ages` have of them is behind.
        self.running: Running | None = None
        self.count = request.candidates
        self.order = np.arange(self.width)
        # Of each slot and generated position: the token, its log-probability, the slot that
        # computed it.
        self.ids = np.full((cache.slots, request.most), request.decoder.pad_id, np.int64)
        self.logprobs = np.zeros((cache.slots, request.most if request.scored else 0), np.float32)
        self.origins = np.zeros((cache.slots, request.most), np.int64)
        # Of what the logits processors are shown.
        self.scratch = np.empty((0, request.decoder.vocabulary), np.float32)

    def admit(self, groups: Ints, rows: Ints) -> None:
        """Only the first beam counts at first, or all would be the same."""
        self._settle()
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
        running = self._advance(groups, rows)
        beams, ages = running.beams, running.ages
        self.origins[beams.slots, ages[:, None] - 1] = beams.slots
        candidates = self._candidates(running)
        if self.stop is not None:
            self._ask(self.stop, running, candidates)
        penalty = _penalty(ages, self.request.config)
        ends = candidates.ending.any()
        if ends:
            self._collect_finished(running, candidates, penalty)
            going_on = self._best_going_on(running, candidates)
        else:
            going_on = candidates.first(self.width)
        beams.scores = going_on.scores
        runs = self._may_improve(running, penalty)
        if ends:
            runs &= ~candidates.ending.all(axis=1)
        if not (all_run := runs.all()):
            self._store(rows[~runs], self.finished.take(groups[~runs]))
        self._assign_slots(running, going_on.parents, None if all_run else runs)
        self._append(beams.slots, going_on, ages)
        return StepResult(~runs, len(groups))

    def _advance(self, groups: Ints, rows: Ints) -> Running:
        """The rows of this step, each with a token more."""
        running = self.running
        # The same arrays come again until a row comes or goes.
        if running is None or running.groups is not groups or running.rows is not rows:
            self._settle()
            ages, limits = self.ages[rows], self.request.limits[rows]
            running = self.running = Running(
                groups, rows, limits, ages, self.beams.take(groups), int(ages.max(initial=0)),
                int(limits.min(initial=self.request.most)),
            )  # fmt: skip
        running.ages += 1
        running.oldest += 1
        return running

    def _settle(self) -> None:
        """Bring `beams` and `ages` up to date."""
        if (last := self.running) is not None:
            self.beams.put(last.groups, last.beams)
            self.ages[last.rows] = last.ages
            self.running = None

    def keep(self, order: Ints) -> None:
        self._settle()
        slots = slots_of(order, self.width)
        renumbered = np.zeros(len(self.tokens), np.int64)
        renumbered[slots] = np.arange(len(slots))
        self.tokens, self.ids = self.tokens[slots], self.ids[slots]
        self.logprobs = self.logprobs[slots]
        self.beams, self.finished = self.beams.take(order), self.finished.take(order)
        self.beams.slots = renumbered[self.beams.slots]
        # Only whether these are equal matters, and only within a group.
        self.origins = self.origins[slots]

    def _candidates(self, running: Running) -> Candidates:
        """Twice as many as beams, or more where several tokens end a row: enough that do not."""
        if self.request.reads_logits:
            return self._of_all(running)
        tokens, scores = self.cache.best()
        slots = running.beams.slots
        tokens, scores = tokens.take(slots, axis=0), scores.take(slots, axis=0)
        choose = self._of_processed if self.request.processors else self._best
        return choose(running, scores, tokens)

    def _of_processed(self, running: Running, scores: Scores, tokens: Ints) -> Candidates:
        """Of the likeliest tokens, some of which the logits processors weaken or ban. Where one
        that is not among them might come before these, of all tokens.

        Args:
            scores, tokens: Of the likeliest, best first; (groups, beams, n).
        """
        slots = running.beams.slots
        bounds = scores[..., -1] + running.beams.scores
        by_id = tokens.argsort(axis=2)
        tokens = np.take_along_axis(tokens, by_id, axis=2)
        index = tokens.reshape(-1, tokens.shape[2])
        every = self._unknown(len(index))
        flat = np.take_along_axis(scores, by_id, axis=2).reshape(index.shape)
        np.put_along_axis(every, index, flat, axis=1)
        settled = self._process(every, running).reshape(slots.shape).all(axis=1)
        scores = np.take_along_axis(every, index, axis=1).reshape(tokens.shape)
        found = self._best(running, scores, tokens)
        unsure = (bounds >= found.scores[:, -1:]).any(axis=1) & (tokens.shape[2] < every.shape[1])
        every = every.reshape(*slots.shape, -1)
        if len(some := np.flatnonzero(settled)):
            found.put(some, self._best(running.some(some), every[some]))
        if len(some := np.flatnonzero(unsure & ~settled)):
            found.put(some, self._of_all(running.some(some)))
        return found

    def _unknown(self, count: int) -> Scores:
        """Scores of all tokens, none of which is known yet; (count, vocabulary)."""
        if len(self.scratch) < count:
            self.scratch = np.empty((count, self.request.decoder.vocabulary), np.float32)
        self.scratch[:count].fill(-np.inf)
        return self.scratch[:count]

    def _of_all(self, running: Running) -> Candidates:
        slots = running.beams.slots
        scores = log_softmax(self.cache.logits()[slots.ravel()])
        self._process(scores, running)
        return self._best(running, scores.reshape(*slots.shape, -1))

    def _process(self, scores: Scores, running: Running) -> Flags:
        """See `Request.process`; scores of every beam, (groups x beams, vocabulary)."""
        ids, owners = self.ids[running.beams.slots.ravel()], np.repeat(running.rows, self.width)
        return self.request.process(scores, owners, ids, np.repeat(running.ages - 1, self.width))

    def _best(self, running: Running, scores: Scores, tokens: Ints | None = None) -> Candidates:
        """The best continuations by log-probabilities, (groups, beams, n), of `tokens`; of all
        tokens for None."""
        sums = scores + running.beams.scores[..., None]
        options = sums.shape[2]
        sums = sums.reshape(len(sums), -1)
        best = top(sums, self.count)
        at = running.flat(best, sums.shape[1])
        totals = sums.take(at)
        chosen = best % options if tokens is None else tokens.take(at)
        ending = chosen == self.ends[0] if len(self.ends) else np.zeros(chosen.shape, np.bool_)
        for end in self.ends[1:]:
            ending |= chosen == end
        if running.oldest >= running.nearest:
            ending |= (running.ages >= running.limits)[:, None]
        logprobs = scores.take(at) if self.request.scored else totals
        return Candidates(chosen, best // options, totals, logprobs, ending)

    def _ask(self, stop: Stop, running: Running, candidates: Candidates) -> None:
        """Add to `ending` the candidates that `stop` ends; it is shown only those that go on."""
        group, which = np.nonzero(~candidates.ending)
        if not len(group):
            return
        ids, _ = self._sequences(running.beams.slots, running.ages, candidates)
        history = self.request.history(running.rows[group], ids[group, which], running.ages[group])
        candidates.ending[group, which] = stop(tails(history, self.tail))

    def _sequences(self, slots: Ints, ages: Ints, ends: Continuations) -> tuple[Ints, Scores]:
        """All tokens of continuations of the beams in `slots`, and their log-probabilities;
        (groups, n, as many as the oldest row has)."""
        parents, most = picked(slots, ends.parents), int(ages.max())
        ids, logprobs = self.ids[parents, :most], self.logprobs[parents, :most]
        at = np.arange(len(parents))[:, None], np.arange(parents.shape[1]), ages[:, None] - 1
        ids[at] = ends.tokens
        if logprobs.shape[2]:
            logprobs[at] = ends.logprobs
        return ids, logprobs

    def _collect_finished(self, running: Running, candidates: Candidates, penalty: Scores) -> None:
        """Keep the best of the sequences that had ended and those that end now among the first
        `num_beams` candidates.

        transformers also keeps finished rows from changing; here they have left by then. A group
        in which nothing ends that is better than the worst it has stays as it is.
        """
        ending = candidates.ending[:, : self.width]
        scores = np.where(ending, candidates.scores[:, : self.width] / penalty, LOW)
        some = np.flatnonzero((scores > self.finished.scores[running.groups, -1:]).any(axis=1))
        if not len(some):
            return
        groups, ages = running.groups[some], running.ages[some]
        ends = candidates.first(self.width, some)
        ids, logprobs = self._sequences(running.beams.slots[some], ages, ends)
        lengths = np.broadcast_to(ages[:, None], ends.tokens.shape)
        ended = Finished(ids, logprobs, lengths, scores[some])
        kept = self.finished.take(groups, ids.shape[2]).best_with(ended)
        self.finished.put(groups, kept)

    def _best_going_on(self, running: Running, candidates: Candidates) -> Continuations:
        """The best that do not end, as many as beams; their scores are those of running beams."""
        scores = candidates.scores + np.where(candidates.ending, LOW, np.float32(0))
        best = top(scores, self.width)
        return candidates.picked(running.flat(best, self.count), scores)

    def _may_improve(self, running: Running, penalty: Scores) -> Flags:
        """Which rows have a running beam that might still beat a finished one, and not as many
        finished ones as early stopping asks for; bool (rows,)."""
        config = self.request.config
        if config.early_stopping == "never" and config.length_penalty > 0:
            penalty = _penalty(running.limits, config)
        # The worst finished one comes last; where it is missing, LOW stands there.
        worst = self.finished.scores[running.groups, -1]
        runs = running.beams.scores[:, 0] / penalty[:, 0] > worst
        if config.early_stopping is True:
            runs &= worst == LOW
        return np.asarray(runs)

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

    def _assign_slots(self, running: Running, parents: Ints, runs: Flags | None) -> None:
        """Find every beam a slot with its parent's cache and tokens.

        The only beam of a parent stays in the parent's slot. Of several, the others go into slots
        that nobody continues; there only what differs has to be copied, from the first position on
        that another slot has computed.

        Args:
            runs: Rows that go on; None for all.
        """
        beams, most = running.beams, running.oldest
        at = running.flat(parents, self.width)
        parent_slots = beams.slots.take(at)
        # Of each beam the first that continues it: `put` goes through them in order, from the last.
        heirs = np.full(parents.shape, -1)
        heirs.put(at[:, ::-1], self.order[::-1])
        moves = heirs.take(at) != self.order
        free, beams.slots = beams.slots[heirs < 0], parent_slots
        if not len(free):
            return
        beams.slots = parent_slots.copy()
        beams.slots[moves] = free
        if runs is not None:
            moves &= runs[:, None]
        targets, sources = beams.slots[moves], parent_slots[moves]
        if not len(targets):
            return
        # At least the latest position differs: two slots have computed it.
        starts = (self.origins[targets, :most] != self.origins[sources, :most]).argmax(axis=1)
        self.cache.copy(targets, sources, starts)
        self.origins[targets, :most] = self.origins[sources, :most]
        self.ids[targets, :most] = self.ids[sources, :most]
        if self.logprobs.shape[1]:
            self.logprobs[targets, :most] = self.logprobs[sources, :most]

    def _append(self, slots: Ints, chosen: Continuations, ages: Ints) -> None:
        """Give each slot, (groups, beams), its token."""
        last = ages[:, None] - 1
        self.tokens[slots] = self.ids[slots, last] = chosen.tokens
        if self.logprobs.shape[1]:
            self.logprobs[slots, last] = chosen.logprobs


def _penalty(lengths: Ints, config: GenerationConfig) -> Scores:
    """What sums of log-probabilities are divided by, float32 (rows, 1)."""
    return np.asarray((lengths[:, None] ** config.length_penalty).astype(np.float32))
