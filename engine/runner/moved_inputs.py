"""Whether what a record is of is an input under another name, whatever the number of both."""

from __future__ import annotations

from collections.abc import Sequence

from engine import data
from engine.core.types import Split
from engine.runner.records import Entry


class MovedInputs:
    """The splits of a run by their ranges, each hashed once and only where a record has its range.

    Args:
        splits: Of the run.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits
        self._by_range: dict[tuple[int, int], list[Split]] | None = None
        self._hashes: dict[tuple[int, int], set[str]] = {}

    def has(self, entry: Entry) -> bool:
        """Whether a split has the bytes that a record is of.

        Raises:
            InputError: A split cannot be read.
        """
        place = (entry.input.start, entry.input.stop)
        if place not in self._hashes:
            self._hashes[place] = set(map(data.content_hash, self._ranges().get(place, ())))
        return entry.input.sha256 in self._hashes[place]

    def _ranges(self) -> dict[tuple[int, int], list[Split]]:
        if self._by_range is None:
            self._by_range = {}
            for split in self._splits:
                self._by_range.setdefault((split.start, split.stop), []).append(split)
        return self._by_range
