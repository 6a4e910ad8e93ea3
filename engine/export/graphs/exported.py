"""Optimum's graphs -> the bundle's graphs.

An encoder keeps its one graph. An encoder-decoder becomes two: the cross-attention keys and values
of every decoder layer depend only on the encoder's output, so their projections are cut out of the
decoder and put behind the encoder, and one decoder graph is left, which serves the first step with
an empty cache and every other step with a growing one. A causal model is one such graph, which
takes a whole prompt as well as one token and gives the logits of the last position only. Each
weight is stored once (the token embedding once a graph), and no cache passes through the branches
of an If node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import ExportError

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_ENCODER_OUTPUTS = (["last_hidden_state"], ["logits"], ["start_logits", "end_logits"])
_NOT_YET = "export another checkpoint of this task; this architecture's graph is not handled yet"
# What lies between the encoder's output and a cross-attention key or value.
_PROJECTION = ("MatMul", "Add", "Reshape", "Transpose")


def bundle_graphs(folder: Path) -> dict[str, Any]:
    """Read what Optimum wrote into `folder` and return the bundle's graphs by file name.

    Returns:
        ONNX ModelProtos under the names, inputs and outputs of `engine.bundle.GRAPHS`.

    Raises:
        ExportError: The graphs have inputs, outputs or projections that are not handled.
    """
    import onnx

    read = {file.stem: onnx.load(file) for file in folder.glob("*.onnx")}
    if "model" in read and _has_cache(read["model"]):
        graphs = {"decoder.onnx": _causal(read["model"])}
    elif "model" in read:
        graphs = {"model.onnx": _encoder_only(read["model"])}
    else:
        decoder = read["decoder_with_past_model"]
        encoder = _with_projections(read["encoder_model"], read["decoder_model"])
        graphs = {"encoder.onnx": encoder, "decoder.onnx": _one_step(decoder)}
    for model in graphs.values():
        # Optimum's names of inner shapes do not fit the renamed inputs.
        del model.graph.value_info[:]
        share_weights(model.graph)
    return graphs


def _has_cache(model: Any) -> bool:
    return any(i.name.startswith("past_key_values.") for i in model.graph.input)


def _encoder_only(model: Any) -> Any:
    """An encoder with the inputs of `_TEXT_INPUTS` and outputs of `_ENCODER_OUTPUTS`."""
    names = [i.name for i in model.graph.input]
    strange = [name for name in names if name not in _TEXT_INPUTS]
    outputs = [o.name for o in model.graph.output]
    if strange or outputs not in _ENCODER_OUTPUTS:
        raise ExportError(
            f"the exported graph takes {', '.join(names)} and gives {', '.join(outputs)}; "
            f"the engine feeds {', '.join(_TEXT_INPUTS)}",
            _NOT_YET,
        )
    return model


def _with_projections(encoder: Any, decoder: Any) -> Any:
    """The encoder with every decoder layer's cross-attention key and value projection behind it.

    Its outputs are cross.N.key and cross.N.value, float32 (batch, heads, source, head_dim), in
    place of last_hidden_state.
    """
    from onnx import TensorProto

    graph = encoder.graph
    hidden = graph.output[0].name
    weights = {w.name: w for w in decoder.graph.initializer}
    del graph.output[:]
    for output in decoder.graph.output:
        if ".encoder." in output.name:
            name = _bundle_name(output.name)
            heads, head_dim = _cache_shape(output)
            nodes = _projection(decoder.graph, output.name, set(weights))
            _append_projection(graph, nodes, weights, hidden, name, [0, -1, heads, head_dim])
            shape = ["batch", heads, "source", head_dim]
            graph.output.append(_tensor(name, TensorProto.FLOAT, shape))
    _set_inputs(graph, {n: ["batch", "source"] for n in ("input_ids", "attention_mask")})
    return encoder


def _append_projection(
    graph: Any,
    nodes: list[Any],
    weights: Mapping[str, Any],
    hidden: str,
    name: str,
    sizes: list[int],
) -> None:
    """Put copies of `nodes`, which turn `hidden` into `name`, behind a graph, under new names.

    The copied Reshape gets constant sizes: Optimum's takes the batch from the decoder's input_ids,
    which would drag the decoder along.
    """
    from onnx import helper

    carried = hidden
    for i, node in enumerate(nodes):
        made = name if node is nodes[-1] else f"{name}/{i}"
        if node.op_type == "Reshape":
            inputs = [carried, _add_weight(graph, _integers(sizes, f"{name}.shape"))]
        else:
            inputs = [
                _add_weight(graph, weights[used], f"{name}.{i}") if used in weights else carried
                for used in node.input
            ]
        path = f"/{name.replace('.', '/')}/{node.op_type}"
        copy = helper.make_node(node.op_type, inputs, [made], path)
        copy.attribute.extend(node.attribute)
        graph.node.append(copy)
        carried = made


def _add_weight(graph: Any, weight: Any, name: str = "") -> str:
    """Store a copy of a weight, under a new name if one is given, and return its name."""
    stored = graph.initializer.add()
    stored.CopyFrom(weight)
    stored.name = name or weight.name
    return str(stored.name)


def _integers(values: list[int], name: str) -> Any:
    import numpy as np
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array(values, np.int64), name)


def _projection(graph: Any, output: str, weights: set[str]) -> list[Any]:
    """The nodes that make `output` from encoder_hidden_states, in that order."""
    makers = {name: node for node in graph.node for name in node.output}
    nodes: list[Any] = []
    at = output
    while at != "encoder_hidden_states":
        node = makers.get(at)
        if node is None or node.op_type not in _PROJECTION:
            what = node.op_type if node is not None else f"the input {at}"
            raise ExportError(f"{output} is made by {what}, not by a projection alone", _NOT_YET)
        nodes.append(node)
        # A bias may stand first in an Add; the data is the input that is no weight.
        at = next(name for name in node.input if name not in weights)
    return nodes[::-1]


def _one_step(decoder: Any) -> Any:
    """The decoder step under the bundle's names.

    Inputs: input_ids (batch, 1) and encoder_attention_mask (batch, source), int64; past.N.* (batch,
    heads, past, head_dim) and cross.N.* (batch, heads, source, head_dim), float32. Outputs: logits
    (batch, 1, vocabulary) and present.N.* (batch, heads, past + 1, head_dim), float32.
    """
    graph = decoder.graph
    _rename(graph, {n: _bundle_name(n) for n in _names(graph) if _bundle_name(n) != n})
    inputs: dict[str, list[Any]] = {
        "input_ids": ["batch", 1],
        "encoder_attention_mask": ["batch", "source"],
    }
    for value in graph.input:
        if value.name not in inputs:
            heads, head_dim = _cache_shape(value)
            length = "past" if value.name.startswith("past") else "source"
            inputs[value.name] = ["batch", heads, length, head_dim]
    _set_inputs(graph, inputs)
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
        if value.name == "logits":
            dims[1].dim_value = 1
        else:
            dims[2].dim_param = "total"
    return decoder


def _causal(model: Any) -> Any:
    """A causal model under the bundle's names; rows are padded on the left.

    Inputs: input_ids (batch, tokens) and attention_mask (batch, past + tokens), int64; position_ids
    (batch, tokens), int64, if the architecture takes them; past.N.* (batch, heads, past, head_dim),
    float32, where past may be 0. Outputs: logits (batch, 1, vocabulary) of the last position and
    present.N.* (batch, heads, past + tokens, head_dim), float32.
    """
    graph = model.graph
    _rename(graph, {n: _bundle_name(n) for n in _names(graph) if _bundle_name(n) != n})
    inputs: dict[str, list[Any]] = {
        "input_ids": ["batch", "tokens"],
        "attention_mask": ["batch", "total"],
    }
    for value in graph.input:
        if value.name == "position_ids":
            inputs[value.name] = ["batch", "tokens"]
        elif value.name.startswith("past."):
            heads, head_dim = _cache_shape(value)
            inputs[value.name] = ["batch", heads, "past", head_dim]
    _set_inputs(graph, inputs)
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
        if value.name != "logits":
            dims[2].dim_param = "total"
    _cut_to_last(graph)
    return model


def _cut_to_last(graph: Any) -> None:
    """Slice the last position out of the hidden states before the head multiplies them.

    A prompt of n tokens would make n times the vocabulary of logits otherwise.
    """
    from onnx import helper

    head = _head(graph)
    ends = {"starts": -1, "ends": 2**63 - 1, "axes": 1}
    limits = [_add_weight(graph, _integers([n], f"last.{name}")) for name, n in ends.items()]
    cut = helper.make_node("Slice", [head.input[0], *limits], ["last_hidden"], "/last/Slice")
    head.input[0] = "last_hidden"
    at = list(graph.node).index(head)
    set_items(graph.node, [*graph.node[:at], cut, *graph.node[at:]])
    for value in graph.output:
        if value.name == "logits":
            value.type.tensor_type.shape.dim[1].dim_value = 1


def _head(graph: Any) -> Any:
    """The product of hidden states (batch, tokens, width) and the head's weight."""
    makers = {name: node for node in graph.node for name in node.output}
    weights = {w.name for w in graph.initializer}
    node = makers["logits"]
    while node.op_type in ("Add", "Cast", "Identity"):
        node = makers[next(name for name in node.input if name not in weights)]
    if node.op_type != "MatMul" or node.input[1] not in weights:
        raise ExportError(f"the logits are made by {node.op_type}, not by a head alone", _NOT_YET)
    return node


def _bundle_name(name: str) -> str:
    """Optimum's name of a cache tensor -> the bundle's; any other name as it is.

    past_key_values.3.decoder.key and past_key_values.3.key -> past.3.key; present.3.decoder.key ->
    present.3.key; past_key_values.3.encoder.key and present.3.encoder.key -> cross.3.key
    """
    side = r"(?:(decoder|encoder)\.)?"
    found = re.fullmatch(rf"(past|present)(?:_key_values)?\.(\d+)\.{side}(\w+)", name)
    if not found:
        return name
    when, layer, side, what = found.groups()
    return f"{'cross' if side == 'encoder' else when}.{layer}.{what}"


def _cache_shape(value: Any) -> tuple[int, int]:
    """Heads and head_dim of a declared (batch, heads, length, head_dim)."""
    dims = value.type.tensor_type.shape.dim
    if len(dims) != 4 or not (dims[1].dim_value and dims[3].dim_value):
        raise ExportError(f"{value.name} is no (batch, heads, length, head_dim) cache", _NOT_YET)
    return dims[1].dim_value, dims[3].dim_value


def _set_inputs(graph: Any, shapes: Mapping[str, list[Any]]) -> None:
    """Declare the inputs anew, in the given order, with readable names of the free dimensions."""
    types = {i.name: i.type.tensor_type.elem_type for i in graph.input}
    if set(types) != set(shapes):
        odd = ", ".join(sorted(set(types) ^ set(shapes)))
        raise ExportError(f"the exported graph's inputs are not the expected ones: {odd}", _NOT_YET)
    del graph.input[:]
    graph.input.extend(_tensor(name, types[name], shape) for name, shape in shapes.items())


def _tensor(name: str, element: int, shape: list[Any]) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, element, shape)


def _names(graph: Any) -> Iterable[str]:
    return [value.name for value in (*graph.input, *graph.output)]


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Rename tensors wherever they are declared, made or used."""
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]


def share_weights(graph: Any) -> None:
    """Store equal weights once, and a weight that is another one transposed as a Transpose node.

    A tied head is the embedding transposed; ONNX Runtime folds the node when it loads the graph, so
    that it costs nothing later. Weights are equal when their bytes are.
    """
    from onnx import helper, numpy_helper

    multiplied = {n.input[1] for n in graph.node if n.op_type == "MatMul"}
    stored: dict[tuple[Any, ...], list[tuple[Any, Any]]] = {}
    same: dict[str, str] = {}
    turned: list[Any] = []
    # Of a tied pair the looked-up one is stored, which is read row by row.
    for weight in sorted(graph.initializer, key=lambda w: w.name in multiplied):
        array = numpy_helper.to_array(weight)
        if twin := _stored_twin(stored, array):
            same[weight.name] = twin
        elif array.ndim == 2 and (twin := _stored_twin(stored, array.T)):
            turned.append(helper.make_node("Transpose", [twin], [weight.name], perm=[1, 0]))
        else:
            stored.setdefault(_likeness(array), []).append((weight, array))
    set_items(graph.initializer, [weight for alike in stored.values() for weight, _ in alike])
    _rename(graph, same)
    set_items(graph.node, [*turned, *graph.node])


def sort(graph: Any) -> None:
    """Put every node behind those whose outputs it reads, or an If's branches read."""
    left = {name: node for node in graph.node for name in node.output if name}
    done: set[str] = set()
    ordered: list[Any] = []
    for last in graph.node:
        waiting = [last]
        while waiting:
            node = waiting[-1]
            makers = (left.get(name) for name in reads(node))
            before = [maker for maker in makers if maker is not None and _key(maker) not in done]
            if before:
                waiting += before
                continue
            waiting.pop()
            if _key(node) not in done:
                done.add(_key(node))
                ordered.append(node)
    set_items(graph.node, ordered)


def _key(node: Any) -> str:
    """A node is known by what it makes first."""
    return str(next(name for name in node.output if name))


def reads(node: Any) -> list[str]:
    """Names that a node takes, those that the branches of an If take from around it among them."""
    inner = [a.g for a in node.attribute if a.HasField("g")]
    return [*node.input, *(name for branch in inner for one in branch.node for name in reads(one))]


def _stored_twin(stored: Mapping[tuple[Any, ...], list[tuple[Any, Any]]], array: Any) -> str:
    """Name of the stored weight with the same bytes, "" if there is none."""
    for weight, other in stored.get(_likeness(array), ()):
        if array.tobytes() == other.tobytes():
            return str(weight.name)
    return ""


def _likeness(array: Any) -> tuple[Any, ...]:
    """What equal arrays share; cheap, so that few are compared byte by byte."""
    ends = (array.flat[0].tobytes(), array.flat[-1].tobytes()) if array.size else ()
    return (array.shape, array.dtype.str, *ends)


def set_items(field: Any, items: Iterable[Any]) -> None:
    """Replace the content of a repeated protobuf field."""
    left = list(items)
    del field[:]
    field.extend(left)
