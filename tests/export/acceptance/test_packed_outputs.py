"""Outputs of an encoder with and without padding, compared on a graph of one embedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import ExportError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from engine.export.acceptance import packing  # noqa: E402

MASK = np.array([[1, 1, 1], [1, 0, 0]])
FEEDS = {"input_ids": np.array([[1, 2, 3], [2, 0, 0]]), "attention_mask": MASK}


def encoder(table: Any) -> Any:
    """Looks up a vector a token, and sums it."""
    names = ("last_hidden_state", "start_logits")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], [names[0]]),
        helper.make_node("ReduceSum", [names[0], "axes"], [names[1]], keepdims=0),
    ]
    weights = {"table": np.asarray(table, np.float32), "axes": np.array([2], np.int64)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "length"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


TABLE = [[9.0, 9.0], [1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]


def test_outputs_are_zero_at_the_padding() -> None:
    found = packing.outputs(encoder(TABLE), FEEDS)
    states = [[[1, 0], [2, 0], [0, 3]], [[2, 0], [0, 0], [0, 0]]]
    np.testing.assert_array_equal(found["last_hidden_state"], states)
    np.testing.assert_array_equal(found["start_logits"], [[1, 2, 3], [2, 0, 0]])


def test_the_largest_error_is_that_of_the_worst_output() -> None:
    expected = packing.outputs(encoder(TABLE), FEEDS)
    assert packing.largest_error(encoder(TABLE), expected, FEEDS) == 0
    # What is added to the embedding of the padding is not seen.
    padding = [[0.0, 0.0], *TABLE[1:]]
    assert packing.largest_error(encoder(padding), expected, FEEDS) == 0
    # 3 more in one output of norm 18 ** 0.5 each, and -3 and 3 more cancel in the other.
    other = [*TABLE[:3], [-3.0, 6.0]]
    error = packing.largest_error(encoder(other), expected, FEEDS)
    assert error == pytest.approx(1.0)


def test_nan_in_any_output_is_refused() -> None:
    expected = packing.outputs(encoder(TABLE), FEEDS)
    wrong = [*TABLE[:3], [np.inf, -np.inf]]  # the second output is inf - inf
    error = packing.largest_error(encoder(wrong), expected, FEEDS)
    assert np.isnan(error)
    with pytest.raises(ExportError, match="nan"):
        packing.check("model.onnx", error, 1)


def test_an_error_at_the_limit_passes() -> None:
    packing.check("model.onnx", 0.5, 0.5)
    message = r"model\.onnx: the unpadded graph differs from the padded one \(relative error 0\.51"
    with pytest.raises(ExportError, match=message):
        packing.check("model.onnx", 0.51, 0.5)


def test_a_graph_that_does_not_run_is_an_export_error() -> None:
    with pytest.raises(ExportError, match="does not run the graph"):
        packing.outputs(encoder(TABLE), FEEDS | {"input_ids": np.array([[99]])})
