"""Part files: whole under their names or not there at all, and hashed as written."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.core.config import COMPRESSIONS, FORMATS, TEXT_FORMATS
from engine.core.rejects import NO_REJECTS, Rejects
from engine.data import parts, writers
from engine.errors import OutputError

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


def batch(first: int, rows: int) -> pa.RecordBatch:
    ids = range(first, first + rows)
    return pa.RecordBatch.from_pydict(
        {"id": list(ids), "text": [f"row {i} " * 9 for i in ids]}, schema=SCHEMA
    )


def part(
    out: Path, name: str = "part-00000-x.arrow", compression: str = "zstd"
) -> writers.FileWriter:
    return writers.FileWriter(out, name, SCHEMA, parts.format_of(name), compression)


def read(file: Path) -> pa.Table:
    return pa.Table.from_batches(parts.batches(file, SCHEMA), schema=SCHEMA)


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def compressions(file: Path) -> set[str]:
    if file.suffix == ".parquet":
        groups = pq.ParquetFile(file).metadata
        return {
            groups.row_group(i).column(j).compression.lower()
            for i in range(groups.num_row_groups)
            for j in range(groups.num_columns)
        }
    content = file.read_bytes()
    magic = {"zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"}
    return {name for name, mark in magic.items() if mark in content} or {"uncompressed"}


@pytest.mark.parametrize(
    ("kind", "compression"),
    [
        (kind, compression)
        for kind in FORMATS
        for compression in COMPRESSIONS
        if compression == "none" or kind not in TEXT_FORMATS
    ],
)
def test_every_format_and_compression_comes_back_as_it_was_written(
    tmp_path: Path, kind: str, compression: str
) -> None:
    name = writers.part_name(3, "x-1234", kind)
    writer = part(tmp_path, name, compression)
    for first in (0, 50, 100):
        writer.write(batch(first, 50))
    written = writer.finish()
    table = read(tmp_path / name)
    assert table.equals(pa.Table.from_batches([batch(0, 150)]))
    assert table.schema.names == SCHEMA.names
    assert writer.rows == 150
    content = (tmp_path / name).read_bytes()
    modified = (tmp_path / name).stat().st_mtime_ns
    digest = hashlib.sha256(content).hexdigest()
    assert written == writers.OutputFile(name, len(content), digest, modified)
    expected = "uncompressed" if compression == "none" else compression
    assert compressions(tmp_path / name) == {expected}


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sizes=st.lists(st.integers(0, 40), max_size=6), kind=st.sampled_from(list(FORMATS)))
def test_the_same_windows_give_the_same_bytes(tmp_path: Path, sizes: list[int], kind: str) -> None:
    hashes = set()
    for folder in ("a", "b"):
        writer = part(tmp_path / folder, writers.part_name(0, "x", kind))
        for first, rows in enumerate(sizes):
            writer.write(batch(first, rows))
        hashes.add(writer.finish().sha256)
    assert len(hashes) == 1
    assert read(tmp_path / "a" / writers.part_name(0, "x", kind)).num_rows == sum(sizes)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_visible_under_the_final_name_until_finish(tmp_path: Path, kind: str) -> None:
    name = writers.part_name(0, "x", kind)
    writer = part(tmp_path, name)
    for first in range(5):
        writer.write(batch(first, 100))
        assert [f for f in files(tmp_path) if not f.startswith("_tmp/")] == []
    writer.finish()
    assert files(tmp_path) == [name]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_part_without_rows_has_its_schema(tmp_path: Path, kind: str) -> None:
    name = writers.part_name(0, "x", kind)
    writer = part(tmp_path, name)
    writer.write(batch(0, 0))
    writer.finish()
    assert read(tmp_path / name).schema.equals(SCHEMA)
    assert read(tmp_path / name).num_rows == 0


def test_answers_and_rejects_of_one_split_do_not_meet(tmp_path: Path) -> None:
    """Bad rows lie where no reader of a folder takes them for answers."""
    name = writers.part_name(0, "x", "parquet")
    answers, rejects = part(tmp_path, name), writers.rejects_writer(tmp_path, name)
    bad = Rejects(pa.array([4, 7]).to_numpy(), ("null_text",) * 2, ("empty",) * 2)
    for first in range(3):
        answers.write(batch(first, 10))
        rejects.write(writers.rejects_columns(bad))
    outputs = [rejects.finish(), answers.finish()]
    rejected = "_manifest/rejects/part-00000-x.jsonl"
    assert files(tmp_path) == sorted([name, rejected])
    assert read(tmp_path / name).num_rows == 30
    rows = list(writers.read_rejects(tmp_path / rejected))
    assert [row["row"] for row in rows] == [4, 7] * 3
    assert rows[0] == {"row": 4, "code": "null_text", "message": "empty"}
    for written in outputs:
        content = (tmp_path / written.file).read_bytes()
        assert written.sha256 == hashlib.sha256(content).hexdigest()


def test_rejects_columns_may_be_empty() -> None:
    assert writers.rejects_columns(NO_REJECTS).num_rows == 0
    assert writers.rejects_columns(NO_REJECTS).schema == writers.REJECTS_SCHEMA


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_abandon_leaves_nothing_and_says_nothing(tmp_path: Path, kind: str) -> None:
    writer = part(tmp_path, writers.part_name(0, "x", kind))
    writer.write(batch(0, 100))
    writer.abandon()
    writer.abandon()
    del writer
    gc.collect()
    assert files(tmp_path) == []


def write_and_finish(writer: writers.FileWriter) -> None:
    """Arrow's writer writes at once, Parquet's when it is closed."""
    writer.write(batch(10, 10))
    writer.finish()


def full_disk(number: int = errno.ENOSPC) -> Callable[..., int]:
    def write(self: object, data: object) -> int:
        raise OSError(number, "No space left on device")

    return write


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_an_error_with_a_way_out_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, number: int
) -> None:
    writer = part(tmp_path, writers.part_name(0, "x", kind))
    writer.write(batch(0, 10))
    monkeypatch.setattr(writers.HashingFile, "write", full_disk(number))
    with pytest.raises(OutputError) as caught:
        write_and_finish(writer)
    assert "_tmp" in caught.value.message
    free = number != errno.EIO
    assert ("free some space" in caught.value.hint) == free
    assert "goes on" in caught.value.hint or not free
    monkeypatch.undo()
    writer.abandon()
    del writer
    gc.collect()
    assert files(tmp_path) == []


@pytest.mark.parametrize("kind", FORMATS)
def test_a_disk_that_is_still_full_on_leaving_does_not_keep_the_part(
    tmp_path: Path, kind: str
) -> None:
    writer = part(tmp_path, writers.part_name(0, "x", kind))
    stream = writer._stream

    class Full:
        def __getattr__(self, name: str) -> Any:
            if name in ("write", "flush", "close"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return getattr(stream, name)

    writer._stream = writer._hashing._stream = Full()  # type: ignore[assignment]
    with pytest.raises(OutputError):
        writer.finish()
    writer.abandon()
    stream.close()
    assert files(tmp_path) == []


def test_a_failing_rename_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = part(tmp_path)
    writer.write(batch(0, 3))

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match="permissions"):
        writer.finish()
    monkeypatch.undo()
    writer.abandon()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "values", [pa.array([{}], pa.struct([])), pa.array([(1, 2, 3)], pa.month_day_nano_interval())]
)
def test_a_type_that_a_format_cannot_hold_is_an_output_error(
    tmp_path: Path, values: pa.Array
) -> None:
    columns = pa.RecordBatch.from_arrays([values], ["odd"])
    with pytest.raises(OutputError) as caught:
        writers.FileWriter(
            tmp_path, "part-00000-x.parquet", columns.schema, "parquet", "zstd"
        ).write(columns)
    assert "--keep" in caught.value.hint
    assert files(tmp_path) == []
    writer = writers.FileWriter(tmp_path, "part-00000-x.arrow", columns.schema, "arrow", "zstd")
    writer.write(columns)
    writer.finish()


def test_an_output_that_is_no_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out"):
        part(tmp_path / "out")


def test_a_small_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "deep/run.json"
    writers.write_text(file, json.dumps({"a": "ü"}))
    writers.write_text(file, json.dumps({"a": 2}))
    assert json.loads(file.read_text()) == {"a": 2}
    assert files(tmp_path) == ["deep/run.json"]

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OutputError, match="free some space"):
        writers.write_text(file, json.dumps({"a": 3}))
    assert json.loads(file.read_text()) == {"a": 2}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is forced onto the disk and what is renamed, in order, by file name."""
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        calls.append(("fsync", path.name))
        assert not path.is_file() or path.stat().st_size, "what is not written is not synced"
        fsync(handle)

    def renamed(self: Path, target: Path) -> Path:
        calls.append(("rename", target.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    return calls


@pytest.mark.parametrize("name", ["part-00000-x.arrow", "_manifest/rejects/part-00000-x.jsonl"])
def test_a_part_is_on_the_disk_before_it_has_its_name_and_so_is_the_name_after(
    tmp_path: Path, disk: list[tuple[str, str]], name: str
) -> None:
    writer = part(tmp_path, name)
    writer.write(batch(0, 50))
    assert not disk
    writer.finish()
    file = Path(name).name
    folder = (tmp_path / name).parent
    made = [path for path in (folder, *folder.parents) if path.is_relative_to(tmp_path)][1:]
    names = [("fsync", path.name) for path in made]
    assert disk == [("fsync", file), *names, ("rename", file), ("fsync", folder.name)]


def test_a_record_is_on_the_disk_before_it_has_its_name_and_so_is_the_name_after(
    tmp_path: Path, disk: list[tuple[str, str]]
) -> None:
    writers.write_text(tmp_path / "records/a.json", "{}")
    assert disk == [
        ("fsync", tmp_path.name),
        ("fsync", ".a.json.tmp"),
        ("rename", "a.json"),
        ("fsync", "records"),
    ]
