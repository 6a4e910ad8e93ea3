"""How often names come: labels, groups, reasons, tokens."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

MOST_NAMES = 1 << 19
"""Different names that are counted, more than any vocabulary has."""


class Categories:
    """Counts of names, batch by batch."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.rows = 0

    def add(self, names: pa.Array) -> None:
        """Count names without nulls; new ones beyond `MOST_NAMES` only count as rows."""
        self.rows += len(names)
        found = names.cast(pa.large_string()).value_counts()
        for name, count in zip(*(f.to_pylist() for f in found.flatten()), strict=True):
            if name in self._counts or len(self._counts) < MOST_NAMES:
                self._counts[name] += count

    def __len__(self) -> int:
        return len(self._counts)

    def most(self, count: int) -> list[tuple[str, int]]:
        """The names that come most often, and how often, most first and then by name."""
        ordered = sorted(self._counts.items(), key=lambda one: (-one[1], one[0]))
        return ordered[:count]
