"""Checkpoint -> bundle: what comes out, what is refused, and what is left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checkpoints, fake_hub

from engine.bundle import format as bundle_format
from engine.core.device import CPU
from engine.errors import ExportError, MissingDependency, OutputError, SettingsError
from engine.generation.host_cache import HostCache
from engine.runtime.backend import OrtBackend

pytest.importorskip("optimum.exporters.onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from engine.export import export, requirements  # noqa: E402
from engine.export.acceptance import parity, reference  # noqa: E402
from engine.export.checkpoint import (  # noqa: E402
    conversion,
    family_reasons,
    hub,
    task_inference,
)
from engine.export.graphs import bundle_graphs, dense, encoder, graph_edits, storage  # noqa: E402
from engine.export.recipes.int8 import quantize_per_token  # noqa: E402
from engine.export.recipes.paired_weights import PAIR  # noqa: E402

# --- what comes out


def test_embedder_has_the_facts_of_sentence_transformers(tiny_bundles: Path) -> None:
    made = bundle_format.load(tiny_bundles / "embedder")
    made.check()
    found = made.description
    assert (found.task, found.architecture, found.recipe) == ("feature-extraction", "bert", "fp32")
    assert found.model_config == bundle_format.ModelConfig(
        max_length=48,
        position_limit=64,
        unk_id=1,
        mask_id=4,
        cls_id=2,
        mask_token="[MASK]",
        pooling="mean",
        normalize=True,
        dimensions=32,
        hidden=32,
        strip=True,
    )
    assert found.source["model"] == "embedder"
    assert found.source["revision"] == ""
    assert len(found.source["weights_sha256"]) == 64
    assert {"torch", "optimum-onnx", "transformers", "corpus-engine"} <= set(found.tools)
    assert (
        0
        <= found.proof["largest_difference"]
        <= found.proof["tolerance"]
        == pytest.approx(1e-4, rel=10)
    )


def test_classifier_has_labels_and_problem_type(tiny_bundles: Path) -> None:
    model_config = bundle_format.load(tiny_bundles / "classifier").description.model_config
    assert model_config.labels == ("bad", "good")
    assert model_config.problem_type == ""
    assert model_config.max_length == 64


def test_translation_has_prefix_and_generation_settings(tiny_bundles: Path) -> None:
    found = bundle_format.load(tiny_bundles / "t5").description
    assert found.task == "translation"
    assert found.model_config.prefix == "translate English to German: "
    assert (found.model_config.max_length, found.model_config.position_limit) == (512, 0)
    # As the pipeline: its own 256 new tokens go before the checkpoint's max_length.
    assert found.model_config.decoder == bundle_format.DecoderConfig(
        start_id=0,
        end_ids=(1,),
        pad_id=0,
        max_new_tokens=256,
        vocabulary=192,
        layers=2,
        heads=4,
        head_dim=8,
        search=bundle_format.GenerationConfig(num_beams=4, early_stopping=True),
    )
    assert found.notes == ()
    assert found.proof["compared"] == "the logits of 16 teacher-forced steps"


def test_translation_without_a_pair_is_the_first_one_and_says_so(tiny_bundles: Path) -> None:
    found = bundle_format.load(tiny_bundles / "t5-int8").description
    assert found.model_config.prefix == "translate English to German: "
    (note,) = (note for note in found.notes if "translation_en_to_de" in note)
    assert "--task" in note
    assert "translation_en_to_fr" in note


DEVICE_FILES = ("resident.onnx", "admit.onnx", "move.onnx", "grow.onnx", "pick.onnx")


def test_a_bundle_holds_what_the_run_needs_and_nothing_else(tiny_bundles: Path) -> None:
    names = {file.name for file in (tiny_bundles / "t5").iterdir()}
    shared = {"bundle.json", "tokenizer.json", "weights.bin"}
    assert names == {*shared, "encoder.onnx", "encoder.flat.onnx", "step.onnx", *DEVICE_FILES}
    names = {file.name for file in (tiny_bundles / "embedder").iterdir()}
    assert names == {*shared, "model.onnx", "model.flat.onnx", "pool.onnx"}


def test_tokenizer_file_neither_pads_nor_cuts(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "padded"
    shutil.copytree(tiny / "embedder", source)
    checkpoints.edit_json(
        source / "tokenizer.json",
        truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    )
    export(str(source), tmp_path / "out", task=None)
    written = json.loads((tmp_path / "out/tokenizer.json").read_text(encoding="utf-8"))
    assert written["truncation"] is None
    assert written["padding"] is None


def test_report_says_what_was_made(tiny: Path, tmp_path: Path) -> None:
    said: list[str] = []
    report = export(str(tiny / "embedder"), tmp_path / "out", task=None, progress=said.append)
    assert (report.path, report.task, report.recipe) == (
        tmp_path / "out",
        "feature-extraction",
        "fp32",
    )
    assert report.bytes == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert report.largest_difference <= report.tolerance
    assert report.seconds > 0
    assert [line for line in said if not line.startswith("plan: ")] == [
        "loading embedder",
        "converting with Optimum",
        "writing the graphs",
        "comparing with the checkpoint",
    ]


def test_a_local_export_prints_nothing_and_opens_no_connection(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a local export opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    export(str(tiny / "t5"), tmp_path / "out", task="translation")
    assert capfd.readouterr() == ("", "")


def test_weights_in_half_precision_are_exported_in_float32(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    source = tmp_path / "half"
    shutil.copytree(tiny / "embedder", source)
    AutoModel.from_pretrained(tiny / "embedder").half().save_pretrained(source)
    assert json.loads((source / "config.json").read_text())["dtype"] == "float16"
    report = export(str(source), tmp_path / "out", task=None)
    assert report.largest_difference <= 1e-4


def test_two_exports_give_the_same_graphs(tiny: Path, tiny_bundles: Path, tmp_path: Path) -> None:
    export(str(tiny / "t5"), tmp_path / "again", task="translation_en_to_de")
    first = bundle_format.load(tiny_bundles / "t5").description.files
    assert bundle_format.load(tmp_path / "again").description.files == first


# --- graphs


def test_graphs_have_the_contract_s_names(tiny_bundles: Path) -> None:
    encoder = onnxruntime.InferenceSession(tiny_bundles / "t5/encoder.onnx")
    step = onnxruntime.InferenceSession(tiny_bundles / "t5/step.onnx")
    cross = [f"cross.{n}.{what}" for n in range(2) for what in ("key", "value")]
    assert [i.name for i in encoder.get_inputs()] == ["input_ids", "attention_mask"]
    assert [o.name for o in encoder.get_outputs()] == cross
    assert set(cross) <= {i.name for i in step.get_inputs()}
    written = {name.replace("cross", "cross_present") for name in cross}
    assert written <= {o.name for o in step.get_outputs()}


def test_a_tied_head_is_stored_once_a_graph(tiny_bundles: Path) -> None:
    import onnx

    for name in ("encoder.onnx", "step.onnx"):
        stored = onnx.load(tiny_bundles / "t5" / name).graph.initializer
        assert sum(sorted(w.dims) == [32, 192] for w in stored) == 1, name


def test_equal_and_transposed_weights_are_stored_once() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(6, 4)).astype(np.float32)
    other = np.array(table)
    other[2, 2] += 1
    model = _model(
        [
            ("Gather", ["table", "ids"], ["x"]),
            ("MatMul", ["x", "head"], ["a"]),
            ("Gather", ["twin", "ids"], ["b"]),
            ("MatMul", ["x", "stranger"], ["c"]),
        ],
        {"table": table, "head": table.T.copy(), "twin": table, "stranger": other.T.copy()},
        inputs={"ids": (np.int64, ["n"])},
        outputs=["a", "b", "c"],
    )
    before = _run(model, ids=np.arange(5))
    graph_edits.share_weights(model.graph)
    assert sorted(w.name for w in model.graph.initializer) == ["stranger", "table"]
    for one, two in zip(before, _run(model, ids=np.arange(5)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_an_empty_cache_serves_the_first_step(tiny: Path, tiny_bundles: Path) -> None:
    """The step graph from nothing = the checkpoint's own forward over the whole prefix."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    rng = np.random.default_rng(0)
    ids, mask = rng.integers(3, 180, (3, 9)), np.ones((3, 9), np.int64)
    mask[1, 4:], mask[2, 1:] = 0, 0
    tokens = np.concatenate([np.zeros((3, 1), np.int64), rng.integers(3, 180, (3, 40))], axis=1)
    model = AutoModelForSeq2SeqLM.from_pretrained(tiny / "t5").eval()
    with torch.no_grad():
        expected = model(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            decoder_input_ids=torch.from_numpy(tokens),
        ).logits.numpy()
    np.testing.assert_allclose(_decode(tiny_bundles / "t5", ids, mask, tokens), expected, atol=1e-4)


def test_a_graph_with_unknown_inputs_is_refused() -> None:
    model = _model(
        [("MatMul", ["pixel_values", "w"], ["last_hidden_state"])],
        {"w": np.eye(4, dtype=np.float32)},
        inputs={"pixel_values": (np.float32, ["n", 4])},
        outputs=["last_hidden_state"],
    )
    with pytest.raises(ExportError, match="pixel_values"):
        encoder.model_graph(model)


# --- int8


def test_int8_sums_are_exact_where_16_bits_would_saturate() -> None:
    """Extreme weights and activations, against integers in NumPy, bit for bit."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((5, 7, 256)) < 0.9, 1.0, -1.0).astype(np.float32)
    x *= rng.uniform(0.5, 20, (5, 7, 1)).astype(np.float32)
    weight = np.where(rng.random((256, 48)) < 0.9, 1.0, -1.0).astype(np.float32)
    model = _model(
        [("MatMul", ["x", "w"], ["y"])],
        {"w": weight},
        inputs={"x": (np.float32, ["rows", "tokens", 256])},
        outputs=["y"],
    )
    assert quantize_per_token(model) == 1
    (answer,) = _run(model, x=x)
    column = np.full(48, 2 / (PAIR - 1), np.float32)
    integers = np.rint(weight / column).astype(np.int64)
    row = (np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)).astype(np.float32)
    sums = np.rint(x / row).astype(np.int64) @ integers
    np.testing.assert_array_equal(answer, sums.astype(np.float32) * column * row)


def test_int8_row_of_zeros_stays_zero() -> None:
    model = _model(
        [("MatMul", ["x", "w"], ["y"])],
        {"w": np.ones((8, 4), np.float32)},
        inputs={"x": (np.float32, ["rows", 8])},
        outputs=["y"],
    )
    quantize_per_token(model)
    x = np.zeros((2, 8), np.float32)
    x[1] = 3
    empty, other = _run(model, x=x)[0]
    np.testing.assert_array_equal(empty, [0] * 4)
    np.testing.assert_allclose(other, [24] * 4, rtol=0.01)


def test_int8_gemm_keeps_its_bias() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(6, 8)), rng.normal(size=6)
    model = _model(
        [("Gemm", ["x", "w", "b"], ["y"])],
        {"w": weight.astype(np.float32), "b": bias.astype(np.float32)},
        inputs={"x": (np.float32, ["rows", 8])},
        outputs=["y"],
        transB=1,
    )
    x = rng.normal(size=(3, 8)).astype(np.float32)
    assert quantize_per_token(model) == 1
    np.testing.assert_allclose(_run(model, x=x)[0], x @ weight.T + bias, atol=0.05)


@pytest.mark.parametrize("behind", ["gelu", "halved first", "gated", "scaled", "not halved"])
def test_int8_looks_at_the_magnitude_unless_values_cannot_be_low(behind: str) -> None:
    """Behind a GELU alone, the largest value is the largest magnitude."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(16, 4)), "root": np.sqrt(2), "one": 1.0, "half": 0.5}
    weights["scale"] = -3 - rng.random(16)
    nodes = [
        ("Div", ["x", "root"], ["turned"]), ("Erf", ["turned"], ["erf"]),
        ("Add", ["erf", "one"], ["above"]),
    ]  # fmt: skip
    if behind == "halved first":
        nodes += [("Mul", ["x", "half"], ["less"]), ("Mul", ["less", "above"], ["gelu"])]
    else:
        nodes += [("Mul", ["x", "above"], ["twice"]), ("Mul", ["twice", "half"], ["gelu"])]
    other = {"gated": "gate", "scaled": "scale"}.get(behind)
    read = "twice" if behind == "not halved" else "gelu"
    if other:
        nodes.append(("Mul", [read, other], ["product"]))
        read = "product"
    model = _model(
        [*nodes, ("MatMul", [read, "w"], ["y"])],
        {name: np.asarray(array, np.float32) for name, array in weights.items()},
        inputs={
            name: (np.float32, ["rows", 16]) for name in ("x", "gate")[: 1 + (other == "gate")]
        },
        outputs=["y"],
    )
    x = rng.normal(size=(9, 16)).astype(np.float32) * 3
    given = {"x": x, **({"gate": -10 * np.abs(x)} if other == "gate" else {})}
    (expected,) = _run(model, **given)
    assert quantize_per_token(model) == 1
    plain = behind in ("gelu", "halved first")
    assert any(node.op_type == "Abs" for node in model.graph.node) == (not plain)
    (answer,) = _run(model, **given)
    np.testing.assert_allclose(answer, expected, atol=0.03 * np.abs(expected).max())


def test_int8_products_of_one_input_share_its_quantization(tiny_bundles: Path) -> None:
    import onnx

    nodes = onnx.load(tiny_bundles / "t5-int8/encoder.onnx").graph.node
    products = [n for n in nodes if n.op_type == "MatMulIntegerToFloat"]
    # q, k, v, o, wi, wo of two layers, and two layers' cross-attention k and v.
    assert len(products) == 2 * 6 + 4
    # Of each layer: qkv together, o, wi, wo; and the encoder's output once for all projections.
    assert sum(n.op_type == "QuantizeLinear" for n in nodes) == 2 * 4 + 1


@pytest.mark.parametrize("name", ["t5", "mt5", "bert", "albert", "gpt2"])
def test_smoothed_weights_are_signed(tmp_path: Path, name: str) -> None:
    import onnx

    encoder = name in ("bert", "albert")
    task = {"gpt2": "text-generation"}.get(name, "fill-mask" if encoder else "translation")
    if encoder:
        model = checkpoints.encoder(tmp_path / name, name, task)
    else:
        model = getattr(checkpoints, name)(tmp_path / name)
    export(str(model), tmp_path / "out", task=task, recipe="int8", force=True)
    for file in (tmp_path / "out").glob("*.onnx"):
        found = onnx.load(file).graph.initializer
        kinds = {w.data_type for w in found if w.name.endswith(".int8")}
        assert kinds == {onnx.TensorProto.INT8}


def test_int8_keeps_a_gated_output_in_float32(tmp_path: Path) -> None:
    import onnx

    checkpoints.t5(tmp_path / "gated", feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    export(str(tmp_path / "gated"), tmp_path / "out", task="translation", recipe="int8", force=True)
    model = onnx.load(tmp_path / "out/step.onnx")
    weights = {w.name for w in model.graph.initializer}
    products = (n for n in model.graph.node if n.op_type in ("MatMul", "Gemm"))
    floats = {n.name for n in products if n.input[1] in weights}
    assert floats == {"layer.0/narrow", "layer.1/narrow"}


def test_int8_answers_do_not_depend_on_the_batch(tiny_bundles: Path) -> None:
    """Bit for bit, with an outlier among the neighbours and in another order."""
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(3, 180, (8, 12)), np.ones((8, 12), np.int64)
    mask[3:, 7:] = 0
    tokens = rng.integers(3, 180, (8, 6))
    order = rng.permutation(8)
    folder = tiny_bundles / "t5-int8"
    whole = _decode(folder, ids, mask, tokens)
    np.testing.assert_array_equal(
        _decode(folder, ids[order], mask[order], tokens[order]), whole[order]
    )
    np.testing.assert_array_equal(_decode(folder, ids[2:5], mask[2:5], tokens[2:5]), whole[2:5])


def test_unknown_recipe_names_the_known_ones(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="fp32, int8"):
        export(str(tiny / "t5"), tmp_path / "out", task=None, recipe="int4")


# --- facts of other checkpoints


@pytest.mark.parametrize(
    ("flags", "pooling"),
    [
        (("pooling_mode_cls_token",), "cls"),
        (("pooling_mode_max_tokens",), "max"),
        (("pooling_mode_lasttoken",), "last"),
    ],
)
def test_pooling_is_read(tmp_path: Path, flags: tuple[str, ...], pooling: str) -> None:
    checkpoints.embedder(tmp_path / "model", flags, modules=("Transformer", "Pooling"))
    export(str(tmp_path / "model"), tmp_path / "out", task=None)
    model_config = bundle_format.load(tmp_path / "out").description.model_config
    assert (model_config.pooling, model_config.normalize) == (pooling, False)


_ACTIVATIONS = {
    "Identity": "torch.nn.modules.linear.Identity",
    "Tanh": "torch.nn.modules.activation.Tanh",
    "ReLU": "torch.nn.modules.activation.ReLU",
    "GELU": "torch.nn.modules.activation.GELU",
    "Sigmoid": "torch.nn.modules.activation.Sigmoid",
    "SiLU": "torch.nn.modules.activation.SiLU",
}


def test_every_activation_is_torch_s() -> None:
    assert _ACTIVATIONS.keys() == dense.ACTIVATIONS.keys()
    rng = np.random.default_rng(0)
    for activation in _ACTIVATIONS:
        layers = [
            dense.DenseLayer(
                activation, *(rng.normal(size=s).astype(np.float32) for s in ((5, 8), 5))
            ),
            dense.DenseLayer(
                activation, *(rng.normal(size=s).astype(np.float32) for s in ((3, 5), 3))
            ),
        ]
        embedding = 3 * rng.normal(size=(7, 8)).astype(np.float32)
        (projected,) = _run(dense.graph(layers), embedding=embedding)
        expected = dense.reference(layers, embedding)
        np.testing.assert_allclose(projected, expected, atol=2e-6, err_msg=activation)


def _projecting(folder: Path) -> Path:
    """An embedder with two Dense layers, 32 to 24 to 12 numbers."""
    model = checkpoints.embedder(
        folder, modules=("Transformer", "Pooling", "Dense", "Dense", "Normalize")
    )
    checkpoints.dense(model / "2_Dense", 32, 24, _ACTIVATIONS["GELU"])
    checkpoints.dense(model / "3_Dense", 24, 12, _ACTIVATIONS["Identity"], bias=False)
    return model


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_dense_layers_become_a_graph(tmp_path: Path, recipe: str) -> None:
    model = _projecting(tmp_path / "model")
    report = export(str(model), tmp_path / "out", task=None, recipe=recipe)
    model_config = bundle_format.load(tmp_path / "out").description.model_config
    assert (model_config.projected, model_config.hidden, model_config.dimensions) == (True, 32, 12)
    assert (model_config.pooling, model_config.normalize) == ("mean", True)
    assert report.compared == "the hidden states of the real tokens and the projected embeddings"
    session = onnxruntime.InferenceSession(tmp_path / "out/dense.onnx")
    assert [(i.name, i.shape[1]) for i in session.get_inputs()] == [("embedding", 32)]
    assert [(o.name, o.shape[1]) for o in session.get_outputs()] == [("projected", 12)]
    embedding = np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32)
    (projected,) = session.run(None, {"embedding": embedding})
    expected = dense.reference(dense.load(_read(model)), embedding)
    np.testing.assert_allclose(projected, expected, atol=1e-5)


def test_the_proof_sees_a_wrong_dense_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dense.ACTIVATIONS, "GELU", dense.ACTIVATIONS["SiLU"])
    model = _projecting(tmp_path / "model")
    _refused(model, tmp_path / "out", ExportError, "the projected embeddings differ")


def test_dense_layers_that_are_refused(tmp_path: Path) -> None:
    model = _projecting(tmp_path / "model")
    out = tmp_path / "out"
    checkpoints.dense(model / "2_Dense", 32, 24, "torch.nn.modules.activation.Mish")
    _refused(model, out, ExportError, "2_Dense has the activation torch.nn.modules.activation.Mish")
    checkpoints.dense(model / "2_Dense", 32, 23, _ACTIVATIONS["Tanh"])
    _refused(model, out, ExportError, "3_Dense takes 24 numbers, the layer before it gives 23")
    checkpoints.dense(model / "2_Dense", 32, 24, _ACTIVATIONS["Tanh"])
    checkpoints.edit_json(model / "3_Dense/config.json", out_features=13)
    _refused(model, out, ExportError, "the weights in 3_Dense have the shape")
    (model / "3_Dense/model.safetensors").unlink()
    _refused(model, out, ExportError, r"a layer .3_Dense/model.safetensors. is missing")


def test_a_pickled_dense_layer(tmp_path: Path) -> None:
    model = _projecting(tmp_path / "model")
    checkpoints.to_pickle(model / "2_Dense")
    out = tmp_path / "out"
    _refused(model, out, ExportError, r"pickled \(2_Dense/pytorch_model.bin\)")
    export(str(model), out, task=None, allow_pickle=True)
    before = bundle_format.load(out).description.source["weights_sha256"]
    checkpoints.dense(model / "2_Dense", 32, 24, _ACTIVATIONS["SiLU"])
    export(str(model), tmp_path / "other", task=None)
    assert bundle_format.load(tmp_path / "other").description.source["weights_sha256"] != before


@pytest.mark.parametrize(
    "modules",
    [
        ("Transformer", "Pooling", "LSTM"),
        ("Transformer", "WeightedLayerPooling", "Pooling"),
        ("Transformer", "Dense", "Pooling"),
        ("Pooling", "Transformer"),
    ],
)
def test_other_modules_are_refused_by_name(tmp_path: Path, modules: tuple[str, ...]) -> None:
    model = checkpoints.embedder(tmp_path / "model", modules=modules)
    said = "modules.json has the layers " + ", ".join(modules)
    _refused(model, tmp_path / "out", ExportError, said)


def test_without_modules_mean_pooling_is_noted(tmp_path: Path) -> None:
    checkpoints.bert(tmp_path / "model")
    report = export(str(tmp_path / "model"), tmp_path / "out", task="feature-extraction")
    model_config = bundle_format.load(tmp_path / "out").description.model_config
    assert (model_config.pooling, model_config.normalize, model_config.max_length) == (
        "mean",
        False,
        64,
    )
    assert any("names no pooling" in note for note in report.notes)


def test_prompts_are_kept_and_the_default_one_is_the_prefix(tmp_path: Path) -> None:
    model = checkpoints.embedder(tmp_path / "model")
    prompts = {"query": "query: ", "passage": "passage: "}
    file = model / "config_sentence_transformers.json"
    checkpoints.write_json(file, {"prompts": prompts, "default_prompt_name": "passage"})
    export(str(model), tmp_path / "one", task=None)
    model_config = bundle_format.load(tmp_path / "one").description.model_config
    assert (model_config.prefix, model_config.prompts) == ("passage: ", prompts)
    checkpoints.edit_json(file, default_prompt_name=None)
    report = export(str(model), tmp_path / "two", task=None)
    model_config = bundle_format.load(tmp_path / "two").description.model_config
    assert (model_config.prefix, model_config.prompts) == ("", prompts)
    assert any("prompts query, passage" in n and "--prompt query" in n for n in report.notes)


def test_a_model_without_token_types(tmp_path: Path) -> None:
    checkpoints.distilbert(tmp_path / "model")
    export(str(tmp_path / "model"), tmp_path / "out", task=None, recipe="int8")
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask"]


def test_problem_types(tmp_path: Path) -> None:
    checkpoints.classifier(tmp_path / "one", labels=("score",))
    checkpoints.classifier(
        tmp_path / "many", labels=("a", "b", "c"), problem_type="multi_label_classification"
    )
    export(str(tmp_path / "one"), tmp_path / "1", task=None)
    assert bundle_format.load(tmp_path / "1").description.model_config.problem_type == ""
    export(str(tmp_path / "many"), tmp_path / "3", task="text-classification")
    found = bundle_format.load(tmp_path / "3").description.model_config
    assert (found.problem_type, found.labels) == ("multi_label_classification", ("a", "b", "c"))


# --- encoders: families and tasks

_HEADS = (
    "feature-extraction", "text-classification", "zero-shot-classification",
    "token-classification", "question-answering", "fill-mask",
)  # fmt: skip


@pytest.mark.parametrize("family", conversion.ENCODERS)
def test_the_rest_of_the_product_is_in_optimum_s_table(tmp_path: Path, family: str) -> None:
    found = hub.Checkpoint(tmp_path, family, "", "", {"model_type": family}, False)
    for task in _HEADS:
        conversion.check_supported(found, task_inference.TASKS[task])


def test_what_optimum_cannot_export_says_what_can_be_done(tmp_path: Path) -> None:
    config = {"model_type": "esm"}
    found = hub.Checkpoint(tmp_path, "some/model", "", "", config, False)
    with pytest.raises(ExportError, match=r"'esm' only for .*fill-mask") as caught:
        conversion.check_supported(found, task_inference.TASKS["question-answering"])
    assert "not for question-answering" in caught.value.message
    assert "bert, distilbert, roberta" in caught.value.hint


@pytest.mark.parametrize("family", family_reasons.ENCODERS)
def test_an_encoder_whose_rows_cannot_be_batched_is_refused_by_name(
    tmp_path: Path, family: str
) -> None:
    found = hub.Checkpoint(tmp_path, "some/model", "", "", {"model_type": family}, False)
    with pytest.raises(ExportError, match=f"a '{family}' is not exported: ") as caught:
        conversion.check_supported(found, task_inference.TASKS["fill-mask"])
    assert "take a checkpoint of one of the types bert" in caught.value.hint


def test_an_encoder_that_mixes_padding_into_its_rows_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(family_reasons, "ENCODERS", {})
    model = checkpoints.encoder(tmp_path / "model", "convbert", "feature-extraction")
    said = _refused(
        model,
        tmp_path / "out",
        ExportError,
        "'convbert' mixes padding into its rows",
        task="feature-extraction",
    )
    assert "families of encoders in the README" in said


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "mpnet"])
def test_a_tied_head_may_be_stored_or_not(tmp_path: Path, family: str) -> None:
    from safetensors.torch import load_file, save_file

    model = checkpoints.encoder(tmp_path / "model", family, "fill-mask")
    file = model / "model.safetensors"
    stored = load_file(file)
    whole = conversion.load(_read(model), task_inference.TASKS["fill-mask"]).state_dict()
    assert whole.keys() > stored.keys()
    save_file({n: v.clone() for n, v in whole.items()}, file, {"format": "pt"})
    conversion.load(_read(model), task_inference.TASKS["fill-mask"])
    head = next(n for n in stored if n.endswith(("predictions.bias", "lm_head.bias")))
    save_file({n: v for n, v in stored.items() if n != head}, file, {"format": "pt"})
    with pytest.raises(ExportError, match=f"lacks weights that fill-mask needs: {head}"):
        conversion.load(_read(model), task_inference.TASKS["fill-mask"])


def test_a_bart_classifies_rows_whose_texts_spell_the_end_token(tmp_path: Path) -> None:
    """transformers refuses rows with different numbers of end tokens in one batch."""
    import torch
    from transformers import AutoModelForSequenceClassification

    path = checkpoints.encoder(tmp_path / "model", "bart", "text-classification")
    export(str(path), tmp_path / "out", task="text-classification")
    ids = np.random.default_rng(0).integers(5, 250, (3, 12))
    mask = np.ones_like(ids)
    ids[:, -1] = ids[1, 4] = ids[2, 7] = 2
    ids[2, 8:], mask[2, 8:] = 1, 0
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    (logits,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    for row, given, answer in zip(ids, mask, logits, strict=True):
        alone = torch.from_numpy(row[given == 1])[None]
        with torch.no_grad():
            np.testing.assert_allclose(answer, model(alone).logits[0].numpy(), atol=1e-5)


def test_a_classifier_without_an_entailment_label_is_no_zero_shot_classifier(
    tiny: Path, tmp_path: Path
) -> None:
    said = _refused(
        tiny / "classifier", tmp_path / "out", ExportError, "'entail'",
        task="zero-shot-classification",
    )  # fmt: skip
    assert "its labels: bad, good" in said


def test_fill_mask_needs_a_mask(tmp_path: Path) -> None:
    model = checkpoints.encoder(tmp_path / "model", "bert", "fill-mask")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = json.loads((model / name).read_text())
        content.pop("mask_token")
        checkpoints.write_json(model / name, content)
    _refused(model, tmp_path / "out", ExportError, "no mask token", task="fill-mask")


def test_padding_and_cutting_on_the_left(tmp_path: Path) -> None:
    model = checkpoints.encoder(tmp_path / "model", "bert", "question-answering")
    checkpoints.edit_json(model / "tokenizer_config.json", truncation_side="left")
    export(str(model), tmp_path / "out", task=None)
    assert bundle_format.load(tmp_path / "out").description.model_config.truncation_side == "left"
    checkpoints.edit_json(model / "tokenizer_config.json", padding_side="left")
    _refused(model, tmp_path / "other", ExportError, "padding_side")


def test_whether_decoded_text_is_cleaned_up(tmp_path: Path) -> None:
    model = checkpoints.classifier(tmp_path / "model")
    checkpoints.edit_json(model / "tokenizer_config.json", clean_up_tokenization_spaces=True)
    export(str(model), tmp_path / "out", task=None)
    model_config = bundle_format.load(tmp_path / "out").description.model_config
    assert model_config.clean_up is True


def test_offsets_are_those_of_the_checkpoint_s_tokenizer(tmp_path: Path) -> None:
    """trim_offsets and add_prefix_space are not RobertaTokenizerFast's defaults here."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    model = checkpoints.encoder(tmp_path / "model", "roberta", "token-classification")
    export(str(model), tmp_path / "out", task=None)
    written = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    own = AutoTokenizer.from_pretrained(model)
    text = "A dog  runs\tover 🎉 it."
    assert written.encode(text).offsets == own(text, return_offsets_mapping=True).offset_mapping
    content = json.loads((tmp_path / "out/tokenizer.json").read_text(encoding="utf-8"))
    assert content["pre_tokenizer"]["add_prefix_space"] is True
    assert content["post_processor"]["trim_offsets"] is False


def test_the_proof_sees_other_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.export.checkpoint import tokenizers

    def trimmed(tokenizer: Any, folder: Path) -> None:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content["post_processor"]["trim_offsets"] = True
        checkpoints.write_json(folder / "tokenizer.json", {**content, "padding": None})

    model = checkpoints.encoder(tmp_path / "model", "roberta", "token-classification")
    monkeypatch.setattr(tokenizers, "save", trimmed)
    _refused(model, tmp_path / "out", ExportError, "other offsets in the text")


# --- tasks


@pytest.mark.parametrize(
    ("asked", "config", "embeds", "found"),
    [
        ("sentiment-analysis", {"model_type": "bert"}, False, "text-classification"),
        ("translation_en_to_de", {"model_type": "t5"}, False, "translation"),
        (None, {"model_type": "bert"}, True, "feature-extraction"),
        (None, {"architectures": ["XForSequenceClassification"]}, False, "text-classification"),
        (None, {"model_type": "mt5"}, False, "translation"),
        ("ner", {"model_type": "bert"}, False, "token-classification"),
        ("embedding", {"model_type": "bert"}, False, "feature-extraction"),
        ("question-answering", {"model_type": "bart"}, False, "question-answering"),
        (None, {"architectures": ["XForTokenClassification"]}, False, "token-classification"),
        (None, {"architectures": ["XForQuestionAnswering"]}, False, "question-answering"),
        (None, {"architectures": ["XForMaskedLM"]}, False, "fill-mask"),
        (None, {"model_type": "marian"}, False, "translation"),
        (None, {"model_type": "pegasus"}, False, "summarization"),
        (None, {"model_type": "bart"}, False, "text2text-generation"),
        (
            None,
            {"model_type": "bart", "task_specific_params": {"summarization": {}}},
            False,
            "summarization",
        ),
        (None, {"model_type": "gpt2"}, False, "text-generation"),
    ],
)
def test_task_is_resolved(
    asked: str | None, config: dict[str, Any], embeds: bool, found: str
) -> None:
    assert task_inference.resolve_task(asked, config, embeds).name == found


def test_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="feature-extraction, text-classification"):
        task_inference.resolve_task("juggling", {"model_type": "bert"}, False)


@pytest.mark.parametrize(
    ("asked", "config", "said"),
    [
        ("translation", {"model_type": "gpt2"}, "model types t5, mt5"),
        ("feature-extraction", {"model_type": "bart", "is_encoder_decoder": True}, "encoders"),
        ("fill-mask", {"model_type": "bart", "is_encoder_decoder": True}, "encoders"),
        (None, {"model_type": "bert", "architectures": ["BertModel"]}, "BertModel"),
    ],
)
def test_task_that_does_not_fit_is_refused(
    asked: str | None, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(ExportError, match=said) as caught:
        task_inference.resolve_task(asked, config, False)
    assert "--task" in caught.value.hint


# --- a task's default checkpoint


@pytest.mark.parametrize(
    ("task", "model", "revision"),
    [
        (
            "sentiment-analysis",
            "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
            "714eb0f",
        ),
        ("ner", "dbmdz/bert-large-cased-finetuned-conll03-english", "4c53496"),
        ("fill-mask", "distilbert/distilroberta-base", "fb53ab8"),
        ("zero-shot-classification", "facebook/bart-large-mnli", "d7645e1"),
        ("feature-extraction", "distilbert/distilbert-base-cased", "6ea8117"),
        ("translation_en_to_fr", "google-t5/t5-base", "a9723ea"),
        ("text-generation", "openai-community/gpt2", "607a30d"),
    ],
)
def test_default_checkpoints_are_transformers_own(task: str, model: str, revision: str) -> None:
    assert task_inference.default_checkpoint(task) == (model, revision)


def test_every_task_has_a_default_or_says_so() -> None:
    for task in task_inference.TASKS:
        if task not in ("translation", "rerank"):
            assert all(task_inference.default_checkpoint(task))
    for task in ("translation", "translation_fi_to_sw", "rerank"):
        with pytest.raises(SettingsError, match=task) as caught:
            task_inference.default_checkpoint(task)
        assert "translation_en_to_fr" in caught.value.hint


def test_without_a_model_the_default_is_taken_and_named(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = (str(tiny / "classifier"), None)
    monkeypatch.setattr(task_inference, "default_checkpoint", lambda task: default)
    said: list[str] = []
    report = export(None, tmp_path / "out", task="sentiment-analysis", progress=said.append)
    told = f"no model was named: {default[0]} at revision None, the default of sentiment-analysis"
    assert (said[0], report.notes) == (told, (told,))


def test_neither_a_model_nor_a_task(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="neither a model nor a task") as caught:
        export(None, tmp_path / "out", task=None)
    assert "--task" in caught.value.hint
    with pytest.raises(SettingsError, match="'main' is given, but no model"):
        export(None, tmp_path / "out", task="ner", revision="main")


def test_a_commit_s_beginning_is_pinned() -> None:
    assert hub._revision_notes("a/b", fake_hub.COMMIT[:7], fake_hub.COMMIT) == ()
    assert hub._revision_notes("a/b", "deadbee", fake_hub.COMMIT) != ()


# --- refusals; nothing is left behind


def _refused(model: Path, out: Path, kind: type[Exception], said: str, **settings: Any) -> str:
    """Export must fail with `said` and leave nothing beside `out`."""
    beside = set(out.parent.iterdir())
    with pytest.raises(kind, match=said) as caught:
        export(str(model), out, **{"task": None, **settings})
    assert set(out.parent.iterdir()) == beside
    assert caught.value.hint  # type: ignore[attr-defined]
    return str(caught.value)


def test_pickled_weights_are_refused_unless_allowed(tiny: Path, tmp_path: Path) -> None:
    model = checkpoints.to_pickle(_copy(tiny / "embedder", tmp_path))
    out = tmp_path / "out"
    said = _refused(model, out, ExportError, r"pickled \(pytorch_model.bin\)")
    assert "--allow-pickle" in said
    assert export(str(model), out, task=None, allow_pickle=True).path == out


def test_code_of_a_repository_is_never_executed(tiny: Path, tmp_path: Path) -> None:
    model = _copy(tiny / "embedder", tmp_path)
    proof_of_execution = tmp_path / "executed"
    (model / "modeling_own.py").write_text(
        f"open({str(proof_of_execution)!r}, 'w').close()\n", encoding="utf-8"
    )
    own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    checkpoints.edit_json(model / "config.json", model_type="own", auto_map=own)
    said = _refused(model, tmp_path / "out", ExportError, "modeling_own.OwnModel")
    assert "does not execute code from model repositories" in said
    assert not proof_of_execution.exists()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "weights .model.safetensors. is missing"),
        ("tokenizer.json", "a tokenizer .tokenizer.json. is missing"),
    ],
)
def test_an_incomplete_checkpoint_says_what_is_missing(
    tiny: Path, tmp_path: Path, file: str, said: str
) -> None:
    model = _copy(tiny / "embedder", tmp_path)
    (model / file).unlink()
    assert "modules.json" in _refused(model, tmp_path / "out", ExportError, said)


def test_damaged_weights(tiny: Path, tmp_path: Path) -> None:
    model = _copy(tiny / "embedder", tmp_path)
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    _refused(model, tmp_path / "out", ExportError, "cannot load it")


def test_weights_without_the_task_s_head_are_refused(tiny: Path, tmp_path: Path) -> None:
    """transformers would put random numbers there and only warn."""
    said = "lacks weights that text-classification needs: classifier"
    settings = {"task": "text-classification", "force": True}
    _refused(tiny / "embedder", tmp_path / "out", ExportError, said, **settings)


def test_architecture_that_optimum_does_not_export(tiny: Path, tmp_path: Path) -> None:
    model = _copy(tiny / "embedder", tmp_path)
    checkpoints.edit_json(model / "config.json", model_type="canine")
    _refused(model, tmp_path / "out", ExportError, "Optimum exports the architecture 'canine'")


def test_unknown_architecture(tiny: Path, tmp_path: Path) -> None:
    model = _copy(tiny / "embedder", tmp_path)
    checkpoints.edit_json(model / "config.json", model_type="nobody-knows")
    _refused(model, tmp_path / "out", ExportError, "'nobody-knows', unknown to transformers")


def test_already_quantized_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    model = _copy(tiny / "embedder", tmp_path)
    checkpoints.edit_json(model / "config.json", quantization_config={"quant_method": "gptq"})
    _refused(model, tmp_path / "out", ExportError, "already quantized")


def test_revision_of_a_folder(tiny: Path, tmp_path: Path) -> None:
    said = "a local folder, which has no revisions"
    _refused(tiny / "t5", tmp_path / "out", SettingsError, said, revision="main")


@pytest.mark.parametrize("model", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_no_such_folder(tmp_path: Path, model: str) -> None:
    with pytest.raises(ExportError, match="no such folder"):
        export(model, tmp_path / "out", task=None)


def test_a_file_is_no_checkpoint(tiny: Path, tmp_path: Path) -> None:
    _refused(tiny / "t5/config.json", tmp_path / "out", ExportError, "a file, not a checkpoint")


def test_output_that_is_there_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    _refused(tiny / "embedder", out, OutputError, "not empty")
    assert (out / "mine.txt").read_text() == "keep me"


def test_an_empty_output_folder_is_taken(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(str(tiny / "embedder"), tmp_path / "out", task=None)
    bundle_format.load(tmp_path / "out").check()


def test_output_below_a_file(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        export(str(tiny / "embedder"), tmp_path / "file/out", task=None)


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_a_bundle_that_fails_the_proof_is_not_written(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    monkeypatch.setattr(parity, "_MARGIN", 0)
    said = "the parity check failed: the hidden states .* differ from the PyTorch checkpoint's"
    _refused(tiny / "embedder", tmp_path / "out", ExportError, said, recipe=recipe)


@pytest.mark.parametrize("kind", ["embedder", "t5", "marian", "gpt2"])
def test_a_checkpoint_that_rounds_much_is_held_to_its_own_rounding(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As on another CPU, whose sums are further apart than the tolerance: no float32 answer is
    within this one."""
    monkeypatch.setattr(parity, "TOLERANCE", 1e-12)
    made = {"marian": checkpoints.marian, "gpt2": checkpoints.gpt2}
    checkpoint = made[kind](tmp_path / kind) if kind in made else tiny / kind
    task = {"embedder": "feature-extraction", "gpt2": "text-generation"}.get(kind, "translation")
    lines: list[str] = []
    export(str(checkpoint), tmp_path / "out", task=task, progress=lines.append)
    assert "comparing once more, in double precision" in lines
    shown = bundle_format.load(tmp_path / "out").description.proof
    assert 0 < shown["largest_difference"] <= shown["tolerance"] < 1e-4


@pytest.mark.parametrize(
    ("off", "allowed"), [(1e-6, 1e-4), (1e-4, 1e-3), (0.2, 1e-4), (np.nan, 1e-4)]
)
def test_what_a_checkpoint_s_own_rounding_allows_has_a_limit(off: float, allowed: float) -> None:
    found = parity.ParityReport("logits", 12, 0.5, 1e-4, 0.2, 1e-4)
    said = reference.Reference("logits", (), None, np.ones(4))
    exact = reference.Reference("logits", (), None, np.ones(4) * (1 + off))
    (held,) = parity._widened([found], [said], [exact])
    assert held.tolerance == pytest.approx(allowed, rel=1e-3)
    assert held.relative_tolerance == pytest.approx(allowed, rel=1e-3)
    assert not held.holds


def test_the_proof_sees_one_wrong_weight(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import numpy_helper

    right = bundle_graphs.build

    def wrong(*given: Any) -> dict[str, Any]:
        graphs = right(*given)
        found = graphs["model.onnx"].graph.initializer
        weight = next(w for w in found if list(w.dims) == [32, 64])
        array = numpy_helper.to_array(weight).copy()
        array[3, 5] += 0.5
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return graphs

    monkeypatch.setattr(bundle_graphs, "build", wrong)
    _refused(tiny / "embedder", tmp_path / "out", ExportError, "the parity check failed")


def test_the_proof_sees_another_tokenizer(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.export.checkpoint import tokenizers

    def wrong(tokenizer: Any, folder: Path) -> None:
        shutil.copy(tiny / "t5/tokenizer.json", folder)

    monkeypatch.setattr(tokenizers, "save", wrong)
    _refused(tiny / "embedder", tmp_path / "out", ExportError, "gives other ids")


def test_an_interrupted_export_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parity, "check_parity", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(str(tiny / "embedder"), tmp_path / "out", task=None)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_output_error(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "save", full)
    _refused(tiny / "embedder", tmp_path / "out", OutputError, "No space left")


def test_missing_extra_names_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_is_installed", lambda module: module != "torch")
    with pytest.raises(MissingDependency, match="torch") as caught:
        export("google-t5/t5-small", tmp_path / "out", task=None)
    assert caught.value.hint == 'pip install "corpus-engine[export]"'


def test_importing_the_room_is_light() -> None:
    code = (
        "import engine.export, sys; "
        "print([m for m in ('torch', 'transformers', 'optimum', 'onnx', 'onnxruntime') "
        "if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"


# --- the hub, by name, against a stand-in on this machine

_CASES = """
import json, sys
from pathlib import Path
from engine.errors import EngineError
from engine.export import export

for case in json.loads(sys.argv[1]):
    try:
        report = export(case.pop("model"), Path(case.pop("out")), **{"task": None, **case})
        print(json.dumps({"notes": report.notes}))
    except EngineError as error:
        print(json.dumps({"error": type(error).__name__, "said": str(error)}))
"""


def _by_name(
    cases: list[dict[str, Any]], endpoint: str, home: Path, **more: str
) -> list[dict[str, Any]]:
    """Run exports in a process of their own: huggingface_hub reads its settings at import."""
    root = Path(__file__).resolve().parents[2]
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", _CASES, json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**inherited, "PYTHONPATH": str(root), **ours, **more},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


NAME = "google-t5/t5-small"


def test_export_by_name_with_and_without_a_revision(tiny: Path, tmp_path: Path) -> None:
    served = _copy(tiny / "t5", tmp_path)
    # None of these may be fetched.
    for extra in ("README.md", "modeling_own.py", "pytorch_model.bin", "onnx/model.onnx"):
        (served / extra).parent.mkdir(exist_ok=True)
        (served / extra).write_text("x")
    repository = fake_hub.Hub(served)
    task = "translation_en_to_de"
    with fake_hub.serve(repository) as endpoint:
        moving, pinned = _by_name(
            [
                {"model": NAME, "out": str(tmp_path / "moving"), "task": task},
                {
                    "model": NAME,
                    "out": str(tmp_path / "pinned"),
                    "task": task,
                    "revision": fake_hub.COMMIT,
                },
            ],
            endpoint,
            tmp_path / "home",
        )
    assert any(f"--revision {fake_hub.COMMIT}" in note for note in moving["notes"])
    assert not any("--revision" in note for note in pinned["notes"])
    assert repository.fetched() == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name, requested in (("moving", ""), ("pinned", fake_hub.COMMIT)):
        made = bundle_format.load(tmp_path / name)
        made.check()
        source = made.description.source
        assert source["model"] == NAME
        assert source["revision"] == fake_hub.COMMIT
        assert source["requested_revision"] == requested
    # What was fetched once serves offline; a lookup is enough to see it.
    (offline,) = _by_name(
        [{"model": NAME, "out": str(tmp_path / "offline"), "task": "text-classification"}],
        "http://127.0.0.1:9",
        tmp_path / "home",
        HF_HUB_OFFLINE="1",
    )
    assert "text-classification is exported for encoders; 't5'" in offline["said"]


def test_a_subfolder_of_a_branch(tiny: Path, tmp_path: Path) -> None:
    """Its files are fetched and no others; its shards have names of their own."""
    from safetensors import safe_open

    served = tmp_path / "served"
    inner = served / "english/base"
    shutil.copytree(tiny / "classifier", inner)
    shutil.copytree(tiny / "t5", served / "t5")
    (inner / "model.safetensors").rename(inner / "all.safetensors")
    with safe_open(inner / "all.safetensors", "np") as stored:
        index = {"metadata": {}, "weight_map": dict.fromkeys(stored.keys(), "all.safetensors")}
    checkpoints.write_json(inner / "model.safetensors.index.json", index)
    repository = fake_hub.Hub(served, branches=("main", "next"))
    case = {"model": NAME, "revision": "next"}
    out = tmp_path / "out"
    with fake_hub.serve(repository) as endpoint:
        done, other = _by_name(
            [
                {**case, "out": str(out), "subfolder": "english/base"},
                {**case, "out": str(tmp_path / "other"), "subfolder": "german"},
            ],
            endpoint,
            tmp_path / "home",
        )
    assert any("the revision 'next'" in note for note in done["notes"])
    assert {name.rpartition("/")[0] for name in repository.fetched()} == {"english/base"}
    source = bundle_format.load(out).description.source
    assert (source["model"], source["subfolder"]) == (NAME, "english/base")
    assert "holds no config.json; those that hold one: english/base, t5" in other["said"]


def test_what_the_hub_refuses_is_said_in_plain_words(tiny: Path, tmp_path: Path) -> None:
    served = checkpoints.to_pickle(_copy(tiny / "t5", tmp_path))
    out = str(tmp_path / "out")
    with fake_hub.serve(fake_hub.Hub(served)) as endpoint:
        answers = _by_name(
            [
                {"model": NAME, "out": out, "revision": "no-such-branch"},
                {"model": "nobody/nothing", "out": out},
                {"model": NAME, "out": out},
                {"model": "not a name!", "out": out},
            ],
            endpoint,
            tmp_path / "home",
        )
    said = [a["said"] for a in answers]
    assert {a["error"] for a in answers} == {"ExportError"}
    assert "no revision 'no-such-branch'" in said[0]
    assert "nobody/nothing: neither a local folder nor a model" in said[1]
    assert "pickled (pytorch_model.bin)" in said[2]
    assert "neither a local folder nor a hub id" in said[3]
    assert all("\nhint: " in text for text in said)
    assert not Path(out).exists()


def test_without_network_or_cache(tmp_path: Path) -> None:
    case = {"model": NAME, "out": str(tmp_path / "out")}
    (unreachable,) = _by_name([dict(case)], "http://127.0.0.1:9", tmp_path / "home")
    assert unreachable["error"] == "ExportError"
    assert "http://127.0.0.1:9 did not serve it (" in unreachable["said"]
    assert "Connection refused)" in unreachable["said"]
    assert "Max retries" not in unreachable["said"]
    (offline,) = _by_name([dict(case)], "http://127.0.0.1:9", tmp_path / "home", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline["said"]


def test_a_folder_that_is_mistyped_is_named(tmp_path: Path) -> None:
    """As a hub id it may be one, so the hub is asked first."""
    case = {"model": "engine/dmo", "out": str(tmp_path / "out")}
    (answer,) = _by_name([case], "http://127.0.0.1:9", tmp_path / "home")
    assert "engine/dmo: no local folder" in answer["said"]
    assert "did you mean 'engine/demo'?" in answer["said"]


# --- real shapes and trained weights


def test_t5_small_s_shape_with_its_tokenizer(shared: Path, tmp_path: Path) -> None:
    model = checkpoints.t5_small(tmp_path / "t5-small", shared / "models/tokenizers/t5-small")
    report = export(str(model), tmp_path / "out", task="translation_en_to_de")
    found = bundle_format.load(tmp_path / "out").description
    assert found.model_config.prefix == "translate English to German: "
    search = bundle_format.GenerationConfig(num_beams=4, early_stopping=True)
    assert found.model_config.decoder == bundle_format.DecoderConfig(
        0, (1,), 0, 256, 6, 8, 64, search, vocabulary=32128
    )
    assert report.largest_difference <= report.tolerance
    # 60.5 million parameters: encoder, decoder and head share one embedding.
    assert report.bytes < 4 * 60.6e6 + 4e6


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_minilm(trained: Path, tmp_path: Path, recipe: str) -> None:
    export(str(trained / "all-MiniLM-L6-v2"), tmp_path / "out", task=None, recipe=recipe)
    found = bundle_format.load(tmp_path / "out").description
    model_config = found.model_config
    assert (model_config.pooling, model_config.normalize, model_config.dimensions) == (
        "mean",
        True,
        384,
    )
    assert (model_config.max_length, model_config.position_limit) == (256, 512)
    most = {"fp32": 1e-5, "int8": 0.1}[recipe]
    assert found.proof["relative_error"] < most


# --- helpers


def _read(folder: Path) -> hub.Checkpoint:
    return hub.with_weights(hub.resolve(str(folder), None, str), False, lambda line: None)


def _copy(model: Path, folder: Path) -> Path:
    return Path(shutil.copytree(model, folder / "model"))


def _model(
    nodes: list[tuple[str, list[str], list[str]]],
    weights: dict[str, np.ndarray],
    inputs: dict[str, tuple[Any, list[Any]]],
    outputs: list[str],
    **attributes: Any,
) -> Any:
    """A small ONNX model with float32 outputs; attributes go to every node."""
    from onnx import TensorProto, helper, numpy_helper

    def declared(name: str, kind: Any, shape: Any) -> Any:
        number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        return helper.make_tensor_value_info(name, number, shape)

    body = helper.make_graph(
        [helper.make_node(op, used, made, made[0], **attributes) for op, used, made in nodes],
        "test",
        [declared(name, *what) for name, what in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def _run(model: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, inputs)


def _decode(folder: Path, ids: np.ndarray, mask: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Teacher-forced logits (rows, steps, vocabulary), one step after the other."""
    generation = bundle_format.load(folder).description.model_config.decoder
    assert generation is not None
    backend = OrtBackend(folder, bundle_format.load(folder).graphs_for(CPU), device=CPU)
    feeds = {"input_ids": ids, "attention_mask": mask}
    cache = HostCache(backend, generation, feeds, width=1, positions=tokens.shape[1], picks=1)
    cache.admit(np.arange(len(ids)), np.arange(len(ids)))
    logits = []
    for step in range(tokens.shape[1]):
        cache.step(tokens[:, step])
        logits.append(cache.logits().copy())
    return np.stack(logits, axis=1)
