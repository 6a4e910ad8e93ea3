"""Ray: a bundle as the actor class of `map_batches`, and a run whose shares are Ray tasks.

    ds.map_batches(EngineMapper, fn_constructor_kwargs={"bundle": "/models/minilm"},
                   batch_format="pyarrow", batch_size=4096, num_cpus=2, concurrency=4)

    run("/models/minilm", ["/corpus"], "/out", text=["text"], keep=["id"], num_cpus=2)

`EngineMapper` answers tables that Ray Data has read. `run` has the engine read, answer and commit:
its output is that of `engine.run`, and what an actor or a node that is lost costs is a window.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

import pyarrow as pa

import engine
from engine import data, errors
from engine.core.activity import without_event
from engine.core.settings import check_whole
from engine.errors import EngineError, MissingDependency, OutputError, SettingsError, Stopped
from engine.integrations.mapped_rows import MapArguments, MapSettings, check_there, whole
from engine.runner import results
from engine.runner.plan import MAX_WORKERS
from engine.runner.records import total
from engine.runner.report import Report
from engine.tasks.keywords import RunArguments

FEW_ROWS = 100
"""Below so many rows in a call padding and the call itself cost noticeably."""
# Shares for each place in the cluster where one runs: enough that the last ones, beside which
# places are idle, are few, and few enough that loading the bundle for each costs little.
_SHARES_A_PLACE = 4
_POLL_SECONDS = 0.5
# How long tasks that are cancelled have to let the output folder go.
_CANCEL_SECONDS = 15.0
# Where ray.data has its type for pickled objects (CVE-2026-41486).
_OBJECTS = "ray.data._internal.object_extensions.arrow"


class EngineMapper:
    """A bundle that answers the tables of Ray Data, an actor each.

    It takes the CPUs of its actor as threads and runs on a GPU where the actor has one. Every row
    of a table comes back, in order: kept columns, results, and `reject`, which says why a row was
    not answered.

    Args:
        bundle: The bundle's folder, at a path that every node has.
        device: auto, cpu, cuda or cuda:N; by default that of the actor.
        threads: By default the actor's CPUs.
        gpu_memory: As for `Bundle.load`.
        arguments: As `MapSettings` has them, and the options of the bundle's task.

    Raises:
        MissingDependency: Ray is not installed.
        SettingsError, ColumnError, BundleError, DeviceError: As `Bundle.load` and `Bundle.answer`.
        InputError: on_error is "fail", and a row is bad.
    """

    def __init__(
        self,
        bundle: Path | str,
        *,
        device: str = "",
        threads: int = 0,
        gpu_memory: int = 0,
        **arguments: Unpack[MapArguments],
    ) -> None:
        self._settings = MapSettings.of(arguments)
        cpus, has_gpu = _assigned()
        check_there(bundle, "copy it there, or name a folder that every node has at this path")
        self._bundle = engine.Bundle.load(
            bundle,
            device=device or ("cuda" if has_gpu else "cpu" if cpus else "auto"),
            threads=threads or cpus,
            gpu_memory=gpu_memory,
        )
        self._has_warned = False

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The table's rows with their answers."""
        if not isinstance(batch, pa.Table):
            raise SettingsError(
                f"EngineMapper was given a {type(batch).__name__}, not an Arrow table",
                'map_batches(EngineMapper, batch_format="pyarrow", ...)',
            )
        if len(batch) < FEW_ROWS and not self._has_warned:
            self._has_warned = True
            warnings.warn(_few_rows(len(batch)), stacklevel=2)
        answered = self._bundle.answer(batch, **self._settings.answering)
        return whole(batch, answered, self._settings)


def _few_rows(rows: int) -> str:
    return (
        f"EngineMapper answers {rows} rows in this call: calls of fewer than {FEW_ROWS} rows cost "
        "up to 1.7 times as much for each row; map_batches(..., batch_size=4096) hands over more, "
        "from blocks that have as many"
    )


@dataclass(frozen=True)
class Output:
    """What a run has left.

    Attributes:
        report: Of all shares together.
    """

    report: Report

    def answers(self) -> Any:
        """The answers as a Ray dataset of Arrow tables, a part for each task that reads.

        Raises:
            OutputError: Another run has taken the folder since.
        """
        entries = results.answered(results.manifest_of(self.report.out))
        return _read(self.report.out, [entry.part.file for entry in entries])

    def rejects(self) -> Any:
        """The rows that were not answered as a Ray dataset: file, row, column, code, message."""
        ray_data = _ray("ray.data")
        table = pa.Table.from_pylist(list(results.rejects(self.report.out)), _REJECTS)
        return ray_data.from_arrow(table)


_REJECTS = pa.schema(
    [("file", pa.string()), ("row", pa.int64()), ("column", pa.string()), ("code", pa.string()),
     ("message", pa.string())]
)  # fmt: skip


def run(
    bundle: Path | str,
    inputs: Sequence[str | Path] | str | Path,
    out: Path | str,
    *,
    shares: int = 0,
    num_cpus: int = 1,
    num_gpus: float = 0,
    max_retries: int = -1,
    **settings: Unpack[RunArguments],
) -> Output:
    """Answer a corpus on a cluster of Ray: `engine.run`, its splits shared by Ray tasks.

    This process plans; each task runs a share of the splits and commits its parts. A task whose
    worker or node is lost is started again, and goes on where its journal ends.

    Args:
        bundle, inputs, out: As for `engine.run`, at paths that every node has, or in a store.
        shares: Tasks in all; by default several for each place in the cluster, and at most as many
            as there are splits. More tasks than splits are idle.
        num_cpus, num_gpus: Of each task; its CPUs are its threads.
        max_retries: How often a task may be lost; -1 for any number of times.
        settings: As for `engine.run`.

    Raises:
        MissingDependency: Ray is not installed.
        Stopped: By Ctrl-C or `stop`; the same call goes on.
        EngineError: As `engine.run`, of the first task that has failed.
    """
    ray = _ray()
    started = time.perf_counter()
    stop, arguments = without_event(settings)
    _check(bundle, shares, num_cpus, max_retries)
    model, sources, folder = _absolute(bundle), _all_absolute(inputs), _absolute(out)
    arguments.setdefault("device", "cuda" if num_gpus else "cpu")
    # Here may be no GPU, and splits are the same without one.
    splits = engine.splits(model, sources, folder, **{**arguments, "device": "cpu"})
    if not ray.is_initialized():
        ray.init()
    count = shares or _share_count(len(splits), num_cpus, num_gpus)
    task = ray.remote(_run_share).options(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_retries=max_retries,
        scheduling_strategy="SPREAD",
    )
    tasks = [
        task.remote(model, sources, folder, f"{n}/{count}", arguments) for n in range(1, count + 1)
    ]
    reports = _finished(tasks, stop.is_set if stop else lambda: False)
    return Output(_total(reports, folder, time.perf_counter() - started))


def _check(bundle: object, shares: int, num_cpus: int, max_retries: int) -> None:
    if isinstance(bundle, engine.Bundle):
        raise SettingsError(
            "a loaded bundle cannot go to other machines", "give the bundle's folder"
        )
    check_whole("shares", shares, 0)
    check_whole("num_cpus", num_cpus, 0)
    check_whole("max_retries", max_retries, -1)


def _absolute(path: Path | str) -> str:
    """A path as tasks can use it: theirs is another working directory."""
    return str(path) if data.is_url(path) else os.path.abspath(path)


def _all_absolute(inputs: Sequence[str | Path] | str | Path) -> list[str]:
    named = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    if "-" in named:
        raise SettingsError("standard input cannot be shared by tasks", "name files or folders")
    return [_absolute(path) for path in named]


def _share_count(splits: int, num_cpus: int, num_gpus: float) -> int:
    """Shares for the cluster as it is now."""
    total = _ray().cluster_resources()
    places = [total.get("CPU", 0) // num_cpus] if num_cpus else []
    places += [total.get("GPU", 0) // num_gpus] if num_gpus else []
    return max(1, min(splits, _SHARES_A_PLACE * int(min(places, default=1) or 1)))


def _run_share(
    model: str, inputs: Sequence[str], out: str, share: str, settings: Mapping[str, Any]
) -> Report | dict[str, str | int]:
    """One share, in the process of a Ray task: its report, or the error as plain values."""
    check_there(model, "copy it there, or name a folder that every node has at this path")
    arguments = dict(settings)
    cpus, has_gpu = _assigned()
    if cpus and not has_gpu:
        workers = int(arguments.setdefault("workers", min(MAX_WORKERS, cpus)) or 1)
        arguments.setdefault("threads", max(1, cpus // workers))
    try:
        with _without_pickled_columns():
            return engine.run(model, inputs, out, share=share, **arguments)
    except EngineError as error:
        return errors.to_dict(error)


@contextmanager
def _without_pickled_columns() -> Iterator[None]:
    """Have Arrow know no type whose values are unpickled: a stranger's file could run code.

    ray.data registers one for all of the process, in which other tasks may have imported it.
    """
    objects = sys.modules.get(_OBJECTS)
    if objects is None:
        yield
        return
    pa.unregister_extension_type(objects.ARROW_PYTHON_OBJECT_EXTENSION_NAME)
    try:
        yield
    finally:
        pa.register_extension_type(objects.ArrowPythonObjectType())


def _finished(tasks: list[Any], stopped: Any) -> list[Report]:
    """The reports of all tasks; at the first error the others are cancelled.

    Raises:
        EngineError: That error.
        Stopped: By Ctrl-C, or where `stopped` says so.
    """
    ray, waiting, reports = _ray(), list(tasks), []
    try:
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=_POLL_SECONDS)
            if stopped():
                raise KeyboardInterrupt
            for result in ray.get(ready):
                if isinstance(result, dict):
                    raise errors.from_dict(result)
                reports.append(result)
    except BaseException as error:
        for one in waiting:
            ray.cancel(one)
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=_CANCEL_SECONDS)
        if isinstance(error, KeyboardInterrupt):
            done = f"stopped with {len(reports)} of {len(tasks)} shares finished"
            raise Stopped(done, "run the same call again to go on") from error
        raise
    return reports


def _total(reports: Sequence[Report], out: str, seconds: float) -> Report:
    """One report for all shares: what the folder holds, and what they did for it."""
    entries = results.answered(results.manifest_of(out))

    def added(name: str) -> int:
        return sum(getattr(report, name) for report in reports)

    rows, padded = added("rows_computed"), added("padded_tokens")
    tokens = sum(round(report.tokens_per_second * report.seconds) for report in reports)
    stages: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for report in reports:
        stages.update(report.stage_seconds)
        rejected.update(report.rejected)
    return replace(
        reports[0],
        **total(entries),
        out=out,
        splits=len(entries),
        files=tuple(entry.part.file for entry in entries),
        **{name: added(name) for name in ("splits_skipped", "rows_resumed", "repeats")},
        rows_computed=rows,
        padded_tokens=padded,
        seconds=round(seconds, 3),
        rows_per_second=round(rows / seconds, 1),
        tokens_per_second=round(tokens / seconds, 1),
        padding=round(padded / tokens, 3) if tokens else 1.0,
        stage_seconds={stage: round(spent, 3) for stage, spent in stages.items()},
        occupancy=None,
        rejected=dict(rejected),
        ran=next((report.ran for report in reports if report.ran), {}),
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
    )


def _read(out: str, files: Sequence[str]) -> Any:
    """Parts as a Ray dataset."""
    items = _ray("ray.data").from_items([{"part": file} for file in files])
    return items.map_batches(
        _part_tables, fn_kwargs={"out": out}, batch_size=1, batch_format="pyarrow"
    )


def _part_tables(parts: pa.Table, out: str) -> Iterator[pa.Table]:
    """The answers of some parts, in the process of a Ray task."""
    manifest = results.manifest_of(out)
    for file in parts.column("part").to_pylist():
        entry = manifest.entry(file)
        if entry is None:
            raise OutputError(f"{out}: the record of {file} is missing", "run the same call again")
        for batch in results.batches(manifest, entry):
            yield pa.Table.from_batches([batch])


def _assigned() -> tuple[int, bool]:
    """The CPUs of this actor or task, 0 outside of one, and whether it has a GPU."""
    ray = _ray()
    if not ray.is_initialized():
        return 0, False
    context = ray.get_runtime_context()
    if not (context.get_task_id() or context.get_actor_id()):
        return 0, False
    resources = context.get_assigned_resources()
    return max(1, int(resources.get("CPU", 1))), bool(resources.get("GPU", 0))


def _ray(module: str = "ray") -> Any:
    """Ray or a module of it.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise MissingDependency(
            "Ray is not installed", 'pip install "corpus-engine[cpu,ray]"'
        ) from error
