"""Which vectors are nearly the same: every pair of a few, and those that hyperplanes find of many.

M. S. Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002: two vectors
lie on one side of a random hyperplane the more often, the smaller the angle between them is. So
those on one side of all hyperplanes of a band are looked at, and judged by their cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.measures.significance import SEED

NEAR = 0.95
"""The cosine from which two vectors are nearly the same."""
EXACT = 20_000
"""Vectors of which every pair is looked at."""
MOST = 2_000_000
"""Vectors that are looked at."""
BANDS, PLANES = 24, 20  # planes of each band
_NEXT = 4  # of a band's vectors on the same sides, those behind one that it is compared with
_MOST_DIFFERENT = (
    75  # planes between two vectors of the cosine `NEAR`: 48.5 of 480, four deviations
)
_MOST_PAIRS = 1 << 24
_EXACT_BYTES, _KEPT_BYTES = 128 << 20, 192 << 20
_BLOCK, _SHOWN = 1024, 10
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Units = NDArray[np.float32]


@dataclass(frozen=True)
class NearPairs:
    """What was found.

    Attributes:
        rows: Vectors that were looked at.
        identical: Those that an earlier one is equal to, in every number.
        near: Those that have another one with a cosine of at least `NEAR`.
        pairs: Pairs of them.
        nearest: float64 (rows,): the largest cosine of each with another one, where every pair was
            looked at, else None.
        most_alike: Some of the pairs, two vectors' numbers and their cosine, the largest first.
        recall: The share of pairs with the cosine `NEAR` that hyperplanes are expected to find;
            1 where every pair was looked at.
    """

    rows: int
    identical: int
    near: int
    pairs: int
    nearest: Floats | None
    most_alike: Sequence[tuple[int, int, float]]
    recall: float


class NearDuplicates:
    """Finds them batch by batch."""

    def __init__(self) -> None:
        self.rows = 0
        self._units: list[Units] = []
        self._keys: list[NDArray[np.uint32]] = []
        self._hashes: list[NDArray[np.uint64]] = []
        self._planes: Units | None = None

    def add(self, vectors: Floats) -> None:
        """Look at vectors, float64 (rows, width), finite and none of them 0; those beyond `MOST`
        are not looked at."""
        vectors = vectors[: MOST - self.rows]
        if not len(vectors):
            return
        self.rows += len(vectors)
        units = _units(vectors)
        self._hashes.append(_hashes(vectors))
        if self._keys or self.rows > EXACT or 4 * self.rows * units.shape[1] > _EXACT_BYTES:
            self._keys += [self._sides(own) for own in (*self._units, units)]
            self._units = []
        else:
            self._units.append(units)

    def _sides(self, units: Units) -> NDArray[np.uint32]:
        """On which sides of the planes of each band vectors lie, a bit each: uint32 (rows, 24)."""
        if self._planes is None:
            random = np.random.default_rng(SEED)
            shape = units.shape[1], BANDS * PLANES
            self._planes = random.standard_normal(shape, np.float32)
        bits = (units @ self._planes > 0).reshape(len(units), BANDS, PLANES)
        return np.asarray(bits @ (1 << np.arange(PLANES, dtype=np.uint32)), np.uint32)

    def found(self, again: Callable[[], Iterable[Floats]]) -> NearPairs:
        """The pairs.

        Args:
            again: Gives the same vectors once more, in any batches.
        """
        hashes = np.concatenate([np.zeros(0, np.uint64), *self._hashes])
        identical = len(hashes) - len(np.unique(hashes))
        if not self._keys:
            units = np.concatenate(self._units or [np.zeros((0, 1), np.float32)])
            nearest, pairs, most_alike = _every_pair(units)
            near = int((nearest >= NEAR).sum())
            return NearPairs(self.rows, identical, near, pairs, nearest, most_alike, 1.0)
        keys = np.concatenate(self._keys)
        first, second = _candidates(keys)
        cosines = _judged(keys, first, second, again)
        is_near = cosines >= NEAR
        first, second, cosines = first[is_near], second[is_near], cosines[is_near]
        near = len(np.unique(np.concatenate([first, second])))
        most_alike = _most_alike(first, second, cosines)
        return NearPairs(self.rows, identical, near, len(first), None, most_alike, _recall())


def _units(vectors: Floats) -> Units:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return np.asarray(vectors / lengths[:, None], np.float32)


def _hashes(vectors: Floats) -> NDArray[np.uint64]:
    """A hash of each vector: its numbers' bits, each times an odd number of its own."""
    random = np.random.default_rng(SEED)
    odd = random.integers(0, 1 << 63, vectors.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    bits = np.ascontiguousarray(vectors + 0.0).view(np.uint64)  # -0 is 0
    bits = bits ^ (bits >> np.uint64(29))
    return np.asarray((bits * odd).sum(axis=1, dtype=np.uint64))


def _every_pair(units: Units) -> tuple[Floats, int, list[tuple[int, int, float]]]:
    """The largest cosine of each vector with another one, -1 where it is alone, pairs from `NEAR`
    on, and some of them."""
    nearest, pairs = np.full(len(units), -1.0), 0
    behind, partners = np.full(len(units), -2.0), np.zeros(len(units), np.int64)
    for start in range(0, len(units), _BLOCK):
        block = units[start : start + _BLOCK]
        cosines = block @ units[start:].T
        own = cosines[:, : len(block)]
        own[np.tril_indices(len(block))] = -2  # a pair is looked at once
        pairs += int((cosines >= NEAR).sum())
        rows = slice(start, start + len(block))
        partners[rows] = start + cosines.argmax(axis=1)
        behind[rows] = np.take_along_axis(cosines, cosines.argmax(axis=1)[:, None], 1)[:, 0]
        nearest[start:] = np.maximum(nearest[start:], cosines.max(axis=0))
    is_near = np.flatnonzero(behind >= NEAR)
    found = _most_alike(is_near, partners[is_near], behind[is_near])
    return np.clip(np.maximum(nearest, behind), -1, 1), pairs, found


def _most_alike(first: Ints, second: Ints, cosines: Floats) -> list[tuple[int, int, float]]:
    order = np.lexsort((second, first, -cosines))[:_SHOWN]
    kept = np.minimum(cosines[order], 1)
    return list(zip(first[order].tolist(), second[order].tolist(), kept.tolist(), strict=True))


def _candidates(keys: NDArray[np.uint32]) -> tuple[Ints, Ints]:
    """Pairs, the smaller number first, that lie on one side of all planes of a band and of most of
    the others."""
    rows = len(keys)
    codes = np.zeros(0, np.int64)
    for band in range(BANDS):
        sorting = np.sort(keys[:, band].astype(np.uint64) << np.uint64(32) | _numbers(rows))
        own, order = sorting >> np.uint64(32), (sorting & np.uint64(0xFFFFFFFF)).astype(np.int64)
        for step in range(1, _NEXT + 1):
            at = np.flatnonzero(own[:-step] == own[step:])
            codes = np.union1d(codes, _alike(keys, order[at], order[at + step]))
        if len(codes) > _MOST_PAIRS:
            break
    return codes // rows, codes % rows


def _numbers(rows: int) -> NDArray[np.uint64]:
    return np.arange(rows, dtype=np.uint64)


def _alike(keys: NDArray[np.uint32], first: Ints, second: Ints) -> Ints:
    """Pairs with few planes between them, as first * rows + second."""
    kept = [
        np.flatnonzero(_different(keys, first[part], second[part]) <= _MOST_DIFFERENT) + part.start
        for part in _parts(len(first))
    ]
    chosen = np.concatenate([np.zeros(0, np.int64), *kept])
    return np.asarray(first[chosen] * len(keys) + second[chosen])


def _different(keys: NDArray[np.uint32], first: Ints, second: Ints) -> Ints:
    """How many planes lie between the vectors of each pair."""
    return np.asarray(np.bitwise_count(keys[first] ^ keys[second]).sum(axis=1, dtype=np.int64))


def _parts(count: int, size: int = 1 << 16) -> Iterator[slice]:
    return (slice(i, i + size) for i in range(0, count, size))


def _judged(
    keys: NDArray[np.uint32], first: Ints, second: Ints, again: Callable[[], Iterable[Floats]]
) -> Floats:
    """The cosine of each pair, as far as memory for its vectors goes, else what the planes between
    them say."""
    cosines = np.zeros(len(first))
    numbers = np.unique(np.concatenate([first, second]))
    kept = _kept(numbers, again)
    places = np.searchsorted(numbers, first), np.searchsorted(numbers, second)
    for part in _parts(len(first)):
        a, b = places[0][part], places[1][part]
        shares = _different(keys, first[part], second[part]) / (BANDS * PLANES)
        own = np.cos(np.pi * shares)
        known = np.flatnonzero(np.maximum(a, b) < len(kept))
        vectors = kept[a[known]].astype(np.float32), kept[b[known]].astype(np.float32)
        own[known] = np.einsum("ij,ij->i", *vectors)
        cosines[part] = own
    return cosines


def _kept(numbers: Ints, again: Callable[[], Iterable[Floats]]) -> NDArray[np.float16]:
    """The first of the vectors with these numbers, as unit vectors: half precision moves a cosine
    by 0.001 at most."""
    found: list[NDArray[np.float16]] = []
    start = size = 0
    for vectors in again() if len(numbers) else ():
        own = numbers[slice(*np.searchsorted(numbers, [start, start + len(vectors)]))] - start
        start += len(vectors)
        found.append(_units(vectors[own]).astype(np.float16))
        size += found[-1].nbytes
        if size > _KEPT_BYTES:
            break
    return np.concatenate(found) if found else np.zeros((0, 1), np.float16)


def _recall() -> float:
    """Of a pair with the cosine `NEAR`, how likely it is that a band has both on its sides."""
    same = (1 - np.arccos(NEAR) / np.pi) ** PLANES
    return float(1 - (1 - same) ** BANDS)
