"""The results of a finished run: its answers as a dataset or batch by batch, and its bad rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from engine import data
from engine.core.suggestions import did_you_mean, path_meant
from engine.errors import ColumnError, OutputError
from engine.runner import stored_output
from engine.runner.manifest import Manifest
from engine.runner.records import Entry
from engine.runner.single_file import run_folder

if TYPE_CHECKING:
    import pyarrow.dataset


def open(out: Path | str) -> pyarrow.dataset.Dataset:
    """The answers of a run as a pyarrow dataset: its parts in input order, nothing read yet.

    Parts of JSON lines and CSV are read in the types that these hold: bytes are base64 text, and in
    CSV nested columns are JSON text.

    Raises:
        OutputError: The folder holds no run, or one that has not finished.
        InputError: A part is damaged.
    """
    manifest = manifest_of(out)
    entries = answered(manifest)
    if data.is_url(out):
        return stored_output.open_parts(str(out), manifest, [e.part.file for e in entries])
    files = [manifest.out / entry.part.file for entry in entries]
    kind = data.format_of(files[0]) if files else "arrow"
    with data.reading(manifest.out, kind):
        return data.dataset(files, kind, entries[0].table_schema if entries else None)


def head(out: Path | str, rows: int) -> pa.Table:
    """The first rows of a run's answers, in input order.

    Raises:
        OutputError: The folder holds no run, or one that has not finished.
        InputError: A part is damaged.
    """
    answers = open(out)
    with data.reading(Path(str(out)), "its parts"):
        return answers.head(rows)


def read(out: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """All answers of a run in memory, in input order; `engine.open` reads them bit by bit.

    Args:
        out: What `-o` named: a folder, a file or an address in an object store.
        columns: Those to read; None for all of them.

    Raises:
        OutputError: It is no run's output, or the run has not finished.
        ColumnError: The answers have no such column.
    """
    dataset = open(out)
    for name in columns or ():
        if name not in dataset.schema.names:
            near = did_you_mean(name, dataset.schema.names)
            there = ", ".join(dataset.schema.names)
            raise ColumnError(f"{out}: no column {name!r}", f"{near}the answers have {there}")
    return dataset.to_table(columns=None if columns is None else list(columns))


def answered(manifest: Manifest) -> list[Entry]:
    """The records of a finished run, in input order.

    Raises:
        OutputError: It has not finished, or a record is missing.
    """
    names = manifest.answered()
    if names is None:
        raise OutputError(f"{manifest.out}: the run has not finished", _AGAIN)
    entries = [entry for name in names if (entry := manifest.entry(name))]
    if len(entries) < len(names):
        raise OutputError(f"{manifest.out}: a record of a part is missing", _AGAIN)
    return entries


_AGAIN = "run the same command again"


def batches(manifest: Manifest, entry: Entry) -> Iterator[pa.RecordBatch]:
    """The answers of a part.

    Raises:
        InputError: The part is damaged.
    """
    return data.batches(manifest.path(entry.part.file), entry.table_schema)


def columns(manifest: Manifest, entry: Entry, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a part, see `data.columns`.

    Raises:
        InputError: The part is damaged.
    """
    return data.columns(manifest.path(entry.part.file), entry.table_schema, names)


def rejects(out: Path | str) -> Iterator[dict[str, Any]]:
    """The bad rows of a run, part by part: file, row, code, message and, where one is at fault,
    column, expected and found type.

    Raises:
        OutputError: The folder holds no run, or a file of bad rows is damaged.
    """
    yield from rejects_of(manifest_of(out))


def rejects_of(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The same by the records of an output."""
    for entry in manifest.entries():
        if entry.rejects:
            for row in data.read_rejects(manifest.path(entry.rejects.file)):
                # The record has it: a renamed input takes its answers and bad rows along.
                yield {"file": entry.input.path, **row}


def manifest_of(out: Path | str) -> Manifest:
    """The records of an output folder.

    Raises:
        OutputError: The folder holds no run.
    """
    manifest = stored_output.mirror(str(out)) if data.is_url(out) else Manifest(run_folder(out))
    if manifest.read_run() is None:
        raise OutputError(
            f"{out}: not the output of a run",
            f"{_meant(out)}give the folder named with -o",
        )
    return manifest


def _meant(out: Path | str) -> str:
    """For a hint: the path that is like one that does not exist."""
    missing = not data.is_url(out) and not Path(out).exists()
    return path_meant(Path(out)) if missing else ""
