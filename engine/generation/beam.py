"""Beam search as transformers 4.57 does it, each row as if it were decoded by itself.

Scores are float32, and what must not be chosen is put down by 1e9 rather than taken out, because
sums of that size swallow what is added to them and the order of such losers is part of the result.
Among equal scores the lower index wins. torch.topk promises no order for these (on a CPU it is what
a partial sort leaves), so an exact tie that decides may fall otherwise there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Search
from engine.flow import Ints, Ragged
from engine.generation.job import Job
from engine.generation.rules import Scores

Flags = NDArray[np.bool_]
State = TypeVar("State", "Running", "Finished")
LOW = np.float32(-1e9)


@dataclass(frozen=True)
class Running:
    """Beams that go on, best first.

    Attributes:
        ids: Prompt and generated tokens, int64 (rows, beams, length so far).
        scores: Sums of log-probabilities, float32 (rows, beams).
    """

    ids: Ints
    scores: Scores


@dataclass(frozen=True)
class Finished:
    """The best that have ended, best first; places not yet taken have a score of LOW.

    Attributes:
        ids: Generated tokens, int64 (rows, beams, max_new_tokens).
        lengths: How many of them, int64 (rows, beams).
        scores: After the length penalty, float32 (rows, beams).
        taken: Which places hold a sequence, bool (rows, beams).
    """

    ids: Ints
    lengths: Ints
    scores: Scores
    taken: Flags


@dataclass(frozen=True)
class Candidates:
    """Continuations of the running beams, best first.

    Attributes:
        ids: As `Running.ids`, one token longer; (rows, candidates, length).
        scores: As `Running.scores`.
        parents: The beam each one continues, int64 (rows, candidates).
        ending: Those whose last token is an end or the last one allowed, bool.
    """

    ids: Ints
    scores: Scores
    parents: Ints
    ending: Flags


def beam_search(job: Job) -> tuple[Ragged, Flags]:
    """The best of `search.num_beams` beams for every row. See `generate`."""
    beams, most = job.search.num_beams, job.max_new_tokens
    rows = np.arange(len(job.prompt))
    found = np.full((len(rows), most), job.settings.pad_id, np.int64)
    lengths = np.zeros(len(rows), np.int64)
    running, finished = _start(job, beams)
    logits = np.repeat(job.step(job.prompt), beams, axis=0)
    for length in range(1, most + 1):
        candidates = _candidates(job, logits, running, rows)
        running, parents = _go_on(candidates, beams)
        finished = _finish(finished, candidates, job.search, length)
        going = _hopeful(running, finished, job.search, length, most)
        going &= ~_full(finished, job.search) & ~candidates.ending.all(axis=1)
        found[rows[~going]] = finished.ids[~going, 0]
        lengths[rows[~going]] = finished.lengths[~going, 0]
        if not going.any():
            break
        _carry(job, parents[going], going, first=length == 1)
        rows = rows[going]
        running, finished = _of_rows(running, going), _of_rows(finished, going)
        logits = job.step(running.ids[..., -1].reshape(-1, 1))
    tokens = Ragged.of_padded(found, lengths)
    last = found[np.arange(len(found)), np.maximum(lengths - 1, 0)]
    return tokens, (lengths > 0) & np.isin(last, job.settings.end_ids)


def _start(job: Job, beams: int) -> tuple[Running, Finished]:
    """Only the first beam counts at first, or all would be the same."""
    rows, most = len(job.prompt), job.max_new_tokens
    scores = np.full((rows, beams), LOW, np.float32)
    scores[:, 0] = 0
    nothing = np.full((rows, beams, most), job.settings.pad_id, np.int64)
    return Running(np.repeat(job.prompt[:, None], beams, axis=1), scores), Finished(
        nothing,
        np.zeros((rows, beams), np.int64),
        np.full((rows, beams), LOW, np.float32),
        np.zeros((rows, beams), np.bool_),
    )


def _candidates(job: Job, logits: Scores, running: Running, rows: Ints) -> Candidates:
    """Twice as many as beams, or more where several tokens end a row: enough that do not end."""
    count, beams, length = running.ids.shape
    vocabulary = logits.shape[1]
    places = running.ids.reshape(-1, length)
    scores = job.ruled(_log_softmax(logits), places, np.repeat(rows, beams))
    sums = scores.reshape(count, beams, vocabulary) + running.scores[..., None]
    sums = sums.reshape(count, -1)
    best = top(sums, max(2, 1 + len(job.settings.end_ids)) * beams)
    parents, tokens = np.divmod(best, vocabulary)
    ids = np.concatenate([_picked(running.ids, parents), tokens[..., None]], axis=2)
    at_limit = length + 1 - job.prompt.shape[1] >= job.max_new_tokens
    ending = np.isin(tokens, job.settings.end_ids) | at_limit
    return Candidates(ids, _picked(sums, best), parents, ending)


def _go_on(candidates: Candidates, beams: int) -> tuple[Running, Ints]:
    """The best that do not end, and the beam each one continues."""
    scores = candidates.scores + _low(candidates.ending)
    best = top(scores, beams)
    running = Running(_picked(candidates.ids, best), _picked(scores, best))
    return running, _picked(candidates.parents, best)


def _finish(finished: Finished, candidates: Candidates, search: Search, length: int) -> Finished:
    """The best of those that had ended and those that end now among the first `num_beams`.

    transformers also keeps rows that are done from changing; here they are gone by then.
    """
    beams = finished.scores.shape[1]
    ending = candidates.ending & (np.arange(candidates.scores.shape[1]) < beams)
    scores = candidates.scores / length**search.length_penalty + _low(~ending)
    ids = np.zeros((*scores.shape, finished.ids.shape[2]), np.int64)
    ids[..., :length] = candidates.ids[..., -length:]
    merged = Finished(
        np.concatenate([finished.ids, ids], axis=1),
        np.concatenate([finished.lengths, np.full(scores.shape, length)], axis=1),
        np.concatenate([finished.scores, scores], axis=1),
        np.concatenate([finished.taken, ending], axis=1),
    )
    best = top(merged.scores, beams)
    return _mapped(merged, lambda array: _picked(array, best))


def _low(losing: Flags) -> Scores:
    return np.where(losing, LOW, np.float32(0))


def _hopeful(running: Running, finished: Finished, search: Search, length: int, most: int) -> Flags:
    """Which rows have a running beam that might still beat a finished one; bool (rows,)."""
    longest = search.early_stopping == "never" and search.length_penalty > 0
    best = running.scores[:, :1] / (most if longest else length) ** search.length_penalty
    worst = np.where(finished.taken, finished.scores.min(axis=1, keepdims=True), LOW)
    return np.asarray((best > worst).any(axis=1))


def _full(finished: Finished, search: Search) -> Flags:
    """Which rows have all the sequences that they may stop at; bool (rows,)."""
    full = np.asarray(finished.taken.all(axis=1))
    return full if search.early_stopping is True else np.zeros_like(full)


def _carry(job: Job, parents: Ints, going: Flags, *, first: bool) -> None:
    """Give every beam its parent's cache, and rows that are done none."""
    rows, beams = np.flatnonzero(going)[:, None], parents.shape[1]
    # The first step ran once a row, since all its beams were alike.
    order = np.repeat(rows, beams) if first else (rows * beams + parents).ravel()
    job.decoder.take(order, same_rows=not first and bool(going.all()))


def _of_rows(state: State, going: Flags) -> State:
    return _mapped(state, lambda array: array[going])


def _mapped(state: State, change: Callable[[NDArray[Any]], NDArray[Any]]) -> State:
    """The same with every array changed."""
    return type(state)(*(change(getattr(state, field.name)) for field in fields(state)))


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
    found = np.argpartition(scores, -count, axis=1)[:, -count:]
    least = _picked(scores, found).min(axis=1, keepdims=True)
    for row in np.flatnonzero((scores >= least).sum(axis=1) > count):
        above = np.flatnonzero(scores[row] > least[row])
        level = np.flatnonzero(scores[row] == least[row])
        found[row] = np.concatenate([above, level])[:count]
    found.sort(axis=1)
    return _picked(found, np.argsort(-_picked(scores, found), axis=1, kind="stable"))


def _log_softmax(logits: Scores) -> Scores:
    """In the order of torch's operations."""
    found = logits - logits.max(axis=1, keepdims=True)
    found -= np.log(np.exp(found).sum(axis=1, keepdims=True))
    return np.asarray(found)
