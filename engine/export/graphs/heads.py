"""Post-processing graphs that run on the GPU, so that only their result is copied to the host.

pool    feature-extraction: a weighted sum of the tokens' states for each row
at      fill-mask: the logits at masked positions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OPSET, IR = 18, 9
# Type and shape by name.
_Tensors = Mapping[str, tuple[str, Sequence[object]]]


def graphs(task: str) -> dict[str, Any]:
    """The heads of a task by file name, ONNX ModelProtos.

    pool.onnx: last_hidden_state, float32 (rows, length, d), and weights, float32 (rows, 1, length)
    -> pooled, float32 (rows, 1, d).

    at.onnx: logits, float32 (rows, length, vocabulary), and positions, int64 (n, 2), row and token
    -> masked_logits, float32 (n, vocabulary).
    """
    heads = {"feature-extraction": ("pool.onnx", _pool), "fill-mask": ("at.onnx", _at)}
    if task not in heads:
        return {}
    name, write = heads[task]
    return {name: write()}


def _pool() -> Any:
    inputs: _Tensors = {
        "last_hidden_state": ("FLOAT", ["rows", "length", "d"]),
        "weights": ("FLOAT", ["rows", 1, "length"]),
    }
    pooled = ("pooled", "FLOAT", ["rows", 1, "d"])
    return _graph("pool", "MatMul", ["weights", "last_hidden_state"], inputs, pooled)


def _at() -> Any:
    inputs: _Tensors = {
        "logits": ("FLOAT", ["rows", "length", "vocabulary"]),
        "positions": ("INT64", ["n", 2]),
    }
    output = ("masked_logits", "FLOAT", ["n", "vocabulary"])
    return _graph("at", "GatherND", ["logits", "positions"], inputs, output)


def _graph(
    name: str,
    op: str,
    reads: list[str],
    inputs: _Tensors,
    output: tuple[str, str, Sequence[object]],
) -> Any:
    """A graph of one node."""
    from onnx import helper

    from engine.export.graphs.decoder_builder import described

    declared = [described(label, kind, shape) for label, (kind, shape) in inputs.items()]
    node = helper.make_node(op, reads, [output[0]], name)
    graph = helper.make_graph([node], name, declared, [described(*output)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
