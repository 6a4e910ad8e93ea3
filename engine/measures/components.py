"""Principal components of vectors that come batch by batch, and a sample of them to draw."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Moments:
    """Mean and scatter matrix of vectors, updated batch by batch.

    T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", COMPSTAT 1982.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.mean = np.zeros(0)
        self.scatter = np.zeros((0, 0))

    def add(self, vectors: Floats) -> None:
        """Take vectors, float64 (rows, width), all finite and of the width of the first."""
        rows = len(vectors)
        if not rows:
            return
        if not self.rows:
            self.mean = np.zeros(vectors.shape[1])
            self.scatter = np.zeros((vectors.shape[1],) * 2)
        mean = vectors.mean(axis=0)
        apart, vectors = mean - self.mean, vectors - mean
        total = self.rows + rows
        self.scatter += vectors.T @ vectors
        self.scatter += np.outer(apart, apart) * (self.rows * rows / total)
        self.mean += apart * rows / total
        self.rows = total

    def components(self, count: int) -> tuple[Floats, Floats]:
        """Directions, float64 (count, width), in which vectors vary most, and the share of the
        variance in each, float64 (count,).

        The largest part of a direction is positive. With fewer numbers than `count`, the last
        directions are 0.
        """
        width = len(self.mean)
        found = min(count, width)
        values, vectors = np.linalg.eigh(self.scatter)
        directions, shares = np.zeros((count, width)), np.zeros(count)
        directions[:found] = vectors[:, ::-1][:, :found].T
        total = values.sum()
        if total > 0:
            shares[:found] = np.maximum(values[::-1][:found], 0) / total
        return _signed(directions), shares


def components_of(vectors: Floats, count: int) -> tuple[Floats, Floats]:
    """The same of vectors that are all there, float64 (rows, width), at least one; quicker where
    they are fewer than numbers in each."""
    _, sizes, found = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    directions, shares = np.zeros((count, vectors.shape[1])), np.zeros(count)
    kept = min(count, len(sizes))
    directions[:kept] = found[:kept]
    total = (sizes**2).sum()
    if total > 0:
        shares[:kept] = sizes[:kept] ** 2 / total
    return _signed(directions), shares


def _signed(directions: Floats) -> Floats:
    if not directions.size:
        return directions
    largest = np.abs(directions).argmax(axis=1)
    return (
        directions * np.where(directions[np.arange(len(directions)), largest] < 0, -1, 1)[:, None]
    )


class Sample:
    """A sample of vectors, the same however they come in batches: those whose numbers have the
    smallest hashes.

    Args:
        count: How many.

    Attributes:
        numbers: int64: which vectors they are, in order.
        vectors: float32 (rows, width).
        tags: large_string (rows,): what was given with each.
    """

    def __init__(self, count: int) -> None:
        self._count, self._seen = count, 0
        self._keys = np.zeros(0, np.uint64)
        self.numbers = np.zeros(0, np.int64)
        self.vectors = np.zeros((0, 0), np.float32)
        self.tags = pa.array([], pa.large_string())

    def add(self, vectors: Floats, tags: pa.Array) -> None:
        """Look at vectors, float64 (rows, width), with a tag of each, large_string."""
        numbers = np.arange(self._seen, self._seen + len(vectors))
        self._seen += len(vectors)
        keys = hashes(numbers)
        if len(self._keys) == self._count:
            chosen = keys < self._keys.max()
            keys, numbers, vectors = keys[chosen], numbers[chosen], vectors[chosen]
            tags = tags.filter(pa.array(chosen))
        if not len(keys):
            return
        own = vectors.astype(np.float32)
        every = np.concatenate([self.vectors, own]) if len(self.vectors) else own
        keys = np.concatenate([self._keys, keys])
        numbers = np.concatenate([self.numbers, numbers])
        kept = np.sort(np.argsort(keys, kind="stable")[: self._count])
        self._keys, self.numbers, self.vectors = keys[kept], numbers[kept], every[kept]
        self.tags = pa.concat_arrays([self.tags, tags]).take(pa.array(kept))


def hashes(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of each number, as good as random: splitmix64.

    G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
