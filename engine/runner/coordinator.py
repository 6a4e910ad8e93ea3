"""A run over a corpus: plans it, has workers answer its splits, counts and reports.

    inputs ─► splits ─► assignments ─► worker ─► committed parts ─► report
    data      fingerprint, manifest    worker    manifest           report

A worker reads, computes and writes (`worker`): in this process or, on several GPUs, in a process
for each (`multi_gpu`). `messages` has what coordinator and workers tell each other.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Unpack, cast

from engine import data
from engine.core import cell_progress
from engine.core.activity import beat, proceed, without_event
from engine.core.config import RunConfig
from engine.core.device import Device
from engine.core.keywords import RunArguments
from engine.core.settings import values_of
from engine.core.telemetry import Progress, unwatched
from engine.errors import OutputError, Stopped, TooManyRejects
from engine.pipeline import Bundle
from engine.runner import fingerprint, joining, journal, multi_gpu, single_file, store_run
from engine.runner.manifest import Manifest
from engine.runner.messages import (
    Assignment,
    Committed,
    Counts,
    Message,
    Opened,
    RowsRead,
    WorkerSettings,
)
from engine.runner.moved_inputs import MovedInputs
from engine.runner.plan import Plan, make_plan, sized
from engine.runner.progress import ProgressMeter, total
from engine.runner.publisher import Publisher
from engine.runner.records import Entry, success
from engine.runner.report import Report, damage_notes, notes
from engine.runner.shared_folder import NONE_OPEN, OpenParts, SharedFolder
from engine.runner.starts import StartRecorder
from engine.runner.supervision import STALL_SECONDS, Supervision
from engine.runner.worker import Worker


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
        out: The output folder, created if missing, continued if it holds the same run; or a file
            with the ending of a format, beside which the run has a folder. Either may be a URL
            of an object store, such as s3://bucket/out.
        on_progress: Called a few times a second from the calling thread; without it a notebook
            shows a line in the cell.
        settings: Fields of `RunConfig`, and the task's own options by name. `stop` may also be a
            `threading.Event`: set by whichever thread, it ends the run as Ctrl-C does.

    Raises:
        SettingsError: A setting is unknown, out of range or names a missing column.
        InputError: An input is missing or unreadable, or has a bad row while on_error is "fail".
        OtherRunError: `out` holds a run of other settings or inputs.
        OutputError: `out` cannot be written.
        Stopped: Interrupted (SIGINT), or by `stop`; the same call goes on.
        Stalled: A stage has made no progress for `stall_timeout` seconds.
    """
    if on_progress is unwatched:
        on_progress = None
    elif on_progress is None:
        on_progress = cell_progress.watching()
    stop, given = without_event(settings)
    rest = values_of(given, RunConfig)
    timeout = rest.get("stall_timeout", STALL_SECONDS)  # it is checked with the others
    supervision: Supervision[Report] = Supervision(
        on_progress, stop, timeout if isinstance(timeout, int) else 0
    )
    show = supervision.show if on_progress else None
    return supervision.run(partial(_run, model, inputs, out, show, cast(RunArguments, rest)))


def _run(
    model: Bundle | Path | str,
    inputs: Sequence[str | Path] | str | Path,
    out: Path | str,
    on_progress: Callable[[Progress], None] | None,
    settings: RunArguments,
) -> Report:
    single_file.check_share(out, settings)
    if data.is_url(out):
        store_run.check_apart(inputs, str(out))
        run_into = partial(_run_to_scratch, model, inputs, on_progress)
        return store_run.run_to_store(str(out), settings, run_into)
    data.check_local(out)
    if single_file.is_file(out):
        run_into = partial(_run_into, model, inputs, on_progress=on_progress)
        return joining.run_to_file(out, settings, run_into)
    manifest = Manifest(Path(out))
    plan = make_plan(model, inputs, manifest, settings)
    if plan.share:
        shared = SharedFolder(plan, manifest)
        with shared.held():
            return Coordinator(plan, manifest, on_progress, shared=shared).run()
    with manifest.held(guarded=plan.config.lock):
        return Coordinator(plan, manifest, on_progress).run()


def _run_into(
    model: Bundle | Path | str,
    inputs: Sequence[str | Path] | str | Path,
    out: Path,
    settings: RunArguments,
    *,
    on_progress: Callable[[Progress], None] | None,
) -> Report:
    return _run(model, inputs, out, on_progress, settings)


def _run_to_scratch(
    model: Bundle | Path | str,
    inputs: Sequence[str | Path] | str | Path,
    on_progress: Callable[[Progress], None] | None,
    out: Path,
    settings: Mapping[str, Any],
    publisher: Publisher | None,
) -> Report:
    """Run into a folder whose parts go to a store, or, without a publisher, to a file."""
    if publisher is None:
        return _run(model, inputs, out, on_progress, cast(RunArguments, settings))
    manifest = Manifest(out)
    plan = make_plan(model, inputs, manifest, settings)
    with manifest.held(guarded=plan.config.lock):
        return Coordinator(plan, manifest, on_progress, publisher).run()


class Coordinator:
    """One run: hands out its splits, counts what its workers do, and reports.

    Args:
        plan: What is to be done.
        manifest: Of the output folder, which this process holds.
        on_progress: As for `run`.
        publisher: What puts the parts to a store.
        shared: The folder, where other shares write into it.
    """

    def __init__(
        self,
        plan: Plan,
        manifest: Manifest,
        on_progress: Callable[[Progress], None] | None,
        publisher: Publisher | None = None,
        shared: SharedFolder | None = None,
    ) -> None:
        self.publisher, self.shared = publisher, shared
        self.plan, self.manifest, self.config = plan, manifest, plan.config
        self.progress = ProgressMeter(plan.own, on_progress, plan.config.limit)
        self.rows_left = plan.config.limit or sys.maxsize
        self.rejected: Counter[str] = Counter()
        self.rejected_before = self.skipped = 0
        # Parts that must have a record at the end.
        self.answered: list[str] = []
        self.ran: dict[str, object] = {}
        self._latest: dict[int, Counts] = {}
        self._start = StartRecorder(
            manifest, plan.folder, plan.record["fingerprint"], plan.config.share
        )

    def run(self) -> Report:
        """Take the output folder, compute what is missing and report; `run` says what is raised."""
        # Of parts in a store the tags are compared: here are only placeholders of them.
        self.manifest.check_parts = self.config.check_parts and not self.publisher
        if not self.shared:
            self._begin()
        if self.publisher:
            self.publisher.begin()
        assignments = self._assignments()
        try:
            if first := next(assignments, None):
                with self._start.recorded():
                    self._answer(chain([first], assignments))
            return self._report()
        except (KeyboardInterrupt, Stopped) as error:
            raise Stopped(self._stopped(), "run the same command again to go on") from error

    def _begin(self) -> None:
        """Take the output folder."""
        parts, overwrite = set(self.plan.parts.values()), self.config.overwrite
        is_input = MovedInputs(self.plan.splits).has
        self.manifest.begin(self.plan.record, parts, overwrite=overwrite, is_input=is_input)
        if self.plan.passes:
            self.manifest.write(self.manifest.folder / data.PASSES, self.plan.passes)

    def _stopped(self) -> str:
        own = {self.plan.parts[split] for split in self.plan.own}
        kept = journal.rows_kept(self.manifest.out, self.plan.record["fingerprint"], own)
        others = f" and {kept:,} rows of the others kept" if kept else ""
        finished = f"{self.progress.finished} of {len(self.plan.own)} parts finished"
        return f"stopped with {finished}{others}"

    def receive(self, number: int, message: Message) -> None:
        """Take what a worker tells, from any of its threads.

        Raises:
            TooManyRejects: More rows are bad than are allowed.
        """
        beat()
        match message:
            case Opened(ran):
                self.ran = self._start.ran = {**ran, "device": self.plan.device}
            case RowsRead(rows, rejected, first_bad):
                self._spend(rows)
                if rejected:
                    self.rejected.update(rejected)
                    self._check_rejects(first_bad)
            case Committed(split, rows_out):
                self.progress.finish(split, rows_out)
                if self.publisher and (entry := self.manifest.entry(self.plan.parts[split])):
                    self.publisher.publish(entry)
            case Counts():
                if self.publisher:
                    self.publisher.check()
                self._latest[number] = message
                sums = total(self._latest.values())
                self._start.note(sums, self.rejected)
                self.progress.show(sums, self.rejected.total())

    def _assignments(self) -> Iterator[Assignment]:
        """Splits that are not finished, their bytes hashed on the way, up to the limit of rows."""
        for split in self.plan.own:
            proceed()
            part = self.plan.parts[split]
            if not self.rows_left:
                # It may have been within the limit before an earlier input grew.
                if self.manifest.entry(part):
                    self.manifest.forget(part)
                continue
            self.answered.append(part)
            if self.shared:
                self.shared.look(split)
            limit = self.rows_left if self.config.limit else 0
            input_record = fingerprint.input_record(split, limit, self.plan.columns)
            entry = self.manifest.finished(part, self.plan.record["fingerprint"], input_record)
            if entry is None:
                self.progress.assign(split)
                yield Assignment(split, part, input_record, self.plan.file_states[split.file.name])
            else:
                if self.publisher:
                    self.publisher.publish(entry)
                self.skipped += 1
                self.progress.finish(split, 0)
                self.rejected_before += entry.counts["rows_rejected"]
                self._spend(entry.counts["rows_in"])

    def _entries(self) -> list[Entry]:
        """The records of its parts, those within the limit, in input order.

        Raises:
            OutputError: One is gone that was written or read before.
        """
        parts = [self.plan.parts[split] for split in self.plan.own]
        entries = {part: self.manifest.entry(part) for part in parts}
        if lost := [part for part in self.answered if not entries[part]]:
            raise OutputError(
                f"{self.manifest.out / lost[0]}: its record is gone",
                "somebody has removed or changed it; run the same command again",
            )
        return [entry for entry in entries.values() if entry]

    def _answer(self, assignments: Iterator[Assignment]) -> None:
        """Have one worker for each device answer the splits."""
        workers = [self._worker_settings(device) for device in self.plan.devices]
        self._start.config = workers[0].config
        if len(workers) > 1:
            multi_gpu.answer(workers, assignments, self.receive)
            return
        model = self.plan.model if isinstance(self.plan.model, Bundle) else None
        with closing(Worker(workers[0], partial(self.receive, 0), model)) as worker:
            worker.answer(assignments)

    def _worker_settings(self, device: Device) -> WorkerSettings:
        config = sized(
            self.config,
            device,
            len(self.plan.devices),
            decoder=self.plan.folder.description.model_config.decoder is not None,
            loaded=self.plan.model if isinstance(self.plan.model, Bundle) else None,
        )
        return WorkerSettings(
            self.plan.folder.path,
            self.manifest.out,
            device,
            config,
            self.plan.record["fingerprint"],
            self.plan.columns,
            self.manifest.hold,
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
        entries = self._entries()
        if self.shared:
            return self._reported(entries, (), self.shared.finish(entries))
        removed = self.manifest.drop_surplus(entries)
        report = self._reported(entries, removed)
        content = success(entries, self.plan.record["fingerprint"])
        if self.publisher:
            self.publisher.finish(entries, content)
        self.manifest.succeed(content)
        return report

    def _reported(
        self, entries: Sequence[Entry], removed: Sequence[str], open_parts: OpenParts = NONE_OPEN
    ) -> Report:
        work, plan = total(self._latest.values()), self.plan
        folder, config = plan.folder.description, self.config
        counts = work.counts
        return Report.of(
            entries,
            work,
            seconds=time.perf_counter() - self.progress.started,
            out=str(self.manifest.out),
            task=folder.task,
            device=plan.device,
            splits_skipped=self.skipped,
            rejected=dict(self.rejected),
            ran=self.ran,
            notes=notes(folder, config, plan.device, entries, counts, removed, plan.unread)
            + damage_notes(self.manifest.damaged, self.manifest.unrecorded)
            + open_parts.notes
            + plan.notes,
            fingerprint=plan.record["fingerprint"],
            share=config.share,
            parts_open=open_parts.count,
        )
