"""Checkpoint -> bundle, in four steps: checkpoint, graphs, recipe, acceptance test.

This is the only room that knows torch, transformers, Optimum and onnx. It needs the extra `export`;
nothing heavy is imported before a function is called.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.bundle import format as bundle_format
from engine.bundle import trial
from engine.errors import SettingsError
from engine.export.output_folder import new_folder
from engine.export.report import ExportReport, report
from engine.export.requirements import check_installed
from engine.export.versions import versions

if TYPE_CHECKING:
    from engine.export.acceptance.reference import Reference
    from engine.export.checkpoint.hub import Checkpoint
    from engine.export.checkpoint.task_inference import ExportTask

__all__ = ["ExportReport", "check_installed", "export", "quantize"]


def _silent(message: str) -> None:
    """The default `progress`."""


def export(
    model: str | None,
    out: Path,
    *,
    task: str | None,
    revision: str | None = None,
    subfolder: str = "",
    recipe: str = "fp32",
    sample: Path | None = None,
    text: Sequence[str] = (),
    force: bool = False,
    allow_pickle: bool = False,
    progress: Callable[[str], None] = _silent,
    check: Callable[[str], None] = _silent,
) -> ExportReport:
    """Turn a checkpoint into a bundle, and test that it answers as the checkpoint does.

    Args:
        model: A hub id, or a folder in the Hugging Face layout; None for the default checkpoint of
            transformers' pipeline for the task.
        out: The bundle's folder; it must not exist, or be empty.
        task: A name of `tasks.TASKS`, an alias, translation_XX_to_YY; None infers it.
        revision: A commit, branch or tag of the hub.
        subfolder: The folder in `model` that holds the checkpoint; "" for its top.
        recipe: A name of `recipes.table.RECIPES`.
        sample, text, force: As in `quantize`; `force` accepts a head for another task, too.
        allow_pickle: Accept `.bin` weights where there are no safetensors.
        progress, check: Called with a line before each stage, and with the task before any weight.

    Raises:
        SettingsError: The task or recipe is unknown, no model or task is given, or a revision is
            given without a hub id.
        ExportError: The checkpoint cannot become a bundle, its graphs' answers differ from its
            own, or the bundle exceeds the recipe's limits. Nothing is left.
        OutputError: `out` is not empty or cannot be written.
        MissingDependency: The extra `export` is not installed.
    """
    if model is None:
        _check_default(task, revision, subfolder)
    check_installed()
    from engine.export import quantization
    from engine.export.checkpoint import hub, task_inference

    started = time.monotonic()
    _check_recipe(recipe, sample, text)
    task_inference.check_known(task)
    notes: tuple[str, ...] = ()
    if model is None:
        model, revision, notes = _default_model(str(task), progress)
    with new_folder(Path(out)) as (work, folder):
        checkpoint = hub.resolve(model, revision, progress, subfolder)
        resolved, notes = _planned(checkpoint, task, recipe, force, notes, progress, check)
        checkpoint = _with_weights(checkpoint, allow_pickle, work, progress)
        (fp32 := folder if recipe == "fp32" else work / "fp32").mkdir(exist_ok=True)
        description = _write_fp32(checkpoint, resolved, task, work, fp32, notes, progress)
        if recipe != "fp32":
            rows = quantization.load_sample(sample, text, description)
            plain = bundle_format.load(fp32)
            description = quantization.write_bundle(plain, folder, recipe, rows, force, progress)
    return report(Path(out), description, time.monotonic() - started)


def _default_model(task: str, progress: Callable[[str], None]) -> tuple[str, str, tuple[str, ...]]:
    """The checkpoint and revision that a task has by default, and a note that says so."""
    from engine.export.checkpoint import task_inference

    model, revision = task_inference.default_checkpoint(task)
    note = f"no model was named: {model} at revision {revision}, the default of {task}"
    progress(note)
    return model, revision, (note,)


def planned_task(
    model: str, *, task: str | None = None, revision: str | None = None, recipe: str | None = None
) -> str:
    """The task that a checkpoint would be exported for; no weight is fetched and nothing written.

    Raises:
        As `export`.
    """
    check_installed()
    from engine.export.checkpoint import hub

    checkpoint = hub.resolve(model, revision, _silent)
    return _planned(checkpoint, task, recipe or "fp32", False, (), _silent)[0].name


def _planned(
    checkpoint: Checkpoint,
    task: str | None,
    recipe: str,
    force: bool,
    notes: tuple[str, ...],
    progress: Callable[[str], None],
    check: Callable[[str], None] = _silent,
) -> tuple[ExportTask, tuple[str, ...]]:
    """What a checkpoint is exported for, and all notes; what cannot be exported is refused before
    any weight is fetched."""
    from engine.export.checkpoint import (
        conversion,
        embedding_modules,
        plan,
        reranker,
        task_head,
        task_inference,
    )
    from engine.export.recipes import table

    kinds = (embedding_modules.embeds(checkpoint), reranker.reranks(checkpoint))
    resolved = task_inference.resolve_task(task, checkpoint.config, *kinds)
    table.check_applies(recipe, resolved.decodes, resolved.name)
    notes += task_head.check(checkpoint, resolved, force)
    conversion.check_supported(checkpoint, resolved)
    if resolved.name == "feature-extraction":
        embedding_modules.check(checkpoint)
    for line in plan.describe(checkpoint, resolved, task, recipe):
        progress(line)
    check(resolved.name)
    return resolved, notes


def _with_weights(
    checkpoint: Checkpoint, allow_pickle: bool, work: Path, progress: Callable[[str], None]
) -> Checkpoint:
    """The checkpoint with its weights, and with metadata as transformers 4.57 reads it."""
    from engine.export.checkpoint import hub, normalization

    checkpoint = hub.with_weights(checkpoint, allow_pickle, progress)
    return normalization.normalize(checkpoint, work / "checkpoint")


def _write_fp32(
    checkpoint: Checkpoint,
    task: ExportTask,
    requested: str | None,
    work: Path,
    folder: Path,
    notes: tuple[str, ...],
    progress: Callable[[str], None],
) -> bundle_format.Description:
    """Write a checkpoint's fp32 bundle into `folder` and compare its graphs with the checkpoint."""
    from engine.export.acceptance.generated_rows import rows_check
    from engine.export.acceptance.parity import check_parity
    from engine.export.acceptance.reference import reference_outputs
    from engine.export.checkpoint import conversion, model_config, tokenizers
    from engine.export.graphs import architectures, bundle_graphs, dense, flat_encoder, storage
    from engine.export.graphs.records import records

    progress(f"loading {checkpoint.name}")
    tokenizer = tokenizers.load(checkpoint)
    model = conversion.load(checkpoint, task)
    if task.decodes:
        architectures.check_supported(model.config)
    named = requested or task.name
    config, remarks = model_config.read(checkpoint, model, tokenizer, task, named)
    layers = dense.load(checkpoint) if config.projected else ()
    # Before the graphs: Optimum leaves the model with other settings.
    references = reference_outputs(model, tokenizer, config)
    compare_rows = rows_check(model, tokenizer, task, named, config)
    smoothed = task.decodes and _smooth(model, tokenizer, config)

    tokenizers.save(tokenizer, folder)
    graphs = bundle_graphs.build(model, task, layers, work, progress)
    graphs |= flat_encoder.flattened(graphs, config.max_length)
    storage.save(graphs, folder)
    recorded = records(graphs, "fp32")

    progress("comparing with the checkpoint")

    def double() -> Any:
        progress("comparing once more, in double precision")
        return conversion.load(checkpoint, task).double()

    def in_double(answers: Sequence[Reference]) -> tuple[Reference, ...]:
        return reference_outputs(double(), tokenizer, config, answers)

    parity = check_parity(folder, config, recorded, references, layers, in_double)
    description = bundle_format.Description(
        task=task.name,
        architecture=str(checkpoint.config["model_type"]),
        recipe="fp32",
        model_config=config,
        source=checkpoint.source(),
        tools=versions(),
        proof=dataclasses.asdict(parity),
        graphs=recorded,
        smoothed=smoothed,
        notes=notes + checkpoint.notes + remarks,
    )
    proof = {**description.proof, **compare_rows(folder, description, double)}
    return trial.save(folder, dataclasses.replace(description, proof=proof))


def _smooth(model: Any, tokenizer: Any, config: bundle_format.ModelConfig) -> bool:
    """Whether the model is of a family whose outliers move into its weights; they have then."""
    from engine.export import sentences
    from engine.export.recipes import smoothquant

    return smoothquant.smooth(model, tokenizer, sentences.singles(config))


def quantize(
    source: Path,
    out: Path,
    *,
    recipe: str,
    sample: Path | None = None,
    text: Sequence[str] = (),
    force: bool = False,
    progress: Callable[[str], None] = _silent,
) -> ExportReport:
    """Make a bundle of another recipe from an fp32 bundle, if their answers agree.

    Args:
        source: The fp32 bundle.
        out: The new bundle's folder; it must not exist, or be empty.
        recipe: A name of `recipes.table.RECIPES`, not fp32.
        sample: Parquet, JSONL or Arrow file with rows that both bundles answer; None for sentences
            that come with the engine.
        text: The sample's input columns; none for the task's usual names.
        force: Write the bundle even if it exceeds the recipe's limits; it is marked.
        progress: Called with one line before each stage.

    Raises:
        BundleError: `source` is not a bundle, or its bytes have changed.
        SettingsError: The recipe is unknown or fp32, or the bundle's recipe is not fp32.
        InputError: The sample is missing or unreadable, or has no good row.
        ExportError: The bundle exceeds the recipe's limits. Nothing is left.
        OutputError: `out` is not empty or cannot be written.
        MissingDependency: The extra `export` is not installed.
    """
    check_installed()
    from engine.export import quantization

    started = time.monotonic()
    _check_recipe(recipe, sample, text)
    fp32 = bundle_format.load(source)
    if fp32.description.recipe != "fp32" or recipe == "fp32":
        raise SettingsError(
            f"{source}: its recipe is {fp32.description.recipe}; {recipe} cannot be made from that",
            "give a bundle of recipe fp32, and a recipe that is not fp32",
        )
    fp32.check()
    trial.check(fp32)
    rows = quantization.load_sample(sample, text, fp32.description)
    with new_folder(Path(out)) as (_, folder):
        description = quantization.write_bundle(fp32, folder, recipe, rows, force, progress)
    return report(Path(out), description, time.monotonic() - started)


def _check_default(task: str | None, revision: str | None, subfolder: str) -> None:
    if task is None:
        raise SettingsError(
            "neither a model nor a task is named",
            "give a checkpoint, or --task alone for the task's default; engine tasks lists them",
        )
    if revision is not None:
        raise SettingsError(
            f"revision {revision!r} is given, but no model",
            "a task's default checkpoint has a revision of its own; name the model",
        )
    if subfolder:
        raise SettingsError(
            f"subfolder {subfolder!r} is given, but no model",
            "a task's default checkpoint is at the top of its repository; name the model",
        )


def _check_recipe(recipe: str, file: Path | None, text: Sequence[str]) -> None:
    """Refuse an unknown recipe, and a sample that it has no use for."""
    from engine.export.recipes import table

    table.recipe(recipe)
    if text and file is None:
        raise SettingsError(
            f"text names {', '.join(text)}, but there is no sample", "add --sample FILE"
        )
    if file and recipe == "fp32":
        raise SettingsError(
            "a sample is given, but fp32 is compared with the checkpoint only",
            "add --recipe int8, or leave the sample out",
        )
