"""A run whose shares are Ray tasks.

    this process: plan ─► a task for each share ─► parts, records ─► one report

A task commits its parts as any run does, so that what a lost worker or node costs is a window.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, Unpack

import pyarrow as pa

import engine
from engine import data, errors
from engine.core.activity import without_event
from engine.core.keywords import RunArguments
from engine.core.settings import check_whole
from engine.errors import EngineError, OutputError, SettingsError, Stopped
from engine.integrations.mapped_rows import check_there
from engine.integrations.ray_cluster import assigned, ray_module
from engine.pipeline import MAX_WORKERS
from engine.runner import results
from engine.runner.folder_lock import LockHeldError
from engine.runner.records import total
from engine.runner.report import Report

Number = TypeVar("Number", int, float)

# Shares for each place in the cluster where one runs: enough that the last ones, beside which
# places are idle, are few, and few enough that loading the bundle for each costs little.
_SHARES_A_PLACE = 4
_POLL_SECONDS = 0.5
# How long tasks that are cancelled have to let the output folder go.
_CANCEL_SECONDS = 15.0
# How long a task waits for a lost one to let its share go.
_LOCK_SECONDS = 30.0
# Where ray.data has its type for pickled objects (CVE-2026-41486).
_OBJECTS = "ray.data._internal.object_extensions.arrow"


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
        ray_data = ray_module("ray.data")
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
    ray = ray_module()
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
    total = ray_module().cluster_resources()
    places = [total.get("CPU", 0) // num_cpus] if num_cpus else []
    places += [total.get("GPU", 0) // num_gpus] if num_gpus else []
    return max(1, min(splits, _SHARES_A_PLACE * int(min(places, default=1) or 1)))


def _run_share(
    model: str, inputs: Sequence[str], out: str, share: str, settings: Mapping[str, Any]
) -> Report | dict[str, str | int]:
    """One share, in the process of a Ray task: its report, or the error as plain values."""
    check_there(model, "copy it there, or name a folder that every node has at this path")
    arguments = dict(settings)
    cpus, has_gpu = assigned()
    if cpus and not has_gpu:
        workers = int(arguments.setdefault("workers", min(MAX_WORKERS, cpus)) or 1)
        arguments.setdefault("threads", max(1, cpus // workers))
    until = time.monotonic() + _LOCK_SECONDS
    try:
        with _without_pickled_columns():
            while True:
                try:
                    return engine.run(model, inputs, out, share=share, **arguments)
                except LockHeldError:  # by a worker that Ray has given up, and that is ending
                    if time.monotonic() > until:
                        raise
                    time.sleep(_POLL_SECONDS)
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


def _finished(tasks: list[Any], stopped: Callable[[], bool]) -> list[Report]:
    """The reports of all tasks; at the first error the others are cancelled.

    Raises:
        EngineError: That error.
        Stopped: By Ctrl-C, or where `stopped` says so.
    """
    ray, waiting, reports = ray_module(), list(tasks), []
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
    numbers = ("splits_skipped", "rows_computed", "rows_resumed", "repeats", "padded_tokens")
    sums: dict[str, Any] = {n: sum(getattr(report, n) for report in reports) for n in numbers}
    counts: dict[str, Any] = total(entries)
    tokens = sum(round(report.tokens_per_second * report.seconds) for report in reports)
    return replace(
        reports[0],
        **counts,
        **sums,
        out=out,
        splits=len(entries),
        files=tuple(entry.part.file for entry in entries),
        seconds=round(seconds, 3),
        rows_per_second=round(sums["rows_computed"] / seconds, 1),
        tokens_per_second=round(tokens / seconds, 1),
        padding=round(sums["padded_tokens"] / tokens, 3) if tokens else 1.0,
        stage_seconds=_added(report.stage_seconds for report in reports),
        occupancy=None,
        rejected=_added(report.rejected for report in reports),
        ran=next((report.ran for report in reports if report.ran), {}),
        notes=tuple(dict.fromkeys(note for report in reports for note in _notes(report))),
        share="",
        parts_open=0,
    )


def _added(counts: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    """Numbers by name, added up."""
    sums: dict[str, Number] = {}
    for one in counts:
        for name, number in one.items():
            sums[name] = sums.get(name, 0) + number
    return sums


def _notes(report: Report) -> list[str]:
    """The notes of a share but for that of parts which others have finished since."""
    is_open = f"{report.parts_open:,} parts have no record yet"
    return [note for note in report.notes if not note.startswith(is_open)]


def _read(out: str, files: Sequence[str]) -> Any:
    """Parts as a Ray dataset."""
    items = ray_module("ray.data").from_items([{"part": file} for file in files])
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
