"""Checkpoint -> fp32 bundle -> bundle of another recipe.

Needs the extra `export`; nothing heavy is imported before it is called.

This is the only room that knows torch, transformers, Optimum and onnx.
"""

from __future__ import annotations

import dataclasses
import errno
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.bundle import format as bundle_format
from engine.errors import MissingDependency, OutputError, SettingsError
from engine.export.versions import versions

if TYPE_CHECKING:
    from engine.export.acceptance.parity import ParityReport
    from engine.export.acceptance.reference import Reference
    from engine.export.checkpoint.hub import Checkpoint
    from engine.export.checkpoint.model_config import Collected
    from engine.export.checkpoint.task_inference import ExportTask

__all__ = ["ExportReport", "check_installed", "export", "quantize"]

_NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "optimum.exporters.onnx": "optimum-onnx",
    "onnx": "onnx",
    "safetensors": "safetensors",
}
# What the system says where a disk or a quota is full.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: The bundle's folder.
        task: The bundle's task, such as translation for --task translation_en_to_de.
        recipe: What was done to the weights.
        compared: What was compared with the checkpoint, in words: the fp32 graphs' outputs.
        largest_difference: Largest absolute difference it found.
        tolerance: What it allowed.
        gate: What the gate found of another recipe than fp32 (see
            `engine.export.acceptance.gate.GateReport`).
        bytes: Size of the bundle.
        seconds: Time it took.
        notes: What the person should know, such as a revision that is not pinned.
    """

    path: Path
    task: str
    recipe: str
    compared: str
    largest_difference: float
    tolerance: float
    gate: Mapping[str, Any]
    bytes: int
    seconds: float
    notes: tuple[str, ...]


def _silent(message: str) -> None:
    """The default `progress`."""


def export(
    model: str | None,
    out: Path,
    *,
    task: str | None,
    revision: str | None = None,
    recipe: str = "fp32",
    sample: Path | None = None,
    text: Sequence[str] = (),
    force: bool = False,
    allow_pickle: bool = False,
    progress: Callable[[str], None] = _silent,
) -> ExportReport:
    """Turn a checkpoint into a bundle that is proven to answer as the checkpoint does.

    Args:
        model: A hub id, or a folder in the Hugging Face layout; None takes the checkpoint and the
            revision that transformers' pipeline of the task takes by itself, and notes it.
        out: The bundle's folder; it must not exist, or be empty.
        task: A name of `tasks.TASKS`, an alias, translation_XX_to_YY, or None to infer it.
        revision: A commit, branch or tag of the hub.
        recipe: A name of `recipes.RECIPES`.
        sample, text, force: As `quantize` takes them.
        allow_pickle: Accept `.bin` weights where there are no safetensors.
        progress: Called with one line before each stage.

    Raises:
        SettingsError: The task or recipe is unknown, neither a model nor a task is given, or a
            revision was given for a folder or for no model.
        ExportError: The checkpoint cannot become a bundle, the parity check failed, or the recipe
            exceeds its accuracy limits. Nothing is left.
        OutputError: `out` is not empty or cannot be written.
        MissingDependency: The extra `export` is not installed.
    """
    if model is None:
        _check_default(task, revision)
    check_installed()
    from engine.export import quantization
    from engine.export.checkpoint import conversion, hub, task_inference
    from engine.export.recipes import table

    started = time.monotonic()
    table.recipe(recipe)
    _check_sample(sample, text, recipe)
    task_inference.check_known(task)
    notes: tuple[str, ...] = ()
    if model is None:
        model, revision = task_inference.default_checkpoint(str(task))
        notes = (f"no model was named: {model} at revision {revision}, the default of {task}",)
        progress(notes[0])
    with _new_folder(Path(out)) as (work, made):
        found = hub.resolve(model, revision, progress)
        wanted = task_inference.resolve_task(task, found.config, bool(found.modules))
        conversion.check_supported(found, wanted)
        found = hub.with_weights(found, allow_pickle, progress)
        plain = made if recipe == "fp32" else work / "fp32"
        plain.mkdir(exist_ok=True)
        description = _converted(found, wanted, task or wanted.name, work, plain, notes, progress)
        if recipe != "fp32":
            rows = quantization.load_sample(sample, text, description)
            description = quantization.write_bundle(
                bundle_format.load(plain), made, recipe, rows, force, progress
            )
    return _report(Path(out), description, time.monotonic() - started)


def _converted(
    found: Checkpoint,
    wanted: ExportTask,
    asked: str,
    work: Path,
    made: Path,
    notes: tuple[str, ...],
    progress: Callable[[str], None],
) -> bundle_format.Description:
    """Write a checkpoint's fp32 bundle into `made`, proven."""
    from engine.export import sentences
    from engine.export.acceptance.parity import check_parity
    from engine.export.acceptance.reference import reference_outputs
    from engine.export.checkpoint import conversion, model_config
    from engine.export.graphs import architectures, bundle_graphs, dense, storage
    from engine.export.graphs.records import records
    from engine.export.recipes import smoothquant

    progress(f"loading {found.name}")
    tokenizer = model_config.load_tokenizer(found)
    network = conversion.load(found, wanted)
    if wanted.decodes:
        architectures.check_supported(network.config)
    collected = model_config.collect(found, network, tokenizer, wanted, asked)
    layers = dense.load(found) if collected.model_config.projected else ()
    answers = reference_outputs(network, tokenizer, collected.model_config)
    smoothed = False
    if collected.model_config.decoder:
        texts = sentences.singles(collected.model_config)
        smoothed = smoothquant.smooth(network, tokenizer, texts)
    model_config.save_tokenizer(tokenizer, made)

    graphs = bundle_graphs.build(network, wanted, layers, work, progress)
    storage.save(graphs, made)
    recorded = records(graphs, "fp32")

    progress("comparing with the checkpoint")

    def exact(answers: Sequence[Reference]) -> tuple[Reference, ...]:
        progress("comparing once more, in double precision")
        sure = conversion.load(found, wanted).double()
        return reference_outputs(sure, tokenizer, collected.model_config, answers)

    shown = check_parity(made, collected.model_config, recorded, answers, layers, exact)
    description = _describe(found, wanted.name, collected, shown, smoothed, notes)
    return bundle_format.save(made, dataclasses.replace(description, graphs=recorded))


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
    """Make a bundle of another recipe out of an fp32 bundle, if it still answers as that does.

    Args:
        source: The fp32 bundle.
        out: The new bundle's folder; it must not exist, or be empty.
        recipe: A name of `recipes.RECIPES`, not fp32.
        sample: Parquet, JSONL or Arrow file with rows to compare both on; None for sentences that
            come with the engine.
        text: The sample's input columns; none for the task's usual names.
        force: Write the bundle, marked, where the recipe's limits do not hold.
        progress: Called with one line before each stage.

    Raises:
        BundleError: `source` is no bundle, or its bytes have changed.
        SettingsError: The recipe is unknown or fp32, or the bundle is of another recipe already.
        InputError: The sample is missing, unreadable or without a good row.
        ExportError: The recipe costs too much. Nothing is left.
        OutputError: `out` is not empty or cannot be written.
        MissingDependency: The extra `export` is not installed.
    """
    check_installed()
    from engine.export import quantization
    from engine.export.recipes import table

    started = time.monotonic()
    table.recipe(recipe)
    _check_sample(sample, text, recipe)
    plain = bundle_format.load(source)
    own = plain.description.recipe
    if own != "fp32" or recipe == "fp32":
        raise SettingsError(
            f"{source}: its recipe is {own}; {recipe} is not made from that",
            "give a bundle of recipe fp32, and a recipe that is not fp32",
        )
    plain.check()
    rows = quantization.load_sample(sample, text, plain.description)
    with _new_folder(Path(out)) as (_, made):
        description = quantization.write_bundle(plain, made, recipe, rows, force, progress)
    return _report(Path(out), description, time.monotonic() - started)


def _check_sample(file: Path | None, text: Sequence[str], recipe: str) -> None:
    if text and file is None:
        raise SettingsError(
            f"text names {', '.join(text)}, and there is no sample", "add --sample FILE"
        )
    if file and recipe == "fp32":
        raise SettingsError(
            "a sample is given, and fp32 is compared with nothing but the checkpoint",
            "add --recipe int8, or leave the sample out",
        )


def _describe(
    found: Checkpoint,
    task: str,
    collected: Collected,
    shown: ParityReport,
    smoothed: bool,
    notes: tuple[str, ...],
) -> bundle_format.Description:
    return bundle_format.Description(
        task=task,
        architecture=str(found.config["model_type"]),
        recipe="fp32",
        model_config=collected.model_config,
        source=found.source(),
        tools=versions(),
        proof=dataclasses.asdict(shown),
        smoothed=smoothed,
        notes=notes + found.notes + collected.notes,
    )


def _report(path: Path, description: bundle_format.Description, seconds: float) -> ExportReport:
    return ExportReport(
        path=path,
        task=description.task,
        recipe=description.recipe,
        compared=description.proof["compared"],
        largest_difference=description.proof["largest_difference"],
        tolerance=description.proof["tolerance"],
        gate=description.gate,
        bytes=sum(file.stat().st_size for file in path.iterdir()),
        seconds=seconds,
        notes=description.notes,
    )


def _check_default(task: str | None, revision: str | None) -> None:
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


def check_installed() -> None:
    """See that the extra `export` is there.

    Raises:
        MissingDependency: It is not; the hint says what to install.
    """
    missing = [name for module, name in _NEEDED.items() if not _is_installed(module)]
    if missing:
        raise MissingDependency(
            f"export needs packages that are not installed: {', '.join(missing)}",
            'pip install "corpus-engine[export]"',
        )
    if not _is_installed("onnxruntime"):
        raise MissingDependency(
            "the parity check of an export runs on ONNX Runtime, which is not installed",
            'pip install "corpus-engine[cpu,export]"',
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextmanager
def _new_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Two empty folders beside `out`: one for work, one that becomes `out` if nothing is raised.

    Raises:
        OutputError: `out` is there and not empty, or cannot be written.
    """
    _check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise _not_writable(out, error) from error
    try:
        work, made = temporary / "work", temporary / "bundle"
        work.mkdir()
        made.mkdir()
        yield work, made
        _publish(made, out)
    except OSError as error:
        if error.errno in _FULL:
            raise _not_writable(out, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(made: Path, out: Path) -> None:
    _check_free(out)
    try:
        if out.exists():
            out.rmdir()
        made.rename(out)
    except OSError as error:
        raise _not_writable(out, error) from error


def _check_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        what = "not empty" if out.is_dir() else "a file"
        raise OutputError(f"{out}: is there already and {what}", "give a new folder, or remove it")


def _not_writable(out: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{out}: cannot be written: {error.strerror or error}", "give a folder you may write to"
    )
