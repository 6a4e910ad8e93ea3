"""Texts of a stated length distribution, cut from a corpus or made up. Fixed seeds."""

from __future__ import annotations

import gzip
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SYLLABLES = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "an", "er")]


@dataclass(frozen=True)
class Lengths:
    """Lengths in words: lognormal by median and sigma, clipped to bounds; sigma 0 always gives the
    median."""

    median: float
    sigma: float
    least: int
    most: int

    def draw(self, count: int, seed: int) -> list[int]:
        dice = random.Random(seed)
        drawn = (dice.lognormvariate(math.log(self.median), self.sigma) for _ in range(count))
        return [min(self.most, max(self.least, round(n))) for n in drawn]

    def __str__(self) -> str:
        if not self.sigma:
            return f"{self.median:g}"
        return f"lognormal, median {self.median:g}, sigma {self.sigma:g}, {self.least}-{self.most}"


def lines(files: Sequence[Path]) -> list[str]:
    """The lines of text files (.gz too) that have at least four words."""
    every: list[str] = []
    for file in files:
        read = gzip.open if file.suffix == ".gz" else open
        with read(file, "rt", encoding="utf-8", errors="replace") as stream:
            every += [line.strip() for line in stream if len(line.split()) >= 4]
    return every


def words(files: Sequence[Path]) -> Iterator[str]:
    """The words of the files, over and over; without files, made-up words.

    Made-up words have two or three syllables and are drawn by Zipf's law from 5,000.
    """
    if files and (shuffled := lines(files)):
        random.Random(0).shuffle(shuffled)
        while True:
            for line in shuffled:
                yield from line.split()
    dice = random.Random(0)
    known = ["".join(dice.choices(SYLLABLES, k=dice.choice((2, 2, 3)))) for _ in range(5_000)]
    weights = [1 / (n + 1) for n in range(len(known))]
    while True:
        yield from dice.choices(known, weights, k=1_000)


def cut(source: Iterator[str], lengths: Sequence[int]) -> list[str]:
    """A text of consecutive words for each length."""
    return [" ".join(next(source) for _ in range(n)) for n in lengths]
