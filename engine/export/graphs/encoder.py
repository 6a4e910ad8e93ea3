"""Optimum's graph of an encoder -> the bundle's: model.onnx or encoder.onnx.

A model that only encodes keeps its graph. The encoder of an encoder-decoder gets every decoder
layer's cross-attention keys and values behind it, since they depend only on its states; their
weights are the blueprint's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.errors import ExportError
from engine.export.graphs.blueprint import Blueprint, Linear
from engine.export.graphs.decoder_builder import described
from engine.export.graphs.graph_edits import share_weights

_POSITIONS = "position_ids"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUTS = (["last_hidden_state"], ["logits"], ["start_logits", "end_logits"])


def model_graph(traced: Any) -> Any:
    """A whole encoder with its head, in which equal weights are stored once.

    A decoder that embeds is one, too: its attention is causal, so that the padding on the right
    changes nothing, and its positions are counted here.

    Args:
        traced: An ONNX ModelProto as Optimum writes it; it is changed.

    Raises:
        ExportError: It has other inputs or outputs than the engine knows.
    """
    _count_positions(traced.graph)
    _check(traced, _INPUTS, _OUTPUTS)
    share_weights(traced.graph)
    return traced


def _count_positions(graph: Any) -> None:
    """Compute the input position_ids, if there is one, from the mask: rows are padded right."""
    import numpy as np
    from onnx import helper, numpy_helper

    inputs = [value for value in graph.input if value.name != _POSITIONS]
    if len(inputs) == len(graph.input):
        return
    del graph.input[:]
    graph.input.extend(inputs)
    numbers = {"axis": np.array(1), "one": np.array([1]), "none": np.array([0])}
    for name, number in numbers.items():
        graph.initializer.append(numpy_helper.from_array(number, f"{_POSITIONS}/{name}"))
    steps = (
        ("CumSum", ["attention_mask", f"{_POSITIONS}/axis"], f"{_POSITIONS}/count"),
        ("Sub", [f"{_POSITIONS}/count", f"{_POSITIONS}/one"], f"{_POSITIONS}/before"),
        ("Max", [f"{_POSITIONS}/before", f"{_POSITIONS}/none"], _POSITIONS),
    )
    for place, (op, reads, gives) in enumerate(steps):
        graph.node.insert(place, helper.make_node(op, reads, [gives], f"{_POSITIONS}/{op}"))


def encoder_graph(traced: Any, plan: Blueprint) -> Any:
    """An encoder with the cross-attention keys and values of every layer of the decoder.

    Its inputs are input_ids and attention_mask, int64 (batch, source); its outputs cross.N.key and
    cross.N.value, float32 (batch, heads, source, head_dim), in place of last_hidden_state.

    Args:
        traced: An ONNX ModelProto as Optimum writes it; it is changed.
        plan: Of the decoder.

    Raises:
        ExportError: It has other inputs or outputs than the engine knows.
    """
    _check(traced, _INPUTS[:2], _OUTPUTS[:1])
    graph = traced.graph
    del graph.input[:], graph.output[:]
    graph.input.extend(described(name, "INT64", ["batch", "source"]) for name in _INPUTS[:2])
    for n, layer in enumerate(plan.layers):
        for part, linear in (("key", layer.cross_k), ("value", layer.cross_v)):
            assert linear
            _append_projection(graph, f"cross.{n}.{part}", linear, plan)
    share_weights(graph)
    return traced


def _check(traced: Any, inputs: Sequence[str], outputs: Sequence[list[str]]) -> None:
    takes = [value.name for value in traced.graph.input]
    gives = [value.name for value in traced.graph.output]
    if set(takes) - set(inputs) or gives not in outputs:
        raise ExportError(
            f"the exported graph takes {', '.join(takes)} and gives {', '.join(gives)}; "
            f"the engine feeds {', '.join(inputs)}",
            "export another checkpoint of this task; this architecture's graph is not supported",
        )
    # Optimum's names of inner shapes do not fit the renamed inputs.
    del traced.graph.value_info[:]


def _append_projection(graph: Any, name: str, linear: Linear, plan: Blueprint) -> None:
    """The product of the encoder's states and a weight, as an output (batch, heads, source,
    head_dim)."""
    import numpy as np
    from onnx import helper, numpy_helper

    def weight(label: str, array: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), label))
        return label

    shape = np.array([0, -1, plan.heads, plan.head_dim], np.int64)
    steps: list[tuple[str, list[str], dict[str, Any]]]
    steps = [("MatMul", [weight(f"{name}.weight", linear.weight)], {})]
    if linear.bias is not None:
        steps.append(("Add", [weight(f"{name}.bias", linear.bias)], {}))
    steps.append(("Reshape", [weight(f"{name}.shape", shape)], {}))
    steps.append(("Transpose", [], {"perm": [0, 2, 1, 3]}))
    states = "last_hidden_state"
    for op, inputs, attributes in steps:
        output = name if op == "Transpose" else f"{name}/{op}"
        path = f"/{name.replace('.', '/')}/{op}"
        graph.node.append(helper.make_node(op, [states, *inputs], [output], path, **attributes))
        states = output
    shape_names = ["batch", plan.heads, "source", plan.head_dim]
    graph.output.append(described(name, "FLOAT", shape_names))
