"""The likeliest tokens, block by block, are those of a sort of all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.export.graphs import storage
from engine.export.graphs.ranking import block_size, likeliest

pytest.importorskip("onnx")


def ranked(scores: Any, count: int) -> tuple[Any, Any]:
    from onnx import TensorProto, helper

    vocabulary = scores.shape[1]
    nodes, weights = likeliest("scores", "count", "best", "tokens", "pick", vocabulary)
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("scores", TensorProto.FLOAT, ["n", vocabulary]), ("count", TensorProto.INT64, [1]),
            ("best", TensorProto.FLOAT, ["n", "k"]), ("tokens", TensorProto.INT64, ["n", "k"]),
        )
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "ranking", values[:2], values[2:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with storage.opened(model) as session:
        best, tokens = session.run(None, {"scores": scores, "count": np.array([count])})
    return best, tokens


@settings(max_examples=60, deadline=None)
@given(
    vocabulary=st.sampled_from([4096, 4100, 8192, 8209, 12_000, 32_128]),
    count=st.integers(1, 140),
    levels=st.sampled_from([1, 2, 5, 1000]),
    seed=st.integers(0, 99),
)
def test_they_are_those_of_a_sort_of_all(
    vocabulary: int, count: int, levels: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.integers(-levels, levels, (3, vocabulary)).astype(np.float32)
    scores[1, draw.integers(0, vocabulary, vocabulary // 2)] = -np.inf
    best, tokens = ranked(scores, count)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    assert np.array_equal(tokens, order)
    assert np.array_equal(best, np.take_along_axis(scores, order, axis=1))


@pytest.mark.parametrize(
    ("vocabulary", "size"),
    [(32_128, 128), (50_257, 29), (58_101, 107), (151_936, 128), (4096, 0), (8209, 0)],
)
def test_blocks_divide_the_vocabulary(vocabulary: int, size: int) -> None:
    assert block_size(vocabulary) == size
