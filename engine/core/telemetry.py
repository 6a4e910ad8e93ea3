"""Counters of a run and its progress, as values; nothing here prints."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a run at one moment.

    Attributes:
        done: Estimated share of the input that is answered, 0 to 1.
        rows, rejects, tokens, padded: Counts of this run so far; padded includes padding.
        split, splits: Parts finished, and parts in total.
        seconds: Since the first row.
        stuck: A batch that has been in computation for more than `STUCK` seconds, or "".
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


STUCK = 120.0


@dataclass
class Telemetry:
    """Counters and times, shared by all stages of one run. Waiting does not count as time."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _working: dict[int, tuple[float, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, **counts: int) -> None:
        """Add to counters. A thread that counts (a decoder does after each step) is not stuck."""
        me = threading.get_ident()
        with self._lock:
            for name, count in counts.items():
                self.counts[name] += count
        if me in self._working:
            self._working[me] = (time.perf_counter(), self._working[me][1])

    @contextmanager
    def timed(self, stage: str, what: str = "") -> Iterator[None]:
        """Add the time of the body to a stage; `what` names the work if it gets stuck."""
        start, me = time.perf_counter(), threading.get_ident()
        if what:
            self._working[me] = (start, what)
        try:
            yield
        finally:
            self._working.pop(me, None)
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The items, the time to produce each added to a stage."""
        iterator = iter(items)
        try:
            while True:
                with self.timed(stage):
                    item = next(iterator, _END)
                if item is _END:
                    return
                yield item  # type: ignore[misc]  # it is not the sentinel
        finally:
            if close := getattr(iterator, "close", None):
                close()

    def stuck(self) -> str:
        """The work that has taken more than STUCK seconds, or ""."""
        now = time.perf_counter()
        working = list(self._working.values())
        return next((what for since, what in working if now - since > STUCK), "")


_END = object()
