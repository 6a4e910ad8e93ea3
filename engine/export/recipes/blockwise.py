"""The recipes int8-weight and int4-weight: weights in blocks of small integers.

For memory-bandwidth-bound models. Every product becomes com.microsoft's MatMulNBits, whose weight
is (out, blocks of the input, bytes of a block), in 4 bits two values a byte, the first in the lower
half; symmetric around 2 ** (bits - 1), with a scale for each block.

Activations are multiplied in 8 bits, too, with a scale for each block of a token
(`accuracy_level` 4). With float32 sums instead one row alone is 100 times slower in 8 bits and 3
times in 4, 32 rows 9 and 1.6 times; and a row alone differs in its last bits from the same among
others, since ONNX Runtime has a kernel of its own for one row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.export.recipes.quantizable_layers import (
    is_transposed,
    quantizable_products,
    replace_nodes,
)

# Channels of the input that share a scale.
BLOCK = 32


def quantize_weights(model: Any, bits: int) -> int:
    """Store the weights of a graph's products in 4 or 8 bits.

    Args:
        model: An ONNX ModelProto; changed in place.
        bits: 4 or 8.

    Returns:
        How many products read such weights now.
    """
    from onnx import numpy_helper

    graph = model.graph
    weights = {w.name: w for w in graph.initializer}
    products = {node.name for node in quantizable_products(graph)}
    stored: set[str] = set()
    nodes: list[Any] = []
    for node in graph.node:
        if node.name not in products:
            nodes.append(node)
            continue
        name = node.input[1]
        array = numpy_helper.to_array(weights[name])
        weight = array if is_transposed(node) else array.T
        if name not in stored:
            stored.add(name)
            names = (f"{name}.blocks", f"{name}.scales")
            arrays = quantize_blocks(weight, bits)
            graph.initializer.extend(map(numpy_helper.from_array, arrays, names))
        nodes += _blockwise_nodes(node, weight.shape, bits)
    if products:
        replace_nodes(model, nodes)
    return len(products)


def _blockwise_nodes(node: Any, shape: tuple[int, ...], bits: int) -> list[Any]:
    """A product, and the sum with its bias if it has one; `shape` is the weight's (out, in)."""
    from onnx import helper

    weight, bias = node.input[1], node.input[2:]
    output = f"{node.output[0]}/product" if bias else node.output[0]
    product = helper.make_node(
        "MatMulNBits", [node.input[0], f"{weight}.blocks", f"{weight}.scales"], [output],
        name=node.name, domain="com.microsoft", K=shape[1], N=shape[0], bits=bits,
        block_size=BLOCK, accuracy_level=4,
    )  # fmt: skip
    return [product, *(helper.make_node("Add", [output, b], node.output) for b in bias)]


def quantize_blocks(
    weight: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A weight (out, in) as uint8 (out, blocks, bytes) and scales (out * blocks,)."""
    out, width = weight.shape
    count = -(-width // BLOCK)
    padded = np.zeros((out, count * BLOCK), np.float32)
    padded[:, :width] = weight
    blocks = padded.reshape(out, count, BLOCK)
    middle = 1 << (bits - 1)
    # The value furthest out takes the end of the range that has one level more.
    furthest = np.abs(blocks).argmax(axis=2)[..., None]
    scale = np.take_along_axis(blocks, furthest, axis=2) / -middle
    scale[scale == 0] = 1.0
    values = np.clip(np.rint(blocks / scale) + middle, 0, 2 * middle - 1).astype(np.uint8)
    if bits == 4:
        values = values[..., ::2] | values[..., 1::2] << 4
    return np.ascontiguousarray(values), scale[..., 0].reshape(-1).astype(np.float32)
