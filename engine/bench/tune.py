"""Finds the fastest settings of a bundle on this machine and saves them beside it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import tasks
from engine.answering.stages import GPU_TOKENS
from engine.bench.sweep import BUDGETS, GPU_BUDGETS, Sweep, sample, sweep
from engine.bundle import format as bundle_format
from engine.bundle import tuned
from engine.bundle.tuned import Tuned
from engine.core import hardware
from engine.core.settings import check_whole
from engine.data import writing
from engine.errors import SettingsError
from engine.export.acceptance.sample import BUNDLED, bundled
from engine.export.acceptance.sample import options as comparison_options
from engine.pipeline import MAX_WORKERS, Bundle
from engine.runtime.device import devices, gpu_name
from engine.tasks.in_memory_inputs import to_columns

SECONDS = 60
_ROUNDS = 3
_PILOT_ROWS = 16
_MAX_ROWS, _MAX_GPU_ROWS = 20_000, 200_000
# Batches in flight on a GPU, the default first: one is prepared while the other is computed.
_GPU_WORKERS = (2, 1, 3)


def tune(
    bundle: Path | str,
    inputs: Sequence[str | Path] = (),
    *,
    text: Sequence[str] = (),
    seconds: int = SECONDS,
    device: str = "auto",
    options: Mapping[str, object] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Tuned, Sweep]:
    """Time numbers of workers and batch tokens in turns and save the fastest beside the bundle.

    Args:
        bundle: Its folder.
        inputs: Rows like those of later runs; none for sentences that come with the engine.
        text: The input columns; none for the task's usual names.
        seconds: About how long it may take.
        device: As for `engine.run`; with several GPUs the first is used.
        options: The task's options by name.
        progress: Called with a line after each round.

    Returns:
        The settings, which are saved, and everything that was measured.

    Raises:
        SettingsError: A setting is unknown or out of range.
        InputError: An input is missing or unreadable, or has no good row.
        BundleError: Not a bundle, or a damaged one.
        DeviceError: The requested device cannot be used.
        OutputError: The bundle's folder cannot be written.
        Stopped: Interrupted (SIGINT).
    """
    folder = bundle_format.load(bundle)
    _check(inputs, text, seconds)
    first = devices(device)[0]
    gpu, device, options = gpu_name(first), str(first), options or {}
    budgets, workers = _values(gpu, folder.description.model_config)
    with tempfile.TemporaryDirectory(prefix="engine-tune-") as scratch:
        if inputs:  # wrong ones are an error before anything is loaded
            sample(folder.path, inputs, Path(scratch) / "first.arrow", text=text, limit=1)
        runs = len(workers) * len(budgets) * _ROUNDS
        highest = _MAX_GPU_ROWS if gpu else _MAX_ROWS
        files = list(inputs) or [_sentences(folder, Path(scratch) / "rows.arrow", highest)]
        rate = _rows_per_second(folder, options, device)
        progress(f"{runs} runs of about {seconds / runs:.1f} s on {gpu or 'the CPU'}")
        measured = sweep(
            folder.path,
            files,
            budgets=budgets,
            workers=workers,
            rounds=_ROUNDS,
            limit=max(_PILOT_ROWS, min(highest, int(rate * seconds / runs))),
            text=text,
            device=device,
            options=options if inputs else _with_defaults(folder, options),
            progress=progress,
        )
    settings = _tuned(measured, inputs, gpu, _defaults(folder, gpu, workers))
    tuned.save(folder.path, settings)
    return settings, measured


def _check(inputs: Sequence[str | Path], text: Sequence[str], seconds: int) -> None:
    if text and not inputs:
        raise SettingsError(
            f"text names {', '.join(text)}, and there is no input", "name the files to measure on"
        )
    check_whole("seconds", seconds, 1)


def _values(gpu: str, model_config: bundle_format.ModelConfig) -> tuple[tuple[int, ...], list[int]]:
    """Values of batch_tokens and of workers; on a GPU the default of workers first."""
    cores = hardware.cores()
    if gpu:
        # A decoder's slots are filled by one thread.
        return GPU_BUDGETS, [1] if model_config.decoder else list(_GPU_WORKERS)
    workers = {1, min(MAX_WORKERS, cores), *(n for n in (2, 4, 8) if n <= cores)}
    return BUDGETS, sorted(workers)


def _defaults(
    folder: bundle_format.BundleFolder, gpu: str, workers: Sequence[int]
) -> tuple[int, int]:
    """batch_tokens and workers of a run without settings."""
    if gpu:
        return GPU_TOKENS, workers[0]
    task = tasks.of_bundle(folder)
    return task.batch_tokens, min(MAX_WORKERS, hardware.cores())


def _tuned(
    measured: Sweep, inputs: Sequence[str | Path], gpu: str, defaults: tuple[int, int]
) -> Tuned:
    best = measured.best
    return Tuned(
        batch_tokens=best.batch_tokens,
        workers=best.workers,
        threads=best.threads,
        cpu=hardware.cpu()[0],
        cores=hardware.cores(),
        sample=", ".join(map(str, inputs)) or BUNDLED,
        speed=round(_speedup(measured, *defaults), 3),
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


def _rows_per_second(
    folder: bundle_format.BundleFolder, options: Mapping[str, object], device: str
) -> float:
    """A rough estimate from the engine's own sentences."""
    items = bundled(folder.description).items[:_PILOT_ROWS]
    options = _with_defaults(folder, options)
    model = Bundle.load(folder.path, device=device)
    model(items, **options)
    started = time.perf_counter()
    model(items, **options)
    return len(items) / (time.perf_counter() - started)


def _speedup(measured: Sweep, budget: int, workers: int) -> float:
    """The speed of the best point relative to that of these settings; 1 if they failed."""
    seconds = {
        (timing["batch_tokens"], timing["workers"]): timing["seconds"]
        for timing in measured.sweep
        if "seconds" in timing
    }
    best = seconds[measured.best.batch_tokens, measured.best.workers]
    return float(seconds.get((budget, workers), best) / best)
