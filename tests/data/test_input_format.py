"""Files whose ending does not tell their kind, and standard input."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import data
from engine.core.config import INPUT_FORMATS
from engine.core.types import Column
from engine.data import kinds
from engine.errors import InputError

LINES = b'{"text": "a"}\n{"text": "b"}\n'


def texts(inputs: list[Any], input_format: str = "") -> dict[str, list[str]]:
    """The texts of each file of a corpus, by its name."""
    files = data.discover(inputs, None, input_format).files
    columns = data.settle(files, [Column("text")], [])
    rows: dict[str, list[str]] = {}
    for split in data.split_files(files, 1 << 30):
        for window in data.read(split, columns, window=10):
            rows.setdefault(split.file.name, []).extend(window.texts[0].to_pylist())
    return rows


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def contents() -> dict[str, bytes]:
    table = pa.table({"text": ["a", "b"]})
    parquet, arrow = pa.BufferOutputStream(), pa.BufferOutputStream()
    pq.write_table(table, parquet)
    with pa.ipc.new_stream(arrow, table.schema) as writer:
        writer.write_table(table)
    return {
        "jsonl": LINES,
        "json": b'[{"text": "a"},\n{"text": "b"}]',
        "csv": b'id,text\n1,a\n2,"b"\n',
        "tsv": b"id\ttext\n1\ta\n2\tb\n",
        "txt": b"a\r\nb",
        "parquet": parquet.getvalue().to_pybytes(),
        "arrow": arrow.getvalue().to_pybytes(),
    }


@pytest.mark.parametrize("name", contents())
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_comes_from_standard_input_and_from_a_file_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, packed: bool
) -> None:
    content = contents()[name]
    if packed and name in ("parquet", "arrow"):
        pytest.skip("compressed within")
    content = gzip.compress(content) if packed else content
    pipe(monkeypatch, content)
    assert texts(["-"], name) == {"stdin": ["a", "b"]}
    for file in ("dump", "dump.data", "dump.jsonl.bak", "wrong.arrow", "wrong.json"):
        (tmp_path / file).write_bytes(content)
        assert texts([tmp_path / file], name) == {file: ["a", "b"]}


def test_every_format_that_can_be_named_is_one() -> None:
    for name in INPUT_FORMATS:
        assert kinds.kind_as(Path(__file__), name) in kinds.KINDS


def test_a_format_is_for_the_files_of_a_folder_whose_ending_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.data").write_bytes(LINES)
    (tmp_path / "b.jsonl").write_bytes(LINES)
    (tmp_path / "c.parquet").write_bytes(contents()["parquet"])
    (tmp_path / "_SUCCESS").write_bytes(b"")
    assert list(texts([tmp_path])) == ["b.jsonl", "c.parquet"]
    assert data.discover([tmp_path]).unread == {".data": 1}
    assert list(texts([tmp_path], "jsonl")) == ["a.data", "b.jsonl", "c.parquet"]
    assert list(texts([tmp_path / "*"], "jsonl")) == ["a.data", "b.jsonl", "c.parquet"]


def test_an_unknown_ending_and_standard_input_ask_for_a_format(tmp_path: Path) -> None:
    (tmp_path / "a.data").write_bytes(LINES)
    with pytest.raises(InputError, match=r"a\.data: unknown ending") as caught:
        data.find_files([tmp_path / "a.data"])
    assert "--input-format jsonl" in caught.value.hint
    assert texts([tmp_path / "a.data"], "jsonl") == {"a.data": ["a", "b"]}
    with pytest.raises(InputError, match="-: its format is not known") as caught:
        data.find_files(["-"])
    assert "--input-format jsonl" in caught.value.hint


def test_a_terminal_is_no_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    with pytest.raises(InputError, match="nothing is piped"):
        data.find_files(["-"], "jsonl")


def test_standard_input_that_is_named_twice_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, LINES)
    assert texts(["-", "-"], "jsonl") == {"stdin": ["a", "b"]}


def test_plain_text_beside_other_files_is_read_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a\n")
    (tmp_path / "more.txt").write_text("b\n")
    assert texts([tmp_path]) == {"more.txt": ["b"], "notes.txt": ["a"]}
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    assert list(texts([tmp_path])) == ["rows.jsonl"]
    assert data.discover([tmp_path]).unread == {".txt": 2}
    assert list(texts([tmp_path, tmp_path / "*.txt"])) == ["more.txt", "notes.txt", "rows.jsonl"]


@pytest.mark.parametrize(
    ("content", "name", "hint"),
    [
        (LINES, "parquet", "say --input-format jsonl"),
        (LINES, "csv", "say --input-format jsonl"),
        (LINES.decode().encode("utf-16"), "jsonl", "pipe it through iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_no_hint_on_standard_input_names_the_temporary_file(
    monkeypatch: pytest.MonkeyPatch, content: bytes, name: str, hint: str
) -> None:
    pipe(monkeypatch, content)
    with pytest.raises(InputError) as caught:
        texts(["-"], name)
    assert caught.value.hint.endswith(hint)
