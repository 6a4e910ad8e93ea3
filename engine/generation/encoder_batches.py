"""What rows need before their first step, computed in batches some rows ahead of need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from engine.bundle.batching import encoder_batch
from engine.core.types import Ints
from engine.generation.scheduler import Count
from engine.runtime.protocol import Value


class EncoderBatches:
    """An encoder's keys and values, or those of prompts, of the latest batch.

    Args:
        feeds: input_ids and attention_mask of all rows, int64 (rows, length).
        compute: The keys and values by name of a batch's feeds, rows first.
        budget, mixed: As `encoder_batch` takes them.
        multiple: Widths are rounded up to a multiple of it.
        count: Told of the `padded` tokens of each batch.
    """

    def __init__(
        self,
        feeds: Mapping[str, Ints],
        compute: Callable[[Mapping[str, Ints]], Mapping[str, Value]],
        *,
        budget: int,
        mixed: int,
        count: Count,
        multiple: int = 1,
    ) -> None:
        self.feeds, self.compute, self.count = feeds, compute, count
        self.budget, self.mixed, self.multiple = budget, mixed, multiple
        self.lengths = feeds["attention_mask"].sum(axis=1)
        self.first, self.stop, self.width = 0, 0, 0
        self.values: Mapping[str, Value] = {}

    def parts(self, slots: Ints, rows: Ints, ahead: int) -> Iterator[tuple[Ints, Ints]]:
        """Rows, ascending, batch by batch: their slots, and their indices in `values`.

        A batch has the next `ahead` rows at most, of which some may not be admitted yet.
        """
        start = 0
        while start < len(rows):
            self._compute(int(rows[start]), ahead)
            end = start + int(rows[start:].searchsorted(self.stop))
            yield slots[start:end], rows[start:end] - self.first
            start = end

    def _compute(self, row: int, ahead: int) -> None:
        if self.first <= row < self.stop:
            return
        rows, width = encoder_batch(self.lengths[row : row + ahead], self.budget, self.mixed)
        most = self.feeds["input_ids"].shape[1]
        self.width = min(-(-width // self.multiple) * self.multiple, most)
        self.first, self.stop = row, row + rows
        self.count(padded=rows * self.width)
        batch = {name: array[row : row + rows, : self.width] for name, array in self.feeds.items()}
        self.values = self.compute(batch)
