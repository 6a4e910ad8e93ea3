"""What the reader of a kind of file yields: consecutive rows, the good ones and the bad ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.core.types import Ints


@dataclass(slots=True)
class Stretch:
    """Consecutive rows of a split: the good ones as columns and their row numbers, the bad ones as
    (row number, reason)."""

    columns: pa.RecordBatch
    rows: Ints
    bad: list[tuple[int, str]]

    def __len__(self) -> int:
        return len(self.rows) + len(self.bad)

    def below(self, row: int) -> Stretch:
        """Only the rows with a number below `row`."""
        columns = self.columns.slice(0, int(np.searchsorted(self.rows, row)))
        return Stretch(columns, self.rows[: len(columns)], [b for b in self.bad if b[0] < row])
