"""The CPU reference of PackedMultiHeadAttention."""

from __future__ import annotations

import numpy as np
import pytest

from engine.runtime.packing import packing_inputs

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper  # noqa: E402

from engine.export.graphs import storage  # noqa: E402
from engine.export.graphs.packed_attention_reference import (  # noqa: E402
    with_reference_attention,
)


@pytest.mark.parametrize("biased", [False, True])
def test_the_reference_is_attention_row_by_row(biased: bool) -> None:
    """Each row by itself, in NumPy, as ContribOperators.md has it."""
    heads, size, lengths = 2, 4, [5, 1, 3]
    mask = (np.arange(6) < np.array(lengths)[:, None]).astype(np.int64)
    drawn = np.random.default_rng(0)
    q, k, v = (drawn.normal(size=(9, heads * size)).astype(np.float32) for _ in "qkv")
    bias = drawn.normal(size=(1, heads, 6, 6)).astype(np.float32)
    feeds = {"q": q, "k": k, "v": v, "": None, "token_offset": 0, "cu_seqlens": 0}
    feeds |= {name: packing_inputs(mask)[name] for name in ("token_offset", "cu_seqlens")}
    feeds |= {"bias": bias} if biased else {}
    kinds = {np.dtype(np.float32): 1, np.dtype(np.int32): 6}
    node = helper.make_node("PackedMultiHeadAttention", list(feeds), ["out"],
                            domain="com.microsoft", num_heads=heads, scale=0.3)  # fmt: skip
    feeds.pop("")
    inputs = [helper.make_tensor_value_info(n, kinds[a.dtype], list(a.shape))
              for n, a in feeds.items()]  # fmt: skip
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("out")])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    with storage.opened(with_reference_attention(model)) as session:
        (out,) = session.run(["out"], feeds)
    expected, start = np.empty_like(out), 0
    for length in lengths:
        at = slice(start, start + length)
        for head in range(heads):
            of = slice(head * size, (head + 1) * size)
            scores = 0.3 * q[at, of] @ k[at, of].T
            scores += bias[0, head, :length, :length] if biased else 0
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            expected[at, of] = shares / shares.sum(axis=1, keepdims=True) @ v[at, of]
        start += length
    np.testing.assert_allclose(out, expected, atol=1e-5)
