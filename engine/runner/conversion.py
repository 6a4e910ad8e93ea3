"""The answers of a finished run in another format, part by part.

A converted folder is what a run with that `--format` leaves: the same parts in the same order, with
records whose hashes are those of the new files. So a later run continues it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import data
from engine.bundle.format import sha256
from engine.core.config import FORMATS, check_compression, default_compression
from engine.core.settings import check_choice
from engine.data.stores import shown
from engine.errors import InputError, OutputError, SettingsError
from engine.runner import results
from engine.runner.fingerprint import record_of
from engine.runner.manifest import Manifest
from engine.runner.records import Entry
from engine.runner.single_file import is_file


@dataclass(frozen=True)
class Conversion:
    """What a conversion left: its folder or file, parts, those of them that were there already, and
    rows."""

    out: str
    parts: int
    parts_skipped: int
    rows: int


def convert(
    out: Path | str, new: Path | str, *, to: str, compression: str = "", overwrite: bool = False
) -> Conversion:
    """Write a finished run in another format into a folder of its own; go on where one stopped.

    Args:
        out: The output folder of a run.
        new: The folder to write.
        to: A key of `FORMATS`.
        compression: zstd, lz4 or none; "" for that of the format.
        overwrite: Clear `new` where it holds another run.

    Raises:
        SettingsError: The format does not exist, or has no such compression; or `new` names a file
            or what is not local.
        OutputError: `out` holds no finished run or is damaged, or `new` cannot be written.
        OtherRunError: `new` holds something else.
    """
    _check(to, compression)
    _check_folder(new)
    source, target = results.manifest_of(out), Manifest(Path(new))
    entries = results.answered(source)
    _check_apart(source.out, target.out)
    run: Mapping[str, Any] = source.read_run() or {}
    compression = default_compression(to, compression)
    settings = {**run["settings"], "format": to, "compression": compression}
    record = record_of(settings, run["bundle"])
    if "inputs" in run:
        record["inputs"] = run["inputs"]
    names = [Path(entry.part.file).stem + FORMATS[to] for entry in entries]
    skipped = 0
    with target.held():
        target.begin(record, set(names), overwrite=overwrite)
        new_entries = []
        for entry, name in zip(entries, names, strict=True):
            done = target.finished(name, record["fingerprint"], entry.input)
            skipped += done is not None
            if done is None:
                done = _convert_part(source, entry, target, name, compression)
                done = dataclasses.replace(done, fingerprint=record["fingerprint"])
                target.commit(done)
            new_entries.append(done)
        target.drop_surplus(new_entries)
        success = source.read_success() or {}
        target.succeed({**success, "files": names, "fingerprint": record["fingerprint"]})
    rows = sum(entry.counts["rows_out"] for entry in entries)
    return Conversion(str(new), len(entries), skipped, rows)


def _check_folder(new: Path | str) -> None:
    """Refuse what names no local folder: one called answers.csv would be no file of answers."""
    if str(new) == "-" or ("://" not in str(new) and is_file(new)):
        raise SettingsError(f"{new}: a conversion writes a folder", "name a folder with -o")
    if data.is_url(new):
        raise SettingsError(
            f"{shown(new)}: a conversion writes only local folders", "name one, and copy it"
        )
    data.check_local(new)


def _check(to: str, compression: str) -> None:
    check_choice("to", to, FORMATS)
    check_compression(to, compression)


def _check_apart(out: Path, new: Path) -> None:
    """Raise SettingsError where one folder is the other, or lies in it."""
    here, there = out.resolve(), new.resolve()
    if here == there or here in there.parents or there in here.parents:
        where = "are one folder" if here == there else "lie in each other"
        raise SettingsError(f"{out} and {new} {where}", "choose another folder with -o")


def _convert_part(
    source: Manifest, entry: Entry, target: Manifest, name: str, compression: str
) -> Entry:
    """Write a part and its bad rows; returns its record, still with the source's fingerprint."""
    kind = data.format_of(name)
    schema = checked_schema(source, entry)
    target.forget(name)
    writer = data.FileWriter(target.out, name, schema, kind, compression)
    try:
        for columns in results.batches(source, entry):
            writer.write(bare(columns, schema))
        _check_rows(entry, writer.rows)
    except BaseException:
        writer.abandon()
        raise
    rejects = None
    if entry.rejects:
        rejects = data.copy_rejects(
            source.path(entry.rejects.file), target.out, name, target.check_held
        )
        if rejects.sha256 != entry.rejects.sha256:
            raise _changed(source, entry.rejects.file)
    text = data.schema_text(schema, kind)
    return dataclasses.replace(
        entry, part=writer.finish(target.check_held), rejects=rejects, schema=text
    )


def checked_schema(source: Manifest, entry: Entry) -> pa.Schema:
    """The schema of a part that is as it was written.

    Raises:
        OutputError: Its bytes have changed since.
    """
    file = source.path(entry.part.file)
    if not file.is_file() or sha256(file) != entry.part.sha256:
        raise _changed(source, entry.part.file)
    return data.schema_of(file, entry.table_schema)


def _changed(source: Manifest, file: str) -> OutputError:
    return OutputError(
        f"{source.out / file}: is missing, or its bytes have changed since it was written",
        "engine verify says what else is damaged; the run's command computes it again",
    )


def _check_rows(entry: Entry, rows: int) -> None:
    if rows != entry.counts["rows_out"]:
        raise InputError(
            f"{entry.part.file}: {rows} rows were read back of {entry.counts['rows_out']}",
            "convert the run's own output, not one of a conversion",
        )


def bare(columns: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns without a reader's metadata."""
    return pa.RecordBatch.from_arrays(columns.columns, schema=schema)
