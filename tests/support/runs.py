"""A corpus of every kind of file, and what a run over it leaves."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fakes import texts, write_arrow, write_jsonl, write_parquet

from engine.runner.report import Report


class BoomError(Exception):
    pass


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert [t for t in threading.enumerate() if t not in before] == []


def rows_of(out: Path, report: Report) -> list[dict[str, Any]]:
    return [row for file in report.files for row in table(out / file).to_pylist()]


def table(file: Path) -> pa.Table:
    return pq.read_table(file) if file.suffix == ".parquet" else pa.ipc.open_file(file).read_all()


def content(out: Path) -> dict[str, Any]:
    """Everything a run leaves, but for the seconds it took, the dates of its files and what each
    start did."""
    left: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file() and p.name != ".lock"):
        name = path.relative_to(out).as_posix()
        if name.startswith("_manifest/starts/"):
            continue
        left[name] = path.read_bytes()
        if name.startswith("_manifest/part-"):
            record = json.loads(left[name])
            for file in filter(None, (record["part"], record["rejects"])):
                file.pop("modified", None)
            left[name] = {k: v for k, v in record.items() if k != "seconds"}
    return left


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Five files of every kind, some with bad rows; ids count on over all of them."""
    folder = tmp_path / "corpus"
    rows = [*texts(150, seed=3)]
    for bad in (5, 31, 32, 33, 90):
        rows[bad] = None  # type: ignore[call-overload]
    write_jsonl(folder / "a.jsonl", rows[:40], 0)
    write_parquet(folder / "b.parquet", rows[40:80], 40, group=15)
    lines = write_jsonl(folder / "plain.jsonl", rows[80:100], 80)
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    lines.unlink()
    ids = pa.array(range(100, 130), pa.int64())
    write_arrow(folder / "d.arrow", pa.table({"id": ids, "text": rows[100:130]}))
    write_jsonl(folder / "e/f.jsonl", rows[130:], 130)
    return folder
