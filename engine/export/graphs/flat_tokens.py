"""Rewrites an encoder for a CPU so that only its attention computes padding.

As on a GPU (`remove_padding`), the rows' real tokens are one matrix (tokens, width) between the
embedding and the output. Where they are is computed from the mask, so that the graph's inputs stay
what they were. ONNX Runtime has no attention over packed rows for a CPU: the heads of queries, keys
and values are gathered into padded rows, for Attention of ONNX's operator set 24, which takes each
row's length. (MultiHeadAttention with a mask takes longer there than products and a softmax.)
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

# Versions of ONNX from which on Attention takes lengths. An encoder's other operators compute what
# they do in `conversion.OPSET`: since then they have only got more types.
OPSET, IR = 24, 11
_PACKING = ("token_indices", "inverse_indices", "token_offset", "cu_seqlens")


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
    for opset in model.opset_import:
        if opset.domain == "":
            opset.version = max(opset.version, OPSET)
    model.ir_version = max(model.ir_version, IR)
    return True


class _Flattener:
    """The edits of one packed graph."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        self.weights = {w.name: w for w in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.counts = Counter(name for node in graph.node for name in node.input)
        self.heads: set[int] = set()

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
        """Compute `token_indices` and `inverse_indices` (see `runtime.packing`), and the rows'
        lengths, (rows,)."""
        self.nodes += locate_tokens(self.graph)
        self._constant("flat/last", np.array([1], np.int64))
        self._op("ReduceSum", ["attention_mask", "flat/last"], "flat/lengths", keepdims=0)
        self._op("Gather", ["flat/grid", "flat/last"], "flat/length", axis=0)
        self._op("Div", ["token_indices", "flat/length"], "flat/row")

    def _attend(self, node: Any) -> None:
        """Replace one PackedMultiHeadAttention."""
        from onnx import helper

        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        heads, output = int(settings["num_heads"]), node.output[0]
        places, tokens = self._locate_heads(heads)
        queries = self._scaled(node.input[0], float(settings["scale"]), output)
        names = (queries, *node.input[1:3])
        parts = [self._by_head(name, heads, places, output) for name in names]
        bias = node.input[6] if len(node.input) > 6 else ""
        inputs = [*parts, bias, "", "", "flat/lengths"]
        mixed = self._op("Attention", inputs, f"{output}/mixed", scale=1.0)
        flat = self._op("Flatten", [mixed], f"{output}/flat", axis=3)
        split = self._op("Gather", [flat, tokens], f"{output}/split", axis=0)
        self._op("Flatten", [split], output, axis=1)

    def _by_head(self, name: str, heads: int, places: str, output: str) -> str:
        """Packed tokens as padded rows, (rows, heads, length, width)."""
        label = f"{output}/{name}"
        shape = self._constant(f"flat/{heads}_heads/shape", np.array([0, heads, -1], np.int64))
        split = self._op("Reshape", [name, shape], f"{label}/split")
        flat = self._op("Flatten", [split], f"{label}/flat", axis=2)
        return self._op("Gather", [flat, places], f"{label}/by_head", axis=0)

    def _locate_heads(self, heads: int) -> tuple[str, str]:
        """Where heads of tokens are, and where those of rows: among (tokens, heads) that of each
        (rows, heads, length), and the other way round."""
        label = f"flat/{heads}_heads"
        places, tokens = f"{label}/places", f"{label}/tokens"
        if heads in self.heads:
            return places, tokens
        self.heads.add(heads)
        number = self._constant(f"{label}/number", np.array(heads, np.int64))
        others = self._constant(f"{label}/others", np.array(heads - 1, np.int64))
        order = self._constant(f"{label}/order", np.arange(heads, dtype=np.int64))
        column = self._constant(f"{label}/column", np.arange(heads, dtype=np.int64)[:, None])
        first = self._op("Mul", ["inverse_indices", number], f"{label}/first")
        first = self._op("Unsqueeze", [first, "flat/last"], f"{label}/first_by_row")
        self._op("Add", [first, column], places)
        # A token is as far from the place of its head as there are tokens in the heads between.
        between = self._op("Mul", ["flat/row", others], f"{label}/rows_between")
        between = self._op("Unsqueeze", [between, "flat/last"], f"{label}/between")
        between = self._op("Add", [between, order], f"{label}/heads_between")
        between = self._op("Mul", [between, "flat/length"], f"{label}/tokens_between")
        index = self._op("Unsqueeze", ["token_indices", "flat/last"], f"{label}/token")
        self._op("Add", [index, between], tokens)
        return places, tokens

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
