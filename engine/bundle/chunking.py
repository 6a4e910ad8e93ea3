"""Puts tokenized texts into sequences that fit the model. Pure.

A text that is too long is cut, or split into pieces that overlap. The `tokenizers` library can do
that, too, but it panics where nothing of a row fits, and a row must not stop a run.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints, Layout, Ragged, Tokens


@dataclass(frozen=True, slots=True)
class Pieces:
    """Sequences with special tokens, and where every token is in its text.

    Attributes:
        ids, type_ids: Of each sequence, int64.
        owners: The row of each sequence, int64, ascending.
        chars, words: Of every token as in `types.Tokens`; 0, 0 and -1 for special tokens.
        sides: 0 or 1 for tokens of the first or second text, -1 for special ones; int64 (tokens,).
        truncated: Rows of which some tokens are in no sequence, bool (rows,).
    """

    ids: Ragged
    type_ids: Ragged
    owners: Ints
    chars: Ints
    words: Ints
    sides: Ints
    truncated: NDArray[np.bool_]


def single(texts: Tokens, layout: Layout, *, max_length: int, stride: int | None = None) -> Pieces:
    """One text a row, in as many pieces as it needs, or cut.

    Args:
        max_length: Tokens of a sequence, special tokens included.
        stride: Tokens that two pieces share, fewer than fit into one; None cuts.
    """
    capacity = np.full(len(texts.ids), max_length - layout.count)
    owners, starts, lengths, cut = _windows(texts.ids.lengths, capacity, stride)
    return _joined([texts], layout, owners, [starts], [lengths], cut)


def pair(
    first: Tokens,
    second: Tokens,
    layout: Layout,
    *,
    max_length: int,
    stride: int | None = None,
) -> Pieces:
    """The whole first text before each piece of the second (question answering).

    A first text that leaves too few tokens to the second is cut.

    Args:
        max_length: Tokens of a sequence, special tokens included.
        stride: Tokens of the second text that two pieces share; None cuts it.
    """
    capacity = max_length - layout.count
    reserved = np.minimum((stride or 0) + 1, second.ids.lengths)
    taken = np.minimum(first.ids.lengths, np.maximum(capacity - reserved, 0))
    owners, starts, lengths, cut = _windows(second.ids.lengths, capacity - taken, stride)
    cut |= taken < first.ids.lengths
    return _joined(
        [first, second], layout, owners, [owners * 0, starts], [taken[owners], lengths], cut
    )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of texts with special tokens.

    Attributes:
        ids, type_ids: Of each pair, int64.
        truncated: Which pairs were cut, bool (pairs,).
    """

    ids: Ragged
    type_ids: Ragged
    truncated: NDArray[np.bool_]


def first_cut(
    first: Ragged,
    second: Ragged,
    chosen: tuple[Ints, Ints],
    layout: Layout,
    *,
    max_length: int,
    longest: int = 0,
) -> Pairs:
    """Pairs of which the first text is cut, as truncation "only_first" of transformers does it.

    Where the second text leaves the first not one token, transformers' pipelines cut nothing. Here
    the pair stays whole only within `longest`; else the first text is dropped and the second cut.

    Args:
        first, second: Token ids of texts without special tokens.
        chosen: Which of the first and which of the second texts make each pair, int64 (pairs,).
        max_length: Tokens of a pair, special tokens included.
        longest: Tokens that the model can take; below max_length it is max_length.
    """
    capacity = max(max_length - layout.count, 0)
    firsts, seconds = first.lengths[chosen[0]], second.lengths[chosen[1]]
    total = firsts + seconds
    full = (total > capacity) & (seconds >= capacity)
    over = (total > capacity) & ~(full & (total + layout.count <= longest))
    firsts = np.where(over, np.maximum(capacity - seconds, 0), firsts)
    seconds = np.where(over, np.minimum(seconds, capacity), seconds)
    special = np.concatenate(layout.special)
    after = len(special) + len(first.values)
    bases = [len(special) + first.offsets[chosen[0]], after + second.offsets[chosen[1]]]
    index, totals = _interleave(layout, bases, [firsts, seconds])
    ids = np.concatenate([special[:, 0], first.values, second.values])
    counts = (len(first.values), len(second.values))
    types = np.concatenate([special[:, 1], np.repeat(layout.types, counts)])
    return Pairs(Ragged.of(ids[index], totals), Ragged.of(types[index], totals), over)


def _windows(
    lengths: Ints, capacity: Ints, stride: int | None
) -> tuple[Ints, Ints, Ints, NDArray[np.bool_]]:
    """Owner, start and length of every piece, and which rows are cut; lengths and capacity are
    (rows,)."""
    capacity = np.maximum(capacity, 0)
    over = lengths > capacity
    if stride is None:
        zeros = np.zeros_like(lengths)
        return np.arange(len(lengths)), zeros, np.minimum(lengths, capacity), over
    step = np.maximum(capacity - stride, 1)
    counts = np.where(over & (capacity > 0), -(-(lengths - capacity) // step) + 1, 1)
    owners = np.repeat(np.arange(len(lengths)), counts)
    nth = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = nth * step[owners]
    lengths = np.minimum(capacity[owners], lengths[owners] - starts)
    return owners, starts, lengths, over & (capacity == 0)


def _joined(
    texts: list[Tokens],
    layout: Layout,
    owners: Ints,
    starts: list[Ints],
    lengths: list[Ints],
    truncated: NDArray[np.bool_],
) -> Pieces:
    """Special tokens and parts of texts alternate, gathered from one table of all of them."""
    special = np.concatenate(layout.special)
    ids = np.concatenate([special[:, 0], *(t.ids.values for t in texts)])
    chars = np.concatenate([np.zeros((len(special), 2), np.int64), *(t.chars for t in texts)])
    words = np.concatenate([np.full(len(special), -1), *(t.words for t in texts)])
    types = [special[:, 1]]
    sides = [np.full(len(special), -1)]
    bases, base = [], len(special)
    for n, text in enumerate(texts):
        count = len(text.words)
        types.append(np.full(count, layout.types[n]))
        sides.append(np.full(count, n))
        bases.append(base + text.ids.offsets[owners] + starts[n])
        base += count
    index, totals = _interleave(layout, bases, lengths)
    return Pieces(
        Ragged.of(ids[index], totals),
        Ragged.of(np.concatenate(types)[index], totals),
        owners.astype(np.int64),
        chars[index],
        words[index],
        np.concatenate(sides)[index],
        truncated,
    )


def _interleave(layout: Layout, bases: list[Ints], lengths: list[Ints]) -> tuple[Ints, Ints]:
    """The table index of every token of every sequence, and the sequences' lengths."""
    counts = [len(group) for group in layout.special]
    starts = np.cumsum([0, *counts])
    rows = len(bases[0])
    columns = [(np.full(rows, starts[0]), np.full(rows, counts[0]))]
    for n, (begin, length) in enumerate(zip(bases, lengths, strict=True), 1):
        columns += [(begin, length), (np.full(rows, starts[n]), np.full(rows, counts[n]))]
    begins = np.stack([begin for begin, _ in columns], axis=1).ravel()
    runs = np.stack([length for _, length in columns], axis=1)
    flat = runs.ravel()
    shift = np.repeat(begins - (np.cumsum(flat) - flat), flat)
    return np.arange(len(shift)) + shift, runs.sum(axis=1)
