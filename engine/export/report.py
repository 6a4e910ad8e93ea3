"""What an export reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.bundle.format import Description


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        path: The bundle's folder.
        task: The bundle's task, such as translation for --task translation_en_to_de.
        recipe: What was done to the weights.
        compared: Which outputs of the fp32 graphs were compared with the checkpoint's, in words.
        largest_difference: Largest absolute difference between them.
        tolerance: The largest that is allowed.
        gate: The acceptance test of a recipe other than fp32 (see
            `engine.export.acceptance.gate.GateReport`).
        bytes: Size of the bundle.
        seconds: How long the export took.
        notes: What the user should know, such as a revision that is not pinned.
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


def report(path: Path, description: Description, seconds: float) -> ExportReport:
    """The report of the bundle in `path`."""
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
