"""What the reader of a kind of file yields: consecutive rows, the good ones and the bad ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.core.types import Ints


class Bad(NamedTuple):
    """A row that cannot be answered.

    Attributes:
        row: Its number.
        code: A key of `windows.REASONS`.
        column: The column at fault, or "".
        expected, found: The type that it should have and the one it has, or "".
        text: Its text or line, where the run asks for it, or "".
    """

    row: int
    code: str
    column: str = ""
    expected: str = ""
    found: str = ""
    text: str = ""


@dataclass(slots=True)
class Stretch:
    """Consecutive rows of a split: the good ones as columns and their row numbers, and the bad
    ones, both in the order of their numbers."""

    columns: pa.RecordBatch
    rows: Ints
    bad: list[Bad]

    def __len__(self) -> int:
        return len(self.rows) + len(self.bad)

    def below(self, row: int) -> Stretch:
        """Only the rows with a number below `row`."""
        columns = self.columns.slice(0, int(np.searchsorted(self.rows, row)))
        return Stretch(columns, self.rows[: len(columns)], [b for b in self.bad if b.row < row])
