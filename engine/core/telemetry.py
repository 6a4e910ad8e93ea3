"""Counters of a run and its progress, as values; nothing here prints."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from engine.core import activity

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a run at one moment.

    Attributes:
        done: Estimated share of the input that is answered, 0 to 1.
        rows, rejects, tokens, padded: Counts of this run so far; padded includes padding.
        split, splits: Parts finished, and parts in total.
        seconds: Since the first row.
        stuck: The work that has made no progress for long, in words, or "".
    """

    done: float
    rows: int
    rejects: int
    tokens: int
    padded: int
    split: int
    splits: int
    seconds: float
    stuck: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the speed so far; None at the start."""
        return self.seconds * (1 - self.done) / self.done if self.done > 0 else None

    def __str__(self) -> str:
        """Time left, speed, rows, rejects, parts and padding, in one line."""
        return fitting(self._parts())

    def fitting(self, width: int) -> str:
        """As `str`, but only as much as fits a line of this width, whole figures only."""
        return fitting(self._parts(), width)

    def _parts(self) -> list[str]:
        """What there is to say, most important first."""
        seconds, left = self.seconds or 1e-9, self.seconds_left
        parts = [
            "" if left is None else f"{duration(left)} left",
            self.stuck,
            f"{self.rows / seconds:,.0f} rows/s",
            f"{self.rows:,} rows",
            f"{self.rejects:,} rejected" if self.rejects else "",
            f"part {min(self.split + 1, self.splits)}/{self.splits}" if self.splits > 1 else "",
            f"{self.tokens / seconds:,.0f} tokens/s",
            f"padding {self.padded / self.tokens:.2f}" if self.tokens else "",
        ]
        return [part for part in parts if part]


def fitting(parts: Sequence[str], width: int = 1 << 30) -> str:
    """What there is to say in a line, most important first: as much as fits, and the first."""
    line, *more = parts
    for part in more:
        if len(line) + len(_SEPARATOR) + len(part) > width:
            break
        line += _SEPARATOR + part
    return line


def unwatched(progress: Progress) -> None:
    """For `on_progress` of `engine.run`: nobody looks, in a notebook either."""


def duration(seconds: float) -> str:
    """12s, 3m05s or 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, second = divmod(whole, 60)
    return f"{minutes}m{second:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


_SEPARATOR = " · "
_STAGES = {
    "read": "reading",
    "tokenize": "tokenizing",
    "batch": "batching",
    "infer": "computing",
    "finish": "finishing",
    "write": "writing",
}
"""Stages in words."""


@dataclass
class Telemetry:
    """Counters and times, shared by all stages of one run. Waiting does not count as time."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **counts: int) -> None:
        """Add to counters, which is a sign of life: a decoder counts after each step."""
        with self._lock:
            for name, count in counts.items():
                self.counts[name] += count
        activity.beat()

    @contextmanager
    def timed(self, stage: str, what: str = "") -> Iterator[None]:
        """Add the time of the body to a stage; `what` names the work if it gets stuck."""
        start = time.perf_counter()
        try:
            with activity.working(_STAGES.get(stage, stage), what):
                yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start

    def each(self, stage: str, items: Iterable[T], what: str = "") -> Iterator[T]:
        """The items, the time to produce each added to a stage; `what` as for `timed`."""
        iterator = iter(items)
        try:
            while True:
                with self.timed(stage, what):
                    item = next(iterator, _END)
                if item is _END:
                    return
                yield item  # type: ignore[misc]  # it is not the sentinel
        finally:
            if close := getattr(iterator, "close", None):
                close()


_END = object()
