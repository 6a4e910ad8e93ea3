"""Long texts for embedding: chunks of a text, computed alone or together (late chunking).

Late chunking (arXiv:2409.04701) runs the model over as many chunks as fit, and pools each chunk's
tokens afterwards, so that a chunk's vector knows the text around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from engine.bundle import chunking
from engine.bundle.chunking import Grid
from engine.bundle.cleaning import clean, origins, removed_before
from engine.core.types import Encoded, Floats, Ints, Ragged, Rows
from engine.errors import SettingsError
from engine.tasks.task import Context, prepend

OFF, TOKENS, LATE = "none", "tokens", "late"
CHOICES = (OFF, TOKENS, LATE)


def encode(rows: Rows, context: Context, prompt: str) -> Encoded:
    """Sequences of one chunk, or of as many as fit for late chunking.

    `extra` has the chunks' rows, starts and ends: characters of the text without the prompt.

    Raises:
        SettingsError: The prompt leaves no token for the text.
    """
    config, tokenizer = context.model_config, context.tokenizer
    joined = prepend(prompt, rows.texts[0])
    cleaned = clean(joined, strip=context.options.strip, lower_case=config.lower_case)
    ids = _prompt_ids(context, prompt)
    pieces = chunking.chunks(
        tokenizer.tokens(cleaned), tokenizer.single_layout, ids, _grid(context, len(ids))
    )
    chars = pieces.chars
    if config.lower_case:
        chars = _before_lowering(chars, pieces.rows, joined, context.options.strip)
    shift = removed_before(joined, strip=context.options.strip)[pieces.rows] - len(prompt)
    spans = np.where(chars[:, 1:] > 0, np.maximum(chars + shift[:, None], 0), 0)
    return Encoded(
        rows,
        pieces.ids,
        pieces.type_ids if context.type_ids else None,
        np.zeros(len(rows), np.bool_),
        pieces.owners,
        {"rows": pieces.rows, "start": spans[:, 0], "end": spans[:, 1]},
    )


def pool(
    hidden: Floats, mask: Ints, context: Context, prompt: str, pooled: Callable[..., Floats]
) -> Ragged:
    """The vectors of the chunks of each sequence (late chunking).

    A sequence's first chunk is pooled with the special tokens and the prompt before it, its last
    with the special tokens behind it.

    Args:
        hidden: (sequences, length, d).
        mask: Of all tokens, int64 (sequences, length).
        pooled: States (n, length, d) and the mask of those to pool -> (n, width).
    """
    before, after, grid = _layout(context, prompt)
    lengths = mask.sum(axis=1)
    counts = grid.counts(lengths - before - after)
    vectors, order = [], []
    for number in range(int(counts.max())):
        having = np.flatnonzero(counts > number)
        first = before + number * grid.step
        start = first if number else 0
        stop = first + grid.size + after
        ends = np.where(counts == number + 1, lengths, first + grid.size)[having]
        inside = np.arange(start, min(stop, mask.shape[1])) < ends[:, None]
        vectors.append(pooled(hidden[having, start:stop], inside.astype(np.int64), number == 0))
        order.append(having)
    back = np.argsort(np.concatenate(order), kind="stable")
    return Ragged.of(np.concatenate(vectors)[back], counts)


def by_row(values: pa.Array, rows: Ints, count: int) -> pa.ListArray:
    """One value for each chunk as a list for each row."""
    offsets = np.searchsorted(rows, np.arange(count + 1))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def mean(vectors: Floats, rows: Ints, count: int, scaled: Callable[[Floats], Floats]) -> Floats:
    """The mean vector of each row's chunks; that of a single chunk stays as it is."""
    starts = np.searchsorted(rows, np.arange(count))
    counts = np.bincount(rows, minlength=count)[:, None]
    means = scaled(np.asarray(np.add.reduceat(vectors, starts, axis=0) / counts, np.float32))
    return np.where(counts == 1, vectors[starts], means)


def _layout(context: Context, prompt: str) -> tuple[int, int, Grid]:
    """Tokens before the text, tokens behind it, and the grid."""
    before, after = map(len, context.tokenizer.single_layout.special)
    count = len(_prompt_ids(context, prompt))
    return before + count, after, _grid(context, count)


def _prompt_ids(context: Context, prompt: str) -> Ints:
    """The prompt's tokens; white space at its end belongs to the text's first one."""
    config = context.model_config
    text = pa.array([prompt.rstrip()], pa.string())
    text = clean(text, strip=context.options.strip, lower_case=config.lower_case)
    return np.asarray(context.tokenizer.ids(text).values, np.int64)


def _grid(context: Context, prompt: int) -> Grid:
    options: Any = context.options
    limit = context.tokenizer.max_length
    capacity = limit - context.tokenizer.single_layout.count - prompt
    if capacity < 1:
        raise SettingsError(
            f"the prompt has {prompt} tokens, which leave none of {limit} for the text",
            "give a shorter prompt, or a larger max_length",
        )
    size = options.chunk_size or capacity
    if size > capacity or options.overlap >= size:
        raise SettingsError(
            f"chunk_size is {options.chunk_size}, overlap {options.overlap}",
            f"a chunk_size of {capacity} at most, what {limit} tokens leave without prompt "
            "and special tokens, or 0, and an overlap of less",
        )
    step = size - options.overlap
    together = (capacity - size) // step + 1 if options.chunk == LATE else 1
    return Grid(size, step, together)


def _before_lowering(chars: Ints, rows: Ints, joined: pa.StringArray, strip: bool) -> Ints:
    """Characters of the stripped texts from those of the lower-cased ones."""
    chars = chars.copy()
    for row, text in enumerate(clean(joined, strip=strip, lower_case=False).to_pylist()):
        if len(text.lower()) != len(text):
            origin, spans = origins(text), chars[rows == row]
            spans[:, 0] = origin[spans[:, 0]]
            spans[:, 1] = origin[spans[:, 1] - 1] + 1
            chars[rows == row] = spans
    return chars
