"""Causal decoders in small integers: smoothed within their graph, through the gate, and each row's
answer its own."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

pytest.importorskip("optimum.exporters.onnx")

import engine
from engine.bundle import format as bundle_format
from engine.export.graphs import storage
from engine.export.recipes import int8, step_smoothing
from engine.export.recipes.quantizable_layers import quantizable_products
from engine.measures.vectors import relative_error

# More certain of their tokens than random models usually are here, as trained ones are.
CALM = {
    "initializer_range": 0.05, "hidden_size": 64, "intermediate_size": 96,
    "tie_word_embeddings": True,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Gemma2": {"final_logit_softcapping": 20.0},
    "Phi3": {},
}
RECIPES = [
    *(("int8", family) for family in FAMILIES),
    ("int8-weight", "Qwen2"),
    ("int4-weight", "Llama"),
    ("int4-weight", "Gemma2"),
]
OTHERS = {"gpt2": checkpoints.gpt2, "opt": checkpoints.opt}


def fp32(family: str) -> Path:
    if family in OTHERS:
        return bundle_of(checkpoint_of(OTHERS[family]), "text-generation")
    checkpoint = checkpoint_of(checkpoints.rotary, family, **{**CALM, **FAMILIES[family]})
    return bundle_of(checkpoint, "text-generation")


def step(folder: Path) -> Any:
    return storage.load(folder, ("step.onnx",))["step.onnx"]


def logits(folder: Path, model: Any) -> NDArray[np.float32]:
    """Of every real token of the bundled sentences."""
    feeds, real = step_smoothing._prompts(
        folder, bundle_format.load(folder).description.model_config, model
    )
    feeds["logit_rows"] = np.flatnonzero(real)
    return np.asarray(storage.watch(deepcopy(model), feeds, ["logits"])["logits"])


def outliers(name: str, width: int) -> NDArray[np.float32]:
    """One channel in eight of what the norms give thirty times what it was."""
    normed = "narrow" not in name and "gated" not in name
    return np.where(np.arange(width) % 8 if normed else np.ones(width), 1, 30).astype(np.float32)


def with_outliers(model: Any, ranges: Mapping[str, Any]) -> Any:
    """The same model with outliers, and a thirtieth in the weights that read them."""
    weights = step_smoothing._Weights(model.graph)
    scales = {name: outliers(name, len(values)) for name, values in ranges.items()}
    for name, scale in scales.items():
        for maker in weights.makers_of(name) if weights.op(name) != "Mul" else ():
            weights.replace(maker, weights.array(maker) * scale)
    for node in quantizable_products(model.graph):
        name = node.input[0]
        if name in scales and weights.makers_of(name) and weights.op(name) != "Mul":
            divided = weights.array(node.input[1]) / scales[name][:, None]
            weights.replace(node.input[1], divided)
    return model


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_a_smoothed_graph_computes_what_it_did(family: str) -> None:
    folder = fp32(family)
    model_config = bundle_format.load(folder).description.model_config
    ranges = step_smoothing.activation_ranges(folder, "step.onnx", model_config)
    model = step(folder)
    before = logits(folder, model)
    smoothed = step_smoothing.smooth(model, ranges)
    # Attention's and the feed-forward layer's input, and a gated layer's output.
    each = 2 if family in OTHERS else 3
    assert smoothed == each * model_config.decoder.layers  # type: ignore[union-attr]  # it has one
    assert relative_error(before, logits(folder, model)) < 2e-6
    again = step_smoothing.smooth(step(folder), {})
    assert again == 0


@pytest.mark.parametrize("family", ["Qwen2", "gpt2"])
def test_outliers_cost_int8_less(family: str) -> None:
    folder = fp32(family)
    model_config = bundle_format.load(folder).description.model_config
    ranges = step_smoothing.activation_ranges(folder, "step.onnx", model_config)
    model = with_outliers(step(folder), ranges)
    whole = logits(folder, model)
    errors = []
    for smooth in (False, True):
        quantized = deepcopy(model)
        if smooth:
            scaled = {name: r * outliers(name, len(r)) for name, r in ranges.items()}
            step_smoothing.smooth(quantized, scaled)
        int8.quantize_per_token(quantized)
        errors.append(relative_error(whole, logits(folder, quantized)))
    rough, smoothed = errors
    assert smoothed < 0.5 * rough


@pytest.mark.parametrize(("recipe", "family"), RECIPES)
def test_recipes_pass_the_gate_and_each_row_is_its_own(recipe: str, family: str) -> None:
    checkpoint = checkpoint_of(checkpoints.rotary, family, **{**CALM, **FAMILIES[family]})
    folder = bundle_of(checkpoint, "text-generation", recipe)
    description = bundle_format.load(folder).description
    assert description.gate["passed"]
    assert not description.gate["forced"]
    texts = ["The house", "A dog runs over the green", "We", "", "Ein Hund läuft " * 9]
    settings: dict[str, Any] = {"max_new_tokens": 20, "do_sample": False}
    bundle = engine.Bundle.load(folder, threads=1)
    together = bundle(texts * 3, **settings)
    alone = [bundle([text], **settings).slice(0, 1) for text in texts]
    assert together.to_pylist() == [row for one in alone for row in one.to_pylist()] * 3
    products = quantizable_products(step(folder).graph)
    assert not products, "every product is one of integers, the gated layers' last ones too"


def test_the_same_row_has_the_same_logits_to_the_bit() -> None:
    folder = bundle_of(
        checkpoint_of(checkpoints.rotary, "Qwen2", **{**CALM, **FAMILIES["Qwen2"]}),
        "text-generation",
        "int8",
    )
    model_config = bundle_format.load(folder).description.model_config
    model = step(folder)
    feeds, real = step_smoothing._prompts(folder, model_config, model)
    feeds |= {"logit_rows": np.flatnonzero(real), "whole_logits": np.array(True)}
    rows = real.reshape(feeds["tokens"].shape)
    whole = storage.watch(deepcopy(model), feeds, ["logits"])["logits"]
    first = 0
    for n in range(len(rows)):
        count = int(rows[n].sum())
        one = {
            name: value[n : n + 1, :count] if name == "tokens" else value[n : n + 1]
            for name, value in feeds.items()
            if value.ndim and name not in ("logit_rows", "picks")
        }
        one |= {name: feeds[name] for name in ("picks", "scored", "whole_logits")}
        one["total"] = np.array(count, np.int32)
        one["logit_rows"] = np.arange(count)
        alone = storage.watch(deepcopy(model), one, ["logits"])["logits"]
        assert np.array_equal(alone, whole[first : first + count]), n
        first += count
