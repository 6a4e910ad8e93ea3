"""Cuts a window into padded batches. Pure: no files, no clock, no settings.

Sequences are sorted by length, longest first, so that a batch is padded by little and an allocation
that will not fit fails at the start, not at the end. A batch takes sequences while their number ×
padded length stays within a budget of tokens; towards the end the budget shrinks, so that workers
end at about the same time. That a batch does not depend on how many workers there are keeps a row's
answer the same to the last bit. Padded lengths are rounded up to a few buckets:
varying shapes make ONNX Runtime's arena grow (onnxruntime#13500, #9509).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Arrays, Batch, Encoded, Ints, Output, Ragged

MAX_ROWS = 512
# How long, of the longest, every row of a decoder's encoder batch must be.
ALIKE = 0.9
# A batch takes at most one part in so many of the tokens that are left, so that nobody waits long
# for the last one; but no less than that part of the budget, so that no batch is tiny.
SHARE = 4


def bucket(length: int, limit: int) -> int:
    """Round a padded length up: by 8 to 64, by 16 to 128, by 32 to 512, by 128 beyond.

    Never above `limit` (tokens a row may have), so that positions stay within the model's.
    """
    step = 8 if length <= 64 else 16 if length <= 128 else 32 if length <= 512 else 128
    return max(1, min(-(-length // step) * step, max(limit, length)))


def cut(
    window: Encoded, *, budget: int, limit: int, pad_id: int, max_rows: int = MAX_ROWS
) -> Iterator[Batch]:
    """Yield the batches of a window; one without sequences yields one empty, last batch.

    Args:
        budget: Padded tokens of one batch at most; a single longer sequence is a batch of its own.
        limit: Longest sequence possible, in tokens.
        pad_id: Filler of input_ids.
        max_rows: Sequences of one batch at most.
    """
    lengths = window.ids.lengths
    order = _longest_first(window)
    left = lengths[order][::-1].cumsum()[::-1]
    if not len(order):
        yield _pad(window, order, 1, pad_id, padded=0, last=True)
    start = 0
    while start < len(order):
        width = bucket(int(lengths[order[start]]), limit)
        tokens = min(budget, max(budget, int(left[start])) // SHARE)
        rows = min(max(1, tokens // width), max_rows)
        stop = min(start + rows, len(order))
        padded, last = (stop - start) * width, stop == len(order)
        yield _pad(window, order[start:stop], width, pad_id, padded=padded, last=last)
        start = stop


def deal(window: Encoded, *, workers: int, most: int, limit: int, pad_id: int) -> Iterator[Batch]:
    """Yield a window as few large batches of about the same work, for a decoder whose rows come and
    go one by one and which encodes them in batches of its own.

    Each gets every n-th sequence by length, longest first.

    Args:
        workers: Batches that are decoded at the same time; their number is a multiple of it.
        most: Sequences of one batch at most.
        limit, pad_id: As in `cut`.
    """
    lengths = window.ids.lengths
    order = _longest_first(window)
    count = max(1, min(len(order), workers * -(-len(order) // (workers * most))))
    for n in range(count):
        index = order[n::count]
        width = bucket(int(lengths[index[0]]), limit) if len(index) else 1
        yield _pad(window, index, width, pad_id, padded=0, last=n == count - 1)


def encoder_batch(lengths: Ints, budget: int, mixed: int) -> tuple[int, int]:
    """How many of a decoder's next rows are encoded in one batch, and its width.

    Args:
        lengths: Of the rows that wait, in their order, int64 (rows,).
        budget: Padded tokens of a batch at most, unless a single row has more.
        mixed: Padded tokens up to which rows of any lengths share a batch; beyond, they must be
            nearly as long as the longest.
    """
    widths = np.maximum.accumulate(lengths)
    tokens = widths * np.arange(1, len(widths) + 1)
    alike = (tokens <= mixed) | (np.minimum.accumulate(lengths) >= ALIKE * widths)
    rows = max(1, int(np.argmin(np.append((tokens <= budget) & alike, False))))
    return rows, int(widths[rows - 1])


def _longest_first(window: Encoded) -> Ints:
    """The sequences to compute."""
    computed = window.computed
    return computed[np.argsort(-window.ids.lengths[computed], kind="stable")]


def _pad(
    window: Encoded, index: Ints, width: int, pad_id: int, *, padded: int, last: bool
) -> Batch:
    ids = window.ids.take(index)
    mask = (np.arange(width) < ids.lengths[:, None]).astype(np.int64)
    feeds = {"input_ids": ids.padded(width, pad_id), "attention_mask": mask}
    if window.type_ids is not None:
        feeds["token_type_ids"] = window.type_ids.take(index).padded(width, 0)
    return Batch(window, index, feeds, tokens=len(ids.values), padded=padded, last=last)


def once(window: Encoded) -> Encoded:
    """The window with only the first of equal sequences to be computed; the others get its results,
    which do not depend on the other rows of a batch."""
    firsts = window.ids.firsts()
    if window.type_ids is not None:
        both = np.stack([firsts, window.type_ids.firsts()], axis=1)
        pairs = Ragged.of(both.ravel(), np.full(len(firsts), 2))
        firsts = pairs.firsts()
    return replace(window, firsts=firsts)


def rows_ended(batch: Batch) -> int:
    """How many rows have their last sequence in this batch, or no sequence at all."""
    return int(rows_ending(batch).sum()) + rows_without(batch)


def rows_without(batch: Batch) -> int:
    """How many rows without sequences count with this batch.

    Rows without sequences count with the window's last batch, so that the sum over a window is its
    number of rows. A sequence that repeats another is where that one is.
    """
    last = np.unique(batch.window.owners)
    return len(batch.window.rows) - len(last) if batch.last else 0


def rows_ending(batch: Batch) -> Ints:
    """How many rows have each of the batch's sequences as their last, int64 (sequences,)."""
    owners, firsts = batch.window.owners, batch.window.firsts
    lasts = np.flatnonzero(np.append(owners[1:] != owners[:-1], True)[: len(owners)])
    ends = np.bincount(lasts if firsts is None else firsts[lasts], minlength=len(owners))
    return np.asarray(ends[batch.index])


def gather(outputs: Sequence[Output]) -> Arrays:
    """Results of all batches of a window, in the order of its sequences; none if it has none."""
    outputs = [o for o in outputs if len(o.batch.index)] or outputs[:1]
    index = np.concatenate([o.batch.index for o in outputs])
    firsts = outputs[0].batch.window.firsts
    wanted = np.arange(len(index)) if firsts is None else firsts
    back = np.argsort(index, kind="stable")
    back = back[np.searchsorted(index[back], wanted)]
    arrays = joined([o.arrays for o in outputs])
    return {n: v.take(back) if isinstance(v, Ragged) else v[back] for n, v in arrays.items()}


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Results of several batches, concatenated."""
    return {name: _concat([part[name] for part in parts]) for name in parts[0]}


def _concat(parts: Sequence[object]) -> NDArray[Any] | Ragged:
    ragged = [p for p in parts if isinstance(p, Ragged)]
    return Ragged.concat(ragged) if ragged else np.concatenate([np.asarray(p) for p in parts])
