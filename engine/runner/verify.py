"""Recounts and rehashes what an output folder claims."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from engine import data
from engine.bundle.format import sha256
from engine.core.types import Split
from engine.data import OutputFile
from engine.errors import InputError, OutputError
from engine.runner.manifest import COUNTS, SUCCESS, Entry, Manifest, total


@dataclass(frozen=True)
class Verification:
    """What was checked and what is wrong.

    Attributes:
        parts: Parts that were recounted; rows_in, rows_out, rows_rejected: their sums.
        inputs_checked, inputs_missing: Splits whose input bytes were hashed again, and those whose
            input is no longer there.
        problems: What does not hold, in words; empty where all does.
    """

    parts: int
    rows_in: int
    rows_out: int
    rows_rejected: int
    inputs_checked: int
    inputs_missing: int
    problems: tuple[str, ...]


def verify(out: Path | str, *, inputs: bool = True) -> Verification:
    """Check every part of a run: hashes, row counts, rejects, inputs, and the success record.

    Args:
        out: The output folder.
        inputs: Hash the input bytes again too, where they still lie where they were read.

    Raises:
        OutputError: The folder holds no run.
    """
    manifest = Manifest(Path(out))
    if not manifest.folder.is_dir() or manifest.read_run() is None:
        raise OutputError(f"{out}: not the output of a run", "give the folder named with -o")
    entries = manifest.entries()
    problems = [p for e in entries for p in _part_problems(manifest, e)]
    problems += _folder_problems(manifest, entries)
    checked = missing = 0
    for entry in entries if inputs else []:
        if not Path(entry.input["path"]).is_file():
            missing += 1
        else:
            checked += 1
            problems += _input_problems(entry)
    sums = {n: total(entries)[n] for n in ("rows_in", "rows_out", "rows_rejected")}
    return Verification(len(entries), **sums, inputs_checked=checked, inputs_missing=missing,
                   problems=tuple(problems))  # fmt: skip


def _part_problems(manifest: Manifest, entry: Entry) -> Iterator[str]:
    counts = entry.counts
    if counts["rows_in"] != counts["rows_out"] + counts["rows_rejected"]:
        yield f"{entry.part.file}: the record's rows in are not rows out + rejected"
    if entry.fingerprint != (manifest.read_run() or {}).get("fingerprint"):
        yield f"{entry.part.file}: computed under other settings than the run's"
    yield from _file_problems(manifest.out, entry.part, counts["rows_out"])
    if entry.rejects:
        yield from _file_problems(manifest.out, entry.rejects, counts["rows_rejected"])
    elif counts["rows_rejected"]:
        yield f"{entry.part.file}: {counts['rows_rejected']} rejects are claimed and none are kept"


def _file_problems(out: Path, written: OutputFile, rows: int) -> Iterator[str]:
    file = out / written.file
    if not file.is_file():
        yield f"{written.file}: is missing"
    elif file.stat().st_size != written.bytes or sha256(file) != written.sha256:
        yield f"{written.file}: its bytes are not the ones that were written"
    elif (found := count_rows(file)) != rows:
        yield f"{written.file}: has {found} rows where {rows} are claimed"


def _folder_problems(manifest: Manifest, entries: list[Entry]) -> Iterator[str]:
    known = {written.file for e in entries for written in e.files}
    for path in sorted([*manifest.out.glob("part-*"), *manifest.out.glob("rejects/part-*")]):
        if (name := path.relative_to(manifest.out).as_posix()) not in known:
            yield f"{name}: has no record in {manifest.folder.name}"
    if not (manifest.out / SUCCESS).is_file():
        yield f"{SUCCESS}: is missing: the run has not finished; run the same command again"
        return
    try:
        success = json.loads((manifest.out / SUCCESS).read_text(encoding="utf-8"))
        files, claimed = sorted(success["files"]), {name: success[name] for name in COUNTS}
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{SUCCESS}: is damaged; run the same command again"
        return
    if files != sorted(e.part.file for e in entries):
        yield f"{SUCCESS}: names other parts than the records do"
    for name, count in total(entries).items():
        if claimed[name] != count:
            yield f"{SUCCESS}: {name} is {claimed[name]} where the records add up to {count}"


def _input_problems(entry: Entry) -> Iterator[str]:
    path, start, stop = Path(entry.input["path"]), entry.input["start"], entry.input["stop"]
    split = Split(path, data.kind_of(path) or "", 0, "", start, stop)
    try:
        if data.content_hash(split) != entry.input["sha256"]:
            yield f"{path}: its bytes {start} to {stop} have changed since they were answered"
    except InputError as error:
        yield error.message


def count_rows(file: Path) -> int:
    """Rows of an Arrow IPC or Parquet file, every batch of the former read."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.ParquetFile(file).metadata.num_rows)
    with pa.OSFile(str(file)) as stream:
        reader = pa.ipc.open_file(stream)
        return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
