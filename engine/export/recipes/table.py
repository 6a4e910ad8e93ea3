"""Recipes: what is done to a bundle's fp32 graphs, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.core.graphs import Role
from engine.core.suggestions import did_you_mean
from engine.core.types import Ints
from engine.errors import SettingsError
from engine.export.graphs import flat_encoder, shortlist
from engine.export.graphs.records import DEVICE_DECODING
from engine.export.recipes import blockwise, fp16, int8, int8_static, smoothquant
from engine.export.recipes.quantizable_layers import quantizable_products, weighted_products


@dataclass(frozen=True)
class GraphContext:
    """Facts about the graph that a recipe rewrites.

    Attributes:
        role: The graph's.
        ranges: As `smoothquant.activation_ranges`; empty where the recipe does not need them.
        on_gpu: The model decodes on a GPU alone, with its KV caches there in float16.
        sentences: An encoder's inputs, int64 (rows, length), as `sentences.encode` gives them;
            empty where the recipe does not need them.
        max_length: Tokens of a row at most.
    """

    role: Role
    ranges: Mapping[str, NDArray[np.float32]]
    on_gpu: bool
    sentences: Mapping[str, Ints] = field(default_factory=dict)
    max_length: int = 0


@dataclass(frozen=True)
class Recipe:
    """One row of `RECIPES`.

    Attributes:
        summary: What it does, in a line.
        rewrite: (ONNX ModelProto, its context) -> the new one, which may be the same object.
        needs_ranges: Whether it needs the ranges of activations.
        shortlist: Candidate tokens whose logits a step graph computes again in float32, where the
            head is quantized; 0 where it is not.
        for_gpu: Whether it rewrites the graphs for a GPU; else those for the CPU.
        encoders_only: Whether it needs a model that encodes and does not generate.
        flat: Whether an encoder's products compute no padding after it, where that is known.
    """

    summary: str
    rewrite: Callable[[Any, GraphContext], Any]
    needs_ranges: bool = False
    shortlist: int = 0
    for_gpu: bool = False
    encoders_only: bool = False
    flat: bool = False


def _fp32(model: Any, context: GraphContext) -> Any:
    return model


def _int8(model: Any, context: GraphContext) -> Any:
    decodes, ranges = context.role == "step", dict(context.ranges)
    if context.role in smoothquant.ENCODERS and flat_encoder.flatten(model, context.max_length):
        ranges = flat_encoder.with_flat_names(ranges)
    int8.quantize_per_token(model, ranges, matrices=decodes)
    if decodes:
        shortlist.rank_unscaled(model)
    return model


def _int8_static(model: Any, context: GraphContext) -> Any:
    flat_encoder.flatten(model, context.max_length)
    int8_static.quantize(model, context.sentences)
    return model


def _int8_tensor(model: Any, context: GraphContext) -> Any:
    int8.quantize_per_tensor(model)
    return model


def _int8_weight(model: Any, context: GraphContext) -> Any:
    blockwise.quantize_weights(model, bits=8)
    return model


def _int4_weight(model: Any, context: GraphContext) -> Any:
    blockwise.quantize_weights(model, bits=4)
    return model


# KV caches and logits stay on the GPU in float16; what the host reads is float32.
_NARROW = (r"\w+\.\d+\.(key|value)", "logits")


def _fp16(model: Any, context: GraphContext) -> Any:
    """Inputs and outputs of encoders stay float32, and so do the products of `FULL_PRECISION`."""
    graph = model.graph
    quantizable = {node.name for node in quantizable_products(graph, half=True)}
    full = {node.name for node in weighted_products(graph)} - quantizable
    if context.role == "pick":
        full = {node.name for node in graph.node}
    decodes = context.on_gpu and context.role in {"encoder", *DEVICE_DECODING}
    fp16.convert(model, full, _NARROW if decodes else ())
    return model


RECIPES: Mapping[str, Recipe] = {
    "fp32": Recipe("as exported, fused", _fp32),
    "int8": Recipe(
        "weights per channel, activations with a scale for each token, exact sums: a row's answer "
        "does not depend on its batch",
        _int8, needs_ranges=True, shortlist=16, flat=True,
    ),
    "int8-static": Recipe(
        "as int8, with one fixed scale where tokens differ little: for encoders on a CPU with VNNI",
        _int8_static, encoders_only=True, flat=True,
    ),
    "int8-tensor": Recipe(
        "weights per channel, activations with one scale for all rows of a batch, as in ONNX "
        "Runtime's dynamic quantization: for comparison",
        _int8_tensor, shortlist=16,
    ),
    "int8-weight": Recipe(
        "weights in blocks of 8 bits, activations too: for memory-bandwidth-bound models",
        _int8_weight,
    ),
    "int4-weight": Recipe(
        "weights in blocks of 4 bits, activations in blocks of 8: for memory-bandwidth-bound "
        "models, and small disks",
        _int4_weight, shortlist=16,
    ),
    "fp16": Recipe(
        "float16, with overflow-prone layers kept in float32: for a GPU; a CPU computes it in "
        "float32",
        _fp16, for_gpu=True,
    ),
}  # fmt: skip


def check_applies(name: str, decodes: bool, task: str) -> None:
    """Refuse a recipe for encoders where a model generates.

    Raises:
        SettingsError: It does.
    """
    if RECIPES[name].encoders_only and decodes:
        raise SettingsError(
            f"recipe: {name} is for models that encode; one for {task} generates",
            "take int8, whose scales follow each token",
        )


def recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        SettingsError: There is none of that name.
    """
    if name == "bf16":
        raise SettingsError(
            "recipe: bf16 is not supported: ONNX Runtime has no bf16 arithmetic on the CPU, where "
            "a recipe is compared with fp32",
            "take fp16, or fp32",
        )
    if name not in RECIPES:
        hint = f"{did_you_mean(name, RECIPES)}use one of: {', '.join(RECIPES)}"
        raise SettingsError(f"recipe: {name!r} is not a recipe", hint)
    return RECIPES[name]
