"""What is looked at in one kind of answers, batch by batch, and what a section shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.pages.blocks import Section
from engine.summary.answers import Batch

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """What examples are chosen by.

    Attributes:
        sureness: float64 (rows,): how sure the model is of its answer; NaN where nothing says so.
        size: float64 (rows,): how long the answer is; None where that says nothing.
        longest: What `size` counts, in words; "" where a result column has it.
    """

    sureness: Floats
    size: Floats | None = None
    longest: str = ""


class Summary(Protocol):
    """What is looked at in one kind of answers."""

    @property
    def reads(self) -> Sequence[str]:
        """The kept columns that are looked at beside the answers."""

    def add(self, batch: Batch) -> Look:
        """Count rows.

        Args:
            batch: Its first result column has no nulls, and its kept columns are those that
                `reads` names, among others.
        """

    def sections(self) -> list[Section]:
        """What was found."""
