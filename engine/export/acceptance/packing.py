"""An encoder without padding gives what the one with padding gives, or it is not written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.types import Ints
from engine.errors import ExportError
from engine.export.graphs import storage
from engine.export.graphs.packed_attention_reference import with_reference_attention
from engine.measures.vectors import relative_error
from engine.runtime.packing import packing_inputs

_FAULT = "nothing was written; it is a fault of the engine: please report the model"


def outputs(model: Any, feeds: Mapping[str, Ints]) -> dict[str, NDArray[np.float32]]:
    """Run an encoder on the CPU, with or without padding.

    Args:
        model: An ONNX ModelProto; its weights are taken out.
        feeds: input_ids, attention_mask and token_type_ids, int64 (rows, length).

    Returns:
        Its outputs by name, float32, zero at the padding.

    Raises:
        ExportError: ONNX Runtime does not load or run the graph.
    """
    fed = {**feeds, **packing_inputs(feeds["attention_mask"])}
    with storage.opened(with_reference_attention(model)) as session:
        names = [output.name for output in session.get_outputs()]
        try:
            values = session.run(names, {i.name: fed[i.name] for i in session.get_inputs()})
        except Exception as error:  # onnxruntime's own classes are not public
            reason = (str(error).splitlines() or [""])[0][:300]
            raise ExportError(f"ONNX Runtime does not run the graph: {reason}", _FAULT) from error
    mask = feeds["attention_mask"].astype(np.float32)
    return {name: _masked(name, value, mask) for name, value in zip(names, values, strict=True)}


def _masked(name: str, value: NDArray[Any], mask: NDArray[np.float32]) -> NDArray[np.float32]:
    value = np.asarray(value, np.float32)
    if value.ndim <= 2 and not name.endswith("_logits"):
        return value  # one vector a row
    # Keys and values are (rows, heads, length, width).
    by_head = value.ndim == 4
    shape = [len(mask), 1, -1, 1] if by_head else [*mask.shape, *[1] * (value.ndim - 2)]
    return np.asarray(value * mask.reshape(shape))


def largest_error(
    model: Any, expected: Mapping[str, NDArray[np.float32]], feeds: Mapping[str, Ints]
) -> float:
    """The largest relative error of an encoder's `outputs`, and NaN if there is one."""
    actual = outputs(model, feeds)
    return float(np.max([relative_error(expected[name], actual[name]) for name in expected]))


def check(file: str, error: float, limit: float) -> None:
    """Refuse a graph without padding whose `largest_error` exceeds a limit.

    Raises:
        ExportError: It does, or is NaN.
    """
    if not error <= limit:
        raise ExportError(
            f"{file}: the unpadded graph differs from the padded one "
            f"(relative error {error:.3g}, {limit:.3g} allowed)",
            _FAULT,
        )
