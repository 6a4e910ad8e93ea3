"""Reads the inputs of a run and its parts again, row by row; hashes alone do not say that a reader
finds the same rows in the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import data
from engine.core.types import Column, CorpusFile, Split
from engine.errors import EngineError
from engine.runner import results
from engine.runner.manifest import Manifest
from engine.runner.records import Entry

_WINDOW = 4096


def input_problems(manifest: Manifest, entries: Sequence[Entry]) -> Iterator[str]:
    """What a reader finds in the inputs that the records do not say. Files that are gone are not
    read."""
    run = manifest.read_run() or {}
    if "inputs" not in run:
        yield "run.json: is of an earlier version, and does not say which columns were read"
        return
    inputs = [Column(**column) for column in run["inputs"]]
    for name, of_file in groupby(entries, lambda entry: entry.input.path):
        if (path := Path(name)).is_file():
            try:
                yield from _file_problems(path, list(of_file), inputs, run["settings"])
            except EngineError as error:
                yield error.message


def _file_problems(
    path: Path, entries: list[Entry], inputs: list[Column], settings: Mapping[str, Any]
) -> Iterator[str]:
    kind = str(settings.get("input_format") or data.kind_of(path) or "")
    file = CorpusFile(path, path.name, kind)
    columns = data.settle([file], inputs, ())
    for entry in entries:
        record = entry.input
        split = Split(file, 0, "", record.start, record.stop, first_row=record.first_row)
        rows = bad = 0
        for window in data.read(split, columns, window=_WINDOW, limit=record.limit):
            rows, bad = rows + len(window), bad + len(window.rejects.rows)
        recorded = entry.counts["rows_in"]
        where = f"{path}: bytes {record.start} to {record.stop}"
        if rows + bad != recorded:
            yield f"{where} have {rows + bad} rows, and {recorded} were read"
        elif bad > entry.counts["rows_rejected"]:
            yield f"{where} have {bad} bad rows, and {entry.counts['rows_rejected']} were set aside"


def part_problems(manifest: Manifest, entry: Entry) -> Iterator[str]:
    """Whether every value of a part can be read."""
    rows = 0
    try:
        for batch in results.batches(manifest, entry):
            batch.validate(full=True)
            rows += batch.num_rows
    except (EngineError, pa.ArrowException, OSError):
        yield f"{entry.part.file}: cannot be read"
        return
    if rows != entry.counts["rows_out"]:
        yield f"{entry.part.file}: has {rows} rows, and its record says {entry.counts['rows_out']}"
