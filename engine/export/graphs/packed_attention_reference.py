"""What stands in for a GPU's attention on a CPU: the same function, out of ONNX's own operators.

ONNX Runtime has PackedMultiHeadAttention for CUDA only (contrib_ops/cuda/bert; ContribOperators.md
says what it computes). With this a packed encoder is proven, slowly, wherever it is made.
"""

from __future__ import annotations

from typing import Any

DOMAIN = "engine.standin"
ATTENTION = "PackedMultiHeadAttention"
_ROWS = """
    Rows (flat, offsets) => (rows) {
        nought, unit = Split <axis = 0, num_outputs = 2> (pair)
        size = Shape (flat)
        count = Slice (size, nought, unit)
        states = Slice (size, unit, two)
        both = Shape (offsets)
        order = Reshape (offsets, line)
        long = Cast <to = 7> (order)
        kept = Slice (long, nought, count)
        places = Unsqueeze (kept, unit)
        every = Shape (order)
        shape = Concat <axis = 0> (every, states)
        none = Constant <value_float = 0.0> ()
        empty = CastLike (none, flat)
        nothing = Expand (empty, shape)
        laid = ScatterND (nothing, places, flat)
        whole = Concat <axis = 0> (both, states)
        rows = Reshape (laid, whole)
    }"""
_ATTEND = """
    PackedMultiHeadAttention <num_heads, scale> (q, k, v, offsets, starts, bias) => (made) {
        nought, unit = Split <axis = 0, num_outputs = 2> (pair)
        zero = Squeeze (nought)
        one = Squeeze (unit)
        heads = Constant <value_int: int = @num_heads> ()
        split = Reshape (heads, line)
        both = Shape (offsets)
        parts = Concat <axis = 0> (both, split, line)
        rows_q = engine.standin.Rows (q, offsets)
        rows_k = engine.standin.Rows (k, offsets)
        rows_v = engine.standin.Rows (v, offsets)
        split_q = Reshape (rows_q, parts)
        split_k = Reshape (rows_k, parts)
        split_v = Reshape (rows_v, parts)
        by_q = Transpose <perm = [0, 2, 1, 3]> (split_q)
        by_k = Transpose <perm = [0, 2, 3, 1]> (split_k)
        by_v = Transpose <perm = [0, 2, 1, 3]> (split_v)
        product = MatMul (by_q, by_k)
        factor = Constant <value_float: float = @scale> ()
        scaling = CastLike (factor, q)
        scaled = Mul (product, scaling)
        added = CastLike (bias, q)
        biased = Add (scaled, added)
        long = Cast <to = 7> (starts)
        after = Slice (long, unit, end)
        before = Slice (long, nought, line)
        lengths = Sub (after, before)
        inner = Constant <value = int64[3] {1, 2, 3}> ()
        column = Unsqueeze (lengths, inner)
        width = Gather <axis = 0> (both, one)
        places = Range (zero, width, one)
        hidden = GreaterOrEqual (places, column)
        low = Constant <value_float = -30000.0> ()
        lowest = CastLike (low, q)
        masked = Where (hidden, lowest, biased)
        shares = Softmax <axis = -1> (masked)
        mixed = MatMul (shares, by_v)
        turned = Transpose <perm = [0, 2, 1, 3]> (mixed)
        size = Shape (v)
        count = Slice (size, nought, unit)
        states = Slice (size, unit, two)
        shape = Concat <axis = 0> (line, states)
        all = Reshape (turned, shape)
        order = Reshape (offsets, line)
        kept = Slice (order, nought, count)
        made = Gather <axis = 0> (all, kept)
    }"""
# What each of them begins with.
_CONSTANTS = """
        pair = Constant <value = int64[2] {0, 1}> ()
        two = Constant <value = int64[1] {2}> ()
        line = Constant <value = int64[1] {-1}> ()
        end = Constant <value = int64[1] {9223372036854775807}> ()"""


def stood_in(model: Any) -> Any:
    """A copy of a graph, ONNX ModelProto, that a CPU computes, packed or not."""
    import numpy as np
    from onnx import numpy_helper, parser

    made = type(model)()
    made.CopyFrom(model)
    nodes = [node for node in made.graph.node if node.op_type == ATTENTION]
    if not nodes:
        return made
    (opset,) = [one.version for one in made.opset_import if one.domain == ""]
    for node in nodes:
        node.domain = DOMAIN
        _fill(node)
    none = numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), f"{DOMAIN}/none")
    made.graph.initializer.append(none)
    made.opset_import.add(domain=DOMAIN, version=1)
    imports = f'<opset_import: ["" : {opset}, "{DOMAIN}" : 1], domain: "{DOMAIN}">'
    for text in (_ROWS, _ATTEND):
        body = text.replace("{", "{" + _CONSTANTS, 1)
        made.functions.append(parser.parse_function(imports + body))
    return made


def _fill(node: Any) -> None:
    """Without the bias of the products, which is never there, and with one of positions always."""
    inputs = [name for n, name in enumerate(node.input) if n != 3]
    node.input[:] = inputs if len(inputs) == 6 else [*inputs, f"{DOMAIN}/none"]
