"""A CPU reference implementation of PackedMultiHeadAttention, as an ONNX function.

ONNX Runtime has PackedMultiHeadAttention for CUDA only (contrib_ops/cuda/bert; ContribOperators.md
says what it computes). With this function a packed encoder can be compared, slowly, on any machine.
"""

from __future__ import annotations

from typing import Any

DOMAIN = "engine.reference"
ATTENTION = "PackedMultiHeadAttention"
_NO_BIAS = f"{DOMAIN}/no_bias"
_UNPACK = """
    Unpack (packed, token_offset) => (rows) {
        size = Shape (packed)
        count = Slice (size, zero, one)
        width = Slice (size, one, two)
        grid = Shape (token_offset)
        flat_offset = Reshape (token_offset, minus_one)
        positions = Cast <to = 7> (flat_offset)
        real = Slice (positions, zero, count)
        indices = Unsqueeze (real, one)
        length = Shape (positions)
        flat_shape = Concat <axis = 0> (length, width)
        nought = Constant <value_float = 0.0> ()
        typed = CastLike (nought, packed)
        blank = Expand (typed, flat_shape)
        flat = ScatterND (blank, indices, packed)
        shape = Concat <axis = 0> (grid, width)
        rows = Reshape (flat, shape)
    }"""
_ATTEND = """
    PackedMultiHeadAttention <num_heads, scale> (q, k, v, token_offset, cu_seqlens, bias) => (out) {
        heads = Constant <value_int: int = @num_heads> ()
        heads_1d = Reshape (heads, minus_one)
        grid = Shape (token_offset)
        by_head = Concat <axis = 0> (grid, heads_1d, minus_one)
        rows_q = engine.reference.Unpack (q, token_offset)
        rows_k = engine.reference.Unpack (k, token_offset)
        rows_v = engine.reference.Unpack (v, token_offset)
        split_q = Reshape (rows_q, by_head)
        split_k = Reshape (rows_k, by_head)
        split_v = Reshape (rows_v, by_head)
        heads_q = Transpose <perm = [0, 2, 1, 3]> (split_q)
        heads_k = Transpose <perm = [0, 2, 3, 1]> (split_k)
        heads_v = Transpose <perm = [0, 2, 1, 3]> (split_v)
        product = MatMul (heads_q, heads_k)
        scale_float = Constant <value_float: float = @scale> ()
        scale_typed = CastLike (scale_float, q)
        scaled = Mul (product, scale_typed)
        bias_typed = CastLike (bias, q)
        scores = Add (scaled, bias_typed)
        edges = Cast <to = 7> (cu_seqlens)
        row_ends = Slice (edges, one, end)
        row_starts = Slice (edges, zero, minus_one)
        lengths = Sub (row_ends, row_starts)
        inner_axes = Constant <value = int64[3] {1, 2, 3}> ()
        lengths_4d = Unsqueeze (lengths, inner_axes)
        length_1d = Slice (grid, one, two)
        length = Squeeze (length_1d)
        zero_scalar = Squeeze (zero)
        one_scalar = Squeeze (one)
        positions = Range (zero_scalar, length, one_scalar)
        padding = GreaterOrEqual (positions, lengths_4d)
        low_float = Constant <value_float = -30000.0> ()
        low = CastLike (low_float, q)
        masked = Where (padding, low, scores)
        weights = Softmax <axis = -1> (masked)
        mixed = MatMul (weights, heads_v)
        merged = Transpose <perm = [0, 2, 1, 3]> (mixed)
        size = Shape (v)
        count = Slice (size, zero, one)
        width = Slice (size, one, two)
        flat_shape = Concat <axis = 0> (minus_one, width)
        flat = Reshape (merged, flat_shape)
        flat_offset = Reshape (token_offset, minus_one)
        real = Slice (flat_offset, zero, count)
        out = Gather <axis = 0> (flat, real)
    }"""
# What each of them begins with.
_CONSTANTS = """
        zero = Constant <value = int64[1] {0}> ()
        one = Constant <value = int64[1] {1}> ()
        two = Constant <value = int64[1] {2}> ()
        minus_one = Constant <value = int64[1] {-1}> ()
        end = Constant <value = int64[1] {9223372036854775807}> ()"""


def with_reference_attention(model: Any) -> Any:
    """A copy of a graph, ONNX ModelProto, that runs on a CPU, packed or not."""
    import numpy as np
    from onnx import numpy_helper, parser

    copy = type(model)()
    copy.CopyFrom(model)
    nodes = [node for node in copy.graph.node if node.op_type == ATTENTION]
    if not nodes:
        return copy
    (opset,) = [one.version for one in copy.opset_import if one.domain == ""]
    for node in nodes:
        node.domain = DOMAIN
        _set_inputs(node)
    no_bias = numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), _NO_BIAS)
    copy.graph.initializer.append(no_bias)
    copy.opset_import.add(domain=DOMAIN, version=1)
    imports = f'<opset_import: ["" : {opset}, "{DOMAIN}" : 1], domain: "{DOMAIN}">'
    for function in (_UNPACK, _ATTEND):
        body = function.replace("{", "{" + _CONSTANTS, 1)
        copy.functions.append(parser.parse_function(imports + body))
    return copy


def _set_inputs(node: Any) -> None:
    """The function's inputs: no bias of the products, which no packed graph has, and always one of
    positions."""
    inputs = [name for n, name in enumerate(node.input) if n != 3]
    node.input[:] = inputs if len(inputs) == 6 else [*inputs, _NO_BIAS]
