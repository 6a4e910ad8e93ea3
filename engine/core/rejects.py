"""Rows that are set aside, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rejects:
    """Rows that cannot be answered: their numbers, int64 (n,), reason codes and messages.

    `columns` has the column at fault of each row, `expected` and `found` the type it should have
    and the one it has; "" where there is nothing to say. `texts` has the text of each row, where a
    run asks for it. All four may be empty.
    """

    rows: NDArray[np.int64]
    codes: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    def joined(self, other: Rejects) -> Rejects:
        """These and others, in the order of their numbers."""
        rows = np.concatenate([self.rows, other.rows])
        order = np.argsort(rows, kind="stable")
        names = ("codes", "messages", "columns", "expected", "found", "texts")
        texts = {
            name: tuple((self._texts(name) + other._texts(name))[i] for i in order)
            for name in names
        }
        return Rejects(rows[order], **texts)

    def _texts(self, name: str) -> list[str]:
        """A field of texts with one for each row."""
        return list(getattr(self, name)) or [""] * len(self.rows)


NO_REJECTS = Rejects(np.empty(0, np.int64))
