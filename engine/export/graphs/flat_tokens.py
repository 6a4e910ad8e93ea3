"""Rewrites an encoder for a CPU so that only its attention computes padding.

As on a GPU (`remove_padding`), the rows' real tokens are one matrix (tokens, width) between the
embedding and the output. Where they are is computed from the mask, so that the graph's inputs stay
what they were, and each attention gathers its queries, keys and values into padded rows: ONNX
Runtime has no attention over packed rows for a CPU, and its MultiHeadAttention takes longer there
than the products and the softmax that it replaces.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.export.graphs import graph_edits
from engine.export.graphs.packed_attention_reference import ATTENTION
from engine.export.graphs.remove_padding import remove_padding
from engine.export.graphs.token_places import locate_tokens

# Added to a score, it leaves a weight of exactly zero.
_HIDES = -1e4
_PACKING = ("token_indices", "inverse_indices", "token_offset", "cu_seqlens")
_BY_HEAD, _KEYS_BY_HEAD = [0, 2, 1, 3], [0, 2, 3, 1]


def flatten_tokens(model: Any, max_length: int) -> bool:
    """Rewrite an encoder's float32 graph in place.

    Args:
        model, max_length: As `remove_padding` takes them.

    Returns:
        False, with the graph unchanged, where its attention is of another kind.
    """
    if not remove_padding(model, max_length, fused=False):
        return False
    _Flattener(model.graph).run()
    return True


class _Flattener:
    """The edits of one packed graph."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.weights = {w.name: w for w in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.counts = Counter(name for node in graph.node for name in node.input)

    def run(self) -> None:
        inputs = [value for value in self.graph.input if value.name not in _PACKING]
        graph_edits.set_items(self.graph.input, inputs)
        self._locate_tokens()
        for node in self.graph.node:
            if node.op_type == ATTENTION:
                self._attend(node)
            else:
                self.nodes.append(node)
        graph_edits.set_items(self.graph.node, self.nodes)
        graph_edits.sort(self.graph)
        read = {name for node in self.graph.node for name in graph_edits.reads(node)}
        weights = [w for w in self.graph.initializer if w.name in read]
        graph_edits.set_items(self.graph.initializer, weights)

    def _locate_tokens(self) -> None:
        """Compute `token_indices` and `inverse_indices` (see `runtime.packing`), and what is added
        to scores, (rows, 1, 1, length)."""
        self.nodes += locate_tokens(self.graph)
        self._constant("flat/inner", np.array([1, 2], np.int64))
        self._constant("flat/hides", np.array(-_HIDES, np.float32))
        padding = self._op("Sub", ["attention_mask", "flat/one"], "flat/padding")
        padding = self._op("Cast", [padding], "flat/padding_float", to=1)
        hidden = self._op("Mul", [padding, "flat/hides"], "flat/hidden")
        self._op("Unsqueeze", [hidden, "flat/inner"], "flat/mask")

    def _attend(self, node: Any) -> None:
        """Replace one PackedMultiHeadAttention."""
        from onnx import helper

        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        heads, output = int(settings["num_heads"]), node.output[0]
        queries = self._scaled(node.input[0], float(settings["scale"]), output)
        shape = f"flat/{heads}_heads"
        self._constant(shape, np.array([0, 0, heads, -1], np.int64))
        parts = ((queries, _BY_HEAD), (node.input[1], _KEYS_BY_HEAD), (node.input[2], _BY_HEAD))
        split = [self._by_head(name, shape, order, output) for name, order in parts]
        scores = self._op("MatMul", split[:2], f"{output}/scores")
        for n, term in enumerate([*node.input[6:], "flat/mask"]):
            scores = self._op("Add", [scores, term], f"{output}/scores{n}")
        weights = self._op("Softmax", [scores], f"{output}/weights", axis=-1)
        mixed = self._op("MatMul", [weights, split[2]], f"{output}/mixed")
        merged = self._op("Transpose", [mixed], f"{output}/merged", perm=_BY_HEAD)
        flat = self._op("Flatten", [merged], f"{output}/heads", axis=2)
        self._op("Gather", [flat, "token_indices"], output, axis=0)

    def _by_head(self, name: str, shape: str, order: list[int], output: str) -> str:
        """Packed tokens as padded rows, (rows, heads, length, width) or as keys are transposed."""
        label = f"{output}/{name}"
        rows = self._op("Gather", [name, "inverse_indices"], f"{label}/rows", axis=0)
        split = self._op("Reshape", [rows, shape], f"{label}/split")
        return self._op("Transpose", [split], f"{label}/by_head", perm=order)

    def _scaled(self, queries: str, scale: float, output: str) -> str:
        """Queries times the scale of scores: in the weights that they are computed with, where
        nothing else reads these sums."""
        weights = self._weights_behind(queries)
        if not weights:
            self._constant(f"{output}/scale", np.array(scale, np.float32))
            return self._op("Mul", [queries, f"{output}/scale"], f"{output}/scaled")
        for node, position in weights:
            array = self._array(node.input[position])
            # Another name: equal weights share theirs.
            name = self._constant(f"{output}/{node.op_type}_scaled", array * np.float32(scale))
            node.input[position] = name
        return queries

    def _weights_behind(self, name: str) -> list[tuple[Any, int]]:
        """Where a product, and the bias added to it, read their weights; empty of anything else."""
        weights: list[tuple[Any, int]] = []
        node = self.makers.get(name)
        while node is not None and self.counts[name] == 1:
            positions = [n for n, source in enumerate(node.input) if source in self.weights]
            if node.op_type not in ("Add", "MatMul") or len(positions) != 1:
                return []
            weights.append((node, positions[0]))
            if node.op_type == "MatMul":
                return weights if positions[0] == 1 else []
            name = node.input[1 - positions[0]]
            node = self.makers.get(name)
        return []

    def _array(self, name: str) -> NDArray[Any]:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self.weights[name]))

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(array, name)
            self.graph.initializer.append(self.weights[name])
        return name

    def _op(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output
