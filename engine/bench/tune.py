"""The fastest settings of a bundle on this machine, found in about a minute and kept beside it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import tasks
from engine.bench.sweep import BUDGETS, GPU_BUDGETS, Sweep, sample, sweep
from engine.bundle import format as bundle_format
from engine.bundle import tuned
from engine.bundle.tuned import Tuned
from engine.core import hardware
from engine.core.settings import check_whole
from engine.data import writing
from engine.errors import SettingsError
from engine.export.acceptance.sample import BUNDLED, bundled, options
from engine.pipeline import GPU_TOKENS, Bundle
from engine.runner.coordinator import MAX_WORKERS
from engine.runtime.device import devices, gpu_name
from engine.tasks.in_memory_inputs import to_columns

SECONDS = 60
_ROUNDS = 3
_PILOT = 16
_MOST_ROWS, _MOST_GPU_ROWS = 20_000, 200_000
# Batches in flight on a GPU, the usual number first: one waits while the other is computed.
_GPU_WORKERS = (2, 1, 3)


def tune(
    bundle: Path | str,
    inputs: Sequence[str | Path] = (),
    *,
    text: Sequence[str] = (),
    seconds: int = SECONDS,
    device: str = "auto",
    given: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Tuned, Sweep]:
    """Time workers × token budgets in turns and keep the fastest beside the bundle.

    Args:
        bundle: Its folder.
        inputs: Rows like those that will be run; none for sentences that come with the engine.
        text: The input columns; none for the task's usual names.
        seconds: About how long it may take.
        device: As `engine.run` takes it; the first GPU of several.
        given: The task's options by name.
        progress: Called with a line after each round.

    Returns:
        What was found, which is written, and all that was measured.

    Raises:
        SettingsError: A setting is unknown or out of range.
        InputError: An input is missing or unreadable, or has no good row.
        BundleError: Not a bundle, or its bytes have changed.
        DeviceError: The device asked for is not what would run.
        OutputError: The bundle's folder cannot be written.
        Stopped: Interrupted (SIGINT).
    """
    folder = bundle_format.load(bundle)
    if text and not inputs:
        raise SettingsError(
            f"text names {', '.join(text)}, and there is no input", "name the files to measure on"
        )
    check_whole("seconds", seconds, 1)
    first = devices(device)[0]
    gpu, device = gpu_name(first), str(first)
    task, cores = tasks.find(folder.description.task), hardware.cores()
    own = bundled(folder.description).items
    asked = {**({} if inputs else options(folder.description, own)), **(given or {})}
    budgets, workers = _varied(gpu, folder.description.model_config)
    runs = len(workers) * len(budgets) * _ROUNDS
    most = _MOST_GPU_ROWS if gpu else _MOST_ROWS
    with tempfile.TemporaryDirectory(prefix="engine-tune-") as scratch:
        if inputs:
            # What is wrong with them is said before anything is loaded.
            sample(folder.path, inputs, Path(scratch) / "first.arrow", text=text, limit=1)
        files = list(inputs) or [_sentences(folder, task, Path(scratch) / "rows.arrow", most)]
        rate = _rows_per_second(folder, own[:_PILOT], given or {}, device)
        progress(f"{runs} runs of about {seconds / runs:.1f} s on {gpu or 'the CPU'}")
        limit = max(_PILOT, min(most, int(rate * seconds / runs)))
        found = sweep(
            folder.path, files, budgets=budgets, workers=workers, rounds=_ROUNDS, limit=limit,
            text=() if not inputs else text, device=device, options=asked, progress=progress,
        )  # fmt: skip
    best = found.best
    usual = (GPU_TOKENS, workers[0]) if gpu else (task.batch_tokens, min(MAX_WORKERS, cores))
    kept = Tuned(
        batch_tokens=best.batch_tokens,
        workers=best.workers,
        threads=best.threads,
        cpu=hardware.cpu()[0],
        cores=cores,
        sample=", ".join(map(str, inputs)) or BUNDLED,
        speed=round(_gain(found, *usual), 3),
        gpu=gpu,
    )
    tuned.save(folder.path, kept)
    return kept, found


def _varied(gpu: str, model_config: bundle_format.ModelConfig) -> tuple[tuple[int, ...], list[int]]:
    """Token budgets and numbers of workers; on a GPU the usual number first."""
    cores = hardware.cores()
    if gpu:
        # A decoder's rows come and go on one thread.
        return GPU_BUDGETS, [1] if model_config.decoder else list(_GPU_WORKERS)
    workers = {1, min(MAX_WORKERS, cores), *(n for n in (2, 4, 8) if n <= cores)}
    return BUDGETS, sorted(workers)


def _sentences(
    folder: bundle_format.BundleFolder, task: tasks.Task, file: Path, count: int
) -> Path:
    """The engine's own sentences as a corpus, numbered, so that no two rows are the same."""
    items = bundled(folder.description).items
    columns = to_columns([items[n % len(items)] for n in range(count)], task)
    numbered = [f"{row} {n}" for n, row in enumerate(columns[0].to_pylist())]
    arrays = [pa.array(numbered), *columns[1:]]
    table = pa.table(dict(zip((c.name for c in task.inputs), arrays, strict=False)))
    with writing(file), pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, table.schema) as to:
        to.write_table(table)
    return file


def _rows_per_second(
    folder: bundle_format.BundleFolder, items: Sequence[Any], given: Mapping[str, Any], device: str
) -> float:
    """Roughly, of the engine's own sentences."""
    asked = {**options(folder.description, items), **given}
    model = Bundle.load(folder.path, device=device)
    model(items, **asked)
    started = time.perf_counter()
    model(items, **asked)
    return len(items) / (time.perf_counter() - started)


def _gain(found: Sweep, budget: int, workers: int) -> float:
    """How many times faster the best is than what a run takes by itself; 1 if that failed."""
    seconds = {
        (one["batch_tokens"], one["workers"]): one["seconds"]
        for one in found.sweep
        if "seconds" in one
    }
    best = seconds[found.best.batch_tokens, found.best.workers]
    return float(seconds.get((budget, workers), best) / best)
