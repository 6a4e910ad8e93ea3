"""How far a run is, from what its splits weigh and what its workers have counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from engine import data
from engine.core.telemetry import Progress
from engine.core.types import Split
from engine.runner.messages import Counts

_MANY = 1000
"""Splits of which each may be opened once more to be weighed."""


class ProgressMeter:
    """Weighs splits, by their rows or else by their bytes, and shows what share is answered.

    Args:
        splits: All splits of the run.
        show: Called with each `Progress`; None for nobody to look, and nothing to be weighed.
        limit: Rows to read at most; 0 for all.
    """

    def __init__(
        self,
        splits: Sequence[Split],
        show: Callable[[Progress], None] | None,
        limit: int = 0,
    ) -> None:
        self._show = show
        self._limit = limit
        self._count = len(splits)
        self._weight = _weigh(splits) if show else _bytes
        self._in_rows = self._weight is not _bytes
        self._whole = max(1, sum(map(self._weight, splits))) if show else 1
        self._assigned: set[Split] = set()
        self._weight_finished = self._rows_finished = self.finished = 0
        self.started = time.perf_counter()

    def assign(self, split: Split) -> None:
        """A worker is about to read a split."""
        self._assigned.add(split)

    def finish(self, split: Split, rows: int) -> None:
        """A split has its part, `rows` of which were answered in this run, or kept from an earlier
        start."""
        self._assigned.discard(split)
        self.finished += 1
        self._rows_finished += rows
        self._weight_finished += self._weight(split)

    def show(self, sums: Counts, rejects: int) -> None:
        """Show where the run is."""
        if self._show is None:
            return
        counts = sums.counts
        self._show(
            Progress(
                done=self._done(counts.get("rows", 0) + counts.get("rows_resumed", 0)),
                rows=counts.get("rows", 0),
                rejects=rejects,
                tokens=counts.get("tokens", 0),
                padded=counts.get("padded", 0),
                split=self.finished,
                splits=self._count,
                seconds=time.perf_counter() - self.started,
                stuck=sums.stuck,
            )
        )

    def _done(self, rows: int) -> float:
        """Share of the input that is answered: finished splits, and rows of those being answered.

        Where some input cannot tell its number of rows only finished splits count.
        """
        if self._limit and not (self._in_rows and self._whole < self._limit):
            return min(1.0, rows / self._limit)
        answered = self._weight_finished
        if self._in_rows:
            # Another thread assigns splits meanwhile.
            largest = max(map(self._weight, list(self._assigned)), default=0)
            answered += min(max(0, rows - self._rows_finished), largest)
        return min(1.0, answered / self._whole)


def total(workers: Iterable[Counts]) -> Counts:
    """The sums of what several workers have counted, and the first that is stuck."""
    counts: Counter[str] = Counter()
    seconds: dict[str, float] = {}
    stuck = ""
    for worker in workers:
        counts.update(worker.counts)
        for stage, spent in worker.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
        stuck = stuck or worker.stuck
    return Counts(counts, seconds, stuck)


def _weigh(splits: Sequence[Split]) -> Callable[[Split], int]:
    """The rows of a split, or its bytes where some split cannot tell its rows, or there are so many
    that a finished one is hardly seen and opening all takes long."""
    if len(splits) <= _MANY:
        rows = {split: data.estimate_rows(split) for split in splits}
        if all(rows.values()):
            return rows.__getitem__
    return _bytes


def _bytes(split: Split) -> int:
    return split.stop - split.start
