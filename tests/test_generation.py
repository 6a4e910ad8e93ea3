"""Greedy decoding: a row's tokens are its own, whatever stands beside it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fakes import (
    END,
    FIRST_WORD,
    GENERATION,
    PAD,
    WORDS,
    FakeBackend,
    Held,
    decoded,
    ids_of,
    texts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bundle import Generation
from engine.errors import Stopped
from engine.flow import Ragged
from engine.generation import greedy

Rows = list[tuple[int, ...]]
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
    settings: Generation = GENERATION,
) -> tuple[list[list[int]], list[bool]]:
    lengths = np.array([len(row) for row in rows])
    ids = Ragged.of(np.array([t for row in rows for t in row], np.int64), lengths)
    width = int(lengths.max()) + wider
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    feeds = {"input_ids": ids.padded(width, PAD), "attention_mask": mask}
    tokens, ended = greedy(backend or FakeBackend(), feeds, settings, max_new_tokens=most)
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


def test_ended_rows_are_fed_padding_and_no_step_follows_the_last_end() -> None:
    fed: list[list[int]] = []
    backend = FakeBackend()
    graph = backend.graph

    def spied(name: str) -> object:
        found = graph(name)
        compute = found.compute

        def noted(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            if name == "decoder":
                fed.append(feeds["input_ids"][:, 0].tolist())
            return compute(feeds)

        found.compute = noted
        return found

    backend.graph = spied  # type: ignore[method-assign,assignment]
    rows = [r for r in map(ids_of, texts(60)) if decoded(r, 8)[1]][:6]
    tokens, _ = decode(rows, 50, backend=backend)
    assert len(fed) == max(map(len, tokens))
    assert fed[0] == [GENERATION.start_id] * len(rows)
    for step, last in enumerate(fed[1:]):
        assert last == [own[step] if step < len(own) else PAD for own in tokens]


def test_the_encoder_runs_once_and_steps_are_one_token_wide() -> None:
    backend = FakeBackend()
    rows = [ids_of(text) for text in texts(5)]
    tokens, _ = decode(rows, backend=backend)
    assert [name for name, _ in backend.shapes].count("encoder") == 1
    assert {shape for name, shape in backend.shapes if name == "decoder"} == {(5, 1)}
    assert len(backend.shapes) == 1 + max(map(len, tokens))


@pytest.mark.parametrize("after", [0, 1, 3])
def test_stopped_is_asked_before_every_step(after: int) -> None:
    backend = FakeBackend()
    asked = iter(range(99))
    row = next(r for r in map(ids_of, texts(99)) if len(decoded(r, 8)[0]) == 8)
    ids = np.array([row], np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with pytest.raises(Stopped):
        greedy(backend, feeds, GENERATION, max_new_tokens=8, stopped=lambda: next(asked) >= after)
    assert [name for name, _ in backend.shapes].count("decoder") == after


def test_a_padding_that_is_an_end_does_not_end_a_row_twice() -> None:
    settings = dataclasses.replace(GENERATION, pad_id=END)
    rows = [ids_of(text) for text in texts(20)]
    assert decode(rows, settings=settings) == decode(rows)


def test_every_id_of_several_ends_a_row() -> None:
    row = next(r for r in map(ids_of, texts(99)) if len(decoded(r, 8)[0]) > 4)
    tokens, _ = decoded(row, 8)
    settings = dataclasses.replace(GENERATION, end_ids=(END, tokens[1]))
    ids = np.array([row], np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    found, ended = greedy(FakeBackend(), feeds, settings, max_new_tokens=8)
    first = tokens.index(tokens[1])
    assert found.values.tolist() == tokens[: first + 1]
    assert ended.tolist() == [True]


def test_the_fake_keeps_its_values_to_itself() -> None:
    with pytest.raises(AssertionError):
        FakeBackend().host(np.zeros(1))
    assert FakeBackend().host(Held(np.ones(1))).tolist() == [1.0]
