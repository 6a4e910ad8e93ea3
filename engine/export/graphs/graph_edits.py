"""Edits of an ONNX graph that keep what it computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def share_weights(graph: Any) -> None:
    """Store equal weights once, and replace a transposed copy of one by a Transpose node.

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
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    set_items(graph.node, [*turned, *graph.node])


def bypass_identities(graph: Any) -> None:
    """Read weights by their own names: torch's exporter gives equal ones another name through an
    Identity, which neither fusions nor recipes see through."""
    names = {w.name: w.name for w in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in names:
            names[node.output[0]] = names[node.input[0]]
        else:
            node.input[:] = [names.get(name, name) for name in node.input]
    set_items(graph.node, [node for node in graph.node if node.output[0] not in names])


def sort(graph: Any) -> None:
    """Put every node after those whose outputs it, or a branch of an If, reads."""
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
    """A node is identified by its first output."""
    return str(next(name for name in node.output if name))


def reads(node: Any) -> list[str]:
    """Names that a node reads, and those of outer tensors that the branches of an If read."""
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
