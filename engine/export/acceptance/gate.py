"""What a recipe does to a bundle's answers, size and speed, and whether that will do.

Both bundles, the fp32 one and the one made from it, answer the same rows here as a run would.
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

from engine.core import hardware
from engine.core.types import Rows
from engine.export.acceptance import measures
from engine.export.acceptance.measures import Limit
from engine.export.acceptance.sample import STEPS, Sample, options
from engine.generation import StepTrace, walk
from engine.pipeline import Bundle
from engine.tasks.in_memory_inputs import to_columns

__all__ = ["GateReport", "Limit", "Sample", "judge", "walked"]

# Rows that are also answered alone, and timed rounds.
_ALONE = 16
_ROUNDS = 3
# No more rounds are begun after as many seconds.
_PATIENCE = 60.0
ALONE = "largest difference to the row alone"


@dataclass(frozen=True)
class Figure:
    """One of a verdict's figures; `limit` is None where it is only told."""

    value: float
    limit: float | None
    holds: bool


@dataclass(frozen=True)
class GateReport:
    """What a bundle's answers are beside fp32's.

    Attributes:
        sample: Where the rows are from.
        rows, rejected: How many were answered, and bad ones that were left out.
        figures: By name.
        size: Bytes of the bundle as a share of fp32's.
        speed: Times faster than fp32 on this machine, the median of alternating rounds.
        cpu: The machine's.
        passed: Whether all figures hold.
        forced: Whether the bundle was written although they do not.
        moved: Products that moved most (see `worst_layers`), where they do not.
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
    moved: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)


def judge(plain: Path, made: Path, limits: Sequence[Limit], sample: Sample) -> GateReport:
    """Answer a sample with both bundles on the CPU.

    Args:
        plain: The fp32 bundle's folder.
        made: That of the bundle made from it.
        limits: What the figures have to be; those of other tasks are not looked at.
        sample: The rows.

    Raises:
        InputError: An item of the sample is not what the task takes.
        BackendError: A bundle cannot be run.
    """
    models = [Bundle.load(path, device="cpu") for path in (plain, made)]
    description = models[0].folder.description
    asked = options(description, sample.items)
    answers = [model(sample.items, **asked) for model in models]
    figures = measures.compared(description.task, *answers)
    alone = [models[1]([item], **asked) for item in sample.items[:_ALONE]]
    figures[ALONE] = measures.apart(answers[1].slice(0, _ALONE), pa.concat_tables(alone))
    if description.model_config.decoder:
        first = walked(models[0], sample.items)
        figures |= measures.forced(first, walked(models[1], sample.items, along=first))
    judged = {name: _judged(name, value, limits) for name, value in figures.items()}
    return GateReport(
        sample=sample.name,
        rows=len(sample.items),
        rejected=sample.rejected,
        figures=judged,
        size=_size(models[1]) / _size(models[0]),
        speed=_speed(models, sample, asked),
        cpu=hardware.cpu()[0],
        passed=all(figure.holds for figure in judged.values()),
    )


def _judged(name: str, value: float, limits: Sequence[Limit]) -> Figure:
    limit = next((limit for limit in limits if limit.name == name), None)
    return Figure(value, limit.value if limit else None, limit.holds(value) if limit else True)


def walked(
    model: Bundle, items: Sequence[Any], *, steps: int = STEPS, along: StepTrace | None = None
) -> StepTrace:
    """Rows decoded greedily, or along another bundle's answers.

    Args:
        model: One that generates.
        items: What it takes, one a row.
        steps: Tokens of a row at most; a causal model's prompts are cut to leave room for them.
        along: As `generation.walk` takes it.
    """
    asked = {**options(model.folder.description, items), "max_new_tokens": steps}
    encoded = model.stages(asked).encode(Rows(None, to_columns(items, model.task)))
    ids = encoded.ids.padded(int(encoded.ids.lengths.max()), model.model_config.pad_id)
    real = np.arange(ids.shape[1]) < encoded.ids.lengths[:, None]
    feeds = {"input_ids": ids, "attention_mask": real.astype(np.int64)}
    assert model.model_config.decoder
    return walk(model.backend, feeds, model.model_config.decoder, steps, along)


def _size(model: Bundle) -> int:
    return sum(int(file["bytes"]) for file in model.folder.description.files.values())


def _speed(models: Sequence[Bundle], sample: Sample, asked: Mapping[str, Any]) -> float:
    """How many times faster the second is than the first, in turns; both are warm."""
    ratios: list[float] = []
    started = time.perf_counter()
    while len(ratios) < _ROUNDS and (not ratios or time.perf_counter() - started < _PATIENCE):
        seconds = [_seconds(model, sample, asked) for model in models]
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def _seconds(model: Bundle, sample: Sample, asked: Mapping[str, Any]) -> float:
    started = time.perf_counter()
    model(sample.items, **asked)
    return time.perf_counter() - started
