"""A run over a corpus: plans it, has workers answer its splits, counts and reports.

    inputs ─► splits ─► assignments ─► worker ─► committed parts ─► report
    data      fingerprint, manifest    worker    manifest           report

A worker reads, computes and writes (`worker`): in this process or, on several GPUs, in a process
for each (`multi_gpu`). `messages` has what coordinator and workers tell each other.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Unpack

from engine import data, tasks
from engine.bundle import format as bundle_format
from engine.bundle import tuned
from engine.core.config import RunConfig
from engine.core.device import ALL, AUTO, Device
from engine.core.hardware import cores
from engine.core.settings import check_names
from engine.core.telemetry import Progress
from engine.core.types import Column, CorpusFile
from engine.errors import DeviceError, SettingsError, Stopped, TooManyRejects
from engine.pipeline import Bundle
from engine.runner import fingerprint, journal, multi_gpu
from engine.runner.manifest import Entry, Manifest
from engine.runner.messages import (
    Assignment,
    Committed,
    Counts,
    Message,
    Opened,
    RowsRead,
    WorkerSettings,
)
from engine.runner.progress import ProgressMeter, total
from engine.runner.report import Report, notes
from engine.runner.worker import Worker
from engine.runtime.device import devices, gpu_name
from engine.tasks.keywords import RunArguments

MAX_WORKERS = 4
# Processes that tokenize for a GPU, one for every two cores: each gives 1 to 2 million tokens a
# second then, and can hand over several times that.
GPU_TOKENIZERS = 8


def run(
    model: Bundle | Path | str,
    inputs: Sequence[str | Path] | str | Path,
    out: Path | str,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    **settings: Unpack[RunArguments],
) -> Report:
    """Answer a corpus: inputs in, part files out, resumable.

    Args:
        model: A bundle's folder, which brings the settings that `engine tune` measured on this
            machine; or a loaded bundle.
        inputs: Files, folders or globs.
        out: The output folder; created if missing, continued if it holds the same run.
        on_progress: Called a few times a second from the calling thread.
        settings: Fields of `RunConfig`, and the task's own options by name.

    Raises:
        SettingsError: A setting is unknown, out of range or names a missing column.
        InputError: An input is missing or unreadable, or has a bad row while on_error is "fail".
        OtherRunError: `out` holds a run of other settings or inputs.
        OutputError: `out` cannot be written.
        Stopped: Interrupted (SIGINT); the same call goes on.
    """
    data.check_local(out)
    folder = model.folder if isinstance(model, Bundle) else bundle_format.load(model)
    config = resolve_config(folder, settings)
    if not isinstance(model, Bundle):
        config = tuned.applied(folder.path, config, gpu_name(devices(config.device)[0]))
    named = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    manifest = Manifest(Path(out))
    discovery = data.discover(named, manifest.out)
    files, unread = fingerprint.inputs_outside(discovery.files, manifest.out), discovery.unread
    with manifest.held():
        return Coordinator(model, folder, config, files, manifest, on_progress, unread).run()


def resolve_config(folder: bundle_format.BundleFolder, settings: Mapping[str, object]) -> RunConfig:
    """Validated settings, the task's options set apart, before anything is opened.

    Raises:
        SettingsError: A name is unknown or a value out of range.
    """
    task, model_config = tasks.find(folder.description.task), folder.description.model_config
    names = set(task.defaults(model_config))
    check_names("setting", settings, names | {f.name for f in dataclasses.fields(RunConfig)})
    config = RunConfig.of({n: v for n, v in settings.items() if n not in names})
    options = {n: v for n, v in settings.items() if n in names} | dict(config.options)
    config = dataclasses.replace(config, options=options)
    columns = tasks.input_columns(task, config.text)
    task.check(model_config, tasks.resolve_options(task, model_config, options), len(columns))
    return dataclasses.replace(config, text=tuple(column.name for column in columns))


class Coordinator:
    """One run: hands out its splits, counts what its workers do, and reports.

    Args:
        model: The bundle's folder, or the bundle where it is loaded already.
        folder: The bundle's description.
        config: Settings of the run.
        files: The input files.
        manifest: Of the output folder, which this process holds.
        on_progress: As for `run`.
        unread: Files that the inputs name and that are not read, by ending.
    """

    def __init__(
        self,
        model: Bundle | Path | str,
        folder: bundle_format.BundleFolder,
        config: RunConfig,
        files: list[CorpusFile],
        manifest: Manifest,
        on_progress: Callable[[Progress], None] | None,
        unread: Mapping[str, int],
    ) -> None:
        self.model, self.folder, self.config, self.manifest = model, folder, config, manifest
        self.devices = _devices(model, config)
        self.device = str(self.devices[0]) if len(self.devices) == 1 else ALL
        self.record = fingerprint.run_record(folder, config, self.devices[0].kind)
        self.file_states = {file.path: fingerprint.file_state(file.path) for file in files}
        self.columns = data.settle(files, _inputs(folder, config), config.keep)
        self.splits = list(data.split_files(files, config.split_size))
        self.parts = {s: data.part_name(s.ordinal, s.name, config.part_format) for s in self.splits}
        self.progress = ProgressMeter(self.splits, on_progress)
        self.unread = unread
        self.rows_left = config.limit or sys.maxsize
        self.rejected: Counter[str] = Counter()
        self.rejected_before = self.skipped = 0
        self.ran: dict[str, object] = {}
        self._latest: dict[int, Counts] = {}

    def run(self) -> Report:
        """Take the output folder, compute what is missing and report; `run` says what is raised."""
        parts = set(self.parts.values())
        self.manifest.begin(
            self.record, parts, overwrite=self.config.overwrite, is_input=self._is_input
        )
        assignments = self._assignments()
        try:
            if first := next(assignments, None):
                self._answer(chain([first], assignments))
        except KeyboardInterrupt as error:
            raise Stopped(self._stopped(), "run the same command again to go on") from error
        return self._report()

    def _stopped(self) -> str:
        kept = journal.rows_kept(self.manifest.out, self.record["fingerprint"])
        others = f" and {kept:,} rows of the others kept" if kept else ""
        return f"stopped with {self.progress.finished} of {len(self.splits)} parts finished{others}"

    def receive(self, number: int, message: Message) -> None:
        """Take what a worker tells, from any of its threads.

        Raises:
            TooManyRejects: More rows are bad than are allowed.
        """
        match message:
            case Opened(ran):
                self.ran = {**ran, "device": self.device}
            case RowsRead(rows, rejected, first_bad):
                self._spend(rows)
                if rejected:
                    self.rejected.update(rejected)
                    self._check_rejects(first_bad)
            case Committed(split, rows_out):
                self.progress.finish(split, rows_out)
            case Counts():
                self._latest[number] = message
                self.progress.show(total(self._latest.values()), self.rejected.total())

    def _assignments(self) -> Iterator[Assignment]:
        """Splits that are not finished, their bytes hashed on the way, up to the limit of rows."""
        for split in self.splits:
            part = self.parts[split]
            if not self.rows_left:
                # It may have been within the limit before an earlier input grew.
                if self.manifest.entry(part):
                    self.manifest.forget(part)
                continue
            limit = self.rows_left if self.config.limit else 0
            input_record = fingerprint.input_record(split, limit, self.columns.kept)
            entry = self.manifest.finished(part, self.record["fingerprint"], input_record)
            if entry is None:
                self.progress.assign(split)
                yield Assignment(split, part, input_record, self.file_states[split.path])
            else:
                self.skipped += 1
                self.progress.finish(split, 0)
                self.rejected_before += entry.counts["rows_rejected"]
                self._spend(entry.counts["rows_in"])

    def _is_input(self, entry: Entry) -> bool:
        """Whether a split of this run has the bytes that a record is of, under whatever name."""
        ranges = (entry.input.start, entry.input.stop)
        alike = (split for split in self.splits if (split.start, split.stop) == ranges)
        return any(data.content_hash(split) == entry.input.sha256 for split in alike)

    def _answer(self, assignments: Iterator[Assignment]) -> None:
        """Have one worker for each device answer the splits."""
        workers = [self._worker_settings(device) for device in self.devices]
        if len(workers) > 1:
            multi_gpu.answer(workers, assignments, self.receive)
            return
        model = self.model if isinstance(self.model, Bundle) else None
        with closing(Worker(workers[0], partial(self.receive, 0), model)) as worker:
            worker.answer(assignments)

    def _worker_settings(self, device: Device) -> WorkerSettings:
        config = _sized(
            self.config,
            device,
            len(self.devices),
            decoder=self.folder.description.model_config.decoder is not None,
            loaded=isinstance(self.model, Bundle),
        )
        return WorkerSettings(
            self.folder.path,
            self.manifest.out,
            device,
            config,
            self.record["fingerprint"],
            self.columns,
        )

    def _spend(self, rows: int) -> None:
        if self.config.limit:
            self.rows_left -= rows

    def _check_rejects(self, first_bad: str) -> None:
        allowed, rejected = self.config.max_rejects, self.rejected_before + self.rejected.total()
        if 0 <= allowed < rejected:
            reasons = ", ".join(f"{code} {n}" for code, n in self.rejected.most_common())
            where = f"; the first of the latest window is {first_bad}" if first_bad else ""
            raise TooManyRejects(
                f"{rejected} bad rows, where at most {allowed} are allowed ({reasons}){where}",
                "fix the input, or raise --max-rejects",
            )

    def _report(self) -> Report:
        entries = [e for e in map(self.manifest.entry, self.parts.values()) if e]
        removed = self.manifest.drop_surplus(entries)
        work = total(self._latest.values())
        report = Report.of(
            entries,
            work,
            seconds=time.perf_counter() - self.progress.started,
            out=str(self.manifest.out),
            task=self.folder.description.task,
            device=self.device,
            splits_skipped=self.skipped,
            rejected=dict(self.rejected),
            ran=self.ran,
            notes=notes(
                self.folder.description,
                self.config,
                self.device,
                entries,
                work.counts,
                removed,
                self.unread,
            ),
        )
        self.manifest.succeed(report.success(self.record["fingerprint"]))
        return report


def _inputs(folder: bundle_format.BundleFolder, config: RunConfig) -> list[Column]:
    """The columns that the task takes of the corpus."""
    task, model_config = tasks.find(folder.description.task), folder.description.model_config
    options = tasks.resolve_options(task, model_config, config.options)
    return list(tasks.input_columns(task, config.text, options))


def _sized(
    config: RunConfig, device: Device, count: int, *, decoder: bool, loaded: bool
) -> RunConfig:
    """Settings of one of `count` workers, with every size that was 0 filled in."""
    workers, tokenizers = config.workers, config.tokenizers
    if device.is_gpu:
        # One batch is prepared while another is computed; a decoder refills its slots instead.
        workers = workers or (1 if decoder else 2)
        tokenizers = tokenizers or min(GPU_TOKENIZERS, max(1, cores() // (2 * count)))
    else:
        workers = workers or (1 if loaded else min(MAX_WORKERS, cores()))
    threads = config.threads or max(1, cores() // (count * workers))
    return dataclasses.replace(config, workers=workers, tokenizers=tokenizers, threads=threads)


def _devices(model: Bundle | Path | str, config: RunConfig) -> tuple[Device, ...]:
    """The devices that will compute: for a loaded bundle the one that it is on."""
    wanted = config.device
    if wanted == ALL and (isinstance(model, Bundle) or config.limit):
        what = "a loaded bundle" if isinstance(model, Bundle) else f"limit {config.limit}"
        raise SettingsError(
            f"device is {ALL}, which cannot be combined with {what}",
            "give the bundle's folder and no limit: the GPUs share the splits, a process each",
        )
    if not isinstance(model, Bundle):
        return devices(wanted)
    device = model.backend.device
    if wanted not in (AUTO, device.kind, str(device)):
        raise DeviceError(
            f"{wanted} was asked for, and the bundle is loaded on {device}",
            "load it with the device you want, or give the bundle's folder",
        )
    return (device,)
