"""Integer products of a decoding step: less around them, and every bit as before."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import checkpoints
from support.bundles import bundle_of, checkpoint_of

pytest.importorskip("optimum.exporters.onnx")

from engine.bundle import format as bundle_format
from engine.core.device import CPU
from engine.core.types import Ints
from engine.export.graphs import architectures, shortlist, storage
from engine.export.recipes import int8
from engine.generation.host_cache import HostCache
from engine.runtime.backend import OrtBackend

# Behind an encoder, with and without a bias of the head; causal, with a projection behind the last
# states and with bounded logits.
FAMILIES = {
    "t5": (checkpoints.t5, "translation", {}),
    "marian": (checkpoints.marian, "translation", {}),
    "gpt2": (checkpoints.gpt2, "text-generation", {}),
    "gemma2": (
        checkpoints.rotary, "text-generation", {"final_logit_softcapping": 5.0, "hidden_size": 64}
    ),
}  # fmt: skip
STEPS = 4


def folder_of(family: str, recipe: str) -> Path:
    build, task, config = FAMILIES[family]
    named = ("Gemma2",) if family == "gemma2" else ()
    checkpoint = checkpoint_of(build, *named, **config)
    return bundle_of(checkpoint, task, recipe, force=recipe != "fp32")


def steps(
    folder: Path, *, whole: bool, picks: int, scored: bool = False
) -> list[dict[str, NDArray[Any]]]:
    """What each of some steps computes, along given tokens; the second row is the shortest."""
    bundle = bundle_format.load(folder)
    decoder = bundle.description.model_config.decoder
    assert decoder
    backend = OrtBackend(folder, bundle.graphs_for(CPU), device=CPU)
    draw = np.random.default_rng(1)
    lengths = np.array([7, 1, 4])
    mask = (np.arange(7) < lengths[:, None]).astype(np.int64)
    feeds = {"input_ids": draw.integers(5, 90, (3, 7)) * mask, "attention_mask": mask}
    rows: Ints = np.arange(3)
    cache = HostCache(
        backend,
        decoder,
        feeds,
        width=1,
        positions=7 + STEPS,
        picks=picks,
        whole=whole,
        scored=scored,
    )
    cache.admit(rows, rows)
    outputs = []
    for _ in range(STEPS):
        cache.step(draw.integers(5, 90, 3))
        assert len(cache.host["logits"]) == (3 if whole else 0)
        tokens, scores = cache.best()
        outputs.append({"best": tokens.copy(), "scores": scores.copy()})
        outputs[-1]["logits"] = cache.logits().copy()
    return outputs


@pytest.mark.parametrize("family", FAMILIES)
def test_the_likeliest_are_the_same_without_the_logits_of_the_others(family: str) -> None:
    folder = folder_of(family, "int8")
    for picks in (1, 3):
        pairs = zip(*(steps(folder, whole=w, picks=picks) for w in (True, False)), strict=True)
        for whole, best in pairs:
            for name in ("best", "scores", "logits"):
                assert np.array_equal(best[name], whole[name]), name
            at = np.take_along_axis(whole["logits"], whole["best"], axis=1)
            assert np.array_equal(at, whole["scores"])


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_among_all_logits(family: str) -> None:
    folder = folder_of(family, "int8")
    for whole in (True, False):
        for step in steps(folder, whole=whole, picks=20, scored=True):
            logits = step["logits"].astype(np.float64)
            sums = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
            every = logits - logits.max(axis=1, keepdims=True) - sums[:, None]
            of_best = np.take_along_axis(every, step["best"], axis=1)
            assert np.allclose(step["scores"], of_best, rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_reshaped_around_the_products_of_a_step(family: str) -> None:
    plain, rewritten = (
        storage.load(folder_of(family, recipe), ("step.onnx",))["step.onnx"].graph.node
        for recipe in ("fp32", "int8")
    )
    before, after = (Counter(node.op_type for node in nodes) for nodes in (plain, rewritten))
    products = after["MatMulIntegerToFloat"]
    assert products > 6
    for op in ("Reshape", "Concat"):
        assert after[op] == before[op]
    # The head of a causal model reads some of the tokens only.
    counts = 1 if "logit_rows" not in str(plain) else 2
    assert after["Shape"] - before["Shape"] == after["ConstantOfShape"] == counts


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_quantized_as_other_tensors_are(family: str) -> None:
    folder = folder_of(family, "fp32")
    plain = storage.load(folder, ("step.onnx",))["step.onnx"]
    shortlist.add(plain, 5)
    answers = []
    for matrices in (False, True):
        model = deepcopy(plain)
        assert int8.quantize_per_token(model, matrices=matrices) > 6
        if matrices:
            shortlist.rank_unscaled(model)
        answers.append(_outputs(model))
    for name, values in answers[0].items():
        assert np.array_equal(values, answers[1][name]), name


def test_a_bias_of_zeros_is_not_added_to_the_logits() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = ("vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim")
    config = transformers.BartConfig(
        **dict(zip(sizes, (60, 16, 1, 1, 16), strict=True)), decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config)
    assert architectures.blueprint(model).head_bias is None
    model.final_logits_bias[0, 3] = 0.5
    bias = architectures.blueprint(model).head_bias
    assert np.array_equal(np.flatnonzero(bias), [3])


def _outputs(model: Any) -> dict[str, NDArray[Any]]:
    """Of one step over random caches, all logits among them."""
    draw = np.random.default_rng(2)
    sizes: dict[str, int] = {"slots": 5, "steps": 1, "capacity": 6, "source_capacity": 4}
    feeds: dict[str, NDArray[Any]] = {
        "lengths": np.array([3, 0, 5, 1, 2], np.int32),
        "total": np.array(6, np.int32),
        "source_last": np.array([0, 3, 1, 2, 3], np.int32),
        "source_total": np.array(4, np.int32),
        "logit_rows": np.arange(5),
        "picks": np.array([2]),
        "scored": np.array(True),
        "whole_logits": np.array(True),
    }
    for wanted in model.graph.input:
        if wanted.name in feeds:
            continue
        shape = [d.dim_value or sizes[d.dim_param] for d in wanted.type.tensor_type.shape.dim]
        tokens = wanted.name == "tokens"
        feeds[wanted.name] = (
            draw.integers(5, 90, shape) if tokens else draw.normal(size=shape).astype(np.float32)
        )
    return storage.watch(model, feeds, ["logits", "best", "best_scores"])
