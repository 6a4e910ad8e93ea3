"""Describes a bundle, a run's output or one part file, as values to show."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path

import pyarrow as pa

from engine.bundle import format as bundle_format
from engine.bundle import tuned
from engine.core.config import FORMATS
from engine.core.suggestions import path_meant
from engine.data import REJECTS, count_rows, dataset, format_of, is_url, read_rejects, reading
from engine.errors import InputError
from engine.runner.manifest import FOLDER, SUCCESS, Manifest
from engine.runner.records import total
from engine.runner.results import manifest_of


def inspect(path: Path | str, *, rows: int = 3) -> dict[str, object]:
    """Describe a path; `kind` in the result says what it is.

    Args:
        path: A bundle, an output folder, or a part file.
        rows: How many of the first rows to show.

    Raises:
        InputError: The path is none of these, or cannot be read.
    """
    if is_url(path):
        return _describe_run(manifest_of(path), rows)
    path = Path(path)
    if (path / bundle_format.DESCRIPTION).is_file():
        return _describe_bundle(bundle_format.load(path))
    if (path / FOLDER).is_dir():
        return _describe_run(Manifest(path), rows)
    if path.is_file() and path.suffix == ".jsonl" and path.parent.name == Path(REJECTS).name:
        bad_rows = list(islice(read_rejects(path), max(rows, 0)))
        return {"kind": "rejects", "rows": _count(path), "first_rows": bad_rows}
    if path.is_file() and path.suffix in FORMATS.values():
        return {"kind": "part", "rows": _count(path), **_head(path, rows)}
    if not path.exists():
        hint = path_meant(Path(path)) + "give a bundle, an output or a part"
        raise InputError(f"{path}: no such file or folder", hint)
    raise InputError(
        f"{path}: neither a bundle, nor a run's output, nor a part file",
        "give what engine export or engine run wrote; of inputs engine run --dry-run tells",
    )


def _describe_bundle(folder: bundle_format.BundleFolder) -> dict[str, object]:
    folder.check()
    description = dataclasses.asdict(folder.description)
    size = sum(f["bytes"] for f in description["files"].values())
    settings = {kind: tuned.load(folder.path, kind) for kind in tuned.FILES}
    return {
        "kind": "bundle",
        "bytes": size,
        "fingerprint": folder.fingerprint,
        **description,
        "tuned": {
            kind: {n: v for n, v in dataclasses.asdict(one).items() if v != ""}
            for kind, one in settings.items()
            if one
        },
    }


def _describe_run(manifest: Manifest, rows: int) -> dict[str, object]:
    entries = manifest.entries()
    entry = next((e for e in entries if e.counts["rows_out"]), None)
    head = _head(manifest.path(entry.part.file), rows, entry.table_schema) if entry else {}
    run = manifest.read_run() or {}
    return {
        "kind": "run",
        "finished": (manifest.out / SUCCESS).is_file(),
        "parts": len(entries),
        **total(entries),
        "bytes": sum(e.part.bytes for e in entries),
        "devices": sorted({e.device for e in entries}),
        "settings": run.get("settings", {}),
        **head,
    }


def _count(file: Path) -> int:
    with reading(file, file.suffix[1:]):
        return count_rows(file)


def _head(file: Path, rows: int, schema: pa.Schema | None = None) -> dict[str, object]:
    kind = format_of(file)
    with reading(file, kind):
        part = dataset([file], kind, schema)
        table = part.head(max(rows, 0))
    columns = {field.name: str(field.type) for field in part.schema}
    return {"file": file.name, "schema": columns, "first_rows": table.to_pylist()}
