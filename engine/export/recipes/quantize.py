"""An fp32 bundle -> a bundle of another recipe, if it still answers as that does."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from engine.bundle import format as bundle_format
from engine.errors import ExportError
from engine.export.acceptance import gate
from engine.export.acceptance.gate import GateReport, Sample
from engine.export.acceptance.sample import bundled, read
from engine.export.acceptance.worst_layers import moved
from engine.export.graphs import storage
from engine.export.recipes import table
from engine.export.versions import versions


def made(
    plain: bundle_format.BundleFolder,
    folder: Path,
    recipe: str,
    rows: Sample,
    force: bool,
    progress: Callable[[str], None],
) -> bundle_format.Description:
    """Write a recipe's bundle into `folder`, compared with the fp32 one.

    Args:
        plain: The fp32 bundle.
        folder: Empty.
        recipe: A name of `recipes.RECIPES`.
        rows: What both answer.
        force: Write it where the recipe's limits do not hold, too.
        progress: Called with one line before each stage.

    Raises:
        ExportError: The limits do not hold.
        InputError: A row is not what the task takes.
    """
    progress(f"writing the graphs ({recipe})")
    graphs = table.applied(recipe, plain)
    storage.save(graphs, folder)
    shutil.copy(plain.path / bundle_format.TOKENIZER, folder)
    description = dataclasses.replace(plain.description, recipe=recipe, tools=versions())
    bundle_format.save(folder, description)
    progress(f"comparing with fp32 ({len(rows.items)} rows: {rows.name})")
    verdict = gate.judge(plain.path, folder, table.recipe(recipe).limits, rows)
    if not verdict.passed:
        named = moved(plain, folder)
        verdict = dataclasses.replace(verdict, forced=force, moved=named)
        if not force:
            raise _refused(recipe, verdict)
    notes = description.notes + _told(recipe, verdict, graphs)
    described = dataclasses.replace(description, gate=verdict.to_dict(), notes=notes)
    return bundle_format.save(folder, described)


def _refused(recipe: str, verdict: GateReport) -> ExportError:
    failed = ", ".join(
        f"{name} {figure.value:.4g} (limit {figure.limit:g})"
        for name, figure in verdict.figures.items()
        if not figure.holds
    )
    moved = f"; moved most: {', '.join(verdict.moved)}" if verdict.moved else ""
    return ExportError(
        f"{recipe} answers otherwise than fp32 ({verdict.rows} rows: {verdict.sample}): "
        f"{failed}{moved}",
        "nothing was written; take another recipe, a --sample of your own rows, or --force",
    )


def _told(recipe: str, verdict: GateReport, graphs: Collection[str]) -> tuple[str, ...]:
    """What the person should know of a bundle that is written."""
    notes, device = [], table.recipe(recipe).device
    if verdict.forced:
        notes.append(f"{recipe} answers otherwise than fp32, and was written by --force")
    if device and any(
        n in graphs and made not in graphs for n, made in bundle_format.PACKED.items()
    ):
        notes.append("its attention is of a kind that keeps its padding on a GPU")
    if verdict.speed < 1 and not device:
        notes.append(f"{recipe} is slower than fp32 on this machine: {verdict.speed:.2f} times")
    return tuple(notes)


def sample(
    file: Path | None, text: Sequence[str], description: bundle_format.Description
) -> Sample:
    """A person's own rows, or the engine's.

    Raises:
        InputError, ColumnError, SettingsError: As `gate.sample.read`.
    """
    return read(file, text, description) if file else bundled(description)
