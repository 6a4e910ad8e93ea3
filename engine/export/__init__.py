"""Checkpoint -> bundle. Needs the extra `export`; nothing heavy is imported before it is called.

This is the only room that knows torch, transformers, Optimum and onnx.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engine import bundle
from engine.errors import MissingDependency, OutputError, SettingsError
from engine.version import __version__

if TYPE_CHECKING:
    from engine.export.checkpoint import Checkpoint
    from engine.export.facts import Collected
    from engine.export.proof import Proof

__all__ = ["ExportReport", "check_installed", "export"]

_NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "optimum.exporters.onnx": "optimum-onnx",
    "onnx": "onnx",
    "safetensors": "safetensors",
}
_RECORDED = (
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "tokenizers",
)
# What the system says where a disk or a quota is full.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class ExportReport:
    """What an export made.

    Attributes:
        path: The bundle's folder.
        task: The bundle's task, such as translation for --task translation_en_to_de.
        recipe: What was done to the weights.
        compared: What the proof compared with the checkpoint, in words.
        largest_difference: Largest absolute difference it found.
        tolerance: What it allowed.
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
        recipe: A name of `quantize.RECIPES`.
        allow_pickle: Accept `.bin` weights where there are no safetensors.
        progress: Called with one line before each stage.

    Raises:
        SettingsError: The task or recipe is unknown, neither a model nor a task is given, or a
            revision was given for a folder or for no model.
        ExportError: The checkpoint can not become a bundle, or the proof failed. Nothing is left.
        OutputError: `out` is not empty or can not be written.
        MissingDependency: The extra `export` is not installed.
    """
    if model is None:
        _check_default(task, revision)
    check_installed()
    from engine.export import (
        checkpoint,
        convert,
        dense,
        facts,
        graph,
        proof,
        quantize,
        smooth,
        step,
        tasks,
    )

    started = time.monotonic()
    quantized = quantize.recipe(recipe)
    tasks.check_known(task)
    notes: tuple[str, ...] = ()
    if model is None:
        model, revision = tasks.default_checkpoint(str(task))
        notes = (f"no model was named: {model} at revision {revision}, the default of {task}",)
        progress(notes[0])
    with _new_folder(Path(out)) as (work, made):
        found = checkpoint.resolve(model, revision, progress)
        wanted = tasks.resolve_task(task, found.config, bool(found.modules))
        convert.check_supported(found, wanted)
        found = checkpoint.with_weights(found, allow_pickle, progress)

        progress(f"loading {found.name}")
        tokenizer = facts.load_tokenizer(found)
        network = convert.load(found, wanted)
        collected = facts.collect(found, network, tokenizer, wanted, task or wanted.name)
        layers = dense.load(found) if collected.facts.projected else ()
        answers = proof.ask(network, tokenizer, collected.facts)
        smoothed = False
        if recipe in quantize.SMOOTHED and collected.facts.generation:
            texts = [collected.facts.prefix + sentence for sentence in proof.SENTENCES]
            smoothed = smooth.smooth(network, tokenizer, texts)
        facts.save_tokenizer(tokenizer, made)

        progress("converting with Optimum")
        convert.to_onnx(network, wanted, work)
        progress(f"writing the graphs ({recipe})")
        graphs = graph.bundle_graphs(work)
        shortlist = quantize.SHORTLIST[recipe]
        if collected.facts.generation and (built := step.step_graph(network, shortlist)):
            graphs["step.onnx"] = built
            del graphs["decoder.onnx"]
            collected = _continuous(collected, step.vocabulary(built))
        elif collected.facts.generation:
            notes += (_NO_STEPS,)
        for name, rewritten in graphs.items():
            quantized(rewritten, smoothed)
            graph.save(rewritten, made / name)
        if layers:
            graph.save(dense.graph(layers), made / "dense.onnx")

        progress("comparing with the checkpoint")
        shown = proof.prove(made, collected.facts, answers, recipe, layers)
        description = _describe(found, wanted.name, recipe, collected, shown, notes)
        bundle.save(made, description)
    return _report(Path(out), description, time.monotonic() - started)


_NO_STEPS = "no step graph for this architecture: rows begin together and wait for each other"


def _continuous(collected: Collected, vocabulary: int) -> Collected:
    """The facts of a model that has a step graph."""
    assert collected.facts.generation
    generation = dataclasses.replace(collected.facts.generation, vocabulary=vocabulary)
    return dataclasses.replace(
        collected, facts=dataclasses.replace(collected.facts, generation=generation)
    )


def _describe(
    found: Checkpoint,
    task: str,
    recipe: str,
    collected: Collected,
    shown: Proof,
    notes: tuple[str, ...],
) -> bundle.Description:
    return bundle.Description(
        task=task,
        architecture=str(found.config["model_type"]),
        recipe=recipe,
        facts=collected.facts,
        source=found.source(),
        tools=_tools(),
        proof=dataclasses.asdict(shown),
        notes=notes + found.notes + collected.notes,
    )


def _report(path: Path, description: bundle.Description, seconds: float) -> ExportReport:
    return ExportReport(
        path=path,
        task=description.task,
        recipe=description.recipe,
        compared=description.proof["compared"],
        largest_difference=description.proof["largest_difference"],
        tolerance=description.proof["tolerance"],
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
            "the proof of an export runs on ONNX Runtime, which is not installed",
            'pip install "corpus-engine[cpu,export]"',
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _tools() -> dict[str, str]:
    """Versions of what made the bundle, by distribution name."""
    tools = {"corpus-engine": __version__}
    for name in _RECORDED:
        with suppress(importlib.metadata.PackageNotFoundError):
            tools[name] = importlib.metadata.version(name)
    return tools


@contextmanager
def _new_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Two empty folders beside `out`: one for work, one that becomes `out` if nothing is raised.

    Raises:
        OutputError: `out` is there and not empty, or can not be written.
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
        f"{out}: can not be written: {error.strerror or error}", "give a folder you may write to"
    )
