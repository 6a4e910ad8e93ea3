"""Names with scores, best first: labels, documents, tokens of a mask, or one answer each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rankings:
    """Names and scores of rows, best first.

    Attributes:
        names: large_string, one after the other.
        scores: float64, likewise; NaN where there is none.
        offsets: int64 (rows + 1,): row i is names[offsets[i]:offsets[i + 1]].
    """

    names: pa.Array
    scores: Floats
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, names: pa.Array, scores: pa.Array | None) -> Rankings:
        """From columns without nulls, of lists or of one name and score in each row."""
        names, scores = _whole(names), None if scores is None else _whole(scores)
        if not is_list(names.type):
            offsets = np.arange(len(names) + 1)
            return cls(names.cast(pa.large_string()), _numbers(scores, len(names)), offsets)
        lengths = pc.list_value_length(names).to_numpy(zero_copy_only=False)
        flat = names.flatten().cast(pa.large_string())
        numbers = _numbers(None if scores is None else scores.flatten(), len(flat))
        return cls(flat, numbers, np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))))

    @classmethod
    def of_candidates(cls, candidates: pa.Array) -> Rankings:
        """From lists of structs with token and score, without nulls."""
        lengths = pc.list_value_length(candidates).to_numpy(zero_copy_only=False)
        flat = candidates.flatten()
        names, scores = (pc.struct_field(flat, name) for name in ("token", "score"))
        offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        return cls(names.cast(pa.large_string()), _numbers(scores, len(flat)), offsets)

    @property
    def is_empty(self) -> NDArray[np.bool_]:
        """Rows without a name."""
        return np.asarray(np.diff(self.offsets) == 0)

    @property
    def best(self) -> pa.Array:
        """The first name of each row; "" where there is none."""
        first = pa.array(self.offsets[:-1], mask=self.is_empty)
        return pc.fill_null(self.names.take(first), "")

    @property
    def best_scores(self) -> Floats:
        """The first score of each row; NaN where there is none."""
        scores = np.append(self.scores, np.nan)
        return np.where(self.is_empty, np.nan, scores[self.offsets[:-1]])

    @property
    def leads(self) -> Floats:
        """How far the best score is ahead of the second; 1 where there is none."""
        has_second = np.diff(self.offsets) > 1
        first = self.offsets[:-1][has_second]
        leads = np.ones(len(has_second))
        leads[has_second] = self.scores[first] - self.scores[first + 1]
        return leads


def same_best(expected: Rankings, actual: Rankings) -> NDArray[np.bool_]:
    """Whether the best names agree; rows that both have no name agree, too."""
    equal = pc.equal(expected.best, actual.best).to_numpy(zero_copy_only=False)
    return np.asarray(equal & (expected.is_empty == actual.is_empty))


def shifts(expected: Rankings, actual: Rankings) -> Floats:
    """How far the score of each row's best name moved: to 0 where the other does not list it, and
    by 1 where it is NaN now."""
    rows = len(expected.is_empty)
    row = np.repeat(np.arange(rows), np.diff(actual.offsets))
    wanted = expected.best.take(pa.array(row))
    listed = np.flatnonzero(pc.equal(actual.names, wanted).to_numpy(zero_copy_only=False))
    now = np.zeros(rows)
    now[row[listed]] = actual.scores[listed]
    moved = np.nan_to_num(np.abs(expected.best_scores - now), nan=1.0)
    return np.where(expected.is_empty, 0.0, moved)


def is_list(kind: pa.DataType) -> bool:
    of = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(fits(kind) for fits in of)


def _whole(column: pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _numbers(scores: pa.Array | None, rows: int) -> Floats:
    if scores is None:
        return np.full(rows, np.nan)
    return np.asarray(scores.cast(pa.float64()).to_numpy(zero_copy_only=False))
