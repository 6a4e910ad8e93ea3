"""Fixed scales: exact sums, answers that depend on no neighbour, and tokens that need their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of
from typer.testing import CliRunner

pytest.importorskip("optimum.exporters.onnx")
pytest.importorskip("onnx")

from engine.bundle import format as bundle_format
from engine.cli import app
from engine.errors import SettingsError
from engine.export import export, quantize
from engine.export.acceptance.limits import BATCH_EFFECT
from engine.export.graphs import storage
from engine.export.recipes.int8_static import fixed_scale
from engine.export.sentences import SENTENCES, encode
from engine.pipeline import Bundle

RECIPE = "int8-static"
FAMILIES = {
    "bert": "feature-extraction",
    "roberta": "text-classification",
    "distilbert": "token-classification",
    "deberta-v2": "feature-extraction",
}


def static_bundle(family: str) -> Path:
    task = FAMILIES[family]
    return bundle_of(checkpoint_of(checkpoints.encoder, family, task), task, RECIPE, force=True)


def tokens_of(seed: int, count: int = 200, width: int = 64) -> Any:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


# --- which scale


def test_tokens_of_one_range_have_one_scale() -> None:
    tokens, weight = tokens_of(0), tokens_of(1, 64, 32)
    scale = fixed_scale(tokens, weight)
    assert scale is not None
    assert scale.factors is None
    assert np.abs(scale.round(tokens) - tokens).max() <= scale.scale * 0.51


def test_channels_that_differ_are_smoothed() -> None:
    tokens, weight = tokens_of(0), tokens_of(1, 64, 32)
    tokens[:, ::8] *= 30
    weight[::8] /= 30
    scale = fixed_scale(tokens, weight)
    assert scale is not None
    assert scale.factors is not None


def test_tokens_that_differ_keep_a_scale_each() -> None:
    tokens, weight = tokens_of(0), tokens_of(1, 64, 32)
    tokens[::20] *= 100
    assert fixed_scale(tokens, weight) is None


@pytest.mark.parametrize("number", [0.0, 3.0, -3.0])
def test_activations_that_never_change_have_a_scale(number: float) -> None:
    tokens = np.full((5, 8), number, np.float32)
    scale = fixed_scale(tokens, tokens_of(1, 8, 4))
    assert scale is not None
    np.testing.assert_allclose(scale.round(tokens), tokens, atol=abs(number) / 200)


# --- graphs


def test_sums_are_those_of_whole_numbers() -> None:
    from onnx import helper, numpy_helper

    folder = static_bundle("bert")
    model = storage.load(folder, ("model.onnx",))["model.onnx"]
    arrays = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type == "MatMulIntegerToFloat"]
    fixed = [n for n in products if n.input[2] in arrays and len(n.input) == 7]
    assert len(fixed) >= 2
    for node in fixed:
        integers = node.input[0]
        model.graph.output.append(helper.make_empty_tensor_value_info(integers))
    encoded = bundle_format.load(folder).description.model_config
    outputs = {name for node in fixed for name in (node.input[0], node.output[0])}
    values = storage.watch(model, encode(folder, encoded), sorted(outputs))
    for node in fixed:
        weight, zero = arrays[node.input[1]].astype(np.int64), int(arrays[node.input[4]])
        sums = (values[node.input[0]].astype(np.int64) - zero) @ weight
        scale = arrays[node.input[2]] * arrays[node.input[3]]
        expected = sums.astype(np.float32) * scale + arrays[node.input[6]]
        np.testing.assert_allclose(values[node.output[0]], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_does_not_depend_on_its_batch_to_the_bit(family: str) -> None:
    bundle = Bundle.load(static_bundle(family), device="cpu")
    texts = [*SENTENCES, *(f"{a} {b}" for a, b in zip(SENTENCES, SENTENCES[::-1], strict=True))]
    together = bundle(texts).to_pylist()
    assert bundle(texts[::-1]).to_pylist() == together[::-1]
    assert [bundle([text]).to_pylist()[0] for text in texts] == together


def test_only_attention_computes_padding() -> None:
    graph = storage.load(static_bundle("bert"), ("model.onnx",))["model.onnx"].graph
    ops = [node.op_type for node in graph.node]
    assert ops.count("Gather") >= 2 * 4
    assert "NonZero" in ops
    # Its bias is added where sums become float.
    assert sum(n.op_type == "MatMulIntegerToFloat" and len(n.input) == 7 for n in graph.node) >= 4


def test_weights_that_layers_share_are_stored_once() -> None:
    task = "token-classification"
    source = checkpoint_of(checkpoints.encoder, "albert", task)
    sizes = [
        (bundle_of(source, task, recipe, force=True) / bundle_format.WEIGHTS).stat().st_size
        for recipe in ("int8", RECIPE)
    ]
    assert sizes[1] < 1.5 * sizes[0]


def test_a_real_classifier_is_within_its_limits(
    shared: Path, trained: Path, tmp_path: Path
) -> None:
    lines = (shared / "data" / "sst2" / "dev.tsv").read_text().splitlines()[1:41]
    rows = [json.dumps({"text": line.split("\t")[0]}) for line in lines]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    source = bundle_of(trained / "minilm-sst2", "text-classification")
    report = quantize(source, tmp_path / "out", recipe=RECIPE, sample=tmp_path / "rows.jsonl")
    figures = {name: figure["value"] for name, figure in report.gate["figures"].items()}
    assert figures[BATCH_EFFECT] == 0
    assert figures["same label where fp32 is sure"] == 1
    assert figures["mean score shift"] < 0.02


# --- refusals


def test_a_model_that_generates_is_refused(tiny: Path, tiny_bundles: Path, tmp_path: Path) -> None:
    message = "int8-static is for models that encode; one for translation generates"
    with pytest.raises(SettingsError, match=message):
        quantize(tiny_bundles / "t5", tmp_path / "out", recipe=RECIPE)
    with pytest.raises(SettingsError, match=message) as caught:
        export(str(tiny / "t5"), tmp_path / "out", task="translation_en_to_de", recipe=RECIPE)
    assert "take int8" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_the_command_names_the_recipe() -> None:
    assert RECIPE in " ".join(CliRunner().invoke(app, ["quantize", "--help"]).output.split())
