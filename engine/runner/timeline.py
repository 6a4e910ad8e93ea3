"""How a run's counters grew, in few points however long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST_POINTS = 600
FIRST_SECONDS = 0.25
"""Between two points of a short run."""
COUNTERS = ("rows", "tokens", "padded")
"""Of a worker: rows answered, tokens read, and those with filler."""
NAMES = ("seconds", *COUNTERS, "queued", "looks")


class Timeline:
    """Points of counters that only grow, so that any two tell what was between them.

    Points are at least `every` seconds apart. Once there are `MOST_POINTS`, every second one is
    left out and `every` doubles, so that a run of weeks has between half as many and as many.
    `queued` adds up the batches that were waiting at each look; over `looks` it is their mean.
    """

    def __init__(self) -> None:
        self.every = FIRST_SECONDS
        self._points: list[tuple[float, ...]] = []
        self._queued = self._looks = 0
        self._latest: tuple[float, ...] = ()

    def add(self, seconds: float, counts: Mapping[str, int]) -> None:
        """Look at the counters, `seconds` since the start."""
        self._queued += max(0, counts.get("queued", 0))
        self._looks += 1
        counters = (counts.get(name, 0) for name in COUNTERS)
        self._latest = (round(seconds, 2), *counters, self._queued, self._looks)
        if not self._points or seconds - self._points[-1][0] >= self.every:
            self._points.append(self._latest)
            if len(self._points) >= MOST_POINTS:
                del self._points[::2]
                self.every *= 2

    def to_dict(self) -> dict[str, Sequence[float]]:
        """The points up to the latest look, as columns by `NAMES`."""
        points = list(self._points)
        if self._latest and self._latest != points[-1]:
            points.append(self._latest)
        columns = zip(*points, strict=True) if points else ([] for _ in NAMES)
        return {name: list(column) for name, column in zip(NAMES, columns, strict=True)}
