"""Encoders without padding give what those with padding give, by the CPU reference of attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of, export_once

from engine.bundle import format as bundle_format
from engine.core.device import CPU, Device
from engine.core.graphs import GraphRecord
from engine.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from engine.export import export  # noqa: E402
from engine.export.acceptance import packing  # noqa: E402
from engine.export.graphs import remove_padding, storage  # noqa: E402
from engine.export.quantization import rewritten_graphs  # noqa: E402

ENCODERS = checkpoints.ENCODER_TASKS
DECODERS = {n: checkpoints.GENERATORS[n] for n in ("t5", "marian", "nllb", "pegasus")}
# Attention of another kind, and a decoder behind the encoder.
KEEP_PADDING = ("deberta-v2", "bart")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    for family, task in ENCODERS.items():
        model = checkpoint_of(checkpoints.encoder, family, task)
        export_once(model, folder / family, task=task)
    for family, (make, task) in DECODERS.items():
        export_once(checkpoint_of(make), folder / family, task=task)
    return folder


def files(graphs: Sequence[GraphRecord]) -> list[str]:
    return [graph.file for graph in graphs]


def graph_of(folder: Path) -> Any:
    graphs = bundle_format.load(folder).description.graphs
    (file,) = {"model.onnx", "encoder.onnx"} & set(files(graphs))
    return storage.load(folder, (file,))[file]


def rows(lengths: list[int], width: int, pad: int) -> dict[str, Any]:
    drawn = np.random.default_rng(0)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.where(mask == 1, drawn.integers(5, 50, mask.shape), pad)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * mask}


def test_a_value_bias_is_folded_by_position_where_weights_share_a_name(tmp_path: Path) -> None:
    """Equal weights have one name: zeros, before anything is trained."""
    from safetensors.numpy import load_file, save_file

    model = checkpoints.encoder(tmp_path / "model", "bert", "feature-extraction")
    weights_ = load_file(model / "model.safetensors")
    for name, array in weights_.items():
        if name.endswith(("output.dense.bias", "LayerNorm.bias")):
            array[:] = 0
    assert any("value.bias" in name and array.any() for name, array in weights_.items())
    save_file(weights_, model / "model.safetensors", metadata={"format": "pt"})
    export_once(model, tmp_path / "bundle", task="feature-extraction")
    plain = graph_of(tmp_path / "bundle")
    flat = type(plain)()
    flat.CopyFrom(plain)
    assert remove_padding.remove_padding(flat, 64)
    feeds = rows([9, 3, 8], 9, 0)
    assert packing.largest_error(flat, packing.outputs(plain, feeds), feeds) < 1e-5


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_outputs_without_padding_are_the_same(made: Path, family: str) -> None:
    plain = graph_of(made / family)
    flat = type(plain)()
    flat.CopyFrom(plain)
    assert remove_padding.remove_padding(flat, 64) == (family not in KEEP_PADDING)
    if family in KEEP_PADDING:
        assert flat == plain
        return
    ops = [node.op_type for node in flat.graph.node]
    assert ops.count("PackedMultiHeadAttention") == 2
    made_by = {name: node.op_type for node in flat.graph.node for name in node.output}
    for node in flat.graph.node:
        if node.op_type == "PackedMultiHeadAttention":
            assert [made_by[name] for name in node.input[1:3]] == ["MatMul", "MatMul"]
    assert len([node for node in flat.graph.node if "inverse_indices" in node.input]) == 1
    assert not {"Softmax", "Erf"} & set(ops)
    pad = bundle_format.load(made / family).description.model_config.pad_id
    for lengths, width in (([16, 3, 9, 1, 12], 16), ([5], 8), ([8, 8], 8)):
        feeds = rows(lengths, width, pad)
        assert packing.largest_error(flat, packing.outputs(plain, feeds), feeds) < 1e-5


def test_a_row_does_not_depend_on_its_batch(made: Path) -> None:
    flat = graph_of(made / "bert")
    remove_padding.remove_padding(flat, 64)
    feeds = rows([16, 3, 9], 16, 0)
    together = packing.outputs(flat, feeds)["last_hidden_state"]
    alone = packing.outputs(flat, {n: a[1:2, :8] for n, a in feeds.items()})["last_hidden_state"]
    np.testing.assert_allclose(together[1, :3], alone[0, :3], atol=1e-5)


def test_a_bundle_of_fp16_has_both_and_a_gpu_takes_the_one_without(made: Path) -> None:
    for family, file in (("bert", "model"), ("t5", "encoder")):
        graphs = rewritten_graphs("fp16", bundle_format.load(made / family))
        assert {f"{file}.onnx", f"{file}.packed.onnx"} <= graphs.keys()
        ops = {n.op_type: n for n in graphs[f"{file}.packed.onnx"].graph.node}
        assert "PackedMultiHeadAttention" in ops
        kinds = storage.types(graphs[f"{file}.packed.onnx"])
        assert kinds[ops["PackedMultiHeadAttention"].output[0]] == TensorProto.FLOAT16
    assert "model.packed.onnx" not in rewritten_graphs(
        "fp16", bundle_format.load(made / "deberta-v2")
    )
    task = ENCODERS["bert"]
    model = checkpoint_of(checkpoints.encoder, "bert", task)
    folder = bundle_format.load(bundle_of(model, task, "fp16", force=True))
    assert files(folder.graphs_for(Device("cuda"))) == ["model.packed.onnx", "pool.onnx"]
    assert files(folder.graphs_for(CPU)) == ["model.onnx"]


def test_a_packed_graph_that_differs_is_not_written(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = remove_padding.remove_padding

    def scaled(model: Any, longest: int) -> bool:
        done = wrong(model, longest)
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "PackedMultiHeadAttention" and attribute.name == "scale":
                    attribute.f *= 1.5
        return done

    monkeypatch.setattr(remove_padding, "remove_padding", scaled)
    with pytest.raises(
        ExportError, match=r"model\.onnx: the unpadded graph differs from the padded one"
    ):
        rewritten_graphs("fp16", bundle_format.load(made / "bert"))


# --- unknown attention


def attention(mask: list[Any]) -> Any:
    """A layer of one attention over two heads, `mask` between its scores and the softmax."""
    drawn = np.random.default_rng(1)
    sizes = {"embedding": (9, 8), "q.w": (8, 8), "k.w": (8, 8), "v.w": (8, 8), "o.w": (8, 8)}
    arrays = {n: drawn.normal(size=s).astype(np.float32) for n, s in sizes.items()}
    arrays |= {
        "split": np.array([0, 0, 2, 4], np.int64),
        "joined": np.array([0, 0, 8], np.int64),
        "axes": np.array([1, 2], np.int64),
        "one": np.array(1, np.float32),
        "low": np.array(-1e9, np.float32),
        "far": np.array(64, np.int64),
    }
    node = helper.make_node
    nodes = [node("Gather", ["embedding", "input_ids"], ["states"])]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["states", f"{name}.w"], [f"{name}.flat"]),
            node("Reshape", [f"{name}.flat", "split"], [f"{name}.split"]),
            node("Transpose", [f"{name}.split"], [name], perm=perm),
        ]
    nodes += [
        node("Unsqueeze", ["attention_mask", "axes"], ["wide"]),
        node("Cast", ["wide"], ["real"], to=TensorProto.FLOAT),
        node("Sub", ["one", "real"], ["padding"]),
        node("Mul", ["padding", "low"], ["hiding"]),
        node("MatMul", ["q", "k"], ["scores"]),
        *mask,
        node("Softmax", ["masked"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "joined"], ["made"]),
        node("MatMul", ["made", "o.w"], ["out"]),
        node("Add", ["states", "out"], ["last_hidden_state"]),
    ]
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["rows", "length"])
           for n in ("input_ids", "attention_mask")]  # fmt: skip
    made = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["rows", "n", 8])
    stored = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "g", ids, [made], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_mask_of_the_padding_alone_is_known() -> None:
    model = attention([helper.make_node("Add", ["scores", "hiding"], ["masked"])])
    plain = attention([helper.make_node("Add", ["scores", "hiding"], ["masked"])])
    assert remove_padding.remove_padding(model, 64)
    feeds = rows([4, 2, 7], 8, 0) | {"input_ids": np.arange(24).reshape(3, 8) % 9}
    assert packing.largest_error(model, packing.outputs(plain, feeds), feeds) < 1e-6


UNKNOWN: dict[str, list[tuple[str, list[str], str]]] = {
    "looks ahead": [
        ("Add", ["scores", "hiding"], "part"),
        ("Trilu", ["scores"], "upper"),
        ("Sub", ["upper", "scores"], "lower"),
        ("Add", ["part", "lower"], "masked"),
    ],
    "scaled by scores": [
        ("Add", ["scores", "hiding"], "part"),
        ("Mul", ["part", "scores"], "masked"),
    ],
    "scaled behind the mask": [
        ("Add", ["scores", "hiding"], "part"),
        ("Mul", ["part", "one"], "masked"),
    ],
    "scaled by the mask": [("Mul", ["scores", "hiding"], "masked")],
    "hides nothing": [("Add", ["scores", "padding"], "masked")],
    "one number for all": [("Add", ["scores", "one"], "masked")],
    "another op": [("Abs", ["scores"], "masked")],
    "nothing from far away": [
        ("Trilu", ["scores", "far"], "from_far"),
        ("Sub", ["scores", "from_far"], "near"),
        ("Add", ["near", "hiding"], "masked"),
    ],
}


def test_a_window_that_only_shows_in_long_rows_is_seen() -> None:
    """ModernBERT hides what is more than 64 tokens away: a mask of places alone, and no states."""
    steps = [
        ("ConstantOfShape", ["size"], "blank"),
        ("Trilu", ["blank", "far"], "from_far"),
        ("Mul", ["from_far", "low"], "window"),
        ("Unsqueeze", ["window", "front"], "window/all"),
        ("Min", ["hiding", "window/all"], "both"),
        ("Add", ["scores", "both"], "masked"),
    ]
    made = [helper.make_node(op, inputs, [name]) for op, inputs, name in steps]
    made[0].attribute.append(
        helper.make_attribute("value", numpy_helper.from_array(np.ones(1, np.float32)))
    )
    length = helper.make_node("Shape", ["input_ids"], ["length"], start=1, end=2)
    twice = helper.make_node("Concat", ["length", "length"], ["size"], axis=0)
    model = attention([length, twice, *made])
    front = numpy_helper.from_array(np.array([0, 1], np.int64), "front")
    model.graph.initializer.append(front)
    assert remove_padding.remove_padding(type(model).FromString(model.SerializeToString()), 13)
    assert not remove_padding.remove_padding(model, 200)


@pytest.mark.parametrize("activation", ["mish", "relu6"])
def test_an_unknown_op_between_two_layers_keeps_the_padding(
    tmp_path: Path, activation: str
) -> None:
    model = checkpoints.encoder(tmp_path / "m", "bert", "feature-extraction", hidden_act=activation)
    export(str(model), tmp_path / "fp32", task="feature-extraction")
    assert not remove_padding.remove_padding(graph_of(tmp_path / "fp32"), 64)
    export(str(model), tmp_path / "fp16", task="feature-extraction", recipe="fp16", force=True)
    folder = bundle_format.load(tmp_path / "fp16")
    assert files(folder.graphs_for(Device("cuda"))) == ["model.onnx", "pool.onnx"]
    assert any("keeps its padding" in note for note in folder.description.notes)


def test_states_of_several_layers_are_gathered_back_each(made: Path) -> None:
    plain = graph_of(made / "bert")
    (inner,) = {n.output[0] for n in plain.graph.node if n.name.endswith(
        "layer.0/output/LayerNorm/LayerNormalization")}  # fmt: skip
    shape = ["rows", "length", plain.graph.output[0].type.tensor_type.shape.dim[2].dim_value]
    plain.graph.output.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, shape))
    flat = type(plain)()
    flat.CopyFrom(plain)
    assert remove_padding.remove_padding(flat, 64)
    assert len([node for node in flat.graph.node if "inverse_indices" in node.input]) == 2
    feeds = rows([5, 8, 2], 8, 0)
    assert packing.largest_error(flat, packing.outputs(plain, feeds), feeds) < 1e-5


def test_logits_of_a_vocabulary_exist_once(made: Path) -> None:
    flat = graph_of(made / "mpnet")
    remove_padding.remove_padding(flat, 64)
    (back,) = (node for node in flat.graph.node if "inverse_indices" in node.input)
    makers = {name: node for node in flat.graph.node for name in node.output}
    assert makers[back.input[0]].op_type in ("LayerNormalization", "SkipLayerNormalization")
    assert "logits" not in back.output


@pytest.mark.parametrize("mask", UNKNOWN)
def test_unknown_attention_stays_as_it_is(mask: str) -> None:
    steps = [helper.make_node(op, inputs, [made]) for op, inputs, made in UNKNOWN[mask]]
    model, plain = attention(steps), attention(steps)
    assert not remove_padding.remove_padding(model, 200)
    assert model == plain
