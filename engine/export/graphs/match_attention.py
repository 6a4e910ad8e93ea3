"""Finds an encoder's attentions by what surrounds each softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.export.graphs import storage
from engine.export.graphs.attention_probe import (
    Attention,
    Candidate,
    ShapeTensor,
    check_longest,
    probe,
    settle,
    settle_shape,
)
from engine.export.graphs.graph_index import GraphIndex, UnsupportedGraph

_INT64 = 7
# What may lie between the product of queries and keys and the softmax.
_SCORE_OPS = ("Add", "Mul", "Div", "Cast")
_BY_HEAD, _TRANSPOSED = (0, 2, 1, 3), (0, 2, 3, 1)
# Inputs that are shapes, or ends of a range.
_SHAPE_INPUTS = {"Reshape": (1,), "Expand": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2)}


@dataclass(frozen=True)
class AttentionMatches:
    """What `find_attentions` returns.

    Attributes:
        attentions: In the order of the graph.
        shapes: The outputs of Shape nodes over computed tensors, and what is computed from them to
            be read as a shape or as the end of a range.
    """

    attentions: tuple[Attention, ...]
    shapes: tuple[ShapeTensor, ...]


def find_attentions(model: Any, index: GraphIndex, max_length: int) -> AttentionMatches:
    """Every attention of an encoder, each over all real tokens of its row.

    Args:
        model: An ONNX ModelProto, inputs as `remove_padding` takes them.
        index: Of its graph.
        max_length: Tokens of a row at most.

    Raises:
        UnsupportedGraph: There is none, or one of another kind.
    """
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    candidates = [_candidate(node, index) for node in softmaxes]
    if not candidates:
        raise UnsupportedGraph
    shapes = _shape_tensors(model, index)
    names = set(shapes).union(*(candidate.probed() for candidate in candidates))
    probes = probe(model, names)
    matches = AttentionMatches(
        tuple(settle(candidate, index, probes) for candidate in candidates),
        tuple(settle_shape(name, probes) for name in shapes),
    )
    terms = {term for candidate in candidates for term in candidate.terms}
    masks = {term for term in terms if index.depends_on(term, "attention_mask")}
    check_longest(model, masks, max_length)
    return matches


def _shape_tensors(model: Any, index: GraphIndex) -> list[str]:
    """Names of tensors of sizes that are not constant."""
    nodes, types = model.graph.node, storage.types(model)
    outputs = {n.output[0] for n in nodes if n.op_type == "Shape" and n.input[0] in index.makers}
    inputs = {n.input[i] for n in nodes for i in _SHAPE_INPUTS.get(n.op_type, ())}
    names = (outputs | {name for name in inputs if types.get(name) == _INT64}) - index.constant
    sources = ("input_ids", "attention_mask")
    if any(index.depends_on(name, source) for name in names for source in sources):
        raise UnsupportedGraph
    return sorted(names)


def _candidate(softmax: Any, index: GraphIndex) -> Candidate:
    candidate = Candidate()
    scores = _score_product(softmax.input[0], index, candidate)
    mix = _mixing_product(softmax.output[0], index)
    candidate.queries = _before_split(scores.input[0], index, candidate.scales, _BY_HEAD)
    candidate.keys = _before_split(scores.input[1], index, candidate.scales, _TRANSPOSED)
    candidate.values = _before_split(mix.input[1], index, [], _BY_HEAD)
    candidate.by_head = (scores.input[0], scores.input[1], mix.input[1])
    transpose = index.only_reader(mix.output[0], "Transpose")
    if _permutation(transpose) != _BY_HEAD:
        raise UnsupportedGraph
    candidate.output = index.only_reader(transpose.output[0], "Reshape").output[0]
    return candidate


def _score_product(name: str, index: GraphIndex, candidate: Candidate) -> Any:
    """The product of queries and keys, going back from the softmax's input; what lies between is
    added to the candidate's `scales` and `terms`."""
    while (node := index.maker(name)).op_type != "MatMul":
        inner = [source for source in node.input if _holds_scores(source, index)]
        if node.op_type not in _SCORE_OPS or len(inner) != 1:
            raise UnsupportedGraph
        if node.op_type == "Div" and inner[0] != node.input[0]:
            raise UnsupportedGraph
        for other in (source for source in node.input if source != inner[0]):
            if node.op_type != "Add":
                candidate.scales.append((other, node.op_type == "Mul"))
            elif candidate.scales:
                raise UnsupportedGraph
            else:
                candidate.terms += _terms(other, index)
        name = inner[0]
    return node


def _holds_scores(name: str, index: GraphIndex) -> bool:
    """Whether a tensor is, or is computed from, the product of queries and keys."""
    node = index.makers.get(name)
    if node is None:
        return False
    if node.op_type == "MatMul":
        return node.input[1] not in index.constant
    return node.op_type in _SCORE_OPS and any(_holds_scores(n, index) for n in node.input)


def _terms(name: str, index: GraphIndex) -> list[str]:
    node = index.makers.get(name)
    if node is None or node.op_type != "Add":
        return [name]
    return [term for source in node.input for term in _terms(source, index)]


def _before_split(
    name: str, index: GraphIndex, scales: list[tuple[str, bool]], permutation: tuple[int, ...]
) -> str:
    """What was split into heads and transposed to a permutation of its axes."""
    order: tuple[int, ...] = (0, 1, 2, 3)
    while True:
        node = index.maker(name)
        if node.op_type == "Transpose":
            order = tuple(_permutation(node)[axis] for axis in order)
        elif node.op_type in ("Mul", "Div") and _may_be_scale(node.input[1], index):
            scales.append((node.input[1], node.op_type == "Mul"))
        elif node.op_type == "Reshape" and order == permutation:
            return str(node.input[0])
        else:
            raise UnsupportedGraph
        name = node.input[0]


def _may_be_scale(name: str, index: GraphIndex) -> bool:
    """Whether a tensor may be one number, which the probes decide: it depends on no row's state."""
    return name in index.constant or not index.depends_on(name, "input_ids")


def _mixing_product(weights: str, index: GraphIndex) -> Any:
    """The product of the softmax and the values."""
    readers = index.readers(weights)
    if {node.op_type for node in readers} == {"IsNaN", "Where"}:
        # torch gives zeros to a row that attends to nothing.
        weights = next(node for node in readers if node.op_type == "Where").output[0]
    return index.only_reader(weights, "MatMul")


def _permutation(node: Any) -> tuple[int, ...]:
    return tuple(next(a.ints for a in node.attribute if a.name == "perm"))
