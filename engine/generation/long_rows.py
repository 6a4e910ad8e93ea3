"""Rows that outgrow the first rotary factors of a model that has others for long ones (Phi-3).

The factors of all of a row's positions depend on how many it has. A row that passes the limit while
it is decoded is cached once more, as transformers does it; so its tokens have to be known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints


class LongRows:
    """The tokens of every slot, and where its rotary table begins.

    Args:
        limit: Positions of a row that has the first factors.
        slots: How many.
        positions: That a row may fill.

    Attributes:
        tokens: int64 (slots, positions); anything behind a row's last one.
    """

    def __init__(self, limit: int, slots: int, positions: int) -> None:
        self.limit = limit
        self.tokens = np.zeros((slots, positions), np.int64)

    def offsets(self, lengths: Ints) -> Ints:
        """Where the table of rows with as many positions begins, int64."""
        return np.where(lengths > self.limit, self.limit, 0)

    def begin(self, slots: Ints, ids: Ints) -> None:
        """Note prompts, int64 (rows, length)."""
        width = min(ids.shape[1], self.tokens.shape[1])
        self.tokens[slots, :width] = ids[:, :width]

    def outgrown(
        self, tokens: Ints, lengths: Ints, taken: NDArray[np.int32], offsets: Ints
    ) -> Ints:
        """Note the tokens that slots append; the slots that pass the limit by that.

        Args:
            tokens, lengths, taken: Of every slot: its token, the positions it has, and whether it
                has a row, 0 or 1.
            offsets: Where its table begins; set to the other one where it passes.
        """
        used = np.flatnonzero(taken)
        self.tokens[used, lengths[used]] = tokens[used]
        now = self.offsets(lengths + 1)
        passing = np.flatnonzero((taken == 1) & (now != offsets))
        offsets[passing] = now[passing]
        return passing

    def copy(self, slots: Ints, sources: Ints) -> None:
        """Make the tokens of each of `slots` those of its source."""
        self.tokens[slots] = self.tokens[sources]
