"""The answers of a finished run joined: into one file, `-o out.parquet`, or to a pipe, `-o -`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import data
from engine.core import json_text
from engine.runner import conversion, results
from engine.runner.manifest import Manifest
from engine.runner.share_locks import passing
from engine.runner.single_file import FILE_RECORD, check_file, folder_of

if TYPE_CHECKING:
    from engine.runner.report import Report


def join(source: Manifest, sink: Any, *, kind: str, compression: str) -> int:
    """Write all answers of a finished run to a stream, in input order; returns their number.

    Args:
        source: Of the run.
        sink: What has `write`, `flush`, `tell` and `close`, such as a `data.HashingFile`.
        kind: A key of `FORMATS`, or `data.STREAM` for Arrow's format of streams.
        compression: Of Arrow and Parquet.

    Raises:
        OutputError: The run has not finished, or a part has changed.
    """
    entries = results.answered(source)
    schemas = [conversion.checked_schema(source, entry) for entry in entries]
    rows = 0
    with closing(data.part_writer(kind, sink, schemas[0], compression)) as writer:
        for entry in entries:
            for columns in results.batches(source, entry):
                if columns.num_rows:
                    writer.write_batch(conversion.bare(columns, schemas[0]))
                    rows += columns.num_rows
    return rows


def run_to_file(
    file: Path | str,
    settings: Mapping[str, Any],
    run: Callable[[Path, Mapping[str, Any]], Report],
) -> Report:
    """Run into the folder of a file, and write the file from it.

    Args:
        file: The file.
        settings: Of the run.
        run: What runs: a folder and its settings -> the report.

    Raises:
        SettingsError: The settings have another format, or a compression that it does not have.
        OtherRunError: The file is there, and no run's.
    """
    path = Path(file)
    kind, compression = check_file(path, settings)
    folder = folder_of(path)
    # Parts of Arrow have every type, whatever becomes of them.
    report = run(folder, {**settings, "format": "arrow"})
    if report.parts_open:
        return dataclasses.replace(report, out=str(path), files=())
    manifest = Manifest(folder)
    guarded = bool(settings.get("lock", True))
    # Another share may be ending, which writes nothing any more.
    shared = bool(settings.get("share"))
    hold = passing(folder, manifest.folder) if shared else manifest.held(guarded=guarded)
    _write(path, manifest, kind, compression, hold)
    note = f"parts, bad rows and records are in {folder}, from where a later run goes on"
    return dataclasses.replace(
        report, out=str(path), files=(path.name,), notes=(*report.notes, note)
    )


def _write(
    path: Path, manifest: Manifest, kind: str, compression: str, hold: AbstractContextManager[None]
) -> None:
    """Write the file, unless it is there already and of the same parts."""
    success = manifest.read_success() or {}
    parts = [entry.part.sha256 for name in success["files"] if (entry := manifest.entry(name))]
    digest = hashlib.sha256(json.dumps([kind, compression, *parts]).encode()).hexdigest()
    record = manifest.out / FILE_RECORD
    if path.is_file() and record.is_file():
        earlier = json_text.parse(record.read_text(encoding="utf-8"))
        if (earlier["of"], earlier["bytes"]) == (digest, path.stat().st_size):
            return
    with hold:
        with data.whole_file(path, manifest.out, manifest.check_held) as sink:
            join(manifest, sink, kind=kind, compression=compression)
        manifest.write(record, json.dumps({"of": digest, **sink.written}) + "\n")
