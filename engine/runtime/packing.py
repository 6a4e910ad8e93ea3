"""Where the real tokens of padded rows are, as graphs without padding take it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints


def places(mask: Ints) -> dict[str, NDArray[np.int32]]:
    """Where the real tokens of padded rows stand, as packed graphs take it.

    Args:
        mask: int64 (rows, length), 1 at the real tokens, which come first.

    Returns:
        kept, (tokens,): their places among rows × length, in order; back, (rows, length): each
        place's among the real tokens, 0 at the padding; offsets, (rows, length): `kept`, and then
        the other places; starts, (rows + 1,): the number of tokens before each row.
    """
    real = mask.ravel() == 1
    kept = np.flatnonzero(real)
    back = np.where(real, np.cumsum(real) - 1, 0)
    found = {
        "kept": kept,
        "back": back.reshape(mask.shape),
        "offsets": np.concatenate([kept, np.flatnonzero(~real)]).reshape(mask.shape),
        "starts": np.concatenate([[0], np.cumsum(mask.sum(axis=1))]),
    }
    return {name: array.astype(np.int32) for name, array in found.items()}
