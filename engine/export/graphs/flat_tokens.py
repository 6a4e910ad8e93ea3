"""Rewrites an encoder for a CPU so that nothing of it computes padding.

As on a GPU (`remove_padding`), the rows' real tokens are one matrix (tokens, width) between the
embedding and the output. Where they are is computed from the mask, so that the graph's inputs stay
what they were. ONNX Runtime has no attention over packed rows for a CPU, but a MultiHeadAttention
that is fast where no mask hides anything (flash attention). So a Loop attends to one group of
`row_groups` after another, rows of the same length, in which nothing is to be hidden. A row's
numbers are the same in any group, to the bit.
"""

from __future__ import annotations

from typing import Any

from engine.export.graphs import graph_edits
from engine.export.graphs.packed_attention_reference import ATTENTION
from engine.export.graphs.remove_padding import CONTRIB, remove_padding
from engine.export.graphs.row_groups import group_rows
from engine.export.graphs.token_places import locate_tokens

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
    return True


class _Flattener:
    """The edits of one packed graph."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.nodes: list[Any] = []
        # By bias: what `_locate_bias` returns.
        self.bias_ends: dict[str, tuple[str, str]] = {}

    def run(self) -> None:
        inputs = [value for value in self.graph.input if value.name not in _PACKING]
        graph_edits.set_items(self.graph.input, inputs)
        self.nodes += [*locate_tokens(self.graph), *group_rows(self.graph)]
        for node in self.graph.node:
            if node.op_type == ATTENTION:
                self._attend(node)
            else:
                self.nodes.append(node)
        graph_edits.set_items(self.graph.node, self.nodes)
        graph_edits.sort(self.graph)

    def _attend(self, attention: Any) -> None:
        """Replace one PackedMultiHeadAttention."""
        output = attention.output[0]
        bias = attention.input[6] if len(attention.input) > 6 else ""
        if bias and bias not in self.bias_ends:
            self.bias_ends[bias] = self._locate_bias(bias)
        body = _body(attention, bias, self.bias_ends.get(bias, ("", "")))
        self._op("SequenceEmpty", [], f"{output}/none")
        self._op("Loop", ["groups/count", "", f"{output}/none"], f"{output}/groups", body=body)
        self._op("ConcatFromSequence", [f"{output}/groups"], output, axis=0)

    def _locate_bias(self, bias: str) -> tuple[str, str]:
        """Where of a bias, (rows or 1, heads, length, length), what belongs to each group begins
        and ends: int64 (groups, 4)."""
        names = ("row", "row_end", "length", "zero", "every")
        row, row_end, length, zero, every = (f"{bias}/{name}" for name in names)
        self._op("Shape", [bias], f"{bias}/rows", start=0, end=1)
        # There may be one row of it for all.
        self._op("Sub", [f"{bias}/rows", "rows/one"], f"{bias}/last_row")
        self._op("Min", ["groups/row", f"{bias}/last_row"], f"{row}/flat")
        self._op("Add", ["groups/row", "groups/rows"], f"{row_end}/own")
        self._op("Min", [f"{row_end}/own", f"{bias}/rows"], f"{row_end}/flat")
        self._op("Unsqueeze", [f"{row}/flat", "rows/axis_1"], row)
        self._op("Unsqueeze", [f"{row_end}/flat", "rows/axis_1"], row_end)
        self._op("Unsqueeze", ["groups/length", "rows/axis_1"], length)
        self._op("Expand", ["rows/first", "groups/column"], zero)
        self._op("Expand", ["rows/end", "groups/column"], every)
        self._op("Concat", [row, zero, zero, zero], f"{bias}/starts", axis=1)
        self._op("Concat", [row_end, every, length, length], f"{bias}/ends", axis=1)
        return f"{bias}/starts", f"{bias}/ends"

    def _op(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))


def _body(attention: Any, bias: str, bias_ends: tuple[str, str]) -> Any:
    """What a Loop does for one group: attend, and append its tokens to those of the groups before.

    Args:
        attention: The PackedMultiHeadAttention node that it replaces.
        bias, bias_ends: See `_locate_bias`; "" without one.
    """
    from onnx import TensorProto, helper

    label = f"{attention.output[0]}/group"
    nodes: list[Any] = []

    def op(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        output = f"{label}/{name}"
        nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def of_group(table: str) -> str:
        return op("Gather", [table, f"{label}/number"], table, axis=0)

    start, end, shape = map(of_group, ("groups/start", "groups/end", "groups/shape"))
    rows = []
    for name, matrix in zip(("queries", "keys", "values"), attention.input, strict=False):
        tokens = op("Slice", [matrix, start, end], f"{name}/tokens")
        rows.append(op("Reshape", [tokens, shape], name))
    if bias:
        ends = [of_group(table) for table in bias_ends]
        rows += ["", "", op("Slice", [bias, *ends], "bias")]
    settings = {a.name: helper.get_attribute_value(a) for a in attention.attribute}
    mixed = op("MultiHeadAttention", rows, "mixed", domain=CONTRIB, **settings)
    tokens = op("Flatten", [mixed], "tokens", axis=2)
    op("SequenceInsert", [f"{label}/before", tokens], "after")
    op("Identity", [f"{label}/go_on"], "gone_on")
    values = [
        helper.make_tensor_value_info(f"{label}/number", TensorProto.INT64, []),
        helper.make_tensor_value_info(f"{label}/go_on", TensorProto.BOOL, []),
        helper.make_tensor_sequence_value_info(f"{label}/before", TensorProto.FLOAT, None),
        helper.make_tensor_value_info(f"{label}/gone_on", TensorProto.BOOL, []),
        helper.make_tensor_sequence_value_info(f"{label}/after", TensorProto.FLOAT, None),
    ]
    return helper.make_graph(nodes, label, values[:3], values[3:])
