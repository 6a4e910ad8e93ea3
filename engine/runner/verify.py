"""Checks an output folder against its own records: files, rows and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine import data
from engine.bundle.format import sha256
from engine.core import json_text
from engine.core.steps import ByteMeter, StepProgress
from engine.core.types import CorpusFile, InputPath, Split
from engine.data import OutputFile
from engine.errors import InputError
from engine.runner import rereading
from engine.runner.manifest import SUCCESS, Manifest
from engine.runner.records import COUNTS, Entry, total
from engine.runner.results import manifest_of
from engine.runner.single_file import FILE_RECORD


@dataclass(frozen=True)
class Verification:
    """What was checked and what is wrong.

    Attributes:
        parts: Number of parts; rows_in, rows_out, rows_rejected: sums of their rows.
        inputs_checked, inputs_missing: Splits whose input was hashed again, and splits whose input
            file no longer exists.
        problems: A sentence for each thing that is wrong.
    """

    parts: int
    rows_in: int
    rows_out: int
    rows_rejected: int
    inputs_checked: int
    inputs_missing: int
    problems: tuple[str, ...]


def verify(
    out: Path | str,
    *,
    inputs: bool = True,
    deep: bool = False,
    on_progress: Callable[[StepProgress], None] | None = None,
) -> Verification:
    """Check every part of a run: hashes, row counts, rejects, inputs, and the success record.

    Args:
        out: The output folder.
        inputs: Hash the inputs again too, where they still exist.
        deep: Read every row of the parts and of these inputs again.
        on_progress: Called at each file that has been hashed.

    Raises:
        OutputError: The folder holds no run.
    """
    manifest = manifest_of(out)
    entries = manifest.entries()
    sizes = [e.part.bytes + inputs * _input_bytes(e) for e in entries]
    meter = ByteMeter(sizes, "hashing", on_progress)
    problems: list[str] = []
    for entry in entries:
        problems += _part_problems(manifest, entry)
        meter.add(entry.part.bytes)
    problems += _folder_problems(manifest, entries)
    if deep:
        problems += [p for e in entries for p in rereading.part_problems(manifest, e)]
        problems += rereading.input_problems(manifest, entries if inputs else [])
    problems += _single_file_problems(Path(out), manifest)
    checked = missing = 0
    for entry in entries if inputs else []:
        meter.add(_input_bytes(entry))
        if (path := data.find_input(entry.input.path)) is None:
            missing += 1
        else:
            checked += 1
            problems += _input_problems(entry, path)
    sums = {n: total(entries)[n] for n in ("rows_in", "rows_out", "rows_rejected")}
    return Verification(len(entries), **sums, inputs_checked=checked, inputs_missing=missing,
                   problems=tuple(problems))  # fmt: skip


def _input_bytes(entry: Entry) -> int:
    """Bytes of the split's range, for the progress of hashing it."""
    return max(0, entry.input.stop - entry.input.start)


def _single_file_problems(out: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with an output that is one file."""
    record = manifest.out / FILE_RECORD
    if out == manifest.out or not record.is_file():
        return
    recorded = json_text.parse(record.read_text(encoding="utf-8"))
    if out.stat().st_size != recorded["bytes"] or sha256(out) != recorded["sha256"]:
        yield f"{out.name}: its bytes have changed since it was written"


def _part_problems(manifest: Manifest, entry: Entry) -> Iterator[str]:
    counts = entry.counts
    if counts["rows_in"] != counts["rows_out"] + counts["rows_rejected"]:
        yield f"{entry.part.file}: its record's rows in are not the sum of rows out and rejected"
    if entry.fingerprint != (manifest.read_run() or {}).get("fingerprint"):
        yield f"{entry.part.file}: computed with other settings than the run's"
    yield from _file_problems(manifest, entry.part, counts["rows_out"])
    if entry.rejects:
        yield from _file_problems(manifest, entry.rejects, counts["rows_rejected"])
    elif counts["rows_rejected"]:
        yield f"{entry.part.file}: {counts['rows_rejected']} rejected rows are in no file"


def _file_problems(manifest: Manifest, output: OutputFile, rows: int) -> Iterator[str]:
    file = manifest.path(output.file)
    if not file.is_file():
        yield f"{output.file}: is missing"
    elif file.stat().st_size != output.bytes or sha256(file) != output.sha256:
        yield f"{output.file}: its bytes have changed since it was written"
    elif (count := data.count_rows(file)) != rows:
        yield f"{output.file}: has {count} rows, and its record says {rows}"


def _folder_problems(manifest: Manifest, entries: list[Entry]) -> Iterator[str]:
    known = {output.file for e in entries for output in e.files}
    patterns = ("part-*", f"{data.REJECTS}/part-*")
    for path in sorted(p for pattern in patterns for p in manifest.out.glob(pattern)):
        if (name := path.relative_to(manifest.out).as_posix()) not in known:
            yield f"{name}: has no record in {manifest.folder.name}"
    if not (manifest.out / SUCCESS).is_file():
        yield f"{SUCCESS}: is missing: the run has not finished; run the same command again"
        return
    try:
        success = json_text.parse((manifest.out / SUCCESS).read_text(encoding="utf-8"))
        files, claimed = sorted(success["files"]), {name: success[name] for name in COUNTS}
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{SUCCESS}: is damaged; run the same command again"
        return
    if files != sorted(e.part.file for e in entries):
        yield f"{SUCCESS}: lists other parts than the records"
    for name, count in total(entries).items():
        if claimed[name] != count:
            yield f"{SUCCESS}: {name} is {claimed[name]}, and the records add up to {count}"


def _input_problems(entry: Entry, path: InputPath) -> Iterator[str]:
    start, stop = entry.input.start, entry.input.stop
    split = Split(CorpusFile(path, path.name, data.kind_of(path) or ""), 0, "", start, stop)
    try:
        if entry.input.sha256 not in data.identities(split):
            yield f"{path}: its bytes {start} to {stop} have changed since they were answered"
    except InputError as error:
        yield error.message
