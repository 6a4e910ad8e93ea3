"""How far numbers and embeddings are from others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def relative_error(expected: NDArray[Any], actual: NDArray[Any]) -> float:
    """The norm of the difference over the norm of the expected numbers; NaN where one is NaN."""
    norm = max(float(np.linalg.norm(expected)), 1e-30)
    return float(np.linalg.norm(actual - expected)) / norm


def matrix(column: pa.Array) -> NDArray[np.float64]:
    """Embeddings as float64 (rows, width).

    Args:
        column: Lists of numbers, all of one length, without nulls.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float64)
    return values.reshape(len(column), -1) if len(column) else values.reshape(0, 0)


def cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of the rows of two matrices of one shape; of a NaN or a zero vector 0."""
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.nan_to_num(np.einsum("ij,ij->i", a, b) / np.maximum(size, 1e-30)))
