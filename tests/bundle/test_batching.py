"""Windows to padded batches and back: every row once, within the budget, in its old place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bundle import batching
from engine.core.types import Batch, Encoded, Output, Ragged, Rows

calm = settings(deadline=None, max_examples=60)
lengths = st.lists(st.integers(0, 70), max_size=60)


def window_of(lengths: list[int], *, types: bool = False) -> Encoded:
    """Row i holds i + 1 as often as it is long, so that rows and padding differ."""
    sizes = np.array(lengths, np.int64)
    values = np.repeat(np.arange(1, len(lengths) + 1), sizes).astype(np.int64)
    ids = Ragged.of(values, sizes)
    rows = Rows(None, (pa.array([""] * len(lengths), pa.string()),))
    type_ids = Ragged.of(values + 1000, sizes) if types else None
    return Encoded.one_each(rows, ids, type_ids, np.zeros(len(lengths), np.bool_))


def cut(
    window: Encoded, budget: int = 128, limit: int = 64, pad_id: int = 0, max_rows: int = 16
) -> list[Batch]:
    return list(batching.cut(window, budget=budget, limit=limit, pad_id=pad_id, max_rows=max_rows))


@calm
@given(lengths, st.integers(1, 400), st.integers(1, 20))
def test_every_row_is_in_one_batch(lengths: list[int], budget: int, max_rows: int) -> None:
    batches = cut(window_of(lengths), budget=budget, max_rows=max_rows)
    index = np.concatenate([b.index for b in batches])
    assert sorted(index.tolist()) == list(range(len(lengths)))
    assert [b.last for b in batches] == [False] * (len(batches) - 1) + [True]
    assert all(len(b.index) for b in batches) or not lengths


@calm
@given(lengths, st.integers(1, 400), st.integers(1, 20))
def test_a_batch_keeps_the_budget_and_the_most_rows_unless_it_is_one_row(
    lengths: list[int], budget: int, max_rows: int
) -> None:
    for batch in cut(window_of(lengths), budget=budget, max_rows=max_rows):
        rows, length = batch.shape
        assert rows <= max_rows
        assert rows * length <= budget or rows <= 1


@calm
@given(lengths, st.integers(1, 400))
def test_a_batch_is_cut_at_the_budget_or_at_its_share_of_what_is_left(
    lengths: list[int], budget: int
) -> None:
    batches, left = cut(window_of(lengths), budget=budget, max_rows=8), sum(lengths)
    for batch in batches[:-1]:
        rows, length = batch.shape
        room = min(budget, max(budget, left) // 4)
        assert rows == 8 or (rows + 1) * length > room
        assert rows == 1 or rows * length <= room
        left -= batch.tokens


def test_the_last_batches_are_small() -> None:
    batches = cut(window_of([10] * 200), budget=256, max_rows=99)
    assert [b.shape for b in batches[:3]] == [(16, 16)] * 3
    assert {b.shape[0] for b in batches[-4:]} == {4}


@calm
@given(lengths)
def test_rows_go_longest_first_and_equal_ones_in_their_order(lengths: list[int]) -> None:
    index = np.concatenate([b.index for b in cut(window_of(lengths))]).tolist()
    assert index == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


@calm
@given(lengths, st.integers(0, 9), st.booleans())
def test_ids_masks_and_type_ids_hold_the_row_and_then_padding(
    lengths: list[int], pad_id: int, types: bool
) -> None:
    for batch in cut(window_of(lengths, types=types), pad_id=-pad_id):
        names = {"input_ids", "attention_mask"} | ({"token_type_ids"} if types else set())
        assert set(batch.feeds) == names
        assert {a.shape for a in batch.feeds.values()} == {batch.shape}
        assert {a.dtype for a in batch.feeds.values()} == {np.dtype(np.int64)}
        for place, row in enumerate(batch.index.tolist()):
            real, padding = lengths[row], batch.shape[1] - lengths[row]
            fed = {name: array[place].tolist() for name, array in batch.feeds.items()}
            assert fed["input_ids"] == [row + 1] * real + [-pad_id] * padding
            assert fed["attention_mask"] == [1] * real + [0] * padding
            if types:
                assert fed["token_type_ids"] == [row + 1001] * real + [0] * padding
        assert batch.tokens == int(batch.feeds["attention_mask"].sum())
        assert batch.padded == batch.feeds["attention_mask"].size or not lengths


@calm
@given(lengths, st.integers(1, 80))
def test_a_batch_is_as_wide_as_its_longest_rows_bucket(lengths: list[int], limit: int) -> None:
    for batch in cut(window_of(lengths), limit=limit):
        longest = max((lengths[i] for i in batch.index.tolist()), default=0)
        assert batch.shape[1] == max(1, batching.bucket(longest, limit))


@calm
@given(st.integers(0, 5000), st.integers(1, 5000))
def test_a_bucket_holds_its_length_and_never_passes_the_limit(length: int, limit: int) -> None:
    rounded = batching.bucket(length, limit)
    assert rounded >= max(1, length)
    assert rounded <= max(1, length, limit)
    assert not length or batching.bucket(rounded, limit) == rounded
    assert rounded <= batching.bucket(length + 1, limit)
    assert rounded - length < 128


def test_there_are_few_buckets() -> None:
    assert len({batching.bucket(n, 512) for n in range(1, 513)}) <= 24


def test_an_empty_window_gives_one_empty_last_batch() -> None:
    (only,) = cut(window_of([]))
    assert only.last
    assert len(only.index) == only.tokens == 0
    assert only.shape[0] == 0


@calm
@given(lengths, st.data())
def test_gather_puts_rows_back_in_their_places(lengths: list[int], data: Any) -> None:
    batches = cut(window_of(lengths), budget=100)
    outputs = []
    for batch in batches:
        if not len(batch.index) and data.draw(st.booleans()):
            outputs.append(Output(batch, {}))
            continue
        sizes = batch.index % 4
        arrays = {
            "flat": batch.index * 10,
            "wide": np.stack([batch.index, -batch.index], axis=1),
            "ragged": Ragged.of(np.repeat(batch.index, sizes), sizes),
        }
        outputs.append(Output(batch, arrays))
    arrays = batching.gather(outputs)
    if not arrays:
        assert not lengths
        return
    rows = list(range(len(lengths)))
    flat, wide, ragged = arrays["flat"], arrays["wide"], arrays["ragged"]
    assert isinstance(ragged, Ragged)
    assert np.asarray(flat).tolist() == [10 * r for r in rows]
    assert np.asarray(wide).tolist() == [[r, -r] for r in rows]
    assert listed(ragged) == [[r] * (r % 4) for r in rows]


def test_gather_skips_an_output_without_rows_among_others() -> None:
    window = window_of([3, 2])
    first = batching._pad(window, np.array([1, 0]), 3, 0, padded=6, last=False)
    empty = batching._pad(window, np.array([], np.int64), 1, 0, padded=0, last=True)
    arrays = batching.gather([Output(first, {"a": np.array([20, 10])}), Output(empty, {})])
    assert np.asarray(arrays["a"]).tolist() == [10, 20]


# Rows of sequences: how long each is, of what, and of which type.
kinds = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 1))))


@calm
@given(kinds, st.booleans())
def test_equal_sequences_are_computed_once_and_answered_each(
    rows: list[list[tuple[int, int, int]]], types: bool
) -> None:
    flat = np.array([kind for row in rows for kind in row], np.int64).reshape(-1, 3)
    sizes, values, second = flat.T
    ids = Ragged.of(np.repeat(values, sizes), sizes)
    type_ids = Ragged.of(np.repeat(second, sizes), sizes) if types else None
    texts = Rows(None, (pa.array([""] * len(rows), pa.string()),))
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    window = Encoded(texts, ids, type_ids, np.zeros(len(rows), np.bool_), owners)
    batches = cut(batching.once(window), budget=20)
    assert sum(map(batching.rows_ended, batches)) == len(rows)
    kind = list(zip(listed(ids), listed(type_ids or ids), strict=True))
    assert sum(len(batch.index) for batch in batches) == len({str(each) for each in kind})
    if kind:
        arrays = batching.gather([Output(batch, {"own": batch.index}) for batch in batches])
        assert np.asarray(arrays["own"]).tolist() == [kind.index(each) for each in kind]


# Ragged

rows = st.lists(st.lists(st.integers(-5, 5), max_size=6), max_size=12)


def ragged(rows: list[list[int]]) -> Ragged:
    values = np.array([v for row in rows for v in row], np.int64)
    return Ragged.of(values, np.array([len(row) for row in rows], np.int64))


def listed(given: Ragged) -> list[list[int]]:
    bounds = given.offsets.tolist()
    assert bounds[0] == 0
    assert given.offsets.dtype == np.int64
    assert len(given.values) == bounds[-1]
    return [given.values[bounds[i] : bounds[i + 1]].tolist() for i in range(len(given))]


@calm
@given(rows)
def test_ragged_holds_its_rows(rows: list[list[int]]) -> None:
    assert listed(ragged(rows)) == rows
    assert len(ragged(rows)) == len(rows)
    assert ragged(rows).lengths.tolist() == [len(row) for row in rows]


@calm
@given(rows, st.data())
def test_ragged_take_gives_the_rows_asked_for_doubled_or_not(
    rows: list[list[int]], data: Any
) -> None:
    some = st.lists(st.integers(0, len(rows) - 1), max_size=20) if rows else st.just([])
    index = data.draw(some)
    taken = ragged(rows).take(np.array(index, np.int64))
    assert listed(taken) == [rows[i] for i in index]


@calm
@given(rows)
def test_ragged_firsts_are_where_a_row_stands_first(rows: list[list[int]]) -> None:
    assert ragged(rows).firsts().tolist() == [rows.index(row) for row in rows]


@calm
@given(rows, st.permutations(range(12)))
def test_ragged_take_of_an_order_and_back_is_the_same(
    rows: list[list[int]], order: list[int]
) -> None:
    index = np.array([i for i in order if i < len(rows)], np.int64)
    assert listed(ragged(rows).take(index).take(np.argsort(index))) == rows


@calm
@given(st.lists(rows, min_size=1, max_size=4))
def test_ragged_concat_is_one_after_the_other(parts: list[list[list[int]]]) -> None:
    assert listed(Ragged.concat([ragged(p) for p in parts])) == [row for p in parts for row in p]


@calm
@given(rows, st.integers(0, 3), st.integers(-9, 9))
def test_ragged_padded_and_back_is_the_same(rows: list[list[int]], more: int, filler: int) -> None:
    width = max(map(len, rows), default=0) + more
    padded = ragged(rows).padded(width, filler)
    assert padded.shape == (len(rows), width)
    assert padded.tolist() == [row + [filler] * (width - len(row)) for row in rows]
    assert listed(Ragged.of_padded(padded, ragged(rows).lengths)) == rows


def test_ragged_rows_may_have_an_inner_shape() -> None:
    padded = np.arange(2 * 3 * 2).reshape(2, 3, 2)
    found = Ragged.of_padded(padded, np.array([1, 3]))
    assert found.values.shape == (4, 2)
    assert found.take(np.array([1, 0])).values[-1].tolist() == [0, 1]
