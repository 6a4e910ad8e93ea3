"""The timelines of all starts of a run as one: rows/s, padding and queue over the time at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.runner.starts import Start

MOST_POINTS = 80
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Combined:
    """Means between `seconds[i]` and `seconds[i + 1]`, each float64 (n,); NaN where nothing was.

    Attributes:
        seconds: The middle of each interval, from the start of the work.
        rows_per_second, padding, queued: Padded tokens for each token; batches that were waiting.
    """

    seconds: Floats
    rows_per_second: Floats
    padding: Floats
    queued: Floats


def spans(starts: Sequence[Start]) -> list[tuple[float, Start]]:
    """When each start began on the clock of the work: those of one share one after the other,
    shares beside each other."""
    after: dict[str, float] = {}
    placed = []
    for start in starts:
        placed.append((after.get(start.share, 0.0), start))
        after[start.share] = after.get(start.share, 0.0) + start.seconds
    return placed


def seconds_at_work(starts: Sequence[Start]) -> float:
    """Of the share that took longest, all its starts together."""
    return max((begun + start.seconds for begun, start in spans(starts)), default=0.0)


def combined(starts: Sequence[Start]) -> Combined | None:
    """The starts as one timeline of at most `MOST_POINTS`; None where too little is recorded."""
    points = sum(len(start.timeline.get("seconds", ())) for start in starts)
    count = min(MOST_POINTS, points // 3)
    if count < 2:
        return None
    edges = np.linspace(0, seconds_at_work(starts), count + 1)
    rows, tokens, padded, queued, looks = (
        np.diff(sum(_grown(name, begun, start, edges) for begun, start in spans(starts)))
        for name in ("rows", "tokens", "padded", "queued", "looks")
    )
    return Combined(
        (edges[:-1] + edges[1:]) / 2,
        rows / np.diff(edges),
        _over(padded, tokens),
        _over(queued, looks),
    )


def _grown(name: str, begun: float, start: Start, edges: Floats) -> Floats:
    """A counter of a start at these times."""
    seconds = np.asarray([0.0, *start.timeline.get("seconds", ())], np.float64) + begun
    values = np.asarray([0.0, *start.timeline.get(name, ())], np.float64)
    grown: Floats = np.interp(edges, seconds, values)
    return grown


def _over(above: Floats, below: Floats) -> Floats:
    """A quotient; where nothing was counted, the one before."""
    there = below > 1e-9
    latest = np.maximum.accumulate(np.where(there, np.arange(len(below)), -1))
    quotient = np.divide(above, below, out=np.full(len(above), np.nan), where=there)
    return np.where(latest >= 0, quotient[latest], np.nan)
