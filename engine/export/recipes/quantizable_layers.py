"""Which matrix products of a graph a recipe may make less exact, and which it leaves alone."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from engine.export.graphs.graph_edits import reads


@dataclass(frozen=True)
class FullPrecision:
    """One row of `KEPT`: matrix products that stay in float32.

    Attributes:
        node: Pattern of the node's name.
        reason: Why.
        beside: Name of another node that must be there, made from the match's groups; "" for none.
    """

    node: str
    reason: str
    beside: str = ""


KEPT = (
    FullPrecision(
        r"/lm_head/MatMul",
        "the head is what int8 hurts: flan-t5-small keeps fp32's top token in 95-96% of the steps "
        "with a float32 head, 81-86% without",
    ),
    FullPrecision(
        r"(.*)/DenseReluDense/wo/MatMul",
        "the input of a gated feed-forward layer's output is a product with outliers: "
        "96.5-97.2% of the top tokens with it in float32, 95-96% without, beside a float32 head; "
        "float16 overflows there (transformers#4586, CTranslate2#1074)",
        beside=r"\1/DenseReluDense/wi_1/MatMul",
    ),
    FullPrecision(
        r"layer\.(\d+)/narrow",
        "the same in a step graph, whose head is scored twice instead",
        beside=r"layer.\1/gate",
    ),
    FullPrecision(
        r"/(.*/)?(classifier|pre_classifier|score|pooler)(/.*)?/(Gemm|MatMul)",
        "a classification head sees one token of a row: nothing to win, and it makes the answer",
    ),
)


def products(graph: Any) -> list[Any]:
    """The MatMul and Gemm nodes with a constant 2-D float32 weight that `KEPT` does not name.

    Args:
        graph: An ONNX GraphProto.
    """
    names = {node.name for node in graph.node}
    return [node for node in weighted(graph) if not _is_kept(node.name, names)]


def weighted(graph: Any) -> list[Any]:
    """The MatMul and Gemm nodes with a constant 2-D float32 weight, `KEPT` ones too."""
    weights = {w.name: w for w in graph.initializer}
    return [node for node in graph.node if _is_weighted(node, weights)]


def _is_weighted(node: Any, weights: dict[str, Any]) -> bool:
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return False
    weight = weights[node.input[1]]
    attributes = {a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")}
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    plain = all(value == 1.0 for value in attributes.values()) and not turned
    return len(weight.dims) == 2 and weight.data_type == 1 and plain


def is_turned(node: Any) -> bool:
    """Whether a product's weight is stored (out, in)."""
    return any(a.name == "transB" and a.i for a in node.attribute)


def _is_kept(name: str, names: Set[str]) -> bool:
    for kept in KEPT:
        found = re.fullmatch(kept.node, name)
        if found and (not kept.beside or found.expand(kept.beside) in names):
            return True
    return False


def drop_unused(graph: Any) -> None:
    """Take out the weights that nothing reads any more."""
    used = {name for node in graph.node for name in reads(node)}
    left = [w for w in graph.initializer if w.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)


def add_domain(model: Any, domain: str = "com.microsoft") -> None:
    """Declare that a model uses ONNX Runtime's own ops."""
    from onnx import helper

    if all(o.domain != domain for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(domain, 1))
