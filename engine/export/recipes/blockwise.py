"""The recipes int8-weight and int4-weight: weights in blocks of small integers, sums in float32.

For work that is bound by reading weights. Every product becomes com.microsoft's MatMulNBits, whose
weight is (out, blocks of the input, bytes of a block), two values a byte in 4 bits, the first in
the lower half; symmetric around 2 ** (bits - 1), with a scale for each block.
"""

from __future__ import annotations

from typing import Any

from engine.export.recipes.quantizable_layers import add_domain, drop_unused, is_turned, products

# Channels of the input that share a scale.
BLOCK = 32


def blocks(model: Any, bits: int) -> int:
    """Store the weights of a graph's products in `bits` bits, 4 or 8; the model is changed.

    Returns:
        How many products read such weights now.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    chosen = {node.name: node for node in products(graph)}
    stored: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        name = node.input[1]
        weight = numpy_helper.to_array(weights[name])
        weight = weight if is_turned(node) else weight.T
        if name not in stored:
            stored.add(name)
            packed = _packed(weight, bits)
            labels = (f"{name}.blocks", f"{name}.scales")
            graph.initializer.extend(map(numpy_helper.from_array, packed, labels))
        biased = len(node.input) > 2
        made = helper.make_node(
            "MatMulNBits", [node.input[0], f"{name}.blocks", f"{name}.scales"],
            [f"{node.output[0]}/product" if biased else node.output[0]], name=node.name,
            domain="com.microsoft", K=weight.shape[1], N=weight.shape[0], bits=bits,
            block_size=BLOCK, accuracy_level=1,
        )  # fmt: skip
        nodes.append(made)
        if biased:
            nodes.append(helper.make_node("Add", [made.output[0], node.input[2]], node.output))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    if chosen:
        add_domain(model)
    return len(chosen)


def _packed(weight: Any, bits: int) -> tuple[Any, Any]:
    """(out, in) float32 -> uint8 (out, blocks, bytes) and scales float32 (out * blocks,)."""
    import numpy as np

    out, width = weight.shape
    count = -(-width // BLOCK)
    whole = np.zeros((out, count * BLOCK), np.float32)
    whole[:, :width] = weight
    cut = whole.reshape(out, count, BLOCK)
    middle = 1 << (bits - 1)
    # The value furthest out takes the end of the range that has one level more.
    at = np.abs(cut).argmax(axis=2)[..., None]
    scale = np.take_along_axis(cut, at, axis=2) / -middle
    scale[scale == 0] = 1.0
    values = np.clip(np.rint(cut / scale) + middle, 0, 2 * middle - 1).astype(np.uint8)
    if bits == 4:
        values = values[..., ::2] | values[..., 1::2] << 4
    return np.ascontiguousarray(values), scale[..., 0].reshape(-1).astype(np.float32)
