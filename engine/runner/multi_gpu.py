"""A run over several GPUs: a process for each, splits shared out, one output and one manifest.

The run plans, hashes and counts as ever; what each process does with a split is what the run itself
would do with it (`runner.Run.answer`), down to the record that it commits. Splits wait in one
place, and whoever is free takes the next: GPUs of different speeds end together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.core.config import RunConfig
from engine.core.hardware import cores
from engine.core.telemetry import Progress
from engine.core.types import Split
from engine.runner.child_process import ChildChannel, Message, Process

if TYPE_CHECKING:
    from engine.runner.coordinator import Run

_CODE = "from engine.runner.multi_gpu import main; main()"


def share(run: Run, splits: Iterator[Split]) -> None:
    """Have a process for each of the run's devices answer the splits.

    Raises:
        EngineError: What the first of them failed with.
    """
    header = _header(run)
    processes = [Process(device, _CODE, {**header, "device": device}) for device in run.devices]
    latest: dict[int, Message] = {}
    heard = [process.heard() for process in processes]
    try:
        for number, message in run.overlap.merged(heard, run.tick):
            process = processes[number]
            if "ask" in message:
                process.tell({"split": _described(run, next(splits, None))})
            elif "committed" in message:
                run.wrote(message["committed"])
            elif "counts" in message:
                latest[number] = message
                _sum(run, latest.values())
            elif "ran" in message:
                run.ran = {**message["ran"], "device": run.device}
    finally:
        for process in processes:
            process.end()


def _header(run: Run) -> dict[str, Any]:
    config, workers = run.config, run.workers()
    threads = config.threads or max(1, cores() // (len(run.devices) * workers))
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    # Cores are shared out among the GPUs, and rows that are rejected counted over all processes.
    own = {"threads": threads, "workers": workers, "max_rejects": -1}
    own["tokenizers"] = run.tokenizers()
    return {
        "bundle": str(run.folder.path),
        "out": str(run.manifest.out),
        "settings": {**fields, **own, "options": dict(config.options)},
        "run": run.run_json,
    }


def _described(run: Run, split: Split | None) -> dict[str, Any] | None:
    """A split as JSON values, with what the run knows of it."""
    if split is None:
        return None
    return {
        "split": {**dataclasses.asdict(split), "path": str(split.path)},
        "taken": run.reading[split],
        "part": run.parts[split],
        "seen": run.seen[split.path],
    }


def _sum(run: Run, messages: Iterable[Message]) -> None:
    """Count what all processes have counted so far."""
    told = list(messages)
    sums: dict[str, Any] = {"counts": run.telemetry.counts, "seconds": run.telemetry.seconds}
    for kind, own in {**sums, "rejected": run.rejected}.items():
        own.clear()
        for message in told:
            for name, value in message[kind].items():
                own[name] += value
    run.check_rejects()


def main() -> None:
    """A process for one GPU: told what to run on its input, and what it may do next."""
    from engine.runner.coordinator import Run

    line = ChildChannel()
    with line.ending():
        header = line.hear()["header"]
        settings = {**header["settings"], "device": header["device"]}
        run = Run.joined(header["bundle"], RunConfig.of(settings), header["out"], header["run"])
        _serve(run, line)


def _serve(run: Run, line: ChildChannel) -> None:
    def tell(progress: Progress | None) -> None:
        telemetry = run.telemetry
        counts, seconds = dict(telemetry.counts), dict(telemetry.seconds)
        line.tell(counts=counts, seconds=seconds, rejected=dict(run.rejected))

    run.on_progress = tell
    run.on_commit = lambda part: line.tell(committed=part)
    try:
        run.answer(_splits(run, line))
    finally:
        run.close()
    line.tell(ran=run.ran)
    tell(None)


def _splits(run: Run, line: ChildChannel) -> Iterator[Split]:
    for given in line.asked():
        own = given["split"]
        groups = (own["row_groups"][0], own["row_groups"][1])
        split = Split(**{**own, "path": Path(own["path"]), "row_groups": groups})
        run.reading[split], run.parts[split] = given["taken"], given["part"]
        run.seen[split.path] = (given["seen"][0], given["seen"][1])
        yield split
