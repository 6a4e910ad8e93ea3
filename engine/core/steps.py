"""How far a work is that goes in steps or over bytes, as a value that a bar shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from engine.core.telemetry import duration, fitting


@dataclass(frozen=True, slots=True)
class StepProgress:
    """The state of such a work at one moment.

    Attributes:
        done: Share of it, 0 to 1.
        what: What is being done, in words.
        seconds: Since it began.
        seconds_left: Estimated; None where nothing is known yet.
        stuck: As of `Progress`.
    """

    done: float
    what: str
    seconds: float
    seconds_left: float | None = None
    stuck: str = ""

    def __str__(self) -> str:
        """Time left, what is done, and how long it has taken, in one line."""
        return fitting(self._parts())

    def fitting(self, width: int) -> str:
        """As `str`, but only as much as fits a line of this width, whole figures only."""
        return fitting(self._parts(), width)

    def _parts(self) -> list[str]:
        left = self.seconds_left
        known = "" if left is None else f"{duration(left)} left"
        return [part for part in (known, self.what, f"{duration(self.seconds)} so far") if part]


class StepClock:
    """Estimates the time left of a work whose steps take about the same shares of it each time.

    Args:
        shares: The share of the whole at which a step begins, by how its line begins.
        clock: Seconds.
    """

    def __init__(
        self, shares: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shares, self._clock = shares, clock
        self._began = clock()
        self._what, self._share, self._whole = "", 0.0, 0.0

    def begin(self, line: str) -> None:
        """A step begins, which this line says; a remark begins none."""
        known = [name for name in self._shares if line.startswith(name)]
        if not known:
            return
        self._what = line
        share = self._shares[max(known, key=len)]
        if share > self._share:
            self._share, self._whole = share, (self._clock() - self._began) / share

    def state(self) -> StepProgress:
        """Where the work is now; a step that takes longer than its share waits at its end."""
        spent = self._clock() - self._began
        if not self._whole:
            return StepProgress(0.0, self._what, spent)
        end = min((s for s in self._shares.values() if s > self._share), default=1.0)
        done = min(end, max(self._share, spent / self._whole))
        return StepProgress(done, self._what, spent, self._whole * (1 - done))


class ByteMeter:
    """Shows how far a work over files is, by their bytes.

    Args:
        sizes: Bytes of each of them.
        what: What is being done to them.
        show: Called at each file; None for nobody to look.
    """

    def __init__(
        self, sizes: Iterable[int], what: str, show: Callable[[StepProgress], None] | None
    ) -> None:
        self._whole, self._what, self._show = max(1, sum(sizes)), what, show
        self._began, self._done = time.monotonic(), 0

    def add(self, size: int) -> None:
        """A file of this size is finished."""
        self._done += size
        if self._show:
            spent, done = time.monotonic() - self._began, min(1.0, self._done / self._whole)
            left = spent * (1 - done) / done if done else None
            self._show(StepProgress(done, self._what, spent, left))
