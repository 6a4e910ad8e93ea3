"""A stop ends the calls of one backend in all its graphs; the sessions can be used again."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from engine.core.device import CPU
from engine.core.graphs import GraphRecord
from engine.demo import BUNDLE
from engine.errors import Stopped
from engine.pipeline import Bundle
from engine.runtime.backend import OrtBackend

PRODUCTS, SIZE = 4000, 192
LAST = f"x{PRODUCTS}"


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> OrtBackend:
    """A graph that takes long, of nodes that are short."""
    onnx = pytest.importorskip("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    folder = tmp_path_factory.mktemp("slow")
    value = helper.make_tensor_value_info
    shape = [SIZE, SIZE]
    nodes = [
        helper.make_node("MatMul", [f"x{n}", "x0"], [f"x{n + 1}"], name=f"p{n}")
        for n in range(PRODUCTS)
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [value("x0", float32, shape)],
        [value(f"x{PRODUCTS}", float32, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    return OrtBackend(folder, [GraphRecord("model.onnx", "model")], device=CPU)


def feeds(factor: float = 1.0) -> dict[str, np.ndarray]:
    return {"x0": np.eye(SIZE, dtype=np.float32) * np.float32(factor)}


def test_a_stop_from_another_thread_ends_the_call_in_hand(slow: OrtBackend) -> None:
    view, stop = slow.stoppable()
    begun, ends = threading.Event(), []

    def compute() -> None:
        try:
            begun.set()
            while True:
                view.graph("model").run(feeds(), [LAST])
        except Stopped as error:
            ends.append(error)

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    stop()
    for thread in threads:
        thread.join(60)
    assert len(ends) == 3


def test_a_stopped_backend_stays_so_and_its_origin_computes_on(slow: OrtBackend) -> None:
    view, stop = slow.stoppable()
    other, _ = slow.stoppable()
    stop()
    for _ in range(2):
        with pytest.raises(Stopped):
            view.graph("model").run(feeds(), [LAST])
    for backend in (slow, other):
        (value,) = backend.graph("model").run(feeds(), [LAST])
        assert (backend.host(value) == np.eye(SIZE)).all()


def test_a_bound_call_ends_too(slow: OrtBackend) -> None:
    view, stop = slow.stoppable()
    buffers = {LAST: view.buffer((SIZE, SIZE), np.float32)}
    inputs = {"x0": view.buffer((SIZE, SIZE), np.float32)}
    view.put(inputs["x0"], feeds()["x0"])
    call = view.graph("model").bind(inputs, buffers)
    call()
    assert (view.host(buffers[LAST]) == np.eye(SIZE)).all()
    stop()
    with pytest.raises(Stopped):
        call()


def test_decoding_and_its_encoder_end_and_the_next_answers_are_the_same() -> None:
    bundle = Bundle.load(BUNDLE, threads=1)
    texts = ["uno", "dos", "cuarenta y dos"] * 4
    before = bundle(texts)
    view, stop = bundle.backend.stoppable()
    stop()
    stopped = Bundle(bundle.folder, view)
    with pytest.raises(Stopped):
        stopped(texts)
    assert bundle(texts).equals(before)
