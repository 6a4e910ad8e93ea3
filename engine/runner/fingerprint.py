"""What identifies a run, a split and a file: a later run compares itself with that."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from engine import data, tasks
from engine.bundle import format as bundle_format
from engine.core.config import RunConfig
from engine.core.device import Kind
from engine.core.types import Columns, CorpusFile, Split
from engine.errors import InputError
from engine.runner.records import InputRecord, RunRecord
from engine.runner.single_file import FILE_RECORD, file_of
from engine.version import __version__


def run_record(folder: bundle_format.BundleFolder, config: RunConfig, device: Kind) -> RunRecord:
    """The content of run.json: everything that makes two runs the same run."""
    model_config = folder.description.model_config
    options = tasks.resolve_options(tasks.of_bundle(folder), model_config, config.options)
    settings = {
        **config.shaping(),
        "options": dataclasses.asdict(options),
        "device": device,
        "engine": __version__,
    }
    return record_of(settings, folder.fingerprint)


def record_of(settings: Mapping[str, object], bundle: str) -> RunRecord:
    """The record of a run with these settings."""
    text = json.dumps({"settings": settings, "bundle": bundle}, sort_keys=True)
    return RunRecord(
        settings=json.loads(text)["settings"],  # as a later run will read them
        bundle=bundle,
        fingerprint=hashlib.sha256(text.encode()).hexdigest(),
    )


def input_record(split: Split, limit: int, columns: Columns, sha256: str = "") -> InputRecord:
    """`Entry.input` of a split as it is now; `limit` is the most rows to read, 0 for all, and
    `columns` are the settled ones, of which the kept ones are in the part. `sha256` is that of the
    content where it is known."""
    kept = [(field.name, str(field.type)) for field in columns.kept]
    derived = (field for field in columns.kept if field.name in columns.derived)
    # Where a file's name is kept, a renamed file has other answers.
    values = [str(data.value_of(split.file, field)) for field in derived]
    nested = sorted(columns.nested.items())
    text = json.dumps([kept, values, nested] if values or nested else kept)
    return InputRecord(
        path=str(split.path),
        start=split.start,
        stop=split.stop,
        first_row=split.first_row,
        sha256=sha256 or data.content_hash(split),
        limit=limit,
        columns=hashlib.sha256(text.encode()).hexdigest()[:16],
    )


def file_state(file: CorpusFile) -> tuple[int, int]:
    """Size and date of a file, by which a run notices that it changes meanwhile.

    Raises:
        InputError: The file is gone.
    """
    place = file.place
    try:
        status = os.stat(file.text) if isinstance(place, str) else place.stat()
    except OSError as error:
        raise InputError(f"{file.text}: {error.strerror}", "check the file") from error
    return status.st_size, status.st_mtime_ns


def inputs_outside(files: list[CorpusFile], out: Path) -> list[CorpusFile]:
    """The inputs that do not lie in the output folder, which may lie in the folder of the corpus.

    Raises:
        InputError: All of them lie there, or one of them is the file to be written.
    """
    folder = Path(os.path.abspath(out))
    single, text = file_of(folder), str(folder)
    alone = str(single) if single else ""
    local = [file for file in files if isinstance(file.place, (str, Path))]
    if alone and any(file.text == alone for file in local) and not (folder / FILE_RECORD).is_file():
        raise InputError(f"{single}: is an input and the output", "choose another file with -o")
    below, names = f"{text.rstrip('/')}/", {text, alone}
    inside = {f.name for f in local if f.text.startswith(below) or f.text in names}
    if outside := [f for f in files if f.name not in inside] if inside else files:
        return outside
    raise InputError(f"{out}: every input lies in the output folder", "choose another with -o")
