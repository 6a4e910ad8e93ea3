"""Embeddings: their norms."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.measures.rankings import is_list
from engine.pages.blocks import Section
from engine.summary.figures import Spread, spread_table
from engine.summary.looks import Floats, Look


class EmbeddingSummary:
    """Embeddings of rows, or of their chunks or tokens."""

    def __init__(self) -> None:
        self._norms = Spread()
        self._per_row = Spread(is_whole=True, unit="vectors")

    def colours(self, values: pa.ChunkedArray) -> None:
        """The values of rows by which their points are coloured, before these are added."""

    def add(self, answers: pa.Table) -> Look:
        vectors, counts = _matrix(answers)
        self._per_row.add(counts)
        self._norms.add(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)))
        return Look(np.full(len(answers), np.nan))

    def sections(self) -> list[Section]:
        spreads = {"norm": self._norms, "vectors of a row": self._per_row}
        return [Section("Norms", [self._norms.histogram("Norms of embeddings."),
                                  spread_table(spreads)])]  # fmt: skip


def _matrix(answers: pa.Table) -> tuple[Floats, Floats]:
    """All vectors, float64 (vectors, width), and how many each row has."""
    column = answers[0].combine_chunks()
    counts = np.ones(len(column))
    scale = answers["scale"].combine_chunks() if "scale" in answers.column_names else None
    if is_list(column.type.value_type):
        counts = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.float64)
        column, scale = column.flatten(), None if scale is None else scale.flatten()
    flat = column.flatten()
    values = np.asarray(flat.to_numpy(zero_copy_only=False))
    matrix = values.reshape(len(column), -1) if len(column) else values.reshape(0, 0)
    if flat.type == pa.uint8():  # a bit of each number's sign
        return np.asarray(np.unpackbits(matrix, axis=1) * 2.0 - 1, np.float64), counts
    matrix = matrix.astype(np.float64)
    return matrix if scale is None else matrix * scale.to_numpy()[:, None], counts
