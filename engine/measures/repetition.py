"""How much a text repeats itself.

S. Welleck and others, "Neural text generation with unlikelihood training", ICLR 2020: seq-rep-4.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

ORDER = 4
_WORDS = 1 << 13  # of rows that are looked at together, so that a row and four words fit in 63 bits
Ints = NDArray[np.int64]


def repeated_shares(texts: pa.Array) -> tuple[NDArray[np.float64], Ints]:
    """The share of each text's 4-grams of words that it has had before, and its words.

    Args:
        texts: Without nulls. Words are what stands between white space.

    Returns:
        float64 (rows,), NaN for a text of fewer than four words; int64 (rows,).
    """
    trimmed = pc.utf8_trim_whitespace(texts.cast(pa.large_string()))
    words = pc.utf8_split_whitespace(trimmed)
    # An empty text is split into one empty word.
    lengths = pc.list_value_length(words).to_numpy() * (pc.binary_length(trimmed).to_numpy() > 0)
    lengths = np.asarray(lengths, np.int64)
    flat = words.flatten()
    flat = flat.filter(pc.greater(pc.binary_length(flat), 0))
    grams = np.maximum(lengths - ORDER + 1, 0)
    different = np.zeros(len(lengths), np.int64)
    ends = np.cumsum(lengths)
    for start, stop in _stretches(ends):
        first = int(ends[start] - lengths[start])
        codes = flat.slice(first, int(ends[stop - 1]) - first).dictionary_encode().indices
        different[start:stop] = _different(codes.to_numpy().astype(np.int64), lengths[start:stop])
    shares = np.full(len(lengths), np.nan)
    np.divide(grams - different, grams, out=shares, where=grams > 0)
    return shares, lengths


def _stretches(ends: Ints) -> list[tuple[int, int]]:
    """Rows from and to, of about `_WORDS` words together or one row of more."""
    if not len(ends):
        return []
    cuts = np.flatnonzero(np.diff(ends // _WORDS)) + 1
    edges = [0, *cuts.tolist(), len(ends)]
    return list(pairwise(edges))


def _different(codes: Ints, lengths: Ints) -> Ints:
    """How many different 4-grams each row has; `codes` are the numbers of its words."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    if len(codes) < ORDER:
        return np.zeros(len(lengths), np.int64)
    bits = int(codes.max()).bit_length()
    starts = row[: 1 - ORDER] == row[ORDER - 1 :]
    pairs = codes[:-1] << bits | codes[1:]
    if ORDER * bits + len(lengths).bit_length() > 63:
        pairs = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
        bits = -(-int(pairs.max()).bit_length() // 2)
    keys = (pairs[:-2] << 2 * bits | pairs[2:])[starts]
    own = row[: 1 - ORDER][starts]
    if ORDER * bits + len(lengths).bit_length() > 63:
        keys = np.unique(keys, return_inverse=True)[1].astype(np.int64)
        bits = -(-int(keys.max(initial=0)).bit_length() // ORDER)
    keys = np.sort(own << ORDER * bits | keys)
    found = keys[np.flatnonzero(np.diff(keys, prepend=-1))] >> ORDER * bits
    return np.bincount(found, minlength=len(lengths)).astype(np.int64)
