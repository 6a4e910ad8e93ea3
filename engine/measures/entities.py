"""Entities of rows: which both have, in the same group and place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.measures.rankings import Floats

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class EntityCounts:
    """Entities of rows.

    Attributes:
        shared, expected, actual: int64 (rows,): in both, in each.
        shifts: float64: of those in both, how far the score moved.
        groups: Names of groups.
        by_group: int64 (groups, 3): shared, expected and actual ones of each.
    """

    shared: Ints
    expected: Ints
    actual: Ints
    shifts: Floats
    groups: Sequence[str]
    by_group: Ints


def f1(shared: int, expected: int, actual: int) -> float:
    """F1 of counts; 1 where there is nothing to find."""
    return 2 * shared / (expected + actual) if expected + actual else 1.0


def compare(expected: pa.Array, actual: pa.Array) -> EntityCounts:
    """Compare entities by row, start, end and group.

    Args:
        expected, actual: Lists of structs with start, end, score and entity_group or entity,
            without nulls.
    """
    sides = [fields(column) for column in (expected, actual)]
    rows, count = len(expected), len(sides[0].row)
    places = (np.concatenate(parts) for parts in zip(*((s.start, s.end) for s in sides),
                                                     strict=True))  # fmt: skip
    groups = pa.chunked_array([s.group for s in sides]).combine_chunks().dictionary_encode()
    keys = np.concatenate([s.row for s in sides])
    codes = groups.indices.to_numpy().astype(np.int64)
    for values in (*places, codes):
        keys = np.unique(keys * (values.max(initial=0) + 1) + values, return_inverse=True)[1]
    # The last of equal ones counts.
    parts = [keys[:count][::-1], keys[count:][::-1]]
    scores = [s.score[::-1] for s in sides]
    at = [np.unique(part, return_index=True)[1] for part in parts]
    unique = [part[i] for part, i in zip(parts, at, strict=True)]
    _, first, second = np.intersect1d(unique[0], unique[1], assume_unique=True, return_indices=True)
    shift = np.abs(scores[0][at[0]][first] - scores[1][at[1]][second])
    row = [side.row[::-1][i] for side, i in zip(sides, at, strict=True)]
    counts = [np.bincount(r, minlength=rows) for r in (row[0][first], *row)]
    own = [c[::-1][i] for c, i in zip((codes[:count], codes[count:]), at, strict=True)]
    names = groups.dictionary.to_pylist()
    by_group = [np.bincount(c, minlength=len(names)) for c in (own[0][first], *own)]
    shared, in_expected, in_actual = counts
    of_groups = np.stack(by_group, axis=1)
    return EntityCounts(shared, in_expected, in_actual, shift, names, of_groups)


@dataclass(frozen=True)
class Entities:
    """Entities of rows, one after the other.

    Attributes:
        row: int64: whose each is.
        start, end: int64, counted from 1; 0 where there is none.
        group: large_string.
        score: float64; NaN where there is none.
    """

    row: Ints
    start: Ints
    end: Ints
    group: pa.Array
    score: Floats


def fields(column: pa.Array) -> Entities:
    """The entities of a column of lists of structs, see `compare`."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    flat = column.flatten()
    names = [flat.type.field(i).name for i in range(flat.type.num_fields)]
    places = [
        pc.fill_null(pc.struct_field(flat, n).cast(pa.int64()), -1).to_numpy() + 1
        for n in ("start", "end")
    ]
    group = pc.struct_field(flat, "entity_group" if "entity_group" in names else "entity")
    score = np.full(len(flat), np.nan)
    if "score" in names:
        score = pc.struct_field(flat, "score").cast(pa.float64()).to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(column)), lengths)
    text = pc.fill_null(group.cast(pa.large_string()), "")
    return Entities(row, places[0], places[1], text, score)
