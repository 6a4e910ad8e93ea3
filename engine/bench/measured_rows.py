"""The rows that are measured: the first good ones of a corpus, copied into one Arrow file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Unpack

import pyarrow as pa

from engine import data, tasks
from engine.bundle import format as bundle_format
from engine.core.config import RunSettings
from engine.core.types import Rows
from engine.data import writing
from engine.errors import InputError
from engine.runner.plan import resolve_config
from engine.runner.unused_settings import RunFacts, unused_notes


@dataclass(frozen=True)
class MeasuredRows:
    """The rows to measure.

    Attributes:
        file: Arrow IPC, with the task's input columns only.
        columns: Their names, in the order of the task.
        rows: Their number.
        rejected: Bad rows that were left out.
        notes: Settings that change nothing, and why.
    """

    file: Path
    columns: tuple[str, ...]
    rows: int
    rejected: int
    notes: tuple[str, ...]


def sample(
    bundle: Path | str,
    inputs: Sequence[str | Path],
    file: Path,
    **settings: Unpack[RunSettings],
) -> MeasuredRows:
    """Copy the first good rows of a corpus into one Arrow file.

    Args:
        bundle: Its task decides which columns are read.
        inputs: Files, folders or globs.
        file: The file to write.
        settings: As for `engine.run`, such as text and limit.

    Raises:
        SettingsError: A setting is out of range or names a missing column.
        InputError: An input is missing or unreadable, or there is no good row.
        BundleError: Not a bundle.
    """
    folder = bundle_format.load(bundle)
    config = resolve_config(folder, settings)
    task = tasks.of_bundle(folder)
    options = tasks.resolve_options(task, folder.description.model_config, config.options)
    columns = tasks.input_columns(task, config.text, options)
    files = data.find_files(list(inputs))
    sizes = {"split_size": config.split_size, "window": config.window, "limit": config.limit}
    windows = data.read_first(files, inputs=columns, **sizes)
    rows, rejected = _written(windows, config.text, file)
    if not rows:
        why = f"all {rejected} rows are bad" if rejected else "the inputs have no rows"
        raise InputError(f"there is nothing to measure: {why}", "name inputs that have good rows")
    notes = unused_notes(RunFacts(config, task, options), {"max_length": config.max_length})
    return MeasuredRows(file, config.text, rows, rejected, notes)


def _written(windows: Iterator[Rows], names: Sequence[str], file: Path) -> tuple[int, int]:
    """Write the good rows into `file`; numbers of rows written and of bad rows left out."""
    first = next(windows)
    schema = pa.schema(list(zip(names, (c.type for c in first.texts), strict=True)))
    rows = rejected = 0
    with writing(file), pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, schema) as writer:
        for window in chain([first], windows):
            if any(c.type != f.type for c, f in zip(window.texts, schema, strict=True)):
                raise InputError(
                    "some inputs hold texts and others lists of texts", "measure them separately"
                )
            writer.write_batch(pa.RecordBatch.from_arrays(list(window.texts), schema=schema))
            rows += len(window)
            rejected += len(window.rejects.rows)
    return rows, rejected
