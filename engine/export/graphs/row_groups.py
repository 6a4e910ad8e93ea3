"""Which rows of a batch an encoder's attention takes at a time, computed from the mask inside of a
graph."""

from __future__ import annotations

from typing import Any

import numpy as np

# Tokens of a group at most, unless its one row has more. So much stays in the cache: of 64 channels
# a head, 128 tokens at a time take three quarters of the time of 1,024. Short rows share the costs
# of a group.
GROUP_TOKENS = 128
_BOOL = 9
_CONSTANTS = {
    "rows/axis_1": np.array([1], np.int64),
    "rows/none": np.array([-1], np.int64),
    "rows/first": np.array([0], np.int64),
    "rows/end": np.array([np.iinfo(np.int64).max], np.int64),
    "rows/zero": np.array(0, np.int64),
    "rows/one": np.array(1, np.int64),
    "rows/most_tokens": np.array(GROUP_TOKENS, np.int64),
}
_Step = tuple[str, tuple[str, ...], str, dict[str, int]]
_STEPS: tuple[_Step, ...] = (
    ("ReduceSum", ("attention_mask", "rows/axis_1"), "rows/length", {"keepdims": 0}),
    # A row goes on with a group if it is as long as the row before, and if the group has room.
    ("Slice", ("rows/length", "rows/first", "rows/none"), "rows/but_last", {}),
    ("Concat", ("rows/none", "rows/but_last"), "rows/length_before", {"axis": 0}),
    ("Equal", ("rows/length", "rows/length_before"), "rows/alike", {}),
    ("Max", ("rows/length", "rows/one"), "rows/length_or_1", {}),
    ("Div", ("rows/most_tokens", "rows/length_or_1"), "rows/fit_or_0", {}),
    ("Max", ("rows/fit_or_0", "rows/one"), "rows/fit", {}),
    ("Size", ("rows/length",), "rows/count", {}),
    ("Range", ("rows/zero", "rows/count", "rows/one"), "rows/number", {}),
    ("Mod", ("rows/number", "rows/fit"), "rows/number_in_group", {}),
    ("Cast", ("rows/number_in_group",), "rows/has_room", {"to": _BOOL}),
    ("And", ("rows/alike", "rows/has_room"), "rows/goes_on", {}),
    ("Not", ("rows/goes_on",), "rows/begins", {}),
    # A row without tokens is in no group.
    ("Cast", ("rows/length",), "rows/has_tokens", {"to": _BOOL}),
    ("And", ("rows/begins", "rows/has_tokens"), "rows/begins_group", {}),
    ("NonZero", ("rows/begins_group",), "rows/group_places", {}),
    ("Reshape", ("rows/group_places", "rows/none"), "groups/row", {}),
    ("CumSum", ("rows/length", "rows/zero"), "rows/token_end", {}),
    ("Sub", ("rows/token_end", "rows/length"), "rows/token", {}),
    ("ReduceSum", ("rows/length",), "rows/tokens", {"keepdims": 1}),
    ("Gather", ("rows/token", "groups/row"), "groups/token", {"axis": 0}),
    ("Slice", ("groups/token", "rows/axis_1", "rows/end"), "groups/but_first", {}),
    ("Concat", ("groups/but_first", "rows/tokens"), "groups/token_end", {"axis": 0}),
    ("Sub", ("groups/token_end", "groups/token"), "groups/tokens", {}),
    ("Gather", ("rows/length", "groups/row"), "groups/length", {"axis": 0}),
    ("Div", ("groups/tokens", "groups/length"), "groups/rows", {}),
    ("Size", ("groups/row",), "groups/count", {}),
    ("Unsqueeze", ("groups/token", "rows/axis_1"), "groups/start", {}),
    ("Unsqueeze", ("groups/token_end", "rows/axis_1"), "groups/end", {}),
    ("Unsqueeze", ("groups/rows", "rows/axis_1"), "groups/rows_1", {}),
    ("Unsqueeze", ("groups/length", "rows/axis_1"), "groups/length_1", {}),
    ("Shape", ("groups/start",), "groups/column", {}),
    ("Expand", ("rows/none", "groups/column"), "groups/rest", {}),
    ("Concat", ("groups/rows_1", "groups/length_1", "groups/rest"), "groups/shape", {"axis": 1}),
)


def group_rows(graph: Any) -> list[Any]:
    """Nodes that compute, all of int64:

        groups/count  ()            how many groups there are; rows without tokens are in none
        groups/start  (groups, 1)   the first token of each among the batch's real tokens
        groups/end    (groups, 1)   the token after its last one
        groups/shape  (groups, 3)   rows, their length and -1
        groups/row, groups/rows, groups/length  (groups,)   the first row, how many, and how long

    Args:
        graph: An ONNX GraphProto with the input attention_mask; it gets the nodes' constants.
    """
    from onnx import helper, numpy_helper

    constants = [numpy_helper.from_array(array, name) for name, array in _CONSTANTS.items()]
    graph.initializer.extend(constants)
    return [
        helper.make_node(op, inputs, [output], output, **attributes)
        for op, inputs, output, attributes in _STEPS
    ]
