"""Rows that come and go: admitted once, retired once, never more at once than there are slots."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import (
    END,
    FIRST_WORD,
    GENERATION,
    PAD,
    WORDS,
    FakeBackend,
    decoded,
    ids_of,
)

from engine.bundle import batching
from engine.bundle.format import GenerationConfig
from engine.core.types import Encoded, Ints, Ragged, Rows
from engine.errors import Stopped
from engine.generation import generate, host_cache, uncounted
from engine.generation.host_cache import HostCache
from engine.generation.scheduler import StepResult, run

words = st.integers(FIRST_WORD, FIRST_WORD + len(WORDS) - 1)
some_rows = st.lists(st.lists(words, max_size=6), min_size=1, max_size=40)


def feeds_of(rows: list[tuple[int, ...]]) -> dict[str, Ints]:
    lengths = np.array([len(row) for row in rows])
    ids = Ragged.of(np.array([t for row in rows for t in row], np.int64), lengths)
    width = int(lengths.max())
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    return {"input_ids": ids.padded(width, PAD), "attention_mask": mask}


@settings(max_examples=60, deadline=None)
@given(some_rows, st.sampled_from([1, 2, 7, 64]), st.integers(1, 9), st.integers(1, 64))
def test_any_number_of_slots_gives_the_same(
    rows: list[list[int]], count: int, most: int, budget: int
) -> None:
    texts = [(*row, END) for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_cache, "SLOTS", range(count, count + 1))
        tokens, ended = generate(
            FakeBackend(), feeds_of(texts), GENERATION, GenerationConfig(), max_new_tokens=most,
            batch_tokens=budget,
        )  # fmt: skip
    found = [own.tolist() for own in np.split(tokens.values, tokens.offsets[1:-1])]
    assert list(zip(found, ended.tolist(), strict=True)) == [decoded(t, most) for t in texts]


@settings(max_examples=60, deadline=None)
@given(some_rows, st.integers(1, 9), st.integers(1, 4))
def test_caches_are_allocated_once_and_no_larger_than_the_rows(
    rows: list[list[int]], count: int, beams: int
) -> None:
    backend, made = FakeBackend(), []
    buffer = backend.buffer

    def counted(shape: Any, dtype: Any, old: Any = None) -> Any:
        if old is None:
            made.append(shape)
        return buffer(shape, dtype, old)

    backend.buffer = counted  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_cache, "SLOTS", range(count, count + 1))
        texts = [(*row, END) for row in rows]
        search = GenerationConfig(num_beams=beams)
        generate(backend, feeds_of(texts), GENERATION, search, max_new_tokens=5)
    assert len(made) == 13, "one for all layers of `past`, `cross` and `last`"
    most = count * (host_cache.TIMES_FOR_BEAMS if beams > 1 else 1)
    places = max(1, min(most // beams, len(rows)))
    of_layers = [shape[1] for shape in made if len(shape) > 3]
    assert of_layers == [places * beams, places, places], "a row's beams share its source"


@settings(max_examples=60, deadline=None)
@given(st.lists(some_rows, min_size=2, max_size=4), st.integers(1, 9), st.integers(1, 3))
def test_memory_that_was_used_gives_the_same(
    batches: list[list[list[int]]], count: int, beams: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_cache, "SLOTS", range(count, count + 1))
        patch.setattr(host_cache, "POSITIONS", 2)
        backend, search = FakeBackend(), GenerationConfig(num_beams=beams)
        spare: list[Any] = []
        for rows in batches:
            feeds = feeds_of([(*row, END) for row in rows])
            found = [
                generate(backend, feeds, GENERATION, search, max_new_tokens=5, spare=own)
                for own in (spare, [])
            ]
            (used, used_ended), (fresh, fresh_ended) = found
            assert used.values.tolist() == fresh.values.tolist()
            assert used.offsets.tolist() == fresh.offsets.tolist()
            assert used_ended.tolist() == fresh_ended.tolist()
        assert len(spare) == 1


@settings(max_examples=60, deadline=None)
@given(some_rows, st.integers(1, 9), st.integers(1, 64))
def test_what_the_encoder_reads_is_counted(rows: list[list[int]], count: int, budget: int) -> None:
    backend, counted = FakeBackend(), Counter[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_cache, "SLOTS", range(count, count + 1))
        feeds = feeds_of([(*row, END) for row in rows])
        generate(
            backend, feeds, GENERATION, GenerationConfig(), max_new_tokens=3, batch_tokens=budget,
            count=lambda **n: counted.update(n),
        )  # fmt: skip
    read = [shape for graph, shape in backend.shapes if graph == "encoder"]
    assert counted["padded"] == sum(n * width for n, width in read) >= feeds["attention_mask"].sum()
    assert all(n * width <= budget or n == 1 for n, width in read)


def test_a_cache_grows_with_the_rows_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cache, "POSITIONS", 2)
    texts = [ids_of(f"w{n} w{n + 1}") for n in range(30)]
    expected = [decoded(text, 9) for text in texts]
    assert {1, 9} <= {len(tokens) for tokens, _ in expected}
    tokens, _ = generate(
        FakeBackend(), feeds_of(texts), GENERATION, GenerationConfig(), max_new_tokens=9
    )
    found = [own.tolist() for own in np.split(tokens.values, tokens.offsets[1:-1])]
    assert found == [own for own, _ in expected]


class Clock:
    """A cache and a search without a model: row i lives for lengths[i] steps."""

    width = 1

    def __init__(self, lengths: list[int], count: int) -> None:
        self.lengths, self.slots, self.bound = np.array(lengths), count, count
        self.ages = np.zeros(len(lengths), np.int64)
        self.came: list[int] = []
        self.left: list[int] = []
        self.inside: dict[int, int] = {}

    def admit(self, slots: Ints, rows: Ints) -> None:
        for slot, row in zip(slots.tolist(), rows.tolist(), strict=True):
            assert slot not in self.inside, "the slot is taken"
            self.inside[slot] = row
            self.came.append(row)
        assert len(self.inside) <= self.bound

    def step(self, groups: Ints, rows: Ints) -> StepResult:
        assert [self.inside[g] for g in groups.tolist()] == rows.tolist()
        self.ages[rows] += 1
        return StepResult(self.ages[rows] == self.lengths[rows], len(rows))

    def retire(self, slots: Ints) -> None:
        self.left += [self.inside.pop(slot) for slot in slots.tolist()]

    def narrowed(self, used: int) -> int:
        return used if used <= 0.75 * self.slots else self.slots

    def keep(self, order: Ints) -> None:
        if len(order) == self.slots:
            # The search's own call: the cache has been told already.
            return
        moved = {new: self.inside[old] for new, old in enumerate(order.tolist())}
        assert sorted(moved.values()) == sorted(self.inside.values())
        self.inside, self.slots = moved, len(order)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 20))
def test_every_row_is_admitted_and_retired_once(lengths: list[int], count: int) -> None:
    clock = Clock(lengths, min(count, len(lengths)))
    run(clock, clock, len(lengths), lambda: False, uncounted)  # type: ignore[arg-type]  # both roles
    assert clock.came == list(range(len(lengths)))
    assert sorted(clock.left) == clock.came
    assert not clock.inside
    assert (clock.ages == clock.lengths).all()


def test_slots_are_taken_until_the_last_rows() -> None:
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(np.log(24), 0.5, 4000).astype(int), 1, 128)
    clock, counted = Clock(lengths.tolist(), 48), Counter[str]()
    run(clock, clock, len(lengths), lambda: False, lambda **n: counted.update(n))  # type: ignore[arg-type]  # both roles
    assert counted["busy"] == lengths.sum()
    assert counted["busy"] / counted["group_steps"] > 0.97


def test_a_run_that_is_stopped_leaves_nothing_behind() -> None:
    clock, asked = Clock([9] * 20, 4), iter(range(99))
    with pytest.raises(Stopped):
        run(clock, clock, 20, lambda: next(asked) >= 12, uncounted)  # type: ignore[arg-type]  # both roles
    assert len(clock.left) == 4
    assert len(clock.inside) == 4


def test_a_cache_too_large_for_its_room_has_fewer_slots() -> None:
    feeds = feeds_of([ids_of("w1 w2")] * 30)
    row = 8 * 2 * 2 * 3 * (2 * 5 + 3)
    for room, slots in ((3 * row, 6), (4 * row - 1, 6), (row - 1, 2)):
        backend = FakeBackend(cache_bytes=room)
        cache = HostCache(backend, GENERATION, feeds, width=2, positions=5, picks=1)
        assert cache.slots == slots


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 5), st.integers(1, 9))
def test_dealt_batches_have_every_row_once(lengths: list[int], workers: int, most: int) -> None:
    ids = Ragged.of(np.arange(sum(lengths)), np.array(lengths, np.int64))
    rows: Any = Rows(None, (np.zeros(len(lengths)),))
    window = Encoded.one_each(rows, ids, None, np.zeros(len(lengths), np.bool_))
    batches = list(batching.deal(window, workers=workers, most=most, limit=64, pad_id=0))
    found = np.concatenate([batch.index for batch in batches])
    assert sorted(found.tolist()) == list(range(len(lengths)))
    assert [batch.last for batch in batches] == [False] * (len(batches) - 1) + [True]
    sizes = [len(batch.index) for batch in batches]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    for batch in batches:
        own = np.array(lengths, np.int64)[batch.index]
        assert (np.diff(own) <= 0).all(), "longest first"
