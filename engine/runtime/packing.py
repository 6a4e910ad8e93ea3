"""Where the real tokens of padded rows are: the inputs of graphs that compute no padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints


def packing_inputs(mask: Ints) -> dict[str, NDArray[np.int32]]:
    """The inputs of a packed graph, by name; a position is an index of rows × length.

    Args:
        mask: int64 (rows, length), 1 at the real tokens, which come first.

    Returns:
        token_indices, (tokens,): positions of the real tokens, in order; inverse_indices,
        (rows, length): each position's index among the real tokens, 0 at the padding;
        token_offset, (rows, length): `token_indices`, then the positions of the padding;
        cu_seqlens, (rows + 1,): the number of tokens before each row, and all of them.
    """
    real = mask.ravel() == 1
    token_indices = np.flatnonzero(real)
    inverse_indices = np.where(real, np.cumsum(real) - 1, 0)
    token_offset = np.concatenate([token_indices, np.flatnonzero(~real)])
    inputs = {
        "token_indices": token_indices,
        "inverse_indices": inverse_indices.reshape(mask.shape),
        "token_offset": token_offset.reshape(mask.shape),
        "cu_seqlens": np.concatenate([[0], np.cumsum(mask.sum(axis=1))]),
    }
    return {name: array.astype(np.int32) for name, array in inputs.items()}
