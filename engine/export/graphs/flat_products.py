"""Rewrites an encoder for a CPU so that products and all else that is computed token by token
compute no padding, whatever its attention is.

Real tokens are one matrix (tokens, width) between the nodes that look at a row as a whole, which
stay as they are: their inputs are gathered into padded rows, and their outputs out of them. No
number is computed in another way than before, so that a token's are the same to the bit where
products are exact or sum in a fixed order. `flat_tokens` replaces the attention, too, and knows
fewer kinds of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from engine.export.graphs import graph_edits, storage
from engine.export.graphs.graph_index import GraphIndex
from engine.export.graphs.packed_region import BY_TOKEN, is_by_token
from engine.export.graphs.token_places import locate_tokens

# What a tensor is called whose tokens were gathered back into rows, or were not gathered yet.
ROWS = "/rows"
# Rows and lengths that tensors are looked at with.
_SHAPES = ((3, 7), (5, 13))


def flatten_products(model: Any) -> int:
    """Rewrite an encoder's float32 graph in place; tensors of tokens keep their names.

    Args:
        model: An ONNX ModelProto, inputs as `remove_padding` takes them.

    Returns:
        How many products with a weight compute no padding; 0 leaves the graph unchanged.
    """
    copy = type(model)()
    copy.CopyFrom(model)
    graph_edits.bypass_identities(copy.graph)
    flattener = _Flattener(copy.graph, GraphIndex(copy.graph), _token_widths(copy))
    count: int = sum(node.op_type == "MatMul" for node in flattener.flat.values())
    if count:
        flattener.run()
        model.CopyFrom(copy)
    return count


def _token_widths(model: Any) -> dict[str, int]:
    """The width of each tensor, (rows, length, width), next to a node that may be flat."""
    nodes = [node for node in model.graph.node if node.op_type in BY_TOKEN]
    made = {name for node in model.graph.node for name in node.output}
    names = sorted(made & {name for node in nodes for name in (*node.input, *node.output)})
    seen = []
    for shape in _SHAPES:
        copy = type(model)()
        copy.CopyFrom(model)
        ones = np.ones(shape, np.int64)
        feeds = {"input_ids": ones, "attention_mask": ones, "token_type_ids": 0 * ones}
        tensors = storage.watch(copy, feeds, names)
        fitting = {
            n: v.shape[2] for n, v in tensors.items() if v.ndim == 3 and v.shape[:2] == shape
        }
        seen.append(fitting)
    return {name: width for name, width in seen[0].items() if seen[1].get(name) == width}


class _Flattener:
    """The edits of one graph.

    Attributes:
        flat: Nodes that compute no padding, by what they compute.
    """

    def __init__(self, graph: Any, index: GraphIndex, widths: Mapping[str, int]) -> None:
        self.graph, self.index, self.widths = graph, index, widths
        self.outputs = {output.name for output in graph.output}
        self.flat: dict[str, Any] = {}
        self.of_mask = self._computed_from_mask()
        last = self._last_products()
        for node in graph.node:
            if node.output[0] not in last and self._becomes_flat(node):
                self.flat[node.output[0]] = node

    def run(self) -> None:
        """Gather tokens where what is flat begins, and rows where it ends."""
        places = locate_tokens(self.graph)
        rest = [node for node in self.graph.node if node.output[0] not in self.flat]
        flat = list(self.flat.values())
        entries = self._read_by(flat) & self.widths.keys() - self.flat.keys()
        left = (self._read_by(rest) | self.outputs) & self.flat.keys()
        added = [node for name in sorted(entries) for node in self._gather_tokens(name, rest, flat)]
        for name in sorted(left):
            added.append(self._gather_rows(name, rest, flat))
        graph_edits.set_items(self.graph.node, [*places, *self._with_sizes(rest), *flat, *added])
        graph_edits.sort(self.graph)

    def _becomes_flat(self, node: Any) -> bool:
        """Whether it is a product of tokens with a weight, or follows one token by token."""
        if not self.of_mask.isdisjoint(node.input) or not (
            self.widths.keys() >= set(node.output) and is_by_token(node, self.widths, self.index)
        ):
            return False
        return node.op_type == "MatMul" or not self.flat.keys().isdisjoint(node.input)

    def _computed_from_mask(self) -> set[str]:
        """Tensors that only say where padding is. What reads them makes padding zero, as a mean
        over a row needs it: in rows, since what is gathered back into them has tokens there."""
        found = {"attention_mask"}
        for node in self.graph.node:
            read = graph_edits.reads(node)
            if any(n in found for n in read) and all(
                n in found or n in self.index.constant for n in read
            ):
                found.update(node.output)
        return found

    def _last_products(self) -> set[str]:
        """Outputs of the graph that are a product, with or without a bias, and that product: a
        vocabulary's logits in both forms would take memory, and a few labels are soon computed."""
        last: set[str] = set()
        for name in self.outputs:
            names = [name]
            if (node := self.index.makers.get(name)) is not None and node.op_type == "Add":
                names += [n for n in node.input if n not in self.index.constant]
            if len(names) < 3 and names[-1] in self.index.makers:
                last |= set(names) if self.index.makers[names[-1]].op_type == "MatMul" else set()
        return last

    def _read_by(self, nodes: Collection[Any]) -> set[str]:
        """What nodes read of tensors' numbers, not only of their shape."""
        return {n for node in nodes if node.op_type != "Shape" for n in graph_edits.reads(node)}

    def _gather_tokens(self, name: str, rest: Collection[Any], flat: Collection[Any]) -> list[Any]:
        """Gather the real tokens of rows; the rows get another name, but for an output's."""
        rows, tokens = name + ROWS, name
        if name in self.outputs:
            rows, tokens = name, f"{name}/tokens"
            _rename_inputs(flat, name, tokens)
        else:
            _rename_inputs(rest, name, rows)
            maker = self.index.makers[name]
            maker.output[:] = [rows if output == name else output for output in maker.output]
        return [
            _node("Flatten", [rows], f"{name}/all", axis=2),
            _node("Gather", [f"{name}/all", "token_indices"], tokens, axis=0),
        ]

    def _gather_rows(self, name: str, rest: Collection[Any], flat: Collection[Any]) -> Any:
        """Gather tokens back into rows; an output of the graph keeps its name."""
        rows, tokens = name + ROWS, name
        if name in self.outputs:
            rows, tokens = name, f"{name}/tokens"
            _rename_inputs(flat, name, tokens)
            self.flat[name].output[0] = tokens
        else:
            _rename_inputs([node for node in rest if node.op_type != "Shape"], name, rows)
        return _node("Gather", [tokens, "inverse_indices"], rows, axis=0)

    def _with_sizes(self, nodes: Collection[Any]) -> list[Any]:
        """Nodes, of which each Shape of what is flat now gives the size of its rows."""
        from onnx import helper, numpy_helper

        result = []
        for node in nodes:
            if node.op_type != "Shape" or node.input[0] not in self.flat:
                result.append(node)
                continue
            width, output = np.array([self.widths[node.input[0]]], np.int64), node.output[0]
            self.graph.initializer.append(numpy_helper.from_array(width, f"{output}/width"))
            result.append(
                _node("Concat", ["flat/grid", f"{output}/width"], f"{output}/all", axis=0)
            )
            ends = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            order = np.arange(3)[ends.get("start", 0) : ends.get("end", 3)]
            self.graph.initializer.append(numpy_helper.from_array(order, f"{output}/order"))
            result.append(_node("Gather", [f"{output}/all", f"{output}/order"], output, axis=0))
        return result


def _rename_inputs(nodes: Collection[Any], name: str, new: str) -> None:
    for node in nodes:
        node.input[:] = [new if source == name else source for source in node.input]


def _node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(op, inputs, [output], output, **attributes)
