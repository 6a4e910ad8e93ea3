"""A file that is not what its name says: the hint helps where it is followed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import data
from engine.core.types import Column
from engine.errors import EngineError

ROWS = b'{"text": "a"}\n{"text": "b"}\n'


def read(path: Path, input_format: str = "") -> list[str]:
    """The texts of a file; raises at the first bad row, as a run does."""
    files = data.find_files([path], input_format)
    columns = data.settle(files, [Column("text")], [])
    texts: list[str] = []
    for split in data.split_files(files, 1 << 30):
        for rows in data.read(split, columns, window=10):
            if error := data.first_error(rows):
                raise error
            texts += rows.texts[0].to_pylist()
    return texts


def hint(path: Path) -> str:
    with pytest.raises(EngineError) as caught:
        read(path)
    assert path.name in caught.value.message
    return caught.value.hint


def table_of(kind: str) -> bytes:
    table, sink = pa.table({"text": ["a", "b"]}), pa.BufferOutputStream()
    if kind == "parquet":
        pq.write_table(table, sink)
    else:
        opened = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
        with opened(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


CONTENTS = {
    "parquet": table_of("parquet"),
    "arrow": table_of("arrow"),
    "stream": table_of("stream"),
    "gz": gzip.compress(ROWS, mtime=0),
    "bz2": bz2.compress(ROWS),
    "xz": lzma.compress(ROWS),
    "csv": b'id,text\n1,a\n2,"b"\n',
    "tsv": b"id\ttext\n1\ta\n2\tb\n",
    "txt": b"a\nb\n",
    "jsonl": ROWS,
    "array": b'[{"text": "a"},\n{"text": "b"}]',
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet", "arrow"])
def test_what_the_hint_of_a_wrong_ending_says_helps(
    tmp_path: Path, content: str, ending: str
) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(CONTENTS[content])
    try:
        assert read(path) == ["a", "b"]
        return
    except EngineError as error:
        advice = error.hint
    assert "--on-error reject" not in advice
    renamed = re.search(r"rename it to (\S+?)(?:,|$)", advice)
    assert renamed
    if content in ("gz", "bz2", "xz") and ending != "jsonl":
        assert renamed[1] == f"x.{ending}.{content}"
        return
    shutil.copy(path, tmp_path / renamed[1])
    assert read(tmp_path / renamed[1]) == ["a", "b"]
    if named := re.search(r"--input-format (\w+)", advice):
        assert read(path, named[1]) == ["a", "b"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ending", ["jsonl", "txt"])
@pytest.mark.skipif(not shutil.which("iconv"), reason="no iconv")
def test_text_in_another_encoding_is_converted_as_the_hint_says(
    tmp_path: Path, encoding: str, ending: str
) -> None:
    content = ROWS if ending == "jsonl" else b"a\nb\n"
    path = tmp_path / f"x.{ending}"
    path.write_bytes(content.decode().encode(encoding))
    command = hint(path).removesuffix(", and name that")
    subprocess.run(command, shell=True, check=True)
    assert read(tmp_path / f"utf8-x.{ending}") == ["a", "b"]


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("x.jsonl", ROWS)
    return sink.getvalue()


SAID = {
    b"<!DOCTYPE html>\n<html></html>\n": "get the file",
    b"Obj\x01avro.codec": "convert it to Parquet or JSON lines",
    zipped(): "unpack it",
    b"[1, 2]\n[3, 4]\n": "each line must hold an object",
    b'"a"\n"b"\n': "each line must hold an object",
    b"1\n2\n": "each line must hold an object",
    b"{'text': 'a'}\n{'text': 'b'}\n": "json.dumps",
    b'{"text": "a"},\n{"text": "b"},\n': "commas",
    b'{"text": "a"\n{"text": "b"\n': "no line of its beginning is JSON",
}


@pytest.mark.parametrize("content", SAID)
def test_what_no_name_helps_with_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    advice = hint(tmp_path / "x.jsonl")
    assert SAID[content] in advice
    assert "--on-error reject" not in advice


def test_a_bad_line_among_good_ones_can_be_set_aside(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"a,b\n" + ROWS)
    assert "--on-error reject" in hint(tmp_path / "x.jsonl")


def test_a_damaged_file_is_not_taken_for_one_of_another_kind(tmp_path: Path) -> None:
    for kind in ("parquet", "arrow"):
        (tmp_path / f"x.{kind}").write_bytes(CONTENTS[kind][:-9])
        assert "damaged" in hint(tmp_path / f"x.{kind}")


def test_an_empty_parquet_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"")
    assert "it is empty" in hint(tmp_path / "x.parquet")


def test_gzip_within_gzip_and_lines_called_gz_are_said(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(gzip.compress(ROWS)))
    assert "decompress it" in hint(tmp_path / "x.jsonl.gz")


@pytest.mark.parametrize("content", [ROWS, gzip.compress(ROWS, mtime=0), bz2.compress(ROWS)])
@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
def test_what_is_packed_in_another_way_than_its_name_says_is_renamed(
    tmp_path: Path, content: bytes, ending: str
) -> None:
    path = tmp_path / f"x.jsonl.{ending}"
    path.write_bytes(content)
    try:
        assert read(path) == ["a", "b"]
    except EngineError as error:
        name = error.hint.removeprefix("rename it to ")
        shutil.copy(path, tmp_path / name)
        assert read(tmp_path / name) == ["a", "b"]


@pytest.mark.parametrize("content", [ROWS, b'[\n {"text": "a"},\n {"text": "b"}]'])
def test_json_called_csv_is_told(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    assert hint(file) == "rename it to a.jsonl, or name it with --input-format jsonl"
    assert read(file, "jsonl") == ["a", "b"]
    assert read(file.rename(tmp_path / "a.jsonl")) == ["a", "b"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_json_of_another_encoding_is_not_left_out_of_a_folder(
    encoding: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROWS)
    (tmp_path / "b.json").write_bytes(ROWS.decode().encode(encoding))
    with pytest.raises(EngineError, match=r"b\.json: text in UTF-16"):
        read(tmp_path)
