"""An output as a run leaves it, of answers that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine import data
from engine.core.config import FORMATS
from engine.core.rejects import Rejects
from engine.runner.manifest import Manifest
from engine.runner.records import Entry, InputRecord, success

COUNTS = ("rows_in", "rows_out", "rows_rejected", "tokens", "truncated", "output_tokens")


def write_run(
    out: Path,
    table: pa.Table,
    *,
    parts: Sequence[int] = (),
    kind: str = "parquet",
    prefix: str = "",
    inputs: Sequence[Mapping[str, Any]] = (),
    rejects: Rejects | None = None,
    finished: bool = True,
    window: int = 1000,
) -> Path:
    """A run's folder.

    Args:
        out: The folder.
        table: Kept and result columns.
        parts: The first rows of all parts but the first.
        kind: The format of parts.
        prefix: What the result columns begin with.
        inputs: Columns of the input, as `RunRecord` has them.
        rejects: Of the first part, whose answered rows are the others.
        finished: Whether it has all parts.
        window: Rows that are written at a time.
    """
    manifest = Manifest(out)
    manifest.folder.mkdir(parents=True)
    run = {"settings": {"result_prefix": prefix, "options": {}}, "bundle": "b", "fingerprint": "f"}
    manifest.write(manifest.folder / "run.json", _json({**run, "inputs": list(inputs)}))
    entries = []
    for number, (start, stop) in enumerate(pairwise([0, *parts, len(table)])):
        own = table.slice(start, stop - start)
        bad = rejects if number == 0 else None
        entries.append(_write_part(out, number, own, kind, bad, window))
        manifest.commit(entries[-1])
    if finished:
        manifest.succeed(success(entries, "f"))
    return out


def _write_part(
    out: Path, number: int, table: pa.Table, kind: str, bad: Rejects | None, window: int
) -> Entry:
    name = f"part-{number:05d}-in{FORMATS[kind]}"
    writer = data.FileWriter(out, name, table.schema, kind, "none")
    for batch in table.to_batches(window) or [_empty(table.schema)]:
        writer.write(batch)
    written = None
    if bad is not None:
        own = data.rejects_writer(out, name)
        own.write(data.rejects_columns(bad))
        written = own.finish()
    rejected = len(bad.rows) if bad is not None else 0
    counts = dict.fromkeys(COUNTS, 0) | {
        "rows_in": len(table) + rejected, "rows_out": len(table), "rows_rejected": rejected
    }  # fmt: skip
    return Entry(
        part=writer.finish(),
        rejects=written,
        input=InputRecord(path=f"/in/{number}.jsonl", start=0, stop=1, first_row=0,
                          sha256="0", limit=0, columns=""),
        fingerprint="f",
        counts=counts,
        device="cpu",
        seconds=1.0,
        schema=data.schema_text(table.schema, kind),
    )  # fmt: skip


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)


def _json(content: object) -> str:
    import json

    return json.dumps(content)
