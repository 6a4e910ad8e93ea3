"""What an ONNX file asks of the runtime, read without it: the operators that it calls, and the
files that it has weights in.

Of its fields (onnx.proto, `wire`) only those that lead to nodes and to places of weights are looked
into.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection
from pathlib import Path

from engine.core.confined_process import RefusedError
from engine.runtime.wire import Message, parts

# Domains of operators, and what is refused of them: loops, which need not end, but for one that is
# counted; searches, which hold graphs of their own; and what reads other files or gives way to
# another language.
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_REFUSED = {
    "Loop", "Scan", "SequenceMap", "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch",
    "EPContext", "PyOp", "PythonOp", "PythonOpGrad", "ATen", "Snpe", "TritonOp", "ImageDecoder",
}  # fmt: skip
_DEEPEST = 8
# Field numbers of onnx.proto: where a graph, its nodes and its weights are.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTION = 7, 20, 25
_GRAPH_NODE, _GRAPH_WEIGHT, _GRAPH_SPARSE_WEIGHT = 1, 5, 15
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE, _FUNCTION_DOMAIN = 7, 11, 10
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_TENSOR_EXTERNAL, _SPARSE_TENSORS = 13, (1, 2)
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


def check(file: Path, names: Collection[str]) -> None:
    """Refuse what is no ONNX file, or asks for more than a bundle's graph does.

    Args:
        names: Files beside it that may hold weights.

    Raises:
        RefusedError: It does; why.
    """
    with file.open("rb") as stream:
        if not file.stat().st_size:
            raise RefusedError("is empty")
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    _check_model(Message(content), names)


def _check_model(model: Message, names: Collection[str]) -> None:
    functions = [value for number, value in parts(model) if number == _MODEL_FUNCTION]
    own = [_text(function, _FUNCTION_DOMAIN) for function in functions]
    graphs = [value for number, value in parts(model) if number == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise RefusedError("is no ONNX model: it has no graph")
    if any(number == _MODEL_TRAINING for number, _ in parts(model)):
        raise RefusedError("holds a graph for training, which no bundle has")
    for message in (*graphs, *functions):
        _check_graph(message, message is not graphs[0], (*_DOMAINS, *own), names, 0)


def _check_graph(
    graph: Message, function: bool, domains: Collection[str], names: Collection[str], depth: int
) -> None:
    """Check a graph, or a function, which has other field numbers."""
    if depth > _DEEPEST:
        raise RefusedError("has graphs nested too deeply")
    node_field = _FUNCTION_NODE if function else _GRAPH_NODE
    nodes = [value for number, value in parts(graph) if number == node_field]
    # A function of the file's own might be called Size; loops within loops multiply.
    own = function or depth or len(domains) > len(_DOMAINS)
    sizes = set() if own else _sizes(nodes)
    for node in nodes:
        _check_node(node, domains, names, depth, sizes)
    for number, value in parts(graph):
        if number == node_field:
            continue
        if function and number == _FUNCTION_ATTRIBUTE:
            _check_attribute(value, domains, names, depth)
        elif not function and number == _GRAPH_WEIGHT:
            _check_tensor(value, names)
        elif not function and number == _GRAPH_SPARSE_WEIGHT:
            _check_sparse(value, names)


def _sizes(nodes: Collection[Message]) -> set[bytes]:
    """Names of how many elements a tensor has, as nodes compute it: it is in memory, so that a loop
    counted by it ends."""
    sizes = [node for node in nodes if _text(node, _NODE_OP) == "Size"]
    return {
        bytes(value)
        for node in sizes
        if _text(node, _NODE_DOMAIN) in ("", "ai.onnx")
        for number, value in parts(node)
        if number == _NODE_OUTPUT
    }


def _check_node(
    node: Message,
    domains: Collection[str],
    names: Collection[str],
    depth: int,
    sizes: Collection[bytes],
) -> None:
    """Check a node of a graph, where a Loop may be counted by one of the `sizes`."""
    operator, domain = "", ""
    inputs: list[bytes] = []
    for number, value in parts(node):
        if number == _NODE_OP:
            operator = _read(value)
        elif number == _NODE_DOMAIN:
            domain = _read(value)
        elif number == _NODE_INPUT:
            inputs.append(bytes(value))
        elif number == _NODE_ATTRIBUTE:
            _check_attribute(value, domains, names, depth)
    if domain not in domains:
        raise RefusedError(
            f"calls {operator!a} of {domain[:60]!a}, and only operators of ONNX and of ONNX "
            "Runtime are run"
        )
    counted = operator == "Loop" and inputs and inputs[0] in sizes
    if operator in _REFUSED and not counted:
        raise RefusedError(f"calls {operator}, which no graph of a bundle needs")


def _check_attribute(
    attribute: Message, domains: Collection[str], names: Collection[str], depth: int
) -> None:
    for number, value in parts(attribute):
        if number in _ATTRIBUTE_GRAPHS:
            _check_graph(value, False, domains, names, depth + 1)
        elif number in _ATTRIBUTE_TENSORS:
            _check_tensor(value, names)
        elif number in _ATTRIBUTE_SPARSE:
            _check_sparse(value, names)


def _check_sparse(tensor: Message, names: Collection[str]) -> None:
    for number, value in parts(tensor):
        if number in _SPARSE_TENSORS:
            _check_tensor(value, names)


def _check_tensor(tensor: Message, names: Collection[str]) -> None:
    for number, value in parts(tensor):
        if number != _TENSOR_EXTERNAL or _text(value, _ENTRY_KEY) != "location":
            continue
        place = _text(value, _ENTRY_VALUE)
        if place not in names:
            raise RefusedError(
                f"has weights in {place[:200]!a}, which is no file of weights of this bundle"
            )


def _text(message: Message, field: int) -> str:
    """A field's text, "" where there is none; of several the last counts, as in any reader."""
    texts = [_read(value) for number, value in parts(message) if number == field]
    return texts[-1] if texts else ""


def _read(value: Message) -> str:
    return bytes(value[:1000]).decode("utf-8", "replace")
