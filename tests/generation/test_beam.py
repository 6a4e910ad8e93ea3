"""Beam search over any scores is, to the bit, what its plain form finds for each row by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import GENERATION, PAD, number

from engine.bundle.format import GenerationConfig
from engine.core.types import Ints
from engine.generation.beam import BeamSearch
from engine.generation.beam_state import LOW, Finished
from engine.generation.request import Request
from engine.generation.scheduler import run, uncounted

VOCABULARY = 9
Hypothesis = tuple[np.float32, tuple[int, ...], tuple[np.float32, ...]]


def likeliest(row: int, tokens: tuple[int, ...], count: int) -> tuple[list[int], list[np.float32]]:
    """Log-probabilities of few values, so that many are equal."""
    scores = [-np.float32(number(row, tokens, word) % 7 / 4) for word in range(VOCABULARY)]
    best = sorted(range(VOCABULARY), key=lambda word: (-scores[word], word))[:count]
    return best, [scores[word] for word in best]


class TokenCache:
    """A cache that holds the tokens themselves, and copies what it is told to copy alone."""

    def __init__(self, groups: int, width: int, picks: int) -> None:
        self.slots, self.width, self.picks = groups * width, width, picks
        self.rows = np.full(self.slots, -1)
        self.tokens: list[list[int]] = [[] for _ in range(self.slots)]

    def admit(self, slots: Ints, rows: Ints) -> None:
        for slot, row in zip(slots, rows, strict=True):
            self.rows[slot], self.tokens[slot] = row, []

    def retire(self, slots: Ints) -> None:
        self.rows[slots] = -1

    def step(self, tokens: Ints) -> None:
        for own, token in zip(self.tokens, tokens.tolist(), strict=True):
            own.append(token)

    def best(self) -> tuple[Ints, Any]:
        each = [
            likeliest(int(row), tuple(own), self.picks)
            for row, own in zip(self.rows, self.tokens, strict=True)
        ]
        return np.array([ids for ids, _ in each]), np.array([s for _, s in each], np.float32)

    def logits(self) -> Any:
        raise AssertionError("nobody reads all of them")

    def copy(self, slots: Ints, sources: Ints, starts: Ints) -> None:
        assert not set(slots.tolist()) & set(sources.tolist())
        for slot, source, start in zip(slots, sources, starts, strict=True):
            assert self.rows[slot] == self.rows[source] != -1
            self.tokens[slot][start:] = self.tokens[source][start:]

    def narrowed(self, used: int) -> int:
        return used

    def keep(self, order: Ints) -> None:
        self.tokens = [list(self.tokens[slot]) for slot in order]
        self.rows, self.slots = self.rows[order], len(order)


def plainly(row: int, request: Request, picks: int) -> list[Hypothesis]:
    """The best sequences of a row: score, tokens and their log-probabilities."""
    config, width = request.config, request.config.num_beams
    running: list[Hypothesis] = [(np.float32(0 if n == 0 else LOW), (), ()) for n in range(width)]
    finished: list[Hypothesis] = []
    for age in range(1, int(request.limits[row]) + 1):
        options = []
        for score, tokens, logprobs in running:
            so_far = (request.decoder.start_id, *tokens)
            for word, own in zip(*likeliest(row, so_far, picks), strict=True):
                options.append((score + own, (*tokens, word), (*logprobs, own)))
        best = sorted(options, key=lambda one: -one[0])[: request.candidates]
        ending = [c[1][-1] in request.decoder.end_ids or age == request.limits[row] for c in best]
        penalty = np.float32(float(age) ** config.length_penalty)
        ended = zip(best[:width], ending[:width], strict=True)
        new = [(c[0] / penalty, *c[1:]) for c, ends in ended if ends and c[0] / penalty > LOW]
        finished = sorted([*finished, *new], key=lambda one: -one[0])[:width]
        lowered = [
            (c[0] + (LOW if ends else np.float32(0)), *c[1:])
            for c, ends in zip(best, ending, strict=True)
        ]
        running = sorted(lowered, key=lambda one: -one[0])[:width]
        if config.early_stopping == "never" and config.length_penalty > 0:
            penalty = np.float32(float(request.limits[row]) ** config.length_penalty)
        worst = finished[-1][0] if len(finished) == width else LOW
        enough = config.early_stopping is True and len(finished) == width
        if all(ending) or enough or not running[0][0] / penalty > worst:
            break
    return finished[: config.num_return_sequences]


@settings(max_examples=150, deadline=None)
@given(
    limits=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    width=st.integers(2, 5),
    groups=st.integers(1, 4),
    ends=st.lists(st.integers(0, VOCABULARY - 1), max_size=2, unique=True),
    early=st.sampled_from([True, False, "never"]),
    penalty=st.sampled_from([1.0, 0.0, 0.6, 2.0, -1.0]),
    scored=st.booleans(),
    returned=st.integers(1, 5),
)
def test_beams_are_those_of_the_plain_search(
    limits: list[int], width: int, groups: int, ends: list[int], early: Any, penalty: float,
    scored: bool, returned: int,
) -> None:  # fmt: skip
    config = GenerationConfig(
        num_beams=width, early_stopping=early, length_penalty=penalty,
        num_return_sequences=min(returned, width),
    )  # fmt: skip
    decoder = dataclasses.replace(GENERATION, vocabulary=VOCABULARY, end_ids=tuple(ends))
    ones = np.ones((len(limits), 2), np.int64)
    feeds = {"input_ids": ones, "attention_mask": ones}
    request = Request.of(feeds, decoder, config, np.array(limits), scored=scored)
    picks = min(request.candidates, VOCABULARY)
    groups = min(groups, len(limits))
    cache = TokenCache(groups, width, picks)
    search = BeamSearch(request, cache)
    run(cache, search, len(limits), lambda: False, uncounted)
    output = search.output
    for row in range(len(limits)):
        expected = plainly(row, request, picks)
        for n, (score, tokens, logprobs) in enumerate(expected):
            at = row * config.num_return_sequences + n
            assert output.lengths[at] == len(tokens)
            assert tuple(output.ids[at, : len(tokens)]) == tokens
            assert (output.ids[at, len(tokens) :] == PAD).all()
            assert output.scores[at] == score
            if scored:
                assert tuple(output.logprobs[at, : len(tokens)]) == logprobs
        left = slice(row * config.num_return_sequences + len(expected), None)
        assert (output.lengths[left][: config.num_return_sequences - len(expected)] == 0).all()


def test_of_equal_sequences_that_was_first_stays() -> None:
    def finished(token: int, *scores: float) -> Finished:
        ids = np.full((1, len(scores), 3), token)
        lengths = np.full((1, len(scores)), token)
        return Finished(ids, np.zeros((1, len(scores), 0)), lengths, np.array([scores], np.float32))

    best = finished(1, -1, -2, LOW).best_with(finished(2, -2, -1.5))
    assert best.lengths.tolist() == [[1, 2, 1]]
    assert best.scores.tolist() == [[-1, -1.5, -2]]
    assert best.ids[0, :, 0].tolist() == [1, 2, 1]


@pytest.mark.parametrize("most", [1, 3])
def test_tokens_behind_those_that_are_put_stay(most: int) -> None:
    ones = np.ones((4, 1), np.int64)
    feeds = {"input_ids": ones, "attention_mask": ones}
    request = Request.of(feeds, GENERATION, GenerationConfig(num_beams=2), 5, scored=True)
    state, some = Finished.empty(4, request), np.array([2, 0])
    part = state.take(some, most)
    assert part.ids.shape == part.logprobs.shape == (2, 2, most)
    part.ids[:], part.logprobs[:], part.lengths[:] = 7, -1, most
    state.put(some, part)
    assert (state.ids[some, :, :most] == 7).all()
    assert (state.logprobs[some, :, :most] == -1).all()
    assert (state.ids[some, :, most:] == PAD).all()
    assert not state.logprobs[some, :, most:].any()
    assert (state.ids[[1, 3]] == PAD).all()
    assert not state.lengths[[1, 3]].any()
