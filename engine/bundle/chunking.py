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


def single(
    texts: Tokens,
    layout: Layout,
    *,
    max_length: int,
    stride: int | None = None,
    side: str = "right",
) -> Pieces:
    """One text a row, in as many pieces as it needs, first to last, or cut.

    Args:
        max_length: Tokens of a sequence, special tokens included.
        stride: Tokens that two pieces share, fewer than fit into one; None cuts.
        side: Where the text is cut, right or left; pieces begin at its other end.
    """
    capacity = np.full(len(texts.ids), max_length - layout.count)
    owners, starts, lengths, cut = _windows(texts.ids.lengths, capacity, stride)
    if side == "left":
        starts, lengths = (_turned(values, owners) for values in (starts, lengths))
        starts = texts.ids.lengths[owners] - starts - lengths
    return _joined([texts], layout, owners, [starts], [lengths], cut)


def pair(
    first: Tokens,
    second: Tokens,
    layout: Layout,
    *,
    max_length: int,
    stride: int | None = None,
    side: str = "right",
) -> Pieces:
    """The whole first text before each piece of the second (question answering).

    A first text that leaves too few tokens to the second is cut.

    Args:
        max_length: Tokens of a sequence, special tokens included.
        stride: Tokens of the second text that two pieces share; None cuts it.
        side: Where the second text is cut, right or left; its first piece is at its other end.
    """
    capacity = max_length - layout.count
    reserved = np.minimum((stride or 0) + 1, second.ids.lengths)
    taken = np.minimum(first.ids.lengths, np.maximum(capacity - reserved, 0))
    owners, starts, lengths, cut = _windows(second.ids.lengths, capacity - taken, stride)
    if side == "left":
        starts = second.ids.lengths[owners] - starts - lengths
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
    side: str = "right",
) -> Pairs:
    """Pairs of which the first text is cut, as truncation "only_first" of transformers does it.

    Where the second text leaves the first not one token, transformers' pipelines cut nothing. Here
    the pair stays whole only within `longest`; else the first text is dropped and the second cut.

    Args:
        first, second: Token ids of texts without special tokens.
        chosen: Which of the first and which of the second texts make each pair, int64 (pairs,).
        max_length: Tokens of a pair, special tokens included.
        longest: Tokens that the model can take; below max_length it is max_length.
        side: Where the first text is cut: right or left.
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
    skipped = first.lengths[chosen[0]] - firsts if side == "left" else 0
    bases = [len(special) + first.offsets[chosen[0]] + skipped, after + second.offsets[chosen[1]]]
    index, totals = _interleave(layout, bases, [firsts, seconds])
    ids = np.concatenate([special[:, 0], first.values, second.values])
    counts = (len(first.values), len(second.values))
    types = np.concatenate([special[:, 1], np.repeat(layout.types, counts)])
    return Pairs(Ragged.of(ids[index], totals), Ragged.of(types[index], totals), over)


@dataclass(frozen=True, slots=True)
class Grid:
    """How the tokens of a text are cut into chunks, and how many chunks a sequence holds.

    Attributes:
        size: Tokens of a chunk.
        step: Tokens from the start of one to the start of the next.
        together: Chunks of a sequence.
    """

    size: int
    step: int
    together: int

    def counts(self, lengths: Ints) -> Ints:
        """How many chunks texts, or sequences, of as many tokens have; int64 (rows,)."""
        beyond = np.maximum(lengths - self.size, 0)
        return np.asarray(-(-beyond // self.step) + 1, np.int64)


@dataclass(frozen=True, slots=True)
class Chunks:
    """Texts in chunks, all of them behind the same prompt.

    Attributes:
        ids, type_ids: Of each sequence, int64: special tokens, prompt, one chunk or several.
        owners: The row of each sequence, int64, ascending.
        rows: The row of each chunk, int64, ascending; every row has one.
        chars: Start and end (exclusive) of each chunk as in `types.Tokens`, int64 (chunks, 2).
    """

    ids: Ragged
    type_ids: Ragged
    owners: Ints
    rows: Ints
    chars: Ints


def chunks(texts: Tokens, layout: Layout, prompt: Ints, grid: Grid) -> Chunks:
    """Cut texts into chunks; the first sequence of a text begins with its own tokens.

    Args:
        texts: With the prompt before each, which counts as its first len(prompt) tokens.
        layout: Of a single text.
        prompt: The prompt's token ids for all sequences of a text but the first.
    """
    before = np.minimum(texts.ids.lengths, len(prompt))
    lengths = texts.ids.lengths - before
    counts = grid.counts(lengths)
    rows, nth = _repeated(counts)
    starts = nth * grid.step
    stops = np.minimum(starts + grid.size, lengths[rows])
    base = texts.ids.offsets[:-1] + before
    owners, order = _repeated(-(-counts // grid.together))
    first = order * grid.together * grid.step
    widest = (grid.together - 1) * grid.step + grid.size
    taken = np.minimum(widest, lengths[owners] - first)
    special = np.concatenate(layout.special)
    prompted = len(special) + len(prompt)
    bases = [
        np.where(order == 0, prompted + texts.ids.offsets[owners], len(special)),
        prompted + base[owners] + first,
    ]
    split = Layout((layout.special[0], special[:0], layout.special[1]), layout.types * 2)
    index, totals = _interleave(split, bases, [before[owners], taken])
    ids = np.concatenate([special[:, 0], prompt, texts.ids.values])
    of_text = np.full(len(prompt) + len(texts.words), layout.types[0])
    types = np.concatenate([special[:, 1], of_text])
    return Chunks(
        Ragged.of(ids[index], totals),
        Ragged.of(types[index], totals),
        owners,
        rows,
        _chars(texts, base[rows] + starts, base[rows] + stops),
    )


def _repeated(counts: Ints) -> tuple[Ints, Ints]:
    """Row and number within the row of everything of which each row has so many."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def _chars(texts: Tokens, starts: Ints, stops: Ints) -> Ints:
    """Characters from the start of one token to the end of the last; 0 and 0 without tokens."""
    chars = np.concatenate([texts.chars, np.zeros((1, 2), np.int64)])
    spans = np.stack([chars[starts, 0], chars[stops - 1, 1]], axis=1)
    return np.where((stops > starts)[:, None], spans, 0)


def _turned(values: Ints, owners: Ints) -> Ints:
    """The values of each owner in the opposite order; owners ascend."""
    counts = np.bincount(owners)
    stops = np.cumsum(counts)
    return np.asarray(values[(2 * stops - counts - 1)[owners] - np.arange(len(owners))])


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
