"""Where a batch's real tokens are, computed from the mask inside of a graph."""

from __future__ import annotations

from typing import Any

import numpy as np

_CONSTANTS = {
    "flat/all": np.array([-1], np.int64),
    "flat/one": np.array(1, np.int64),
    "flat/axis": np.array(0, np.int64),
}
_STEPS = (
    ("Reshape", ("attention_mask", "flat/all"), "flat/real"),
    ("NonZero", ("flat/real",), "flat/places"),
    ("Reshape", ("flat/places", "flat/all"), "token_indices"),
    ("CumSum", ("flat/real", "flat/axis"), "flat/count"),
    ("Sub", ("flat/count", "flat/one"), "flat/number"),
    ("Mul", ("flat/number", "flat/real"), "flat/index"),
    ("Shape", ("attention_mask",), "flat/grid"),
    ("Reshape", ("flat/index", "flat/grid"), "inverse_indices"),
)


def locate_tokens(graph: Any) -> list[Any]:
    """Nodes that compute `token_indices` and `inverse_indices` (see `runtime.packing`), and
    `flat/grid`, int64 (2,): the rows and their padded length.

    Args:
        graph: An ONNX GraphProto with the input attention_mask; it gets the nodes' constants.
    """
    from onnx import helper, numpy_helper

    constants = [numpy_helper.from_array(array, name) for name, array in _CONSTANTS.items()]
    graph.initializer.extend(constants)
    return [helper.make_node(op, inputs, [output], output) for op, inputs, output in _STEPS]


def computes_padding(graph: Any) -> bool:
    """Whether a graph lacks these nodes."""
    return not any("token_indices" in node.output for node in graph.node)
