"""How a tuning plans its time, and which differences it believes: by arithmetic alone."""

from __future__ import annotations

import random

import pytest

from engine.bench import trials
from engine.bench.sweep import SweepPoint

DEFAULT = SweepPoint(2048, 2, 1)
POINTS = [
    SweepPoint(tokens, workers, 2 // workers)
    for workers in (1, 2)
    for tokens in (512, 1024, 2048, 4096)
]


def test_settings_near_the_defaults_come_first() -> None:
    ordered = trials.nearest(POINTS, DEFAULT)
    assert ordered[0] == DEFAULT
    assert {(p.batch_tokens, p.workers) for p in ordered[1:4]} == {(1024, 2), (2048, 1), (4096, 2)}
    assert ordered[3].batch_tokens == 4096
    assert ordered[-1] == SweepPoint(512, 1, 2)


def planned(left: float, enough: int = 400, available: int = 20_000) -> trials.Plan:
    costs = dict.fromkeys(trials.nearest(POINTS, DEFAULT), 0.001)
    return trials.plan(costs, left=left, enough=lambda points: enough, available=available)


def test_much_time_is_for_more_rows_and_little_for_fewer_settings() -> None:
    plenty = planned(left=100)
    assert len(plenty.points) == 8
    assert plenty.rows == pytest.approx(100 / 5 / 8 / 0.001, rel=0.01)
    assert plenty.seconds == 100
    assert plenty.needed == pytest.approx(5 * 400 * 8 * 0.001)
    little = planned(left=8)
    assert [p.batch_tokens for p in little.points] == [2048, 1024, 2048, 4096]
    assert little.rows >= 400
    assert little.seconds == 8


def test_too_little_time_is_exceeded_and_said() -> None:
    none = planned(left=-3)
    assert len(none.points) == trials.MIN_POINTS
    assert none.rows == trials.MIN_ROWS
    assert none.seconds == pytest.approx(3 * 16 * 2 * 0.001)


def test_few_rows_need_no_more_than_some_rounds() -> None:
    small = planned(left=100, available=40)
    assert small.rows == 40
    assert small.seconds == pytest.approx(trials.MAX_ROUNDS * 40 * 8 * 0.001)


def test_a_round_more_is_begun_if_that_ends_nearer_to_the_time() -> None:
    assert trials.another(0, 0.0, -5.0)
    assert trials.another(2, 9.0, 1.0)
    assert trials.another(3, 9.0, 5.0)
    assert not trials.another(3, 9.0, 4.0)


def verdicts(**rounds: list[float]) -> dict[str, str]:
    points = dict(zip(rounds, POINTS, strict=False))
    found = trials.differences({points[n]: s for n, s in rounds.items()}, points["default"])
    return {name: found[point].verdict for name, point in points.items()}


def test_a_difference_within_the_spread_is_none() -> None:
    found = verdicts(
        default=[1.00, 1.02, 0.98], fast=[0.80, 0.81, 0.79], slow=[1.3, 1.31, 1.32],
        alike=[0.97, 1.01, 0.99],
    )  # fmt: skip
    assert found == {
        "default": trials.DEFAULT, "fast": trials.FASTER, "slow": trials.SLOWER,
        "alike": trials.SAME,
    }  # fmt: skip


def test_what_slows_a_whole_round_hides_no_difference() -> None:
    slowed = [1.0, 1.5, 3.0, 1.2, 1.0]
    rounds = {SweepPoint(n, 1, 1): [s * t for s in slowed] for n, t in ((1, 1.0), (2, 0.9))}
    default, faster = rounds
    found = trials.differences(rounds, default)
    assert found[faster].verdict == trials.FASTER
    assert found[faster].ratio == pytest.approx(1 / 0.9)


@pytest.mark.parametrize("rounds", [5, 19, 20, 30])
def test_equal_settings_are_seldom_called_different(rounds: int) -> None:
    """Eight equal ones with 5% of noise, in rounds of which each is up to twice as slow."""
    noise, called, trials_of = random.Random(0), 0, 300
    for _ in range(trials_of):
        slow = [noise.uniform(1, 2) for _ in range(rounds)]
        seconds = {p: [noise.gauss(1, 0.05) * s for s in slow] for p in POINTS}
        found = trials.differences(seconds, DEFAULT).values()
        called += any(d.verdict == trials.FASTER for d in found)
    assert called / trials_of < 0.05


def test_of_many_rounds_a_few_odd_ones_hide_no_difference() -> None:
    found = verdicts(default=[1.0] * 21 + [0.5], fast=[0.8] * 21 + [1.5], alike=[1.0] * 22)
    assert found["fast"] == trials.FASTER
    assert found["alike"] == trials.SAME


def test_without_the_defaults_nothing_is_better_than_them() -> None:
    found = trials.differences({POINTS[0]: [1.0, 1.1]}, DEFAULT)
    assert (found[POINTS[0]].ratio, found[POINTS[0]].verdict) == (1.0, trials.SAME)
