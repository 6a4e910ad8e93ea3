"""The arithmetic of a tuning: what fits the time it may take, and which differences count.

Settings take turns in rounds, so that what slows the machine for a while slows all of them. A
round's common share is taken out of its times before they are compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.bench.sweep import SweepPoint

# Rounds that are planned; with fewer than the second a spread says little, and after the third
# there is nothing left to find out.
ROUNDS, MIN_ROUNDS, MAX_ROUNDS = 5, 3, 30
# As many rounds have a middle half to look at; the extremes of fewer are all that they tell.
QUARTILES = 20
# Settings that are compared at least: the defaults and one other.
MIN_POINTS = 2
# Rows of a run at least, however little the time is.
MIN_ROWS = 16

DEFAULT, FASTER, SLOWER, SAME = "default", "faster", "slower", "no difference"


@dataclass(frozen=True)
class Plan:
    """What is measured in the time that is left.

    Attributes:
        points: The settings to compare, the defaults first.
        rows: Rows of one run.
        enough: Rows of one run that suffice to compare these settings.
        seconds: How long all rounds take.
        needed: Seconds that would compare every setting on enough rows.
    """

    points: tuple[SweepPoint, ...]
    rows: int
    enough: int
    seconds: float
    needed: float


@dataclass(frozen=True)
class Difference:
    """A setting beside the defaults.

    Attributes:
        ratio: Its speed, over that of the defaults; 1 where these failed.
        median, slowest, fastest: Seconds of its rounds, without what all settings of a round share;
            the extremes of all rounds, from `QUARTILES` rounds of their middle half.
        verdict: `FASTER` or `SLOWER` where no such round of one is as fast as one of the other;
            otherwise `SAME`. `DEFAULT` for the defaults themselves.
    """

    ratio: float
    median: float
    slowest: float
    fastest: float
    verdict: str


def nearest(points: Sequence[SweepPoint], default: SweepPoint) -> list[SweepPoint]:
    """Settings ordered by how many steps they are from the defaults, which come first; of as many
    steps, large batches last, which need the most rows."""
    budgets = sorted({p.batch_tokens for p in points})
    workers = sorted({p.workers for p in points})

    def steps(point: SweepPoint) -> tuple[int, int]:
        along = budgets.index(point.batch_tokens) - budgets.index(default.batch_tokens)
        across = workers.index(point.workers) - workers.index(default.workers)
        return abs(along) + abs(across), point.batch_tokens

    return sorted(points, key=steps)


def plan(
    costs: Mapping[SweepPoint, float],
    *,
    left: float,
    enough: Callable[[Sequence[SweepPoint]], int],
    available: int,
) -> Plan:
    """What to measure in `left` seconds: fewer settings before too few rows.

    Args:
        costs: Seconds for each row by setting, the defaults first, the farthest from them last.
        enough: Rows of a run that suffice to compare some settings.
        available: Rows that there are.
    """

    def needed(points: Sequence[SweepPoint]) -> float:
        return ROUNDS * min(enough(points), available) * sum(costs[p] for p in points)

    points = list(costs)
    while len(points) > MIN_POINTS and needed(points) > left:
        points.pop()
    row = sum(costs[p] for p in points)
    rows = min(available, max(MIN_ROWS, int(left / (ROUNDS * row))))
    seconds = min(max(left, MIN_ROUNDS * rows * row), MAX_ROUNDS * rows * row)
    suffice = min(enough(points), available)
    return Plan(tuple(points), rows, suffice, seconds, needed(list(costs)))


def another(rounds: int, took: float, left: float) -> bool:
    """Whether one more round, after one that took so long, ends nearer to the time that is left
    than none does."""
    return rounds < MIN_ROUNDS or took / 2 <= left


def differences(
    seconds: Mapping[SweepPoint, Sequence[float]], default: SweepPoint
) -> dict[SweepPoint, Difference]:
    """Each setting beside the defaults, by the seconds of its rounds.

    Args:
        seconds: Of each round, as many for every setting; none of those that failed.
    """
    levelled = _levelled(seconds)
    base = levelled.get(default, [])
    return {
        point: _difference(times, base or times, DEFAULT if point == default else "")
        for point, times in levelled.items()
    }


def _difference(times: Sequence[float], base: Sequence[float], verdict: str) -> Difference:
    median = statistics.median(times)
    ratio = statistics.median(base) / median
    fastest, slowest = _spread(times)
    return Difference(ratio, median, slowest, fastest, verdict or _verdict(times, base))


def _verdict(times: Sequence[float], base: Sequence[float]) -> str:
    (fastest, slowest), (base_fastest, base_slowest) = _spread(times), _spread(base)
    if slowest < base_fastest:
        return FASTER
    return SLOWER if fastest > base_slowest else SAME


def _spread(times: Sequence[float]) -> tuple[float, float]:
    if len(times) < QUARTILES:
        return min(times), max(times)
    first, _, third = statistics.quantiles(times, n=4, method="inclusive")
    return first, third


def _levelled(seconds: Mapping[SweepPoint, Sequence[float]]) -> dict[SweepPoint, list[float]]:
    """Seconds divided by how much slower than usual the whole round was."""
    medians = {point: statistics.median(times) for point, times in seconds.items()}
    rounds = zip(*seconds.values(), strict=True)
    usual = medians.values()
    factors = [
        statistics.median(t / m for t, m in zip(times, usual, strict=True)) for times in rounds
    ]
    return {p: [t / f for t, f in zip(ts, factors, strict=True)] for p, ts in seconds.items()}
