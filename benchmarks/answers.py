"""Whether a contestant gives the answers of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Two embeddings above this cosine count as the same answer: int8 costs 0.002 to 0.01, a wrong
# pooling 0.1.
SAME_COSINE = 0.999


def compare(reference: Sequence[Any], answers: Sequence[Any]) -> dict[str, Any]:
    """How many answers differ from the reference's, row by row.

    Args:
        reference, answers: One answer a row: strings, or vectors of one size.

    Returns:
        `differs`: rows with another text, or with a cosine below SAME_COSINE; a row that one side
        lacks differs. `cosine`: the mean cosine of vectors, else None.
    """
    missing = abs(len(reference) - len(answers))
    pairs = list(zip(reference, answers, strict=False))
    if pairs and not isinstance(pairs[0][0], str):
        cosines = np.array([_cosine(a, b) for a, b in pairs])
        # A vector with NaN is no answer: it must not compare as the same.
        differs = int((~(cosines >= SAME_COSINE)).sum())
        return {"differs": missing + differs, "cosine": round(float(cosines.mean()), 6)}
    return {"differs": missing + sum(a != b for a, b in pairs), "cosine": None}


def _cosine(a: Any, b: Any) -> float:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape != y.shape:
        return 0.0
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size else 0.0
