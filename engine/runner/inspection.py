"""What lies in a path: a bundle, a run's output, or one part file; as values to show."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.bundle import format as bundle_format
from engine.bundle import tuned
from engine.data import reading
from engine.errors import InputError
from engine.runner.manifest import SUCCESS, Manifest, total
from engine.runner.verify import count_rows


def inspect(path: Path | str, *, rows: int = 3) -> dict[str, Any]:
    """Describe a path; `kind` in the answer says what it is.

    Args:
        path: A bundle, an output folder, or an .arrow or .parquet file.
        rows: First rows to show.

    Raises:
        InputError: It is none of these, or cannot be read.
    """
    found = Path(path)
    if (found / bundle_format.DESCRIPTION).is_file():
        return _bundle(bundle_format.load(found))
    if (found / "_manifest").is_dir():
        return _run(Manifest(found), rows)
    if found.is_file() and found.suffix in (".arrow", ".parquet"):
        return {"kind": "part", "rows": _count(found), **_head(found, rows)}
    if not found.exists():
        raise InputError(f"{found}: no such file or folder", "give a bundle, an output or a part")
    raise InputError(
        f"{found}: neither a bundle, nor a run's output, nor an .arrow or .parquet file",
        "give what engine export or engine run wrote",
    )


def _bundle(folder: bundle_format.BundleFolder) -> dict[str, Any]:
    folder.check()
    description = dataclasses.asdict(folder.description)
    size = sum(f["bytes"] for f in description["files"].values())
    found = {kind: tuned.load(folder.path, kind) for kind in tuned.FILES}
    return {
        "kind": "bundle",
        "bytes": size,
        "fingerprint": folder.fingerprint,
        **description,
        "tuned": {
            kind: {n: v for n, v in dataclasses.asdict(one).items() if v != ""}
            for kind, one in found.items()
            if one
        },
    }


def _run(manifest: Manifest, rows: int) -> dict[str, Any]:
    entries = manifest.entries()
    shown = next((e for e in entries if e.counts["rows_out"]), None)
    head = _head(manifest.out / shown.part.file, rows) if shown else {}
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


def _head(file: Path, rows: int) -> dict[str, Any]:
    with reading(file, file.suffix[1:]):
        schema, table = _first(file, rows)
    columns = {field.name: str(field.type) for field in schema}
    return {"file": file.name, "schema": columns, "first_rows": table.to_pylist()}


def _first(file: Path, rows: int) -> tuple[pa.Schema, pa.Table]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(file)
        batches = parquet.iter_batches(max(rows, 1))
        return parquet.schema_arrow, _taken(batches, parquet.schema_arrow, rows)
    with pa.OSFile(str(file)) as stream:
        reader = pa.ipc.open_file(stream)
        batches = map(reader.get_batch, range(reader.num_record_batches))
        return reader.schema, _taken(batches, reader.schema, rows)


def _taken(batches: Iterator[pa.RecordBatch], schema: pa.Schema, rows: int) -> pa.Table:
    taken = []
    while rows > 0 and (batch := next(batches, None)) is not None:
        taken.append(batch.slice(0, rows))
        rows -= batch.num_rows
    return pa.Table.from_batches(taken, schema=schema)
