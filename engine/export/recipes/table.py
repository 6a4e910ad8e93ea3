"""Recipes: what is done to a bundle's fp32 graphs, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.bundle.format import BESIDE, PACKED, RESIDENT, STEP, BundleFolder
from engine.errors import SettingsError
from engine.export.acceptance import parity
from engine.export.acceptance.gate import ALONE, Limit
from engine.export.graphs import remove_padding as packing
from engine.export.graphs import step_cpu, storage
from engine.export.recipes import smoothquant
from engine.export.recipes.blockwise import blocks
from engine.export.recipes.fp16 import half
from engine.export.recipes.int8 import int8, int8_tensor
from engine.export.recipes.quantizable_layers import products, weighted


@dataclass(frozen=True)
class GraphContext:
    """What a recipe is told of the graph that it changes.

    Attributes:
        smoothed: As `bundle.Description.smoothed`.
        largest: As `smooth.ranges`; empty where the recipe does not ask.
        stays: Decoding is for a GPU alone, and what it keeps there is as narrow as what it reads.
    """

    smoothed: bool
    largest: Mapping[str, Any]
    stays: bool


@dataclass(frozen=True)
class Recipe:
    """One row of `RECIPES`.

    Attributes:
        told: What it does, in a line.
        rewrite: (ONNX ModelProto, what is known of it) -> the new one, which may be the same.
        limits: What the gate's figures have to be.
        ranged: Whether it wants the ranges of activations.
        shortlist: Tokens whose logits a step graph computes in float32 behind a head that is not.
        device: Whether it is for a GPU, whose graphs it is done to then; else to the CPU's.
    """

    told: str
    rewrite: Callable[[Any, GraphContext], Any]
    limits: tuple[Limit, ...] = ()
    ranged: bool = False
    shortlist: int = 0
    device: bool = False


def _plain(model: Any, made: GraphContext) -> Any:
    return model


def _int8(model: Any, made: GraphContext) -> Any:
    int8(model, made.smoothed, made.largest)
    return model


def _tensor(model: Any, made: GraphContext) -> Any:
    int8_tensor(model)
    return model


def _blocks(bits: int) -> Callable[[Any, GraphContext], Any]:
    def rewrite(model: Any, made: GraphContext) -> Any:
        blocks(model, bits)
        return model

    return rewrite


# Caches and logits stay on the GPU as they are; what the host reads is float32.
_THERE = (r"(past|present|cross|given|held|moved|grown)\.\d+\.(key|value)", "logits")


def _fp16(model: Any, made: GraphContext) -> Any:
    """Inputs and outputs of encoders stay float32, and so do the products of `products.KEPT`."""
    crosses = any(output.name.startswith("cross.") for output in model.graph.output)
    most = {node.name for node in products(model.graph)}
    kept = {node.name for node in weighted(model.graph)} - most
    if model.graph.name == "pick":
        kept = {node.name for node in model.graph.node}
    half(model, kept, _THERE if made.stays and (crosses or model.graph.name in _DECODES) else ())
    return model


def _limits(
    *, cosine: float, worst: float, same: float, shift: float, sure: float, text: float
) -> tuple[Limit, ...]:
    certain = ("same label", "same token", "same top token")
    return (
        Limit("mean cosine", cosine),
        Limit("worst cosine", worst),
        *(Limit(f"{name} where fp32 is sure", sure) for name in certain),
        Limit("same span", same),
        Limit("same top token", same),
        Limit("mean score shift", shift, most=True),
        Limit("chrF", text),
    )


# A row's answer is its own, but for the order of float32 sums in what int8 leaves alone.
_OWN = Limit(ALONE, 1e-4, most=True)
_INT8 = _limits(cosine=0.99, worst=0.95, same=0.93, shift=0.04, sure=0.97, text=60)
_FP16 = _limits(cosine=0.9995, worst=0.999, same=0.98, shift=0.005, sure=0.995, text=90)
_INT4 = _limits(cosine=0.97, worst=0.85, same=0.85, shift=0.08, sure=0.95, text=40)

_DECODES = {Path(name).stem for name in RESIDENT}

RECIPES: Mapping[str, Recipe] = {
    "fp32": Recipe("as exported, fused", _plain),
    "int8": Recipe(
        "weights per channel, activations with a scale for each row, exact sums: a row's answer "
        "does not depend on its batch",
        _int8, limits=(*_INT8, _OWN), ranged=True, shortlist=16,
    ),
    "int8-tensor": Recipe(
        "weights per channel, activations with one scale for all rows of a batch, as ONNX Runtime "
        "quantizes dynamically: for comparison",
        _tensor, limits=_INT8, shortlist=16,
    ),
    "int8-weight": Recipe(
        "weights in blocks of 8 bits, sums in float32: for work bound by memory",
        _blocks(8), limits=_INT8,
    ),
    "int4-weight": Recipe(
        "weights in blocks of 4 bits, sums in float32: for work bound by memory, and small disks",
        _blocks(4), limits=_INT4, shortlist=16,
    ),
    "fp16": Recipe(
        "float16, what overflows there in float32: for a GPU; a CPU computes it in float32 again",
        _fp16, limits=_FP16, device=True,
    ),
}  # fmt: skip


def recipe(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        SettingsError: There is none of that name.
    """
    if name == "bf16":
        raise SettingsError(
            "recipe: bf16 cannot be made: ONNX Runtime's CPU has no arithmetic for it, on which "
            "a recipe is compared with fp32",
            "take fp16, or fp32",
        )
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        raise SettingsError(f"recipe: {name!r} is not a recipe", f"use one of: {known}")
    return RECIPES[name]


def applied(name: str, plain: BundleFolder) -> dict[str, Any]:
    """The graphs of an fp32 bundle after a recipe, by file name.

    Raises:
        SettingsError: The recipe changes none of them.
    """
    chosen, description = recipe(name), plain.description
    stays = chosen.device and RESIDENT[0] in plain.graphs
    unused = ((STEP,) if stays else ()) if chosen.device else (*RESIDENT, *BESIDE)
    names = tuple(name for name in plain.graphs if name not in unused)
    graphs = storage.load(plain.path, names)
    left = {"dense.onnx", *BESIDE} | ({STEP} if chosen.device else set())
    if not graphs.keys() - left:
        raise SettingsError(
            f"recipe: {name} changes nothing of {plain.path}, which has no graph for a GPU",
            "export the model again, or take another recipe, such as int8",
        )
    for file in sorted(graphs.keys() - left):
        model = graphs[file]
        largest = {}
        if chosen.ranged and not description.smoothed and file in smoothquant.ENCODERS:
            largest = smoothquant.ranges(plain.path, file, description.model_config)
        if file == "step.onnx" and chosen.shortlist:
            step_cpu.shortlist(model, chosen.shortlist)
        made = GraphContext(description.smoothed, largest, stays)
        if chosen.device and file in PACKED:
            graphs |= _both(file, model, chosen, made, plain)
        else:
            graphs[file] = chosen.rewrite(model, made)
    return graphs


def _both(
    file: str, model: Any, chosen: Recipe, made: GraphContext, plain: BundleFolder
) -> dict[str, Any]:
    """An encoder after a recipe, with its padding and, where its attention is known, without; held
    to the fp32 encoder with its padding before the recipe, and to both behind it.

    Raises:
        ExportError: The one without answers otherwise.
    """
    flat = deepcopy(model)
    if not packing.packed(flat, plain.description.model_config.max_length):
        return {file: chosen.rewrite(model, made)}
    feeds = parity.encode(plain.path, plain.description.model_config)
    wanted = packing.outputs(model, feeds)
    allowed = max(parity.TOLERANCE, float(plain.description.proof["relative_tolerance"]))
    packing.check(file, packing.error(flat, wanted, feeds), allowed)
    model, flat = (chosen.rewrite(own, made) for own in (model, flat))
    # Both are rounded, each in its own order.
    most = 2 * packing.error(model, wanted, feeds) + allowed
    packing.check(PACKED[file], packing.error(flat, wanted, feeds), most)
    return {file: model, PACKED[file]: flat}
