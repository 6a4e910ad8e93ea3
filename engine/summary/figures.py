"""Blocks of a page, of numbers and names that come batch by batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.measures.bins import SCORE, Bins
from engine.measures.categories import Categories
from engine.measures.distribution import Distribution
from engine.pages.blocks import Bars, Histogram, Table

MOST_NAMES = 30
"""Bars of a figure: where there are more names, the last bar is all others together."""
MOST_VALUES = 15
"""Different values of a column of the input that are shown, and one for all others."""
OTHER = "other"
_HEAD = ("", "number", "mean", "least", "5%", "median", "95%", "most")


class Spread:
    """How numbers are spread: mean, percentiles and a histogram.

    Args:
        is_whole: They are whole numbers, as lengths are; else scores and the like.
        unit: Of them.
    """

    def __init__(self, *, is_whole: bool = False, unit: str = "") -> None:
        self._unit = unit
        self._distribution = Distribution()
        self._bins = Bins(1 if is_whole else SCORE, is_whole=is_whole)

    def add(self, values: NDArray[Any]) -> None:
        """Take numbers; what is not finite is left out."""
        numbers = np.asarray(values, np.float64)
        numbers = numbers[np.isfinite(numbers)]
        self._distribution.add(numbers)
        self._bins.add(numbers)

    @property
    def count(self) -> int:
        return self._distribution.rows

    @property
    def mean(self) -> float:
        return self._distribution.mean

    def row(self, name: str) -> tuple[object, ...]:
        """A row for `spread_table`."""
        own, p = self._distribution, self._distribution.percentiles()
        values = (own.mean, own.least, p.get("p5"), p.get("p50"), p.get("p95"), own.most)
        return name, own.rows, *values

    def histogram(self, caption: str, within: tuple[float, float] | None = None) -> Histogram:
        """The figure; `within` as for `Bins.shown`."""
        edges, counts = self._bins.shown(within)
        return Histogram(
            edges=edges.tolist(), counts=counts.tolist(), unit=self._unit, caption=caption
        )


def spread_table(spreads: Mapping[str, Spread], caption: str = "") -> Table:
    """Mean and percentiles of those that have numbers, in a row each."""
    rows = [spread.row(name) for name, spread in spreads.items() if spread.count]
    return Table(rows=rows, head=_HEAD, caption=caption)


def bars(categories: Categories, caption: str, unit: str = "rows", most: int = MOST_NAMES) -> Bars:
    """How often names come, most first, in `most` bars at most."""
    shown = categories.most(most if len(categories) <= most else most - 1)
    rest = categories.rows - sum(count for _, count in shown)
    if rest:
        shown = [*shown, (OTHER, rest)]
    return Bars(
        names=[name for name, _ in shown],
        values=[count for _, count in shown],
        unit=unit,
        caption=caption,
    )


def share(part: float, whole: float) -> str:
    """A part and which share of the whole it is, in words."""
    return f"{part:,} ({part / whole:.2%})" if part and whole else f"{part:,}"


def pairs(named: Mapping[str, object]) -> Table:
    """Names and values, without those that are unknown."""
    known = [(n, v) for n, v in named.items() if not (isinstance(v, float) and math.isnan(v))]
    return Table(rows=[(n, v) for n, v in known if v is not None])
