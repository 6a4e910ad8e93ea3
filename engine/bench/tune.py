"""The fastest settings of a bundle on this machine, found in about a minute and kept beside it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import bundle as bundles
from engine import hardware, source, tasks, tuned
from engine.bench.sweep import BUDGETS, Sweep, sweep
from engine.config import check_least
from engine.errors import SettingsError
from engine.gate.sample import BUNDLED, bundled, options
from engine.memory import in_memory
from engine.model import Bundle
from engine.runner import MAX_WORKERS
from engine.sink import writing
from engine.tuned import Tuned

SECONDS = 60
_ROUNDS = 3
_PILOT = 16
_MOST_ROWS = 20_000


def tune(
    bundle: Path | str,
    inputs: Sequence[str | Path] = (),
    *,
    text: Sequence[str] = (),
    seconds: int = SECONDS,
    given: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Tuned, Sweep]:
    """Time sessions × threads × token budgets in turns and keep the fastest beside the bundle.

    Args:
        bundle: Its folder.
        inputs: Rows like those that will be run; none for sentences that come with the engine.
        text: The input columns; none for the task's usual names.
        seconds: About how long it may take.
        given: The task's options by name.
        progress: Called with a line after each round.

    Returns:
        What was found, which is written, and all that was measured.

    Raises:
        SettingsError: A setting is unknown or out of range.
        InputError: An input is missing or unreadable, or has no good row.
        BundleError: Not a bundle, or its bytes have changed.
        OutputError: The bundle's folder can not be written.
        Stopped: Interrupted (SIGINT).
    """
    folder = bundles.load(bundle)
    if text and not inputs:
        raise SettingsError(
            f"text names {', '.join(text)}, and there is no input", "name the files to measure on"
        )
    check_least("seconds", seconds, 1)
    if inputs:
        source.find(list(inputs))
    task, cores = tasks.find(folder.description.task), hardware.cores()
    own = bundled(folder.description).items
    asked = {**({} if inputs else options(folder.description, own)), **(given or {})}
    workers = sorted({1, min(MAX_WORKERS, cores), *(n for n in (2, 4, 8) if n <= cores)})
    runs = len(workers) * len(BUDGETS) * _ROUNDS
    with tempfile.TemporaryDirectory(prefix="engine-tune-") as scratch:
        files = list(inputs) or [_sentences(folder, task, Path(scratch) / "rows.arrow")]
        rate = _rows_per_second(folder, own[:_PILOT], given or {})
        progress(f"{runs} runs of about {seconds / runs:.1f} s")
        limit = max(_PILOT, min(_MOST_ROWS, int(rate * seconds / runs)))
        found = sweep(
            folder.path, files, budgets=BUDGETS, workers=workers, rounds=_ROUNDS, limit=limit,
            text=() if not inputs else text, device="cpu", options=asked, progress=progress,
        )  # fmt: skip
    best = found.best
    kept = Tuned(
        batch_tokens=best.batch_tokens,
        workers=best.workers,
        threads=best.threads,
        cpu=hardware.cpu()[0],
        cores=cores,
        sample=", ".join(map(str, inputs)) or BUNDLED,
        speed=round(_gain(found, task.batch_tokens, min(MAX_WORKERS, cores)), 3),
    )
    tuned.save(folder.path, kept)
    return kept, found


def _sentences(folder: bundles.BundleFolder, task: tasks.Task, file: Path) -> Path:
    """The engine's own sentences as a corpus, numbered, so that no two rows are the same."""
    items = bundled(folder.description).items
    columns = in_memory([items[n % len(items)] for n in range(_MOST_ROWS)], task)
    numbered = [f"{row} {n}" for n, row in enumerate(columns[0].to_pylist())]
    arrays = [pa.array(numbered), *columns[1:]]
    table = pa.table(dict(zip((c.name for c in task.inputs), arrays, strict=False)))
    with writing(file), pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, table.schema) as to:
        to.write_table(table)
    return file


def _rows_per_second(
    folder: bundles.BundleFolder, items: Sequence[Any], given: Mapping[str, Any]
) -> float:
    """Roughly, of the engine's own sentences."""
    asked = {**options(folder.description, items), **given}
    model = Bundle.load(folder.path, device="cpu")
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
