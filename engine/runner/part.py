"""The output of a split while it is written: answers, bad rows and counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from engine import data
from engine.answering.answered import kept_and_results
from engine.core.config import RunConfig
from engine.core.types import Answers
from engine.runner.records import Entry, InputRecord


class PartWriter:
    """Writes a part window by window; its file is created with the first one.

    Args:
        out: The output folder.
        name: The part's file name.
        config: Format and compression.
    """

    def __init__(self, out: Path, name: str, config: RunConfig) -> None:
        self._out, self._name, self._config = out, name, config
        self._answers: data.FileWriter | None = None
        self._rejects: data.FileWriter | None = None
        self._schema = ""
        self._counts: Counter[str] = Counter()
        self._started = time.perf_counter()

    def write(self, window: Answers) -> None:
        """Append a window's answers, and its bad rows to the rejects.

        Raises:
            OutputError: They cannot be written.
        """
        columns = kept_and_results(window, self._config.result_prefix)
        if self._answers is None:
            config = self._config
            self._schema = data.schema_text(columns.schema, config.part_format)
            self._answers = data.FileWriter(
                self._out, self._name, columns.schema, config.part_format, config.part_compression
            )
        self._answers.write(columns)
        rejects = window.rows.rejects
        if len(rejects.rows):
            self._rejects = self._rejects or data.rejects_writer(self._out, self._name)
            self._rejects.write(data.rejects_columns(rejects))
        rows_out, bad = columns.num_rows, len(rejects.rows)
        self._counts.update(rows_in=rows_out + bad, rows_out=rows_out, rows_rejected=bad)
        self._counts.update(
            tokens=window.tokens, truncated=window.truncated, output_tokens=window.output_tokens
        )

    def finish(
        self,
        input_record: InputRecord,
        fingerprint: str,
        ran: Mapping[str, object],
        check: Callable[[], None] = lambda: None,
    ) -> Entry:
        """Give the files their names and return the commit record; `check` as in
        `FileWriter.finish`."""
        assert self._answers is not None
        rejects = self._rejects.finish(check) if self._rejects else None
        return Entry(
            part=self._answers.finish(check),
            rejects=rejects,
            input=input_record,
            fingerprint=fingerprint,
            counts=dict(self._counts),
            device=str(ran["device"]),
            ran=ran,
            schema=self._schema,
            seconds=round(time.perf_counter() - self._started, 3),
        )

    def abandon(self) -> None:
        """Drop what has been written."""
        for part in (self._answers, self._rejects):
            if part:
                part.abandon()
