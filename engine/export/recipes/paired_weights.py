"""Weights in 8 bits whose products with unsigned activations are exact on every CPU.

Without VNNI, ONNX Runtime multiplies unsigned activations and signed weights by an instruction that
adds the products of two neighbouring channels in saturating 16 bits (vpmaddubsw, pmaddubsw). With
weights from -127 to 127 the sum may not fit, 2 * 255 * 127; with 7 bits it always does, 2 * 255 *
63. But two large weights are seldom neighbours: where a pair adds up to at most `PAIR`, 255 * 128
fits, and most columns are rounded 1.5 times as fine as in 7 bits. (Unsigned weights would be exact,
too, by a kernel that widens before it multiplies; it takes 1.2 times as long without VNNI, and 2.5
times with it.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# What the magnitudes of channels 2 n and 2 n + 1 add up to at most.
PAIR = 128
# A column of zeros has no scale of its own; any will do.
SMALLEST_SCALE = 1e-12


def round_weight(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight (in, out) as integers (in, out), in C order, and the scales of its columns (out,).

    A smaller scale, with the few pairs cut that are too large then, has a larger squared error.
    """
    size = np.abs(weight)
    size = np.pad(size, ((0, len(size) % 2), (0, 0)))
    pairs = size[::2] + size[1::2]
    # Both of a pair may be rounded up by half.
    scale = np.maximum(pairs.max(axis=0, initial=0.0) / (PAIR - 1), SMALLEST_SCALE)
    integers = np.rint(weight / scale).astype(np.int8)
    return np.ascontiguousarray(integers), scale.astype(np.float32)
