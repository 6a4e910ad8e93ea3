"""What beam search keeps of every group, and the candidates of a step.

Arrays have the groups first. A step changes few groups and reads all of them, so what it does is a
few calls of NumPy whatever the number of groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints
from engine.generation.request import Request
from engine.generation.scheduler import Flags, Scores

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
        scores: After the length penalty, float32; LOW where there is none yet.
    """

    ids: Ints
    logprobs: Scores
    lengths: Ints
    scores: Scores

    @classmethod
    def empty(cls, groups: int, request: Request) -> Finished:
        shape, length = (groups, request.config.num_beams), request.most
        return cls(
            ids=np.full((*shape, length), request.decoder.pad_id, np.int64),
            logprobs=np.zeros((*shape, length if request.scored else 0), np.float32),
            lengths=np.zeros(shape, np.int64),
            scores=np.full(shape, LOW, np.float32),
        )

    def take(self, index: Ints, most: int | None = None) -> Finished:
        """Groups, with so many tokens of each sequence at most."""
        ids, logprobs = self.ids[index, :, :most], self.logprobs[index, :, :most]
        return Finished(ids, logprobs, self.lengths[index], self.scores[index])

    def put(self, index: Ints, state: Finished) -> None:
        """As many tokens of each sequence as `state` has; those behind stay."""
        self.ids[index, :, : state.ids.shape[2]] = state.ids
        if scored := state.logprobs.shape[2]:
            self.logprobs[index, :, :scored] = state.logprobs
        self.lengths[index], self.scores[index] = state.lengths, state.scores

    def best_with(self, more: Finished) -> Finished:
        """The best of these and of `more`, as many as these are; these where scores are equal."""
        scores = np.concatenate([self.scores, more.scores], axis=1)
        best = top(scores, self.scores.shape[1])
        rows = np.arange(len(best))[:, None]
        ids = np.concatenate([self.ids, more.ids], axis=1)[rows, best]
        logprobs = self.logprobs
        if logprobs.shape[2]:
            logprobs = np.concatenate([logprobs, more.logprobs], axis=1)[rows, best]
        lengths = np.concatenate([self.lengths, more.lengths], axis=1)[rows, best]
        return Finished(ids, logprobs, lengths, scores[rows, best])


@dataclass(frozen=True)
class Continuations:
    """Of the running beams, best first; (groups, n).

    Attributes:
        tokens, parents: The new token, and the beam that it continues.
        scores: As `Beams.scores`.
        logprobs: Of the new token; `scores` where they are not wanted.
    """

    tokens: Ints
    parents: Ints
    scores: Scores
    logprobs: Scores

    def first(self, count: int, groups: Ints | None = None) -> Continuations:
        """The first so many of each group, or of some groups."""
        at = slice(None) if groups is None else groups
        scores = self.scores[at, :count]
        logprobs = scores if self.logprobs is self.scores else self.logprobs[at, :count]
        return Continuations(self.tokens[at, :count], self.parents[at, :count], scores, logprobs)

    def picked(self, at: Ints, scores: Scores) -> Continuations:
        """Those at places of the flat arrays, int64 (groups, k), with other scores."""
        scores, scored = scores.take(at), self.logprobs is not self.scores
        logprobs = self.logprobs.take(at) if scored else scores
        return Continuations(self.tokens.take(at), self.parents.take(at), scores, logprobs)


@dataclass(frozen=True)
class Candidates(Continuations):
    """More continuations than beams.

    Attributes:
        ending: Those whose token is an end or the last one allowed, or completes a stop text.
    """

    ending: Flags

    def put(self, groups: Ints, state: Candidates) -> None:
        self.tokens[groups], self.parents[groups] = state.tokens, state.parents
        self.scores[groups], self.logprobs[groups] = state.scores, state.logprobs
        self.ending[groups] = state.ending


@dataclass
class Running:
    """The groups of a step, which are those of the step before until a row comes or goes.

    Attributes:
        groups, rows: Which they are, and what each has; int64 (n,).
        limits: Tokens that each row may generate, int64 (n,).
        ages: Tokens that each has, counting that of this step, int64 (n,).
        beams: Of these groups alone.
        oldest, nearest: The highest of `ages`, and the lowest of `limits`.
    """

    groups: Ints
    rows: Ints
    limits: Ints
    ages: Ints
    beams: Beams
    oldest: int
    nearest: int
    _starts: dict[int, Ints] = field(default_factory=dict)

    def flat(self, index: Ints, width: int) -> Ints:
        """Where elements (n, k) of an array (n, width) are in the flat array: int64 (n, k)."""
        starts = self._starts.get(width)
        if starts is None:
            starts = self._starts[width] = width * np.arange(len(self.rows))[:, None]
        return np.asarray(index + starts)

    def some(self, index: Ints) -> Running:
        """Some of these groups, for this step alone."""
        return Running(
            self.groups[index], self.rows[index], self.limits[index], self.ages[index],
            self.beams.take(index), self.oldest, self.nearest,
        )  # fmt: skip


def picked(array: NDArray[Any], index: Ints) -> NDArray[Any]:
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
    least = picked(scores, best).min(axis=1, keepdims=True)
    for row in np.flatnonzero((scores >= least).sum(axis=1) > count):
        above = np.flatnonzero(scores[row] > least[row])
        level = np.flatnonzero(scores[row] == least[row])
        best[row] = np.concatenate([above, level])[:count]
    best.sort(axis=1)
    return picked(best, np.argsort(-picked(scores, best), axis=1, kind="stable"))
