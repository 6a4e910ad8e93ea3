"""Accuracy, size and speed of a recipe's bundle beside its fp32 bundle's, held to limits.

Both bundles answer the same rows here, as they would in a run.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine import generation
from engine.core import hardware
from engine.core.types import Rows
from engine.export.acceptance import measures
from engine.export.acceptance.limits import BATCH_EFFECT, Limit
from engine.export.acceptance.sample import STEPS, Sample, options
from engine.generation import StepTrace
from engine.pipeline import Bundle
from engine.tasks.in_memory_inputs import to_columns

# Rows that are also answered alone, and timed rounds.
_ALONE = 16
_ROUNDS = 3
# No further round begins after as many seconds.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Figure:
    """One of a report's figures; `limit` is None where it is only reported."""

    value: float
    limit: float | None
    holds: bool


@dataclass(frozen=True)
class GateReport:
    """How a recipe's bundle compares with its fp32 bundle.

    Attributes:
        sample: Where the rows come from.
        rows, rejected: How many were answered, and bad ones that were left out.
        figures: By name.
        size: Bytes of the bundle as a share of fp32's.
        speed: Times faster than fp32 on this machine, the median of alternating rounds.
        cpu: The machine's.
        passed: Whether all figures hold.
        forced: Whether the bundle was written although they do not.
        worst_layers: Where they do not: the products that add most error (see `worst_layers`).
    """

    sample: str
    rows: int
    rejected: int
    figures: Mapping[str, Figure]
    size: float
    speed: float
    cpu: str
    passed: bool
    forced: bool = False
    worst_layers: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def compare_bundles(
    plain: Path, rewritten: Path, limits: Sequence[Limit], sample: Sample
) -> GateReport:
    """Answer a sample with both bundles on the CPU.

    Args:
        plain: The fp32 bundle's folder.
        rewritten: That of the bundle made from it.
        limits: Bounds of the figures; those of other tasks' figures are not used.
        sample: The rows.

    Raises:
        InputError: An item of the sample is not what the task takes.
        BackendError: A bundle cannot be run.
    """
    models = [Bundle.load(path, device="cpu") for path in (plain, rewritten)]
    task_options = options(models[0].folder.description, sample.items)
    values = _figures(models, sample, task_options)
    figures = {name: _figure(name, value, limits) for name, value in values.items()}
    return GateReport(
        sample=sample.name,
        rows=len(sample.items),
        rejected=sample.rejected,
        figures=figures,
        size=_size(models[1]) / _size(models[0]),
        speed=_speed(models, sample, task_options),
        cpu=hardware.cpu()[0],
        passed=all(figure.holds for figure in figures.values()),
    )


def _figures(
    models: Sequence[Bundle], sample: Sample, task_options: Mapping[str, Any]
) -> measures.Figures:
    description = models[0].folder.description
    answers = [model(sample.items, **task_options) for model in models]
    figures = measures.compare_answers(description.task, *answers)
    alone = [models[1]([item], **task_options) for item in sample.items[:_ALONE]]
    figures[BATCH_EFFECT] = measures.batch_effect(
        answers[1].slice(0, _ALONE), pa.concat_tables(alone)
    )
    if description.model_config.decoder:
        own = trace_steps(models[0], sample.items)
        forced = trace_steps(models[1], sample.items, along=own)
        figures |= measures.compare_steps(own, forced)
    return figures


def _figure(name: str, value: float, limits: Sequence[Limit]) -> Figure:
    limit = next((limit for limit in limits if limit.name == name), None)
    return Figure(value, limit.value if limit else None, limit.holds(value) if limit else True)


def trace_steps(
    model: Bundle, items: Sequence[Any], *, steps: int = STEPS, along: StepTrace | None = None
) -> StepTrace:
    """Decode rows greedily, or teacher-forced along another bundle's answers.

    Args:
        model: One that generates.
        items: What it takes, one a row.
        steps: Tokens of a row at most; a causal model's prompts are cut to leave room for them.
        along: As `generation.trace_steps` takes it.
    """
    task_options = {**options(model.folder.description, items), "max_new_tokens": steps}
    encoded = model.stages(task_options).encode(Rows(None, to_columns(items, model.task)))
    ids = encoded.ids.padded(int(encoded.ids.lengths.max()), model.model_config.pad_id)
    real = np.arange(ids.shape[1]) < encoded.ids.lengths[:, None]
    feeds = {"input_ids": ids, "attention_mask": real.astype(np.int64)}
    assert model.model_config.decoder
    return generation.trace_steps(model.backend, feeds, model.model_config.decoder, steps, along)


def _size(model: Bundle) -> int:
    return sum(int(file["bytes"]) for file in model.folder.description.files.values())


def _speed(models: Sequence[Bundle], sample: Sample, task_options: Mapping[str, Any]) -> float:
    """How many times faster the second is than the first, alternating; both are warm."""
    ratios: list[float] = []
    started = time.perf_counter()
    while len(ratios) < _ROUNDS and (not ratios or time.perf_counter() - started < _PATIENCE):
        seconds = [_seconds(model, sample, task_options) for model in models]
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _seconds(model: Bundle, sample: Sample, task_options: Mapping[str, Any]) -> float:
    started = time.perf_counter()
    model(sample.items, **task_options)
    return time.perf_counter() - started
