"""float16 graphs: what is narrowed, what stays as it was, and what a GPU's small graphs give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of, export_once

from engine.bundle import format as bundle_format
from engine.core.device import CPU, Device
from engine.pipeline import Bundle
from engine.runtime.backend import OrtBackend
from engine.tasks.pooling import POOLINGS, WEIGHTS

pytest.importorskip("optimum.exporters.onnx")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from support.fake_cuda import Late, carried  # noqa: E402

from engine.export.graphs import storage  # noqa: E402
from engine.export.recipes.fp16 import convert, shorten  # noqa: E402

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    for name in ("t5", "bart", "gpt2"):
        make, task = checkpoints.GENERATORS[name]
        model = checkpoint_of(make)
        export_once(model, folder / f"{name}-fp32", task=task)
        export_once(model, folder / f"{name}-fp16", task=task, recipe="fp16", force=True)
    model = checkpoint_of(checkpoints.embedder)
    for recipe in ("fp32", "fp16"):
        export_once(model, folder / f"embedder-{recipe}", task=None, recipe=recipe, force=True)
    return folder


def weights_of(file: Path, kind: int) -> dict[str, Any]:
    model = onnx.load(file)
    return {w.name: w for w in model.graph.initializer if w.data_type == kind}


def graph_of(
    nodes: list[Any], weights: dict[str, Any], inputs: list[Any], outputs: list[Any]
) -> Any:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def declared(name: str, kind: int, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


def ran(model: Any, feeds: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def test_products_are_converted_and_named_ones_are_not() -> None:
    drawn = np.random.default_rng(0)
    w = {n: drawn.normal(size=(4, 4)).astype(np.float32) for n in ("one", "two")}
    model = graph_of(
        [
            helper.make_node("MatMul", ["x", "one"], ["y"], "first"),
            helper.make_node("MatMul", ["y", "two"], ["z"], "second"),
        ],
        w,
        [declared("x", FLOAT, "n", 4)],
        [declared("z", FLOAT, "n", 4)],
    )
    x = drawn.normal(size=(3, 4)).astype(np.float32)
    (wanted,) = ran(model, {"x": x})
    convert(model, full={"second"})
    kinds = {w.name: w.data_type for w in model.graph.initializer}
    assert kinds == {"one/half": HALF, "two": FLOAT}
    (found,) = ran(model, {"x": x})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2e-2, atol=1e-2)


def test_inputs_and_outputs_that_match_a_pattern_are_float16() -> None:
    model = graph_of(
        [helper.make_node("Relu", ["past.0.key"], ["present.0.key"], "relu")],
        {},
        [declared("past.0.key", FLOAT, "n")],
        [declared("present.0.key", FLOAT, "n")],
    )
    convert(model, narrow=(r"(past|present)\.\d\.key",))
    assert [node.op_type for node in model.graph.node] == ["Relu"]
    (found,) = ran(model, {"past.0.key": np.array([-1, 2], np.float16)})
    assert found.dtype == np.float16
    assert found.tolist() == [0, 2]


def test_numbers_computed_from_ids_are_not_rounded() -> None:
    """4,099 has no float16 of its own, and would name another bucket."""
    model = graph_of(
        [
            helper.make_node("Cast", ["ids"], ["number"], "cast", to=FLOAT),
            helper.make_node("Mul", ["number", "two"], ["double"], "mul"),
            helper.make_node("Cast", ["double"], ["back"], "back", to=TensorProto.INT64),
        ],
        {"two": np.array(2, np.float32)},
        [declared("ids", TensorProto.INT64, "n")],
        [declared("back", TensorProto.INT64, "n")],
    )
    convert(model)
    assert ran(model, {"ids": np.array([4099, 1 << 20])})[0].tolist() == [8198, 1 << 21]


def test_weights_beyond_float16_are_its_largest() -> None:
    model = graph_of(
        [helper.make_node("Add", ["x", "low"], ["y"], "add")],
        {"low": np.array([-3.4e38, 1], np.float32)},
        [declared("x", FLOAT, 2)],
        [declared("y", FLOAT, 2)],
    )
    convert(model)
    assert ran(model, {"x": np.zeros(2, np.float32)})[0].tolist() == [-65504, 1]


def test_a_t5_s_running_sum_stays_in_float32(made: Path) -> None:
    full = weights_of(made / "t5-fp16/resident.onnx", FLOAT)
    assert {"layer.0/narrow.weight", "layer.1/narrow.weight"} <= full.keys()
    narrow = weights_of(made / "t5-fp16/resident.onnx", HALF)
    assert {"layer.0/qkv.weight/half", "layer.0/out.weight/half"} <= narrow.keys()
    # What grows beyond float16 there is right all the same.
    grows = made / "models/t5-large"
    model = checkpoints.t5(grows)
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(model / "model.safetensors")
    for name in [n for n in state if "DenseReluDense.wo" in n]:
        state[name] = state[name] * 3000
    save_file({n: t.contiguous() for n, t in state.items()}, model / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    assert torch.stack([t.abs().max() for n, t in state.items() if ".wo" in n]).max() > 50
    export_once(model, made / "large", task="translation", recipe="fp16", force=True)
    figures = bundle_format.load(made / "large").description.gate["figures"]
    assert figures["same top token"]["value"] > 0.9


@given(st.floats(width=32, allow_nan=False, min_value=-(2.0**90), max_value=2.0**90))
def test_a_shortened_number_is_the_nearest_that_tf32_holds(number: float) -> None:
    (found,) = shorten(np.array([number], np.float32))
    assert found.view(np.uint32) & 0x1FFF == 0
    assert abs(found - np.float32(number)) <= 2**-11 * abs(number) + 1e-38
    assert shorten(np.array([found]))[0] == found


@pytest.mark.parametrize("file", ["encoder.onnx", "encoder.packed.onnx", "resident.onnx"])
def test_products_left_in_float32_are_of_numbers_that_tf32_holds(made: Path, file: str) -> None:
    graph = storage.load(made / "t5-fp16", (file,))[file].graph
    kept = {w.name: w for w in graph.initializer if w.data_type == FLOAT and len(w.dims) == 2}
    makers = {name: node for node in graph.node for name in node.output}
    products = [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in kept]
    assert products
    for node in products:
        assert not (numpy_helper.to_array(kept[node.input[1]]).view(np.uint32) & 0x1FFF).any()
        cast = makers[node.input[0]]
        assert cast.op_type == "Cast"
        assert cast.input[0] in makers


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2"])
def test_a_decoder_s_kv_caches_are_float16(made: Path, family: str) -> None:
    folder = bundle_format.load(made / f"{family}-fp16")
    assert "step" not in {graph.role for graph in folder.description.graphs}
    for device in (CPU, Device("cuda")):
        assert "device_step" in {graph.role for graph in folder.graphs_for(device)}
    backend = OrtBackend(folder.path, carried(folder), device=CPU)
    graph = backend.graph("device_step")
    assert graph.dtypes["past.0.key"] == graph.dtypes["logits"] == np.float16
    texts = ["A dog runs over the green meadow.", "La", "2 people walked"]
    column = {"t5": "translation_text", "bart": "summary_text", "gpt2": "generated_text"}[family]
    options = {"max_new_tokens": 6, "num_beams": 2} if family == "bart" else {"max_new_tokens": 4}
    options |= {"do_sample": False} if family == "gpt2" else {}
    plain = Bundle.load(made / f"{family}-fp32", device="cpu")(texts, **options)
    found = Bundle(folder, Late(backend))(texts, **options)
    same = sum(
        a == b for a, b in zip(plain[column].to_pylist(), found[column].to_pylist(), strict=True)
    )
    assert same >= 2


def test_only_pooled_rows_leave_a_gpu(made: Path) -> None:
    folder = bundle_format.load(made / "embedder-fp32")
    assert [graph.file for graph in folder.graphs_for(CPU)] == ["model.flat.onnx"]
    near = Bundle.load(folder.path, device="cpu")
    late = Late(OrtBackend(folder.path, carried(folder), device=CPU))
    seen: list[tuple[int, ...]] = []
    look = late.host
    late.host = lambda value: seen.append(look(value).shape) or look(value)  # type: ignore[method-assign]  # spied on
    far = Bundle(folder, late)
    texts = ["A dog runs.", "Nobody calls it back, not even the two people who walked.", "La"]
    for pooling in POOLINGS:
        seen.clear()
        wanted, found = (one(texts, pooling=pooling)["embedding"] for one in (near, far))
        np.testing.assert_allclose(
            np.array(found.to_pylist()), np.array(wanted.to_pylist()), atol=1e-6
        )
        assert all(shape[1] == 1 for shape in seen) == (pooling in WEIGHTS)
    assert POOLINGS.keys() - WEIGHTS.keys() == {"max"}


def test_only_masked_positions_leave_a_gpu(made: Path) -> None:
    folder = bundle_format.load(
        bundle_of(checkpoint_of(checkpoints.encoder, "bert", "fill-mask"), "fill-mask")
    )
    near = Bundle(folder, OrtBackend(folder.path, carried(folder), device=CPU))
    late = Late(OrtBackend(folder.path, carried(folder), device=CPU))
    mask = folder.description.model_config.mask_token
    texts = [f"A {mask} runs {mask}.", "none", f"{mask}"]
    assert Bundle(folder, late)(texts).equals(near(texts))
