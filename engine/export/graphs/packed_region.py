"""Which tensors of an encoder can stay packed: computed token by token, without padding."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from engine.export.graphs.graph_index import GraphIndex, UnsupportedGraph
from engine.export.graphs.packed_attention_reference import ATTENTION

# Along an axis, which must be the last one.
_ON_AXIS = ("LayerNormalization", "ReduceMean")
# Each token by itself; the other inputs are weights, or packed as well.
BY_TOKEN = {
    "Add", "BiasGelu", "Cast", "Div", "Erf", "FastGelu", "Gelu", "Identity", "LayerNormalization",
    "MatMul", "Mul", "Neg", "Pow", "ReduceMean", "Relu", "Sigmoid", "SkipLayerNormalization",
    "Sqrt", "Sub", "Tanh",
}  # fmt: skip


@dataclass(frozen=True)
class PackedRegion:
    """Part of a graph.

    Attributes:
        tensors: Packed ones: their first axis is all real tokens.
        read_as_rows: Those of them that other nodes read, or that are outputs of the graph.
    """

    tensors: frozenset[str]
    read_as_rows: frozenset[str]


def packed_region(graph: Any, index: GraphIndex, entries: Collection[str]) -> PackedRegion:
    """Everything that is computed token by token from packed entries, as far as it pays.

    Args:
        graph: An ONNX GraphProto in topological order.
        index: Of its weights.
        entries: Packed tensors.

    Raises:
        UnsupportedGraph: An attention would not be packed.
    """
    whole = _propagate(graph, index, entries)
    last = _before_wide_product(graph, index, whole) or _common_source(graph, entries, whole)
    return _propagate(graph, index, entries, last) if last else whole


def _propagate(
    graph: Any, index: GraphIndex, entries: Collection[str], last: str = ""
) -> PackedRegion:
    """Follow the packed entries through the graph, but not past `last`."""
    tensors, read_as_rows = set(entries), set()
    for node in graph.node:
        read = tensors & set(node.input)
        by_token = bool(read) and last not in read and is_by_token(node, tensors, index)
        if node.op_type == ATTENTION and not by_token:
            raise UnsupportedGraph
        if by_token:
            tensors.update(filter(None, node.output))
        else:
            read_as_rows |= read
    outputs = {output.name for output in graph.output}
    return PackedRegion(frozenset(tensors), frozenset(read_as_rows | (outputs & tensors)))


def is_by_token(node: Any, tensors: Collection[str], index: GraphIndex) -> bool:
    packed = [name in tensors for name in node.input]
    if node.op_type == ATTENTION:
        return all(packed[:3])
    if node.op_type not in BY_TOKEN or (node.op_type == "MatMul" and not packed[0]):
        return False
    if node.op_type in _ON_AXIS and index.axes(node) != [-1]:
        return False
    weights = [name for name in node.input if name and name not in tensors]
    max_rank = 2 if node.op_type == "MatMul" else 1
    return all(index.rank(name) <= max_rank for name in weights)


def _before_wide_product(graph: Any, index: GraphIndex, region: PackedRegion) -> str:
    """What a last product reads whose output is wider, such as a vocabulary's logits: both forms of
    that would take memory. "" where there is none."""
    makers = {name: node for node in graph.node for name in node.output}
    name = next(iter(region.read_as_rows)) if len(region.read_as_rows) == 1 else ""
    if name in makers and makers[name].op_type == "Add":
        name = next((n for n in makers[name].input if n not in index.constant), "")
    if name not in makers or makers[name].op_type != "MatMul":
        return ""
    width, output_width = index.dims(makers[name].input[1]) or (0, 0)
    return str(makers[name].input[0]) if output_width > width > 0 else ""


def _common_source(graph: Any, entries: Collection[str], region: PackedRegion) -> str:
    """The last packed tensor that all tensors read as rows are computed from, if they are several:
    less is gathered back. "" where there is none, or an attention comes after it."""
    if len(region.read_as_rows) < 2:
        return ""
    sources: dict[str, set[str]] = {name: {name} for name in entries}
    for node in graph.node:
        own = {source for name in node.input for source in sources.get(name, ())}
        sources |= {name: own | {name} for name in region.tensors & set(node.output)}
    shared = set.intersection(*(sources[name] for name in region.read_as_rows))
    last = next((name for name in reversed(sources) if name in shared), "")
    attentions = [n.output[0] for n in graph.node if n.op_type == ATTENTION]
    return "" if any(last in sources[name] - {name} for name in attentions) else last
