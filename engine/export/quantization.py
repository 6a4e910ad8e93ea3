"""An fp32 bundle -> a bundle of another recipe, if its answers stay within the recipe's limits."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from engine.bundle import format as bundle_format
from engine.bundle import trial
from engine.bundle.format import BundleFolder, Description
from engine.core.graphs import GraphRecord
from engine.errors import ExportError, SettingsError
from engine.export.acceptance import gate, limits, packing, parity, sample
from engine.export.acceptance.gate import GateReport
from engine.export.acceptance.sample import Sample
from engine.export.acceptance.worst_layers import worst_layers
from engine.export.graphs import remove_padding, shortlist, storage
from engine.export.graphs.records import DEVICE_DECODING, FLAT, OUTPUT_HEADS, PACKED, records
from engine.export.graphs.token_places import computes_padding
from engine.export.recipes import smoothquant, step_smoothing, table
from engine.export.recipes.table import GraphContext, Recipe
from engine.export.sentences import encode
from engine.export.versions import versions


def load_sample(file: Path | None, text: Sequence[str], description: Description) -> Sample:
    """The user's own rows, or the bundled ones.

    Raises:
        InputError, ColumnError, SettingsError: As `sample.read`.
    """
    return sample.read(file, text, description) if file else sample.bundled(description)


def write_bundle(
    plain: BundleFolder,
    folder: Path,
    recipe: str,
    rows: Sample,
    force: bool,
    progress: Callable[[str], None],
) -> Description:
    """Write a recipe's bundle into `folder`, and compare its answers with the fp32 bundle's.

    Args:
        plain: The fp32 bundle.
        folder: Empty.
        recipe: A name of `table.RECIPES`.
        rows: What both answer.
        force: Keep the bundle where it exceeds the recipe's limits, too.
        progress: Called with one line before each stage.

    Raises:
        SettingsError: The recipe changes no graph of the bundle, or is not for such models.
        ExportError: The bundle exceeds the limits.
        InputError: A row is not what the task takes.
    """
    decodes = plain.description.model_config.decoder is not None
    table.check_applies(recipe, decodes, plain.description.task)
    progress(f"writing the graphs ({recipe})")
    graphs = rewritten_graphs(recipe, plain)
    padded = [n for n, g in graphs.items() if n in PACKED and computes_padding(g.graph)]
    storage.save(graphs, folder)
    shutil.copy(plain.path / bundle_format.TOKENIZER, folder)
    description = dataclasses.replace(
        plain.description, recipe=recipe, tools=versions(), graphs=records(graphs, recipe)
    )
    trial.save(folder, description)
    progress(f"comparing with fp32 ({len(rows.items)} rows: {rows.name})")
    report = gate.compare_bundles(plain.path, folder, limits.LIMITS[recipe], rows)
    if not report.passed:
        layers = worst_layers(plain, folder)
        report = dataclasses.replace(report, forced=force, worst_layers=layers)
        if not force:
            raise _exceeded(recipe, report)
    notes = description.notes + _notes(recipe, report, description.graphs, padded)
    described = dataclasses.replace(description, gate=report.to_dict(), notes=notes)
    return trial.save(folder, described)


def _exceeded(recipe: str, report: GateReport) -> ExportError:
    failed = ", ".join(
        f"{name} {figure.value:.4g} (limit {figure.limit:g})"
        for name, figure in report.figures.items()
        if not figure.holds
    )
    layers = f"; worst layers: {', '.join(report.worst_layers)}" if report.worst_layers else ""
    return ExportError(
        f"{recipe} exceeds its accuracy limits ({report.rows} rows: {report.sample}): "
        f"{failed}{layers}",
        "nothing was written; take another recipe, a --sample of your own rows, or --force",
    )


def _notes(
    recipe: str, report: GateReport, graphs: Collection[GraphRecord], files: Collection[str]
) -> tuple[str, ...]:
    """What the user should know of a bundle that is written; `files` compute padding on a CPU."""
    notes, for_gpu = [], table.recipe(recipe).for_gpu
    if report.forced:
        notes.append(f"{recipe} exceeds its accuracy limits, and was written by --force")
    padded = any(g.role in smoothquant.ENCODERS and g.device == "any" for g in graphs)
    if for_gpu and padded:
        notes.append("its attention is of a kind that keeps its padding on a GPU")
    if table.recipe(recipe).flat:
        notes += [f"{file} is of a kind whose products compute padding" for file in files]
    if report.speed < 1 and not for_gpu:
        notes.append(f"{recipe} is slower than fp32 on this machine: {report.speed:.2f} times")
    return tuple(notes)


def rewritten_graphs(recipe: str, plain: BundleFolder) -> dict[str, Any]:
    """The graphs of an fp32 bundle after a recipe, ONNX ModelProtos by file name.

    Raises:
        SettingsError: The recipe changes none of them.
        ExportError: An encoder without padding differs from the one with padding.
    """
    chosen = table.recipe(recipe)
    # A recipe begins with the graph that a flat one was made from.
    recorded = [g for g in plain.description.graphs if g.file not in FLAT.values()]
    on_gpu = chosen.for_gpu and any(graph.role == "device_step" for graph in recorded)
    unused, unchanged = DEVICE_DECODING | OUTPUT_HEADS, {"dense", *OUTPUT_HEADS}
    if chosen.for_gpu:
        unused, unchanged = frozenset({"step"} if on_gpu else ()), {"step", *unchanged}
    used = [graph for graph in recorded if graph.role not in unused]
    changed = [graph for graph in used if graph.role not in unchanged]
    if not changed:
        raise SettingsError(
            f"recipe: {recipe} changes nothing of {plain.path}, which has no graph for a GPU",
            "export the model again, or take another recipe, such as int8",
        )
    graphs = storage.load(plain.path, tuple(graph.file for graph in used))
    for graph in changed:
        graphs |= _rewritten(graph, graphs[graph.file], chosen, on_gpu, plain)
    return graphs


def _rewritten(
    graph: GraphRecord, model: Any, recipe: Recipe, on_gpu: bool, plain: BundleFolder
) -> dict[str, Any]:
    description, file, ranges = plain.description, graph.file, {}
    model_config, watches = (
        description.model_config,
        recipe.needs_ranges and not description.smoothed,
    )
    if watches and graph.role in smoothquant.ENCODERS:
        ranges = smoothquant.activation_ranges(plain.path, file, model_config)
    causal = model_config.decoder is not None and model_config.decoder.causal
    if watches and graph.role == "step" and causal:
        watched = step_smoothing.activation_ranges(plain.path, file, model_config)
        step_smoothing.smooth(model, watched)
    if graph.role == "step" and recipe.shortlist:
        shortlist.add(model, recipe.shortlist)
    texts = encode(plain.path, model_config) if recipe.encoders_only else {}
    length = model_config.max_length
    context = GraphContext(graph.role, ranges, on_gpu, texts, length)
    if recipe.for_gpu and file in PACKED:
        return _padded_and_packed(file, model, recipe, context, plain)
    return {file: recipe.rewrite(model, context)}


def _padded_and_packed(
    file: str, model: Any, recipe: Recipe, context: GraphContext, plain: BundleFolder
) -> dict[str, Any]:
    """An encoder after a recipe, and, where its attention is known, the same without padding.

    The packed graph is compared with the fp32 encoder before the recipe, and both after it.

    Raises:
        ExportError: The packed graph differs.
    """
    model_config = plain.description.model_config
    packed = deepcopy(model)
    if not remove_padding.remove_padding(packed, model_config.max_length):
        return {file: recipe.rewrite(model, context)}
    feeds = encode(plain.path, model_config)
    expected = packing.outputs(model, feeds)
    limit = max(parity.TOLERANCE, float(plain.description.proof["relative_tolerance"]))
    packing.check(file, packing.largest_error(packed, expected, feeds), limit)
    model, packed = (recipe.rewrite(graph, context) for graph in (model, packed))
    # Both round, each in its own order.
    limit += 2 * packing.largest_error(model, expected, feeds)
    packing.check(PACKED[file], packing.largest_error(packed, expected, feeds), limit)
    return {file: model, PACKED[file]: packed}
