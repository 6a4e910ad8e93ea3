"""Joins the stages into a run over a corpus.

    splits ─► rows ─► encoded ─► batches ─► outputs ─► answers ─► part file ─► manifest entry

`Run._answers` reads like the first five arrows, `Run._write` like the last two. With several GPUs
`fleet` has a process for each do both.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import data, tasks
from engine.bundle import format as bundle_format
from engine.bundle import tuned
from engine.bundle.batching import rows_ended
from engine.core.config import RunConfig, check_names
from engine.core.hardware import cores
from engine.core.telemetry import Progress, Telemetry
from engine.core.types import Answers, Batch, Encoded, Output, Rows, Split
from engine.data import writers
from engine.errors import (
    ColumnError,
    DeviceError,
    InputError,
    SettingsError,
    Stopped,
    TooManyRejects,
)
from engine.pipeline import Bundle, Stages
from engine.runner import fingerprint, multi_gpu
from engine.runner.manifest import Entry, Manifest, total
from engine.runner.part import PartWriter
from engine.runner.report import Report
from engine.runner.threads import Overlap
from engine.runner.tokenizer_pool import TokenizerPool, WorkerConfig
from engine.runtime.device import ALL, devices, gpu, passed_over

MAX_WORKERS = 4
# Processes that tokenize for a GPU, one for every two cores: each gives 1 to 2 million tokens a
# second then, and can hand over several times that.
GPU_TOKENIZERS = 8
_PROGRESS_SECONDS = 0.25


def run(
    model: Bundle | Path | str,
    inputs: Sequence[str | Path] | str | Path,
    out: Path | str,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Report:
    """Answer a corpus: inputs in, part files out, resumable.

    Args:
        model: A bundle's folder, with the settings that `engine tune` found for it on this machine
            unless others are given; or a loaded bundle.
        inputs: Files, folders or globs.
        out: The output folder; made if missing, continued if it holds this very run.
        on_progress: Called a few times a second from the calling thread.
        settings: Fields of `RunConfig`, and the task's own options by name.

    Raises:
        SettingsError: A setting is unknown, out of range or names a missing column.
        InputError: An input is missing or unreadable, or has a bad row while on_error is "fail".
        OtherRunError: `out` holds a run of other settings or inputs.
        OutputError: `out` cannot be written.
        Stopped: Interrupted (SIGINT); the same call goes on.
    """
    folder = model.folder if isinstance(model, Bundle) else bundle_format.load(model)
    config = settle(folder, settings)
    if not isinstance(model, Bundle):
        config = tuned.applied(folder.path, config, gpu(devices(config.device)[0]))
    files = data.find([inputs] if isinstance(inputs, (str, Path)) else list(inputs))
    manifest = Manifest(Path(out))
    files = fingerprint.inputs_apart(files, manifest.out)
    with manifest.held():
        return Run(model, folder, config, files, manifest, on_progress).execute()


def settle(folder: bundle_format.BundleFolder, settings: dict[str, Any]) -> RunConfig:
    """Engine settings and task options told apart and validated, before anything is opened.

    Raises:
        SettingsError: A name is unknown or a value out of range.
    """
    task, model_config = tasks.find(folder.description.task), folder.description.model_config
    names = set(task.defaults(model_config))
    check_names("setting", settings, names | {f.name for f in dataclasses.fields(RunConfig)})
    config = RunConfig.of({n: v for n, v in settings.items() if n not in names})
    options = {n: v for n, v in settings.items() if n in names} | dict(config.options)
    config = dataclasses.replace(config, options=options)
    columns = tasks.columns(task, config.text)
    task.check(model_config, tasks.settle(task, model_config, options), len(columns))
    return dataclasses.replace(config, text=tuple(column.name for column in columns))


class Run:
    """One execution: what stays the same for its whole length, so that its steps can be short."""

    def __init__(
        self,
        model: Bundle | Path | str,
        folder: bundle_format.BundleFolder,
        config: RunConfig,
        files: list[Path],
        manifest: Manifest,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.model, self.folder, self.config, self.manifest = model, folder, config, manifest
        self.on_progress = on_progress
        self.on_commit: Callable[[str], None] | None = None
        self.devices = _devices(model, config)
        self.device = self.devices[0] if len(self.devices) == 1 else ALL
        self.run_json = fingerprint.of_run(folder, config, self.device)
        self.seen = {file: fingerprint.of_file(file) for file in files}
        self.splits = list(data.plan(files, config.split_size))
        self.parts = {s: writers.part_name(s.ordinal, s.name, config.format) for s in self.splits}
        self.sizes, self.sized_in_rows = _sizes(self.splits) if on_progress else ({}, False)
        self.rows_left = config.limit or sys.maxsize
        self.telemetry = Telemetry()
        self.overlap = Overlap()
        self.encoders: TokenizerPool | None = None
        self.rejected: Counter[str] = Counter()
        self.rejected_before = 0
        self.reading: dict[Split, dict[str, Any]] = {}
        self.part: PartWriter | None = None
        self.ran: dict[str, Any] = {}
        self.skipped = self.written = self.size_done = self.rows_written = 0
        self.progress_at = 0.0

    @classmethod
    def joined(cls, model: str, config: RunConfig, out: str, run_json: dict[str, Any]) -> Run:
        """A part of a run that has taken the output folder already: it has no splits but those
        that `answer` is given."""
        run = cls(model, bundle_format.load(model), config, [], Manifest(Path(out)), None)
        run.run_json = run_json
        return run

    def execute(self) -> Report:
        """Take the output folder, compute what is missing and report; `run` says what is raised."""
        parts = set(self.parts.values())
        self.manifest.begin(self.run_json, parts, overwrite=self.config.overwrite)
        try:
            self._compute()
        except KeyboardInterrupt as error:
            raise Stopped(
                f"stopped with {self.skipped + self.written} of {len(self.splits)} parts finished",
                "run the same command again to go on",
            ) from error
        finally:
            self.close()
        return self._report()

    def close(self) -> None:
        """End every thread and process of this run."""
        self.overlap.close()
        if self.encoders:
            self.encoders.close()

    def _compute(self) -> None:
        todo = self._todo()
        if (first := next(todo, None)) is None:
            return
        if len(self.devices) > 1:
            multi_gpu.share(self, chain([first], todo))
        else:
            self.answer(chain([first], todo))

    def answer(self, splits: Iterator[Split]) -> None:
        """Answer splits on this run's device, part by part."""
        try:
            for window in self._answers(self._stages(), splits):
                with self.telemetry.timed("write"):
                    self._write(window)
        finally:
            if self.part:
                self.part.abandon()

    def _answers(self, stages: Stages, splits: Iterator[Split]) -> Iterator[Answers]:
        """The pipeline. Windows read, encoded, or answered and waiting: at most 2 of each, besides
        those that are being encoded."""
        overlap, workers = self.overlap, self.workers()
        rows = overlap.ahead(self._read(stages, splits), 2)
        encoded = overlap.ahead(self._encoded(stages, rows), 2)
        batches = self._cut(stages, encoded)
        # Batches submitted or being computed: at most 3 for each worker.
        outputs = overlap.ordered(self._infer(stages), batches, workers, depth=3 * workers)
        return overlap.last(self._finish(stages, overlap.ahead(outputs, workers)), 2, self.tick)

    def workers(self) -> int:
        """Batches computed at a time, on each device."""
        if self.config.workers:
            return self.config.workers
        if self.device != "cpu":
            # One batch is made ready while the other is computed; a decoder's rows come and go.
            return 1 if self.folder.description.model_config.decoder else 2
        return 1 if isinstance(self.model, Bundle) else min(MAX_WORKERS, cores())

    def tokenizers(self) -> int:
        """Processes that tokenize; 0 where this one does."""
        if self.config.tokenizers or self.device == "cpu":
            return self.config.tokenizers
        return min(GPU_TOKENIZERS, max(1, cores() // (2 * len(self.devices))))

    def _stages(self) -> Stages:
        config, model = self.config, self.model
        if not isinstance(model, Bundle):
            threads = config.threads or max(1, cores() // self.workers())
            model = Bundle.load(
                model, device=self.devices[0], threads=threads, gpu_memory=config.gpu_memory
            )
        self.ran = dict(model.backend.ran)
        return model.stages(
            config.options,
            batch_tokens=config.batch_tokens,
            max_length=config.max_length,
            workers=self.workers(),
            dedupe=config.dedupe,
            stopped=self.overlap.stopping.is_set,
            count=self.telemetry.add,
        )

    def _todo(self) -> Iterator[Split]:
        """Splits that are not finished, their bytes hashed on the way, up to the limit of rows."""
        for split in self.splits:
            part = self.parts[split]
            if not self.rows_left:
                # It may have been within the limit before an earlier input grew.
                if self.manifest.entry(part):
                    self.manifest.forget(part)
                continue
            taken = fingerprint.of_split(split, self.rows_left if self.config.limit else 0)
            entry = self.manifest.done(part, self.run_json["fingerprint"], taken)
            if entry is None:
                self.reading[split] = taken
                yield split
            else:
                self.skipped += 1
                self.size_done += self.sizes.get(split, 0)
                self.rejected_before += entry.counts["rows_rejected"]
                self._spend(entry.counts["rows_in"])

    def _spend(self, rows: int) -> None:
        if self.config.limit:
            self.rows_left -= rows

    def _read(self, stages: Stages, splits: Iterator[Split]) -> Iterator[Rows]:
        config = self.config
        inputs = tasks.columns(stages.task, config.text)
        window = min(config.window, stages.task.window(stages.context.options))
        for split in splits:
            limit = self.rows_left if config.limit else 0
            windows = data.read(split, inputs=inputs, keep=config.keep, window=window, limit=limit)
            for rows in self.telemetry.each("read", windows):
                _check_names(rows, stages.schema)
                self._count_rejects(rows)
                self._spend(len(rows) + len(rows.rejects.rows))
                if rows.last and fingerprint.of_file(split.path) != self.seen[split.path]:
                    raise InputError(f"{split.path}: changed during the run", "run again")
                yield rows

    def _count_rejects(self, rows: Rows) -> None:
        if not (bad := data.first_bad(rows)):
            return
        if self.config.on_error == "fail":
            raise bad
        self.rejected.update(rows.rejects.codes)
        self.check_rejects(f"; the first in the latest stretch is row {bad.row} of {bad.path}")

    def check_rejects(self, where: str = "") -> None:
        """See that there are no more bad rows than are allowed.

        Raises:
            TooManyRejects: There are.
        """
        most, found = self.config.max_rejects, self.rejected_before + self.rejected.total()
        if 0 <= most < found:
            listed = ", ".join(f"{code} {n}" for code, n in self.rejected.most_common())
            raise TooManyRejects(
                f"{found} bad rows, and at most {most} are allowed ({listed}){where}",
                "fix the input, or raise --max-rejects",
            )

    def _encoded(self, stages: Stages, windows: Iterator[Rows]) -> Iterator[Encoded]:
        sequences: Callable[[Rows], Encoded] = stages.encode
        if count := self.tokenizers():
            context = stages.context
            length, options = stages.max_length, self.config.options
            terms = WorkerConfig(
                self.folder.path, options, length, context.type_ids, self.config.dedupe
            )
            sequences = self.encoders = TokenizerPool(terms, count, stages.encode)

        def encode(rows: Rows) -> Encoded:
            with self.telemetry.timed("tokenize", _where(rows)):
                encoded = sequences(rows)
            self.telemetry.add(repeats=len(encoded.ids) - len(encoded.computed))
            return encoded

        # Windows being tokenized, or waiting their turn: at most one for each process, or thread.
        return self.overlap.ordered(encode, windows, count or 1, depth=count or 1)

    def _cut(self, stages: Stages, windows: Iterator[Encoded]) -> Iterator[Batch]:
        for window in windows:
            yield from self.telemetry.each("batch", stages.cut(window))

    def _infer(self, stages: Stages) -> Callable[[Batch], Output]:
        def infer(batch: Batch) -> Output:
            rows, length = batch.shape
            what = f"a batch of {rows} rows × {length} tokens from {_where(batch.window.rows)}"
            with self.telemetry.timed("infer", what):
                output = stages.infer(batch)
            self.telemetry.add(rows=rows_ended(batch), tokens=batch.tokens, padded=batch.padded)
            return output

        return infer

    def _finish(self, stages: Stages, outputs: Iterator[Output]) -> Iterator[Answers]:
        window: list[Output] = []
        for output in outputs:
            window.append(output)
            if output.batch.last:
                with self.telemetry.timed("finish", _where(output.batch.window.rows)):
                    answers = stages.finish(window)
                window = []
                yield answers

    def _write(self, window: Answers) -> None:
        """Append a window to its part, and commit the part with its last one."""
        split = window.rows.split
        assert split is not None
        if self.part is None:
            self.manifest.forget(self.parts[split])
            self.part = PartWriter(self.manifest.out, self.parts[split], self.config)
        self.part.write(window)
        if not window.rows.last:
            return
        entry = self.part.finish(self.reading.pop(split), self.run_json, self.ran)
        self.part = None
        self.manifest.commit(entry)
        self._count_in(split, entry)
        if self.on_commit:
            self.on_commit(self.parts[split])

    def wrote(self, part: str) -> None:
        """Another process has committed a part."""
        entry = self.manifest.entry(part)
        split = next(split for split, name in self.parts.items() if name == part)
        assert entry is not None
        self.reading.pop(split)
        self._count_in(split, entry)

    def _count_in(self, split: Split, entry: Entry) -> None:
        self.written += 1
        self.rows_written += entry.counts["rows_out"]
        self.size_done += self.sizes.get(split, 0)

    def tick(self) -> None:
        """Tell how far it is, if it is time."""
        now = time.perf_counter()
        if self.on_progress is None or now - self.progress_at < _PROGRESS_SECONDS:
            return
        self.progress_at = now
        counts = self.telemetry.counts
        self.on_progress(
            Progress(
                done=self._done(),
                rows=counts["rows"],
                rejects=self.rejected.total(),
                tokens=counts["tokens"],
                padded=counts["padded"],
                split=self.skipped + self.written,
                splits=len(self.splits),
                seconds=now - self.telemetry.started,
                stuck=self.telemetry.stuck(),
            )
        )

    def _done(self) -> float:
        """Share of the input that is answered: finished parts, and the rows of the one in hand.

        Of inputs that do not tell their rows only finished parts count.
        """
        if not self.sized_in_rows:
            return min(1.0, self.size_done / max(1, sum(self.sizes.values())))
        rows = max(0, self.telemetry.counts["rows"] - self.rows_written)
        part = min(rows, max((self.sizes[split] for split in list(self.reading)), default=0))
        return min(1.0, (self.size_done + part) / max(1, sum(self.sizes.values())))

    def _report(self) -> Report:
        seconds = time.perf_counter() - self.telemetry.started
        found = {p: self.manifest.entry(p) for p in map(self.parts.__getitem__, self.splits)}
        entries = [e for e in found.values() if e]
        counts, telemetry = total(entries), self.telemetry
        computed, tokens, padded = (telemetry.counts[n] for n in ("rows", "tokens", "padded"))
        places = telemetry.counts["places"]
        report = Report(
            out=str(self.manifest.out),
            task=self.folder.description.task,
            device=self.device,
            **counts,
            splits=len(entries),
            splits_skipped=self.skipped,
            repeats=telemetry.counts["repeats"],
            rows_computed=computed,
            padded_tokens=padded,
            seconds=round(seconds, 3),
            rows_per_second=round(computed / seconds, 1),
            tokens_per_second=round(tokens / seconds, 1),
            padding=round(padded / tokens, 3) if tokens else 1.0,
            stage_seconds={n: round(s, 3) for n, s in telemetry.seconds.items()},
            occupancy=round(telemetry.counts["taken"] / places, 4) if places else None,
            rejected=dict(self.rejected),
            ran=self.ran,
            files=tuple(e.part.file for e in entries),
            notes=self._notes(entries, counts),
        )
        self.manifest.succeed(report.success(self.run_json["fingerprint"]))
        return report

    def _notes(self, entries: list[Entry], counts: dict[str, int]) -> tuple[str, ...]:
        notes = list(self.folder.description.notes)
        empty = [str(e.input["path"]) for e in entries if not e.counts["rows_in"]]
        if empty:
            notes.append(f"no rows in {len(empty)} of the inputs, such as {empty[0]}")
        if counts["truncated"]:
            length = self.config.max_length or self.folder.description.model_config.max_length
            notes.append(f"{counts['truncated']} rows were cut at {length} tokens (--max-length)")
        if times := self.telemetry.counts["halved"]:
            notes.append(f"{times} batches did not fit {self.device} and were halved")
        if self.config.device == "auto" and self.device == "cpu" and (passed := passed_over()):
            notes.append(f"auto took the CPU: {passed[0]}")
        if not self.config.keep:
            notes.append("no input columns were kept; --keep id or --keep all puts them beside")
        return tuple(notes)


def _check_names(rows: Rows, schema: pa.Schema) -> None:
    kept = rows.kept.schema.names if rows.kept is not None else []
    if both := sorted(set(kept) & set(schema.names)):
        assert rows.split is not None
        raise ColumnError(
            f"{rows.split.path}: kept column {both[0]!r} is also the name of a result column",
            f"leave {both[0]!r} out of --keep, or rename it in the input",
        )


def _where(rows: Rows) -> str:
    return f"{rows.split.path} (part {rows.split.ordinal})" if rows.split else "memory"


def _devices(model: Bundle | Path | str, config: RunConfig) -> tuple[str, ...]:
    """What will run: a loaded bundle stays where it is, and must be where it is wanted."""
    wanted = config.device
    if wanted == ALL and (isinstance(model, Bundle) or config.limit):
        what = "a loaded bundle" if isinstance(model, Bundle) else f"limit {config.limit}"
        raise SettingsError(
            f"device is {ALL}, and {what} does not go with it",
            "give the bundle's folder, and no limit: splits are shared out among processes",
        )
    if not isinstance(model, Bundle):
        return devices(wanted)
    device = model.backend.device
    if wanted not in ("auto", device, device.partition(":")[0]):
        raise DeviceError(
            f"{wanted} was asked for, and the bundle is loaded on {device}",
            "load it with the device you want, or give the bundle's folder",
        )
    return (device,)


def _sizes(splits: list[Split]) -> tuple[dict[Split, int], bool]:
    """What each split weighs in the progress: its rows (True) or, if some cannot tell, bytes."""
    rows = {split: data.expect_rows(split) for split in splits}
    if all(rows.values()):
        return rows, True
    return {split: split.stop - split.start for split in splits}, False
