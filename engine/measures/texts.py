"""chrF of texts, as sacrebleu counts it, over Arrow columns.

M. Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

ORDER, BETA = 6, 2.0
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_CHARACTERS = 1 << 20  # of both texts that are counted together, unless one row has more
_SPACES = np.array([chr(code).isspace() for code in range(0x3001)])  # all that Unicode has


def chrf(references: Sequence[str] | pa.Array, answers: Sequence[str] | pa.Array) -> float:
    """chrF2 over a corpus, 0 to 100: F-score of character n-grams up to 6, spaces left out. Equal
    texts without a character have 100."""
    columns = [_column(texts) for texts in (references, answers)]
    counts = ngram_counts(*columns).sum(axis=0)
    if not (counts[:, 1:] > 0).all(axis=1).any():
        return 100.0 if columns[0].equals(columns[1]) else 0.0
    return float(score(counts))


def _column(texts: Sequence[str] | pa.Array) -> pa.Array:
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if isinstance(texts, pa.Array):
        return texts.cast(pa.large_string())
    return pa.array(list(texts), pa.large_string())


def score(counts: NDArray[Any]) -> Floats:
    """chrF2 of counts, 0 to 100.

    Args:
        counts: Of shape (..., 6, 3), see `ngram_counts`, of a row or summed over rows.

    Returns:
        Of shape (...).
    """
    shared, in_references, in_answers = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    both = (in_references > 0) & (in_answers > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, shared / np.maximum(in_answers, 1), 0).sum(axis=-1) / orders
    recall = np.where(both, shared / np.maximum(in_references, 1), 0).sum(axis=-1) / orders
    weight = BETA**2
    below = weight * precision + recall
    return np.asarray(100 * (1 + weight) * precision * recall / np.where(below > 0, below, 1))


def ngram_counts(references: pa.Array, answers: pa.Array) -> Ints:
    """n-grams of each row, int64 (rows, 6, 3): those in both, in the reference, in the answer.

    An answer's n-grams only count where the reference has some, as in sacrebleu.

    Args:
        references, answers: Texts without nulls.
    """
    columns = [_column(texts) for texts in (references, answers)]
    counts = np.zeros((len(columns[0]), ORDER, 3), np.int64)
    differ = np.flatnonzero(pc.not_equal(*columns).to_numpy(zero_copy_only=False))
    lengths = np.stack([_lengths(column) for column in columns], axis=1)
    counts[:, :, 1:] = np.maximum(lengths[:, None, :] - np.arange(ORDER)[None, :, None], 0)
    counts[:, :, 2] *= counts[:, :, 1] > 0
    counts[:, :, 0] = counts[:, :, 1]  # of equal texts
    for rows in _chunks(differ, lengths[differ].sum(axis=1)):
        counts[rows, :, 0] = _shared(*(column.take(pa.array(rows)) for column in columns))
    return counts


def _chunks(rows: Ints, characters: Ints) -> Iterator[Ints]:
    """Rows in stretches of about `_CHARACTERS` characters."""
    if len(rows):
        stretch = np.cumsum(characters) // _CHARACTERS
        yield from np.split(rows, np.flatnonzero(np.diff(stretch)) + 1)


def _lengths(texts: pa.Array) -> Ints:
    return _characters(texts)[1]


def _characters(texts: pa.Array) -> tuple[NDArray[np.uint32], Ints]:
    """The code points of texts one after the other, without spaces, and how many each has."""
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset :][: len(texts) + 1]
    start, stop = (int(offsets[0]), int(offsets[-1])) if len(texts) else (0, 0)
    content = texts.buffers()[2]
    text = content.slice(start, stop - start).to_pybytes().decode() if stop > start else ""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    ends = np.concatenate(([0], np.cumsum(pc.utf8_length(texts).to_numpy(), dtype=np.int64)))
    spaces = _SPACES[np.minimum(codes, len(_SPACES) - 2)] | (codes == len(_SPACES) - 1)
    kept = np.concatenate(([0], np.cumsum(~spaces, dtype=np.int64)))
    return codes[~spaces], np.diff(kept[ends])


def _shared(references: pa.Array, answers: pa.Array) -> Ints:
    """Of each row and order the n-grams in both, each as often as in the one that has fewer."""
    rows = len(references)
    sides = [_characters(column) for column in (references, answers)]
    lengths = np.concatenate([side[1] for side in sides])
    symbols, width = _ranks(np.concatenate([side[0] for side in sides]))
    text = np.repeat(np.arange(2 * rows), lengths)
    row, side = text % rows, text // rows
    if ORDER * width + rows.bit_length() + 1 <= 63:
        return _by_one_sort(symbols, width, text, row, side, rows)
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(symbols))  # to the text's end
    return _by_ranks(symbols, width, left, row, side, rows)


def _by_one_sort(symbols: Ints, width: int, text: Ints, row: Ints, side: Ints, rows: int) -> Ints:
    """`_shared` where six symbols, a row and a side fit in 63 bits: n-grams are the beginnings of
    6-grams, and in their order. Symbol 0 fills up those at a text's end."""
    at = np.arange(len(symbols)) + (ORDER - 1) * text
    padded = np.zeros(len(symbols) + (ORDER - 1) * 2 * rows, np.int64)
    padded[at] = symbols
    grams = np.zeros(len(padded), np.int64)
    for n in range(ORDER):
        grams[: len(grams) - n] |= padded[n:] << (ORDER - 1 - n) * width
    keys = row << (ORDER * width + 1) | grams[at] << 1 | side
    keys.sort()
    shared = np.zeros((rows, ORDER), np.int64)
    runs, sizes, in_answers = keys >> 1, np.ones(len(keys), np.int64), keys & 1
    for n in reversed(range(ORDER)):
        starts = np.flatnonzero(np.diff(runs, prepend=-1))
        if not len(starts):
            break
        sizes, in_answers = (np.add.reduceat(counts, starts) for counts in (sizes, in_answers))
        runs = runs[starts]
        both = np.minimum(in_answers, sizes - in_answers) * (runs & ((1 << width) - 1) > 0)
        shared[:, n] = np.bincount(runs >> (n + 1) * width, weights=both, minlength=rows)
        runs = runs >> width
    return shared


def _by_ranks(symbols: Ints, width: int, left: Ints, row: Ints, side: Ints, rows: int) -> Ints:
    """`_shared` for any number of symbols: n-grams that have too many bits become their ranks."""
    at, grams, bits = np.arange(len(symbols)), symbols, width
    shared = np.zeros((rows, ORDER), np.int64)
    for n in range(ORDER):
        if n:
            goes_on = left[at] > n
            at, grams = at[goes_on], grams[goes_on]
            if bits + width + rows.bit_length() > 61:  # else the keys do not fit in 63 bits
                grams = np.unique(grams, return_inverse=True)[1]
                bits = len(grams).bit_length()
            grams, bits = grams << width | symbols[at + n], bits + width
        shared[:, n] = _matches(grams, bits, row[at], side[at], rows)
    return shared


def _ranks(codes: NDArray[np.uint32]) -> tuple[Ints, int]:
    """Code points as small numbers from 1, and how many bits these have."""
    if not len(codes):
        return np.zeros(0, np.int64), 1
    present = np.zeros(int(codes.max()) + 1, np.bool_)
    present[codes] = True
    ranks = np.cumsum(present, dtype=np.int64)
    return ranks[codes], max(int(ranks[-1]).bit_length(), 1)


def _matches(grams: Ints, bits: int, row: Ints, side: Ints, rows: int) -> Ints:
    keys = row << (bits + 1) | grams << 1 | side
    if not len(keys):
        return np.zeros(rows, np.int64)
    keys.sort()
    starts = np.flatnonzero(np.diff(keys >> 1, prepend=-1))
    sizes, in_answers = np.diff(starts, append=len(keys)), np.add.reduceat(keys & 1, starts)
    both = np.minimum(in_answers, sizes - in_answers)
    of_row = np.bincount(keys[starts] >> (bits + 1), weights=both, minlength=rows)
    return of_row.astype(np.int64)
