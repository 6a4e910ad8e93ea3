"""Which matrix products of a graph a recipe may make less exact, and which it leaves alone."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from engine.export.graphs.graph_edits import reads


@dataclass(frozen=True)
class FullPrecision:
    """One row of `FULL_PRECISION`: matrix products that stay in float32.

    Attributes:
        node: Pattern of the node's name.
        reason: Why.
        siblings: Names of other nodes that must exist, made from the match's groups.
        half: Whether this holds for float16 alone.
    """

    node: str
    reason: str
    siblings: tuple[str, ...] = ()
    half: bool = False


FULL_PRECISION = (
    FullPrecision(
        r"/lm_head/MatMul",
        "the head is what int8 hurts: flan-t5-small keeps fp32's top token in 95-96% of the steps "
        "with a float32 head, 81-86% without",
    ),
    FullPrecision(
        r"(.*)/DenseReluDense/wo/MatMul",
        "the input of a gated feed-forward layer's output is a product with outliers: with a "
        "float32 head, 96.5-97.2% of the top tokens with it in float32, 95-96% without; "
        "float16 overflows there (transformers#4586, CTranslate2#1074)",
        siblings=(r"\1/DenseReluDense/wi_1/MatMul",),
    ),
    FullPrecision(
        r"layer\.(\d+)/narrow",
        "the same in T5's step graph, which scores its head's best tokens again instead",
        siblings=(r"layer.\1/gate", r"layer.\1/cross_q"),
    ),
    FullPrecision(
        r"layer\.(\d+)/narrow",
        "a causal decoder's gated layers are a third of its weights, and are smoothed for "
        "integers; float16 may overflow there",
        siblings=(r"layer.\1/gate",),
        half=True,
    ),
    FullPrecision(
        r"/(.*/)?(classifier|pre_classifier|score|pooler)(/.*)?/(Gemm|MatMul)",
        "a classification head sees one token of a row: no time to win, and it makes the answer",
    ),
)


def quantizable_products(graph: Any, *, half: bool = False) -> list[Any]:
    """The `weighted_products` that `FULL_PRECISION` does not name.

    Args:
        graph: An ONNX GraphProto.
        half: For float16, not for integers.
    """
    names = {node.name for node in graph.node}
    return [node for node in weighted_products(graph) if not _stays_full(node.name, names, half)]


def weighted_products(graph: Any) -> list[Any]:
    """The MatMul and Gemm nodes with a constant 2-D float32 weight.

    Args:
        graph: An ONNX GraphProto.
    """
    weights = {w.name: w for w in graph.initializer}
    return [node for node in graph.node if _is_weighted(node, weights)]


def _is_weighted(node: Any, weights: dict[str, Any]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return False
    weight = weights[node.input[1]]
    scaled = any(a.name in ("alpha", "beta") and a.f != 1.0 for a in node.attribute)
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return len(weight.dims) == 2 and weight.data_type == 1 and not (scaled or transposed)


def is_transposed(node: Any) -> bool:
    """Whether a product's weight is stored (out, in)."""
    return any(a.name == "transB" and a.i for a in node.attribute)


def _stays_full(name: str, names: Set[str], half: bool) -> bool:
    for row in FULL_PRECISION:
        match = re.fullmatch(row.node, name)
        if (
            match
            and half >= row.half
            and all(match.expand(sibling) in names for sibling in row.siblings)
        ):
            return True
    return False


def replace_nodes(model: Any, nodes: list[Any]) -> None:
    """Give a model new nodes, ONNX Runtime's own among them, and drop the weights that none reads.

    Args:
        model: An ONNX ModelProto; changed in place.
        nodes: In topological order.
    """
    from onnx import helper

    graph = model.graph
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in reads(node)}
    weights = [w for w in graph.initializer if w.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
