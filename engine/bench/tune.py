"""Finds the fastest settings of a bundle on this machine and saves them beside it."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import tasks
from engine.answering.stages import GPU_TOKENS
from engine.bench import trials
from engine.bench.measured_rows import MeasuredRows, sample
from engine.bench.sweep import (
    BUDGETS,
    GPU_BUDGETS,
    Loaded,
    Measured,
    Runs,
    Sweep,
    SweepPoint,
    Timing,
    stopping,
    summed,
)
from engine.bench.sweep import points as sweep_points
from engine.bundle import format as bundle_format
from engine.bundle import tuned
from engine.bundle.tuned import Tuned
from engine.core import hardware
from engine.core.config import RunSettings
from engine.core.device import Device
from engine.core.settings import check_whole
from engine.core.steps import StepProgress
from engine.core.telemetry import Progress
from engine.data import writing
from engine.errors import EngineError, SettingsError, Stopped
from engine.export.acceptance.sample import BUNDLED, bundled
from engine.export.acceptance.sample import options as comparison_options
from engine.generation import max_slots
from engine.pipeline import MAX_WORKERS
from engine.runtime.device import devices, gpu_name
from engine.tasks.in_memory_inputs import to_columns

SECONDS = 60
_MAX_ROWS, _MAX_GPU_ROWS = 20_000, 200_000
# Batches in flight on a GPU, the default first: one is prepared while the other is computed.
_GPU_WORKERS = (2, 1, 3)
# For each worker in a run.
_BATCHES = 2
# Shares of the time: what a trial takes, and when it has to have ended, loading included.
_TRIAL_SHARE, _TRIAL_ENDS = 0.12, 0.4


def tune(
    bundle: Path | str,
    inputs: Sequence[str | Path] = (),
    *,
    text: Sequence[str] = (),
    seconds: int = SECONDS,
    device: str = "auto",
    options: Mapping[str, object] | None = None,
    progress: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[StepProgress], None] | None = None,
) -> tuple[Tuned, Sweep]:
    """Time numbers of workers and batch tokens in turns and save what is best beside the bundle.

    A setting other than the defaults is best only if each of its rounds was faster than each of
    theirs.

    Args:
        bundle: Its folder.
        inputs: Rows like those of later runs; none for sentences that come with the engine.
        text: The input columns; none for the task's usual names.
        seconds: How long all of it takes, loading included. Too few for a comparison are exceeded;
            how long it takes is said before the rounds begin.
        device: As for `engine.run`; with several GPUs the first is used.
        options: The task's options by name.
        progress: Called with a line before the rounds and after each of them.

    Returns:
        The settings, which are saved, and everything that was measured, with each setting's spread
        and its difference from the defaults.

    Raises:
        SettingsError: A setting is unknown or out of range.
        InputError: An input is missing or unreadable, or has no good row.
        BundleError: Not a bundle, or a damaged one.
        DeviceError: The requested device cannot be used.
        OutputError: The bundle's folder cannot be written.
        Stopped: Interrupted (SIGINT).
    """
    ends = time.perf_counter() + seconds
    folder = bundle_format.load(bundle)
    _check(inputs, text, seconds)
    first = devices(device)[0]
    gpu = gpu_name(first)
    settings: RunSettings = {
        "text": text,
        "device": str(first),
        "options": dict(options or {}) if inputs else _with_defaults(folder, options or {}),
    }
    with stopping(), tempfile.TemporaryDirectory(prefix="engine-tune-") as scratch:
        runs = _runs(folder, inputs, settings, Path(scratch), _MAX_GPU_ROWS if gpu else _MAX_ROWS)
        if on_progress:
            runs = replace(runs, on_progress=_by_time(ends, seconds, on_progress))
        progress(f"a first trial on {gpu or 'the CPU'}, the beginning of {seconds} s")
        found, best = _compared(folder, first, runs, ends, seconds, progress)
    settled = _tuned(best, found, inputs, gpu)
    tuned.save(folder.path, settled)
    return settled, replace(found, bundle=str(bundle))


def _compared(
    folder: bundle_format.BundleFolder,
    device: Device,
    runs: Runs,
    ends: float,
    seconds: int,
    progress: Callable[[str], None],
) -> tuple[Sweep, trials.Difference]:
    """All settings in turns until `ends`, on the clock, and how the best differs."""
    default, points = _points(folder, gpu_name(device))
    loaded = Loaded(folder.path, str(device), runs, default)
    trial = _Trial(loaded, runs, ends - seconds * (1 - _TRIAL_ENDS))
    planned = _planned(trial, folder, device, points, ends=ends, seconds=seconds)
    spent = seconds - (ends - time.perf_counter())
    for line in _announced(planned, len(points), spent, seconds):
        progress(line)
    runs = _shortened(runs, folder.path, runs.rows.file.with_name("rows.arrow"), planned.rows)
    measured = [Measured(point) for point in planned.points]
    _measure(measured, loaded, runs, planned.seconds, progress)
    return _judged(str(folder.path), runs.rows, measured, loaded, default)


def _planned(
    trial: _Trial,
    folder: bundle_format.BundleFolder,
    device: Device,
    points: Sequence[SweepPoint],
    *,
    ends: float,
    seconds: int,
) -> trials.Plan:
    """What to measure until `ends`, after a trial of as many settings as there may be time for."""

    def plan(costs: Mapping[SweepPoint, float]) -> trials.Plan:
        return trials.plan(
            costs,
            left=ends - time.perf_counter(),
            enough=partial(_enough, folder, device, trial.tokens),
            available=trial.runs.rows.rows,
        )

    rows, cost = trial.first(points[0], seconds * _TRIAL_SHARE / len(points))
    rough = plan(dict.fromkeys(points, cost))
    planned = plan(trial.costs(rough.points, rows, cost))
    return replace(planned, needed=max(rough.needed, planned.needed))


def _runs(
    folder: bundle_format.BundleFolder,
    inputs: Sequence[str | Path],
    settings: RunSettings,
    scratch: Path,
    most: int,
) -> Runs:
    """Runs over the first rows of the inputs, or over the engine's own sentences."""
    files = list(inputs) or [_sentences(folder, scratch / "sentences.arrow", most)]
    limited: RunSettings = {**settings, "limit": most}
    rows = sample(folder.path, files, scratch / "all.arrow", **limited)
    return Runs(rows, scratch / "out", settings, None)


def _by_time(
    ends: float, seconds: int, show: Callable[[StepProgress], None]
) -> Callable[[Progress], None]:
    """Shows how much of the promised time is left, at each progress of a run."""

    def update(progress: Progress) -> None:
        left = max(0.0, ends - time.perf_counter())
        spent = seconds - (ends - time.perf_counter())
        done = min(1.0, spent / seconds)
        speed = f"{progress.rows / (progress.seconds or 1e-9):,.0f} rows/s"
        show(StepProgress(done, speed, spent, left, progress.stuck))

    return update


def _check(inputs: Sequence[str | Path], text: Sequence[str], seconds: int) -> None:
    if text and not inputs:
        raise SettingsError(
            f"text names {', '.join(text)}, and there is no input", "name the files to measure on"
        )
    check_whole("seconds", seconds, 1)


def _points(folder: bundle_format.BundleFolder, gpu: str) -> tuple[SweepPoint, list[SweepPoint]]:
    """The settings of a run that is given none, and all that are tried, in steps from these."""
    cores = hardware.cores()
    if gpu:
        # A decoder's slots are filled by one thread.
        workers = [1] if folder.description.model_config.decoder else list(_GPU_WORKERS)
        usual, budgets = (GPU_TOKENS, workers[0]), list(GPU_BUDGETS)
    else:
        usual = tasks.of_bundle(folder).batch_tokens, min(MAX_WORKERS, cores)
        workers, budgets = [usual[1], 1, *(n for n in (2, 4, 8) if n <= cores)], list(BUDGETS)
    every = sweep_points((usual[0], *budgets), workers, bool(gpu))
    default = next(p for p in every if (p.batch_tokens, p.workers) == usual)
    return default, trials.nearest(every, default)


@dataclass
class _Trial:
    """A first run of each setting: what a row costs, as long as there is time to find out.

    Attributes:
        until: When no other setting is begun, on the clock of `time.perf_counter`.
        tokens: Of a row, after `costs`.
    """

    loaded: Loaded
    runs: Runs
    until: float
    tokens: float = 1.0

    def costs(
        self, points: Sequence[SweepPoint], rows: int, first: float
    ) -> dict[SweepPoint, float]:
        """Seconds for each of so many rows by setting, in order; without those that time was too
        short for. `first` is what the first of them, the defaults, was found to take."""
        costs = {points[0]: first}
        for point in points[1:]:
            if len(costs) >= trials.MIN_POINTS and time.perf_counter() > self.until:
                break
            costs[point] = self._timed(point, rows, first)
        return costs

    def first(self, point: SweepPoint, seconds: float) -> tuple[int, float]:
        """Rows that take about so long, approached from few, and seconds for each of them: few
        rows cost more than their share."""
        self._timed(point, trials.MIN_ROWS)
        rows = trials.MIN_ROWS
        while (
            cost := self._timed(point, rows)
        ) * rows < seconds / 2 and rows < self.runs.rows.rows:
            rows = min(int(rows * min(8.0, seconds / (cost * rows))), self.runs.rows.rows)
        return rows, cost

    def _timed(self, point: SweepPoint, rows: int, failed: float = 0.0) -> float:
        """Seconds for each row; `failed` where the setting fails, which its rounds will tell."""
        model = self.loaded.model(point.threads)
        try:
            seconds, report = self.runs.run(model, point, limit=rows)
        except Stopped:
            raise
        except EngineError:
            if not failed:
                raise
            return failed
        self.tokens = max(1.0, report.tokens / report.rows_out)
        return seconds / report.rows_out


def _enough(
    folder: bundle_format.BundleFolder, device: Device, tokens: float, points: Sequence[SweepPoint]
) -> int:
    """Rows that give each worker of each setting some batches; for a decoder, that fill its
    slots."""
    if decoder := folder.description.model_config.decoder:
        return max_slots(decoder, device) * max(p.workers for p in points)
    return int(_BATCHES * max(p.workers * p.batch_tokens for p in points) / tokens) + 1


def _announced(planned: trials.Plan, settings: int, spent: float, seconds: int) -> Iterator[str]:
    """What is going to be measured, how long all of it takes, and what that is too short for."""
    whole = spent + planned.seconds
    yield (
        f"{len(planned.points)} of {settings} settings in rounds of {planned.rows:,} rows each: "
        f"{whole:.0f} s in all, of which {spent:.0f} s have passed"
    )
    if whole > 1.1 * seconds:
        yield f"note: {seconds} s are too few to compare two settings"
    if planned.needed > planned.seconds:
        short = []
        if len(planned.points) < settings:
            short.append("the settings farthest from the defaults are left out")
        if planned.rows < planned.enough:
            short.append(f"a long run's batches need {planned.enough:,} rows to fill")
        enough = math.ceil((spent + planned.needed) / 10) * 10
        reason = " and ".join(short) or "the rounds are few"
        yield f"note: {reason}; --seconds {enough} is enough to compare all settings"


def _shortened(runs: Runs, bundle: Path, file: Path, rows: int) -> Runs:
    """Runs over the first rows alone: a run reads and hashes its whole input."""
    settings: RunSettings = {**runs.settings, "text": runs.rows.columns, "limit": rows}
    short = sample(bundle, [runs.rows.file], file, **settings)
    return replace(runs, rows=replace(short, rejected=runs.rows.rejected))


def _measure(
    measured: Sequence[Measured],
    loaded: Loaded,
    runs: Runs,
    seconds: float,
    progress: Callable[[str], None],
) -> None:
    """Rounds of all settings, forth and back, for as long as was said."""
    began = time.perf_counter()
    rounds, took = 0, 0.0
    while trials.another(rounds, took, seconds - (time.perf_counter() - began)):
        start = time.perf_counter()
        for each in measured if rounds % 2 == 0 else reversed(measured):
            each.measure(loaded.model(each.point.threads), runs)
        rounds, took = rounds + 1, time.perf_counter() - start
        left = max(0.0, seconds - (time.perf_counter() - began))
        progress(f"round {rounds}: {took:.1f} s; {left:.0f} s left")


def _judged(
    bundle: str,
    rows: MeasuredRows,
    measured: Sequence[Measured],
    loaded: Loaded,
    default: SweepPoint,
) -> tuple[Sweep, trials.Difference]:
    """Everything measured, with each setting's spread and difference, and how the best differs."""
    good = {each.point: each for each in measured if not each.failed}
    beside = trials.differences({p: each.seconds for p, each in good.items()}, default)
    kept = [p for p in good if beside[p].verdict in (trials.FASTER, trials.DEFAULT)] or list(good)
    best = max(kept, key=lambda p: (beside[p].ratio, -beside[p].slowest)) if kept else default
    found = summed(bundle, rows, measured, loaded, good.get(best))
    timings = [
        _beside(timing, beside[each.point], found.rows) if each.point in good else timing
        for each, timing in zip(measured, found.sweep, strict=True)
    ]
    return replace(found, sweep=timings), beside[best]


def _beside(timing: Timing, difference: trials.Difference, rows: int) -> Timing:
    return {
        **timing,
        "rows_per_second": round(rows / difference.median, 2),
        "spread": [round(rows / s, 2) for s in (difference.slowest, difference.fastest)],
        "ratio": round(difference.ratio, 3),
        "difference": difference.verdict,
    }


def _tuned(best: trials.Difference, found: Sweep, inputs: Sequence[str | Path], gpu: str) -> Tuned:
    return Tuned(
        batch_tokens=found.best.batch_tokens,
        workers=found.best.workers,
        threads=found.best.threads,
        cpu=hardware.cpu()[0],
        cores=hardware.cores(),
        sample=", ".join(map(str, inputs)) or BUNDLED,
        speed=round(best.ratio, 3),
        gpu=gpu,
    )


def _sentences(folder: bundle_format.BundleFolder, file: Path, count: int) -> Path:
    """The engine's own sentences as a corpus, numbered, so that no two rows are equal."""
    task, items = tasks.of_bundle(folder), bundled(folder.description).items
    columns = to_columns([items[n % len(items)] for n in range(count)], task)
    numbered = [f"{row} {n}" for n, row in enumerate(columns[0].to_pylist())]
    arrays = [pa.array(numbered), *columns[1:]]
    table = pa.table(dict(zip((c.name for c in task.inputs), arrays, strict=False)))
    with writing(file), pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, table.schema) as to:
        to.write_table(table)
    return file


def _with_defaults(
    folder: bundle_format.BundleFolder, options: Mapping[str, object]
) -> dict[str, Any]:
    """The options, and for those not given the ones that suit the engine's own sentences."""
    items = bundled(folder.description).items
    return {**comparison_options(folder.description, items), **options}
