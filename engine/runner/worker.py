"""One device of a run: answers the splits it is given and commits their parts.

    split ─► rows ─► encoded ─► batches ─► outputs ─► answers ─► part file ─► commit record

`Worker._answers` reads like the first five arrows, `Worker._write` like the last two. A run on one
device has its worker in its own process, one on several GPUs a process for each (`multi_gpu`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from engine import data
from engine.answering.stages import Stages
from engine.bundle.batching import rows_ended, rows_ending, rows_without
from engine.core.activity import current, proceed, working
from engine.core.telemetry import Telemetry
from engine.core.types import Answers, Arrays, Batch, Encoded, Output, Rows, Split
from engine.errors import InputError, Stopped
from engine.pipeline import Bundle
from engine.runner import fingerprint
from engine.runner.journal import Journal, batch_key, journal_file
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
from engine.runner.part import PartWriter
from engine.runner.row_records import RowIndex, RowRecorder, merged, row_keys
from engine.runner.threads import Allowance, ThreadGroup
from engine.runner.tokenizer_pool import TokenizerPool, TokenizerSettings

COUNTS_SECONDS = 0.25
AHEAD_BYTES = 64 << 20
"""Bytes of texts that are read and not yet tokenized, for each process that tokenizes; the reader
reads no further beyond that."""
STOP_SECONDS = 1.0
"""How long a stop waits for the threads, of which some may be inside of a library."""


class Worker:
    """Reads, computes and writes on one device.

    Args:
        settings: What to run, and where to.
        send: Called with each message for the coordinator, from several threads; what it raises
            ends the work.
        model: The bundle, where it is loaded already.
    """

    def __init__(
        self, settings: WorkerSettings, send: Callable[[Message], None], model: Bundle | None = None
    ) -> None:
        self.settings, self.config, self.send = settings, settings.config, send
        self.manifest = Manifest(settings.out, hold=settings.hold)
        self.telemetry = Telemetry()
        self.threads = ThreadGroup()
        self._model = model
        self._assigned: dict[Split, Assignment] = {}
        self._journals: dict[Split, Journal] = {}
        self._row_indexes: dict[Split, RowIndex] = {}
        self._tokenizer_pool: TokenizerPool | None = None
        self._part: PartWriter | None = None
        self._ran: dict[str, object] = {}
        self._counts_sent = 0.0
        self._patience: float | None = None
        self._end_batches: Callable[[], None] = _nothing
        self.threads.interrupt = self._interrupt
        self._ahead = Allowance(AHEAD_BYTES * max(1, self.config.tokenizers))

    def answer(self, assignments: Iterator[Assignment]) -> None:
        """Answer splits until there are no more, part by part.

        Raises:
            EngineError: A split, the device or the disk failed, or `send` did.
        """
        stages = self._open()
        try:
            for window in self._answers(stages, assignments):
                with self.telemetry.timed("write", _part_of(window.rows)):
                    self._write(window)
        except (KeyboardInterrupt, Stopped):
            self._patience = STOP_SECONDS
            raise
        finally:
            if self._part:
                self._part.abandon()
        self.report()

    def close(self) -> None:
        """End every thread and process of this worker; what they still compute is recorded, unless
        the run is stopped and it takes too long."""
        self.threads.close(self._patience)
        for journal in self._journals.values():
            journal.close()
        if self._tokenizer_pool:
            self._tokenizer_pool.close()

    def _interrupt(self) -> None:
        """End the calls that threads are in: batches, and windows in other processes."""
        self._end_batches()
        if self._tokenizer_pool:
            self._tokenizer_pool.kill()

    def _answers(self, stages: Stages, assignments: Iterator[Assignment]) -> Iterator[Answers]:
        """The pipeline. Windows read, encoded, or answered and waiting: at most 2 of each, besides
        those that are being encoded."""
        threads, workers = self.threads, self.config.workers
        rows = threads.prefetch(self._read(stages, assignments), 2)
        encoded = threads.prefetch(self._encode(stages, rows), 2)
        batches = self._cut(stages, encoded)
        # Batches submitted or being computed: at most 3 for each thread that computes.
        outputs = threads.map(self._inferring(stages), batches, workers, depth=3 * workers)
        answers = self._finish(stages, threads.prefetch(outputs, workers))
        return threads.drive(answers, 2, self._tick)

    def _open(self) -> Stages:
        config = self.config
        beams = config.options.get("num_beams")
        with working("loading", str(self.settings.bundle)):
            model = self._model or Bundle.load(
                self.settings.bundle,
                device=str(self.settings.device),
                threads=config.threads,
                gpu_memory=config.gpu_memory,
                num_beams=beams if isinstance(beams, int) else 0,
            )
        self._ran = dict(model.backend.ran)
        self.send(Opened(self._ran))
        stages = model.stages(
            config.options,
            batch_tokens=config.batch_tokens,
            max_length=config.max_length,
            truncation_side=config.truncation_side,
            workers=config.workers,
            dedupe=config.dedupe,
            stopped=self.threads.stopping.is_set,
            count=self.telemetry.add,
        )
        backend, self._end_batches = model.backend.stoppable()
        return replace(stages, backend=backend)

    def _read(self, stages: Stages, assignments: Iterator[Assignment]) -> Iterator[Rows]:
        config = self.config
        window = min(config.window, stages.task.window(stages.context.options))
        for assignment in assignments:
            split, limit = assignment.split, assignment.input.limit
            self._assigned[split] = assignment
            self._journals[split] = journal = self._open_journal(stages, assignment.part)
            if stages.by_row:
                self._row_indexes[split] = RowIndex(journal)
            windows = data.read(split, self.settings.columns, window=window, limit=limit)
            read = self.telemetry.each("read", map(stages.prepare, windows), str(split.path))
            for rows in read:
                self._send_rows_read(rows)
                self._ahead.add(rows.text_bytes())
                if rows.last and fingerprint.file_state(split.file) != assignment.file_state:
                    raise InputError(f"{split.path}: changed during the run", "run again")
                yield rows
                self._ahead.wait(self.threads.stopping.is_set)

    def _open_journal(self, stages: Stages, part: str) -> Journal:
        # How a decoder's rows are dealt to batches depends on the number of workers.
        batches = stages.workers if stages.context.model_config.decoder else 0
        batches = 0 if stages.by_row else batches
        header = {"run": self.settings.fingerprint, "batches": batches}
        file = journal_file(self.manifest.out, part)
        return Journal(file, header, self.manifest.is_lost)

    def _send_rows_read(self, rows: Rows) -> None:
        bad = data.first_error(rows)
        if bad and self.config.on_error == "fail":
            raise bad
        rejects = rows.rejects
        first_bad = f"row {bad.row} of {bad.path}" if bad else ""
        self.send(RowsRead(len(rows) + len(rejects.rows), Counter(rejects.codes), first_bad))

    def _encode(self, stages: Stages, windows: Iterator[Rows]) -> Iterator[Encoded]:
        tokenize: Callable[[Rows], Encoded] = stages.encode
        processes = self.config.tokenizers
        if processes:
            settings = TokenizerSettings(
                self.settings.bundle,
                self.config.options,
                stages.max_length,
                stages.context.type_ids,
                self.config.dedupe,
                stages.context.tokenizer.side,
            )
            tokenize = self._tokenizer_pool = TokenizerPool(settings, processes, stages.encode)

        def encode(rows: Rows) -> Encoded:
            with self.telemetry.timed("tokenize", _where(rows)):
                encoded = tokenize(rows)
            self._ahead.remove(rows.text_bytes())
            if not stages.task.rereads:
                encoded = replace(encoded, rows=rows.without_texts())
            self.telemetry.add(repeats=len(encoded.ids) - len(encoded.computed))
            return encoded

        # Windows being tokenized, or waiting for their turn: at most one for each process.
        return self.threads.map(encode, windows, processes or 1, depth=processes or 1)

    def _cut(self, stages: Stages, windows: Iterator[Encoded]) -> Iterator[Batch]:
        for window in windows:
            for batch in self.telemetry.each("batch", stages.cut(window)):
                self.telemetry.add(queued=1)
                yield batch

    def _inferring(self, stages: Stages) -> Callable[[Batch], Output]:
        """A function that has a batch's results, or those of some rows, from the journal, and
        computes and records the others."""
        if stages.by_row:
            return partial(self._infer_rows, stages)

        def infer(batch: Batch) -> Output:
            self.telemetry.add(queued=-1)
            journal, key, ended = self._journal(batch), batch_key(batch), rows_ended(batch)
            if (arrays := journal.find(key)) is not None:
                self.telemetry.add(rows_resumed=ended)
                return Output(batch, arrays)
            with self.telemetry.timed("infer", _what(batch)):
                output = stages.infer(batch)
            self.telemetry.add(rows=ended, tokens=batch.tokens, padded=batch.padded)
            journal.add(key, output.arrays, ended)
            return output

        return infer

    def _infer_rows(self, stages: Stages, batch: Batch) -> Output:
        """The results of a batch of a decoder, of which rows are recorded as they finish."""
        self.telemetry.add(queued=-1)
        journal, ends, split = self._journal(batch), rows_ending(batch), batch.window.rows.split
        assert split is not None
        known = self._row_indexes[split].find(row_keys(batch))
        self.telemetry.add(rows_resumed=int(ends[known.rows].sum()))
        rows = np.setdiff1d(np.arange(len(ends)), known.rows)
        part = batch.take(rows)
        arrays: Arrays = {}
        if len(rows) or not len(ends):
            recorder = RowRecorder(journal, part)
            try:
                with self.telemetry.timed("infer", _what(part)):
                    arrays = stages.infer(part, recorder.finished).arrays
                recorder.complete(arrays)
            finally:
                recorder.write()
        self.telemetry.add(
            rows=int(ends[rows].sum()) + rows_without(batch), tokens=part.tokens, padded=part.padded
        )
        return Output(batch, merged(known, rows, arrays) if len(ends) else arrays)

    def _journal(self, batch: Batch) -> Journal:
        split = batch.window.rows.split
        assert split is not None
        return self._journals[split]

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
        assignment = self._assigned[split]
        if self._part is None:
            self.manifest.forget(assignment.part)
            self._part = PartWriter(self.manifest.out, assignment.part, self.config)
        self._part.write(window)
        if not window.rows.last:
            return
        proceed()  # what a stopped run has left behind commits nothing
        entry = self._part.finish(
            assignment.input, self.settings.fingerprint, self._ran, self.manifest.check_held
        )
        self._part = None
        del self._assigned[split]
        self.manifest.commit(entry)
        journal = self._journals.pop(split)
        self._row_indexes.pop(split, None)
        journal.remove()
        self.telemetry.add(unrecorded=journal.failed)
        self.send(Committed(split, entry.counts["rows_out"]))

    def _tick(self) -> None:
        """Send the counts and write what journals hold back, if it is time; end where the run is
        to end."""
        proceed()
        now = time.perf_counter()
        if now - self._counts_sent >= COUNTS_SECONDS:
            self._counts_sent = now
            self.manifest.check_held()
            for journal in list(self._journals.values()):  # the reader opens others meanwhile
                journal.sync()
            self.report()

    def report(self) -> None:
        """Tell what has been counted so far."""
        telemetry = self.telemetry
        counts, seconds = dict(telemetry.counts), dict(telemetry.seconds)
        self.send(Counts(counts, seconds, current().note))


def _nothing() -> None:
    pass


def _part_of(rows: Rows) -> str:
    return f"the answers for {_where(rows)}"


def _what(batch: Batch) -> str:
    rows, length = batch.shape
    return f"a batch of {rows} rows × {length} tokens from {_where(batch.window.rows)}"


def _where(rows: Rows) -> str:
    return f"{rows.split.path} (part {rows.split.ordinal})" if rows.split else "memory"
