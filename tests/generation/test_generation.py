"""Decoding: a row's tokens are its own, whatever stands beside it.

That they are those of transformers is in test_generation_reference.py.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.fakes import (
    END,
    FIRST_WORD,
    GENERATION,
    PAD,
    VOCABULARY,
    WORDS,
    Buffer,
    FakeBackend,
    decoded,
    ids_of,
    number,
    signature,
    texts,
)

from engine.bundle.format import DecoderConfig, GenerationConfig
from engine.core.types import Ragged
from engine.errors import Stopped
from engine.generation import generate
from engine.generation import host_cache as slots_module
from engine.generation.beam_state import top
from engine.generation.host_cache import IDLE, HostCache
from engine.generation.logits_processors import FILLER, TokenHistory, logits_processors
from engine.generation.request import Request

Rows = list[tuple[int, ...]]
GREEDY = GenerationConfig()
CAUSAL = dataclasses.replace(GENERATION, start_id=-1)
KINDS = {"encoder": GENERATION, "causal": CAUSAL}
every_kind = pytest.mark.parametrize("settings_", KINDS.values(), ids=list(KINDS))
sources = st.lists(
    st.lists(st.integers(FIRST_WORD, FIRST_WORD + len(WORDS) - 1), max_size=6).map(
        lambda ids: (*ids, END)
    ),
    min_size=1,
    max_size=8,
)


def decode(
    rows: Rows,
    most: int = 8,
    *,
    wider: int = 0,
    backend: FakeBackend | None = None,
    settings: DecoderConfig = GENERATION,
    search: GenerationConfig = GREEDY,
    slots: int = 4,
    **more: Any,
) -> tuple[list[list[int]], list[bool]]:
    lengths = np.array([len(row) for row in rows])
    ids = Ragged.of(np.array([t for row in rows for t in row], np.int64), lengths)
    width = int(lengths.max()) + wider
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    feeds = {"input_ids": ids.padded(width, PAD), "attention_mask": mask}
    backend = backend or FakeBackend(causal=settings.causal)
    with patch.object(slots_module, "SLOTS", range(slots, slots + 1)):
        tokens, ended = generate(backend, feeds, settings, search, max_new_tokens=most, **more)
    split = np.split(tokens.values, tokens.offsets[1:-1])
    assert len(tokens) == len(ended) == len(rows)
    assert tokens.values.dtype == np.int64
    return [row.tolist() for row in split], ended.tolist()


@settings(max_examples=40, deadline=None)
@given(sources, st.integers(1, 9), st.integers(0, 3), st.randoms())
def test_batched_is_one_by_one_is_shuffled(
    rows: Rows, most: int, wider: int, random: object
) -> None:
    tokens, ended = decode(rows, most, wider=wider)
    expected = [decoded(row, most) for row in rows]
    assert list(zip(tokens, ended, strict=True)) == expected
    assert [decode([row], most) for row in rows] == [([t], [e]) for t, e in expected]
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    again, _ = decode([rows[i] for i in order], most)
    assert again == [tokens[i] for i in order]


def test_rows_that_end_early_stay_as_they_were_while_others_go_on() -> None:
    rows = [ids_of(text) for text in texts(40)]
    expected = [decoded(row, 8) for row in rows]
    lengths = {len(tokens) for tokens, _ in expected}
    assert {1, 2, 8} <= lengths, "the fake must have rows that end at different steps"
    tokens, ended = decode(rows)
    assert list(zip(tokens, ended, strict=True)) == expected


def test_a_row_at_the_limit_is_marked_as_not_ended() -> None:
    rows = [ids_of(text) for text in texts(40)]
    for most in (1, 3, 8):
        tokens, ended = decode(rows, most)
        for row, own, stopped in zip(rows, tokens, ended, strict=True):
            assert stopped == (own[-1] == END)
            assert len(own) == most or stopped
            assert len(decoded(row, 99)[0]) == len(own) or not stopped


def test_the_end_token_counts_and_the_start_token_does_not() -> None:
    rows = [ids_of(text) for text in texts(40)]
    tokens, ended = decode(rows)
    assert any(ended)
    for own, stopped in zip(tokens, ended, strict=True):
        assert own.count(END) == int(stopped)
        assert PAD not in own
        assert not stopped or own[-1] == END


def test_an_end_at_the_very_last_step_is_an_end() -> None:
    row = next(r for r in map(ids_of, texts(99)) if len(decoded(r, 99)[0]) == 3)
    assert decode([row], 3) == ([decoded(row, 99)[0]], [True])
    assert decode([row], 2) == ([decoded(row, 99)[0][:2]], [False])


def test_ended_rows_leave_and_no_step_follows_the_last_end() -> None:
    fed: list[list[int]] = []
    backend = FakeBackend()
    graph = backend.graph

    def spied(name: str, beams: int = 1) -> object:
        found = graph(name, beams)
        compute = found.compute

        def noted(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if name == "step":
                fed.append(feeds["tokens"].tolist())
            return compute(feeds)

        found.compute = noted
        return found

    backend.graph = spied  # type: ignore[method-assign,assignment]
    rows = [r for r in map(ids_of, texts(60)) if decoded(r, 8)[1]][:6]
    tokens, _ = decode(rows, 50, backend=backend, slots=6)
    assert len(fed) == max(map(len, tokens))
    assert fed[0] == [GENERATION.start_id] * len(rows)
    for step, last in enumerate(fed[1:]):
        running = [own[step] for own in tokens if len(own) > step + 1]
        assert [token for token in last if token != END] == [t for t in running if t != END]
        assert len(last) * (1 - IDLE) < len(running) + 1


def test_the_encoder_runs_once_and_steps_are_one_token_wide() -> None:
    backend = FakeBackend()
    rows = [ids_of(text) for text in texts(5)]
    tokens, _ = decode(rows, backend=backend, slots=5)
    assert [name for name, _ in backend.shapes].count("encoder") == 1
    assert {len(shape) for name, shape in backend.shapes if name == "step"} == {1}
    assert len(backend.shapes) == 1 + max(map(len, tokens))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_stopped_is_asked_before_every_step(after: int, beams: int) -> None:
    backend = FakeBackend()
    asked = iter(range(99))
    row = next(r for r in map(ids_of, texts(99)) if len(decoded(r, 8)[0]) == 8)
    search = GenerationConfig(num_beams=beams, min_new_tokens=8)
    with pytest.raises(Stopped):
        decode([row], backend=backend, search=search, stopped=lambda: next(asked) >= after)
    assert [name for name, _ in backend.shapes].count("step") == after


def test_a_padding_that_is_an_end_does_not_end_a_row_twice() -> None:
    settings = dataclasses.replace(GENERATION, pad_id=END)
    rows = [ids_of(text) for text in texts(20)]
    assert decode(rows, settings=settings) == decode(rows)


def test_every_id_of_several_ends_a_row() -> None:
    row = next(r for r in map(ids_of, texts(99)) if len(decoded(r, 8)[0]) > 4)
    tokens, _ = decoded(row, 8)
    settings = dataclasses.replace(GENERATION, end_ids=(END, tokens[1]))
    first = tokens.index(tokens[1])
    assert decode([row], settings=settings) == ([tokens[: first + 1]], [True])


def test_the_fake_keeps_its_values_to_itself() -> None:
    with pytest.raises(AssertionError):
        FakeBackend().host(np.zeros(1))
    assert FakeBackend().host(Buffer(np.ones(1))).tolist() == [1.0]


def noisy(signature: int, so_far: Sequence[int]) -> NDArray[np.float32]:
    """Logits of a few tokens that come again and again, and of all others."""
    draw = np.random.default_rng(number(signature, tuple(so_far)))
    logits = draw.normal(size=VOCABULARY).astype(np.float32)
    logits[[END, *range(FIRST_WORD, FIRST_WORD + 5)]] += 2
    return logits


tokens_of = st.sampled_from([END, PAD, *range(FIRST_WORD, FIRST_WORD + 7)])
some_tokens = st.lists(tokens_of, max_size=3).map(tuple)
words = st.lists(st.lists(tokens_of, min_size=1, max_size=3).map(tuple), max_size=6).map(tuple)
rule_sets = st.builds(
    GenerationConfig,
    min_new_tokens=st.integers(0, 4),
    no_repeat_ngram_size=st.integers(0, 3),
    encoder_no_repeat_ngram_size=st.integers(0, 3),
    repetition_penalty=st.sampled_from([1.0, 1.5, 0.5]),
    forced_bos_id=st.sampled_from([-1, -1, END, FIRST_WORD + 1]),
    forced_eos_id=st.sampled_from([-1, END]),
    bad_words_ids=words,
    suppress_ids=some_tokens,
    begin_suppress_ids=some_tokens,
)
few_words = st.lists(st.integers(FIRST_WORD, FIRST_WORD + 6), min_size=1, max_size=7).map(tuple)
few_rows = st.lists(few_words, min_size=1, max_size=5)


def banned(
    search: GenerationConfig, ids: list[int], said: int, source: Sequence[int], ends: Sequence[int]
) -> Iterator[int]:
    """Tokens that cannot come behind `ids`, the last `said` of which were generated."""
    grams = [(search.no_repeat_ngram_size, ids), (search.encoder_no_repeat_ngram_size, source)]
    for size, text in grams:
        for start in range(len(text) - size + 1 if size else 0):
            gram = list(text[start : start + size])
            if len(ids) >= size - 1 and ids[len(ids) - size + 1 :] == gram[:-1]:
                yield gram[-1]
    for word in search.bad_words_ids:
        fits = len(ids) >= len(word) and ids[len(ids) - len(word) + 1 :] == list(word[:-1])
        if fits and not (len(word) == 1 and word[0] in ends):
            yield word[-1]
    if said < search.min_new_tokens:
        yield from ends


def ruled(
    scores: NDArray[np.float32],
    ids: list[int],
    said: int,
    row: Sequence[int],
    ends: Sequence[int],
    search: GenerationConfig,
    most: int,
) -> NDArray[np.float32]:
    """Scores of one row's next token, rule by rule and token by token."""
    scores, start = scores.copy(), len(ids) - said
    for token in set(ids):
        factor = search.repetition_penalty
        scores[token] = scores[token] * factor if scores[token] < 0 else scores[token] / factor
    scores[list(banned(search, ids, said, row, ends))] = -np.inf
    forced = [(len(ids) == 1, search.forced_bos_id), (said == most - 1, search.forced_eos_id)]
    for now, token in forced:
        if now and token >= 0:
            scores[:] = -np.inf
            scores[token] = 0
    scores[list(search.suppress_ids)] = -np.inf
    if said == int(start == 1 and search.forced_bos_id >= 0):
        scores[list(search.begin_suppress_ids)] = -np.inf
    return scores


def plainly(
    row: Sequence[int], settings: DecoderConfig, search: GenerationConfig, most: int
) -> list[int]:
    """Greedy decoding of one row."""
    ids = list(row) if settings.causal else [settings.start_id]
    start = len(ids)
    for said in range(most):
        logits = noisy(0 if settings.causal else signature(tuple(row)), ids)
        scores = ruled(logits, ids, said, row, settings.end_ids, search, most)
        ids.append(int(scores.argmax()))
        if ids[-1] in settings.end_ids:
            break
    return ids[start:]


@settings(max_examples=200, deadline=None)
@given(few_rows, rule_sets, st.integers(0, 4), st.integers(0, 99))
def test_every_score_is_as_the_rules_say(
    rows: Rows, search: GenerationConfig, said: int, seed: int
) -> None:
    """Not the best one only: also where a prompt is shorter than an n-gram or a bad word."""
    width, draw = max(map(len, rows)), np.random.default_rng(seed)
    prompts = np.array([[FILLER] * (width - len(row)) + list(row) for row in rows])
    spoken = draw.integers(FIRST_WORD, FIRST_WORD + 7, (len(rows), said))
    ids = np.concatenate([prompts, spoken], axis=1)
    logits = draw.normal(size=(len(rows), VOCABULARY)).astype(np.float32)
    lengths = np.array([len(row) for row in rows])
    seen = history(ids, prompts, lengths, np.full(len(rows), said), search.min_new_tokens)
    found = logits.copy()
    for processor in logits_processors(search, (END,), minimum=bool(search.min_new_tokens)):
        processor(found, seen)
    for row, own, said_here, scores in zip(rows, found, spoken.tolist(), logits, strict=True):
        wanted = ruled(scores, [*row, *said_here], said, row, (END,), search, 5)
        assert own.tolist() == wanted.tolist()


def history(ids: Any, source: Any, prompts: Any, said: Any, least: Any = 0) -> TokenHistory:
    """Rows that may generate 5 tokens, and must generate `least`."""
    limits, minima = np.full(len(ids), 5), np.full(len(ids), least)
    return TokenHistory(ids, source, prompts, said, limits, minima)


@pytest.mark.parametrize("row", [(7,), (9, 7)])
def test_a_bad_word_as_long_as_all_there_is_may_come(row: tuple[int, ...]) -> None:
    """transformers looks for a word only where one token more than its beginning is there."""
    ids = np.array([row])
    scores = np.zeros((1, VOCABULARY), np.float32)
    config = GenerationConfig(bad_words_ids=((7, 8),))
    (processor,) = logits_processors(config, (END,), minimum=False)
    processor(scores, history(ids, ids, np.array([len(row)]), np.zeros(1, np.int64)))
    assert np.flatnonzero(scores[0]).tolist() == ([8] if len(row) > 1 else [])


@every_kind
@settings(max_examples=120, deadline=None)
@given(few_rows, rule_sets, st.integers(1, 7), st.booleans())
def test_rules_do_what_they_say(
    settings_: DecoderConfig, rows: Rows, search: GenerationConfig, most: int, two: bool
) -> None:
    ends = (END, FIRST_WORD + 2) if two else (END,)
    shape = dataclasses.replace(settings_, end_ids=ends)
    backend = FakeBackend(causal=shape.causal, logits=noisy)
    tokens, ended = decode(rows, most, backend=backend, settings=shape, search=search)
    assert tokens == [plainly(row, shape, search, most) for row in rows]
    assert ended == [own[-1] in ends for own in tokens]


@every_kind
@settings(max_examples=60, deadline=None)
@given(
    few_rows,
    rule_sets,
    st.integers(1, 5),
    st.sampled_from([-1.0, 0.0, 1.0, 2.0]),
    st.sampled_from([True, False, "never"]),
    st.integers(1, 7),
    st.integers(0, 3),
    st.randoms(),
)
def test_a_row_is_the_same_alone_and_among_others(
    settings_: DecoderConfig,
    rows: Rows,
    rules: GenerationConfig,
    beams: int,
    penalty: float,
    early: bool | str,
    most: int,
    wider: int,
    random: Any,
) -> None:
    search = dataclasses.replace(
        rules, num_beams=beams, length_penalty=penalty, early_stopping=early
    )

    def answers(rows: Rows, wider: int) -> list[tuple[list[int], bool]]:
        backend = FakeBackend(causal=settings_.causal, logits=noisy)
        found = decode(rows, most, wider=wider, backend=backend, settings=settings_, search=search)
        return list(zip(*found, strict=True))

    found = answers(rows, wider)
    assert found == [answers([row], 0)[0] for row in rows]
    order = random.sample(range(len(rows)), len(rows))
    assert answers([rows[i] for i in order], 0) == [found[i] for i in order]
    assert all(ended == (own[-1:] == [END]) for own, ended in found)
    assert all(len(own) == most or ended for own, ended in found if own)


many_tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=VOCABULARY - 2).map(tuple)


@every_kind
@settings(max_examples=150, deadline=None)
@given(few_rows, rule_sets, many_tokens, st.integers(2, 4), st.integers(1, 7))
def test_beams_look_at_few_tokens_and_choose_as_if_they_saw_all(
    settings_: DecoderConfig,
    rows: Rows,
    rules: GenerationConfig,
    suppressed: tuple[int, ...],
    beams: int,
    most: int,
) -> None:
    search = dataclasses.replace(rules, num_beams=beams, suppress_ids=suppressed)

    def answers() -> tuple[list[list[int]], list[bool]]:
        backend = FakeBackend(causal=settings_.causal, logits=noisy)
        return decode(rows, most, backend=backend, settings=settings_, search=search, slots=12)

    found = answers()
    with patch.object(Request, "reads_logits", True):
        assert answers() == found


def test_beams_look_at_all_tokens_only_where_most_are_banned() -> None:
    rows = [ids_of(text) for text in texts(12)]
    for suppressed, asked in (((), False), (tuple(range(FIRST_WORD + 1, VOCABULARY - 2)), True)):
        search = GenerationConfig(
            num_beams=2, no_repeat_ngram_size=2, forced_bos_id=FIRST_WORD, suppress_ids=suppressed
        )
        with patch.object(HostCache, "logits", autospec=True, side_effect=HostCache.logits) as all_:
            decode(rows, 8, backend=FakeBackend(logits=noisy), search=search)
        assert all_.called == asked


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.7, 1.0, 2.0])
def test_beams_that_cover_everything_find_the_best_of_all(penalty: float) -> None:
    """Two words and the end, three steps: all that can be said is tried, here and by the search."""
    most, allowed = 3, (END, FIRST_WORD, FIRST_WORD + 1)
    others = tuple(set(range(VOCABULARY)) - set(allowed))
    search = GenerationConfig(
        num_beams=20, length_penalty=penalty, early_stopping="never", suppress_ids=others
    )
    rows = [ids_of(text) for text in texts(30)]
    tokens, _ = decode(rows, most, backend=FakeBackend(logits=noisy), search=search)
    for row, own in zip(rows, tokens, strict=True):
        said = itertools.chain.from_iterable(
            itertools.product(allowed, repeat=n) for n in range(1, most + 1)
        )
        whole = [w for w in said if END not in w[:-1] and (w[-1] == END or len(w) == most)]
        best = max(whole, key=lambda w: log_probability(row, w) / len(w) ** penalty)
        assert own == list(best)
    if penalty in (0.7, 1.0):
        assert len({len(own) for own in tokens}) > 1, "the best must not all be of one length"


def log_probability(row: tuple[int, ...], said: Sequence[int]) -> float:
    total = 0.0
    for place, token in enumerate(said):
        logits = noisy(signature(row), (GENERATION.start_id, *said[:place])).astype(np.float64)
        total += float(logits[token] - np.log(np.exp(logits).sum()))
    return total


def test_rows_that_are_done_leave_the_beams_of_the_others() -> None:
    backend = FakeBackend(logits=noisy)
    rows = [ids_of(text) for text in texts(12)]
    search = GenerationConfig(num_beams=3, early_stopping=True)
    decode(rows, 8, backend=backend, search=search, slots=36)
    counts = [shape[0] for name, shape in backend.shapes if name == "step"]
    assert counts[0] == 36
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < 36
    assert all(count % 3 == 0 for count in counts)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, -1e9, -np.inf]), min_size=6, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 6),
)
def test_of_equal_scores_the_first_is_taken(scores: list[list[float]], count: int) -> None:
    given = np.array(scores, np.float32)
    wanted = np.argsort(-given, axis=1, kind="stable")[:, :count]
    assert top(given, count).tolist() == wanted.tolist()


@every_kind
def test_stop_sees_the_tails_of_rows_that_still_run(settings_: DecoderConfig) -> None:
    shown: list[list[list[int]]] = []

    def stop(tails: Ragged) -> NDArray[np.bool_]:
        split = np.split(tails.values, tails.offsets[1:-1])
        shown.append([row.tolist() for row in split])
        return np.array([row[-1] % 3 == 0 for row in split], np.bool_)

    rows = [ids_of(text)[:-1] for text in texts(20, longest=4)]
    free, _ = decode(rows, settings=settings_)
    tokens, ended = decode(rows, settings=settings_, stop=stop, tail=3)
    befores = [list(row) if settings_.causal else [settings_.start_id] for row in rows]
    expected = [
        [*before, *own][: len(before) + step + 1][-3:]
        for before, own in zip(befores, tokens, strict=True)
        for step, token in enumerate(own)
        if token != END
    ]
    assert sorted(itertools.chain.from_iterable(shown)) == sorted(expected)
    for own, whole, stopped in zip(tokens, free, ended, strict=True):
        assert own == whole[: len(own)]
        stops = [place for place, token in enumerate(own) if token % 3 == 0 or token == END]
        assert stops == ([len(own) - 1] if stopped else [])
        assert stopped or len(own) == 8
