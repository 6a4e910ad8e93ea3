"""CSV and TSV: every record is a row or a bad row under its number, every value the one written."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import corpus_files, write_jsonl, write_parquet

from engine import data
from engine.core.types import Column, Rows
from engine.data import csv_layout, csv_reader, long_fields
from engine.data.csv_quotes import QuoteScanner
from engine.data.csv_types import ColumnTyper
from engine.data.long_fields import LongFields
from engine.errors import ColumnError, InputError

TEXT = (Column("text"),)


def read(
    paths: Sequence[Path], keep: tuple[str, ...] = ("all",), inputs: Sequence[Column] = TEXT
) -> list[Rows]:
    files = corpus_files(paths)
    settled = data.settle(files, inputs, keep)
    return [rows for split in data.split_files(files, 1 << 10)
            for rows in data.read(split, settled, window=1000)]  # fmt: skip


def read_bytes(folder: Path, content: bytes, name: str = "x.csv") -> list[Rows]:
    path = folder / name
    path.write_bytes(content)
    return read([path])


def rows_of(windows: Sequence[Rows]) -> list[tuple[int, dict[str, Any]]]:
    return [
        pair
        for rows in windows
        if rows.kept is not None and rows.numbers is not None
        for pair in zip(rows.numbers.tolist(), rows.kept.to_pylist(), strict=True)
    ]


def bad_of(windows: Sequence[Rows]) -> list[tuple[int, str, str, str, str]]:
    return [
        row
        for rows in windows
        for r in [rows.rejects]
        for row in zip(r.rows.tolist(), r.codes, r.columns, r.expected, r.found, strict=True)
    ]


def test_records_are_numbered_without_header_and_blank_lines(tmp_path: Path) -> None:
    content = b'\n\xef\xbb\xbfid,text\n1,a\n\n2,"b\nc"\n3\n4,"say ""hi"""\n5,a,b\n6,\n7,""\n'
    windows = read_bytes(tmp_path, content.removeprefix(b"\n"))
    assert rows_of(windows) == [
        (0, {"id": 1, "text": "a"}),
        (1, {"id": 2, "text": "b\nc"}),
        (3, {"id": 4, "text": 'say "hi"'}),
        (5, {"id": 6, "text": ""}),
        (6, {"id": 7, "text": ""}),
    ]
    assert bad_of(windows) == [
        (2, "fields", "", "2 fields", "1"),
        (4, "fields", "", "2 fields", "3"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b"id,text\r\n1,a\r\n2,b\r\n"),
        ("x.csv", b"id,text\r1,a\r2,b\r"),
        ("x.csv", b"id,text\n1,a\n2,b"),
        ("x.csv", b'"id","text"\n"1","a"\n"2","b"\n'),
        ("x.csv", b"\xef\xbb\xbfid,text\n1,a\n2,b\n"),
        ("x.csv", b"id;text\n1;a\n2;b\n"),
        ("x.csv", b"id|text\n1|a\n2|b\n"),
        ("x.csv", b"id\ttext\n1\ta\n2\tb\n"),
        ("x.CSV", b"id,text\n1,a\n2,b\n"),
        ("x.tsv", b"id\ttext\n1\ta\n2\tb\n"),
        ("x.tsv", b"id,text\n1,a\n2,b\n"),
        ("x.csv.gz", gzip.compress(b"id,text\n1,a\n2,b\n", mtime=0)),
        ("x.csv.bz2", bz2.compress(b"id,text\n1,a\n2,b\n")),
        ("x.tsv.xz", lzma.compress(b"id\ttext\n1\ta\n2\tb\n")),
    ],
)
def test_every_spelling_of_a_table_is_the_same_table(
    tmp_path: Path, name: str, content: bytes
) -> None:
    expected = [(0, {"id": 1, "text": "a"}), (1, {"id": 2, "text": "b"})]
    assert rows_of(read_bytes(tmp_path, content, name)) == expected


@pytest.mark.parametrize("content", [b"", b"\n\n", b"id,text", b"id,text\n", b"id,text\r\n\r\n"])
def test_a_file_without_records_gives_no_row(tmp_path: Path, content: bytes) -> None:
    assert rows_of(read_bytes(tmp_path, content)) == []


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", "0", None], pa.int64()),
        (["1", "18446744073709551615"], pa.uint64()),
        (["1", "18446744073709551616"], pa.string()),
        (["-1", "9223372036854775808"], pa.string()),
        (["1", "001"], pa.string()),
        (["1", "+1"], pa.string()),
        (["1", " 1"], pa.string()),
        (["0x1", "1"], pa.string()),
        (["1", "2.5", "-1e-3", "nan", "inf"], pa.float64()),
        (["0.30000000000000004", "1"], pa.float64()),
        (["2.5", "9007199254740993"], pa.string()),
        (["2.5", "9007199254740992"], pa.float64()),
        (["0.12345678901234567890"], pa.string()),
        (["1e400"], pa.string()),
        (["1e-400"], pa.string()),
        (["1e-99999999999999999999"], pa.string()),
        (["1.5", "x"], pa.string()),
        (["true", "False", "TRUE"], pa.bool_()),
        (["true", "1"], pa.string()),
        (["1", "NA"], pa.string()),
        (["2024-01-01"], pa.string()),
        (["", None], pa.string()),
        (["", "1"], pa.int64()),
        ([None, None], pa.null()),
    ],
)
def test_a_column_has_a_type_that_gives_back_what_was_written(
    values: list[str | None], kind: pa.DataType
) -> None:
    for order in (values, values[::-1]):
        typer = ColumnTyper()
        for value in order:
            typer.add(pa.array([value], pa.string()))
        assert typer.kind == kind


def test_a_value_that_comes_late_counts_as_one_that_comes_early(tmp_path: Path) -> None:
    lines = [b"%d,w%d" % (i, i) for i in range(150_000)]
    late = read_bytes(tmp_path, b"id,text\n" + b"\n".join([*lines, b"007,bond"]))
    assert rows_of(late)[-1] == (150_000, {"id": "007", "text": "bond"})
    assert rows_of(late)[1] == (1, {"id": "1", "text": "w1"})
    assert len(rows_of(late)) == 150_001


def test_files_that_differ_are_text_and_keep_their_zeros(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,n,text\n1,1,a\n20,2,b\n")
    (tmp_path / "b.csv").write_text("id,n,text\n007,2.5,c\n")
    windows = read([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [row for _, row in rows_of(windows)] == [
        {"id": "1", "n": 1.0, "text": "a"},
        {"id": "20", "n": 2.0, "text": "b"},
        {"id": "007", "n": 2.5, "text": "c"},
    ]


@pytest.mark.parametrize("first", ["csv", "parquet"])
def test_files_with_types_do_not_become_text(tmp_path: Path, first: str) -> None:
    parquet = write_parquet(tmp_path / "p.parquet", ["w1"])
    (tmp_path / "a.csv").write_text("id,text\n1,a\n")
    (tmp_path / "b.csv").write_text("id,text\nx,a\n")
    texts = [tmp_path / "a.csv", tmp_path / "b.csv"]
    paths = [*texts[:1], parquet, *texts[1:]] if first == "csv" else [parquet, *texts]
    with pytest.raises(ColumnError, match="column 'id' holds string, and int64 in"):
        read(paths)


def test_a_number_that_another_files_floats_do_not_hold_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,text\n9007199254740993,a\n5,b\n")
    (tmp_path / "b.csv").write_text("n,text\n2.5,c\n")
    windows = read([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [row["n"] for _, row in rows_of(windows)] == [5.0, 2.5]
    assert bad_of(windows) == [(0, "kept_type", "n", "double", "text")]


def test_text_columns_are_text_whatever_they_hold(tmp_path: Path) -> None:
    windows = read_bytes(tmp_path, b"id,text\n1,007\n2,true\n3,\n")
    assert [row["text"] for _, row in rows_of(windows)] == ["007", "true", ""]


def test_kept_texts_tell_an_empty_field_from_a_quoted_one(tmp_path: Path) -> None:
    windows = read_bytes(tmp_path, b'note,text\nx,a\n,b\n"",c\n')
    assert [row["note"] for _, row in rows_of(windows)] == ["x", None, ""]


def test_invalid_utf8_is_a_bad_row_wherever_it_is(tmp_path: Path) -> None:
    windows = read_bytes(tmp_path, b"id,text\na,\xff\n\xfe,b\nc,d\n")
    assert rows_of(windows) == [(2, {"id": "c", "text": "d"})]
    assert [row[:3] for row in bad_of(windows)] == [
        (0, "invalid_utf8", "text"),
        (1, "invalid_utf8", "id"),
    ]


@pytest.mark.parametrize(
    ("content", "says", "hint"),
    [
        (b"text,text\na,b\n", "two columns are called 'text'", "different names"),
        (b'id,text\n1,"a\n2,b\n', "line 2: nothing closes", "written twice"),
        (b'id,text\n1,"a\n2,b" c\n3,d\n', "line 3: text follows", "written twice"),
        ("id,text\n1,a\n".encode("utf-16"), "text in UTF-16, not CSV", "iconv -f UTF-16"),
        (b"PAR1xxxx", "Parquet, not CSV", "rename it"),
        (b"PK\x03\x04xxxx", "a zip archive, not CSV", "convert it"),
        (b"\xff,text\n1,a\n", "cannot be read as csv", "another kind"),
        (b"id,body\n1,a\n", "no column 'text'", "--text one of: 'id', 'body'"),
    ],
)
def test_a_file_that_cannot_be_read_row_by_row_is_refused_by_name(
    tmp_path: Path, content: bytes, says: str, hint: str
) -> None:
    with pytest.raises((InputError, ColumnError)) as caught:
        read_bytes(tmp_path, content)
    assert "x.csv" in caught.value.message
    assert says in caught.value.message
    assert hint in caught.value.hint


def test_a_task_that_takes_lists_takes_no_csv(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text\na\n")
    with pytest.raises(ColumnError, match="holds string, not lists of text"):
        read([tmp_path / "x.csv"], (), [Column("text", holds="texts")])


def test_keys_are_whole_numbers_or_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,seed,other\na,1,007\n")
    inputs = [Column("seed", holds="key"), Column("other", holds="key")]
    (rows,) = (r for r in read([tmp_path / "x.csv"], (), inputs) if len(r))
    assert [column.to_pylist() for column in rows.texts] == [[1], ["007"]]


def test_tsv_whose_marks_do_not_pair_up_has_none(tmp_path: Path) -> None:
    content = b'id\ttext\n1\t"a\n2\tb" c\n3\t5" wide\n'
    rows = rows_of(read_bytes(tmp_path, content, "x.tsv"))
    assert [row["text"] for _, row in rows] == ['"a', 'b" c', '5" wide']


def test_a_mark_within_a_field_without_marks_is_a_character(tmp_path: Path) -> None:
    rows = rows_of(read_bytes(tmp_path, b'id,text\n1,5" wide\n2,a "b" c\n'))
    assert [row["text"] for _, row in rows] == ['5" wide', 'a "b" c']


def test_csv_beside_json_lines_is_one_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,a\n")
    write_jsonl(tmp_path / "b.jsonl", ["w1"], first=2)
    windows = read([tmp_path / "a.csv", tmp_path / "b.jsonl"])
    assert [row["id"] for _, row in rows_of(windows)] == [1, 2]


FIELD = st.text(st.sampled_from('ab1.-,;"\n\té '), max_size=8)


@settings(max_examples=80, deadline=None)
@given(
    records=st.lists(st.lists(FIELD, min_size=1, max_size=4), max_size=40),
    ending=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    block=st.sampled_from([32, 200, 1 << 20]),
)
def test_every_record_is_a_row_or_a_bad_row_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[list[str]],
    ending: str,
    quoting: Any,
    block: int,
) -> None:
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator=ending, quoting=quoting)
    writer.writerows([["id", "text", "note"], *records])
    path.write_text(stream.getvalue(), newline="")
    expected = list(enumerate(csv.reader(io.StringIO(stream.getvalue(), newline=""))))[1:]
    expected = [(number, fields) for number, (_, fields) in enumerate(expected) if fields]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_reader, "CHUNK", block)
        patch.setattr(csv_layout, "CHUNK", max(block, 100))
        patch.setattr(csv_reader, "ROWS", 3)
        windows = read([path], ("note",))
    good = [
        (n, text, note or "")
        for rows in windows
        if rows.kept is not None and rows.numbers is not None
        for n, text, note in zip(
            rows.numbers.tolist(), rows.texts[0].to_pylist(),
            rows.kept.column("note").cast(pa.string()).to_pylist(), strict=True,
        )
    ]  # fmt: skip
    wide = [(number, fields) for number, fields in expected if len(fields) == 3]
    assert [row[:2] for row in good] == [(number, fields[1]) for number, fields in wide]
    assert [_value(row[2]) for row in good] == [_value(fields[2]) for _, fields in wide]
    assert [row[0] for row in bad_of(windows)] == [n for n, f in expected if len(f) != 3]


def _value(text: str) -> object:
    """A field as its number, where it is written as one."""
    try:
        value = float(text)
    except ValueError:
        return text
    return text if math.isnan(value) else value


def test_a_row_longer_than_a_block_is_read_once_with_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_reader, "CHUNK", 64)
    long = "x\n" * 1000
    content = 'id,text\n1,a\n2\n3,"' + long + '"\n4\n5,b\n'
    windows = read_bytes(tmp_path, content.encode())
    assert [(n, row["text"]) for n, row in rows_of(windows)] == [(0, "a"), (2, long), (4, "b")]
    assert [row[0] for row in bad_of(windows)] == [1, 3]
    monkeypatch.setattr(long_fields, "LONG_TEXT", 100)
    monkeypatch.setattr(csv_reader, "LARGEST", 1000)
    again = read([tmp_path / "x.csv"])
    assert [row[0] for row in rows_of(again)] == [0, 4]
    assert bad_of(again)[1] == (2, "too_long", "text", "at most 1000 bytes", "more")


@settings(max_examples=200, deadline=None)
@given(
    records=st.lists(
        st.lists(st.text('ab",\r\né', max_size=12), min_size=2, max_size=2), max_size=6
    ),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    size=st.integers(1, 30),
    long=st.integers(2, 9),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_records_with_marks_are_those_without(
    records: list[list[str]], quoting: Any, size: int, long: int, newline: str
) -> None:
    stream = io.StringIO(newline="")
    if any("\r" in text for record in records for text in record):
        quoting = csv.QUOTE_ALL
    csv.writer(stream, quoting=quoting, lineterminator=newline).writerows(records)
    stream.write(f'a"{newline}')  # a mark in a field without marks
    raw = stream.getvalue().encode()
    blocks = [raw[i : i + size] for i in range(0, len(raw), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_fields, "LONG_TEXT", long)
        fields = LongFields(",", True, 1000)
        pieces = [piece.decode() for piece in fields.records(blocks)]
    text = "".join(pieces).removesuffix("\n")
    texts = {mark: bytes(value).decode() for mark, value in fields.texts.items()}
    read = [[texts.get(f, f) for f in row] for row in csv.reader(io.StringIO(text, newline=""))]
    assert read == [*records, ['a"']]
    assert all(len(f) <= 60 for row in csv.reader(io.StringIO(text, newline="")) for f in row)
    assert all(piece.endswith(("\n", "\r")) for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(
    records=st.lists(st.lists(st.text('ab"\n', max_size=9), min_size=1, max_size=9), max_size=6),
    size=st.integers(1, 40),
    most=st.integers(1, 6),
    longest=st.integers(5, 40),
)
def test_records_of_too_much_are_dropped_and_no_others(
    records: list[list[str]], size: int, most: int, longest: int
) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(records)
    raw = stream.getvalue().encode()
    blocks = [raw[i : i + size] for i in range(0, len(raw), size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_fields, "LONG_TEXT", 1000)
        patch.setattr(long_fields, "MOST_COLUMNS", most)
        patch.setattr(long_fields, "LONGEST", longest)
        fields = LongFields(",", True, 1000)
        text = "".join(piece.decode() for piece in fields.records(blocks)).removesuffix("\n")
    read = [*csv.reader(io.StringIO(text, newline=""))]
    assert len(read) == len(records)
    for record, row in zip(records, read, strict=True):
        written = sum(len(field) + field.count('"') + 3 for field in record)
        if row == record:
            continue
        (mark,) = row
        assert len(record) > most if fields.dropped[mark] == "fields" else written > longest


def test_a_row_of_too_many_fields_or_bytes_is_a_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_layout, "CHUNK", 2000)
    monkeypatch.setattr(csv_reader, "CHUNK", 2000)
    for module in (long_fields, csv_reader):
        monkeypatch.setattr(module, "MOST_COLUMNS", 1000)
        monkeypatch.setattr(module, "LONGEST", 20_000)
    wide, long = "," * 9000, ",".join(["x" * 90] * 900)
    windows = read_bytes(tmp_path, f"id,text\n1,a\n{wide}\n2,b\n{long}\n3,c\n".encode())
    assert [(n, row["text"]) for n, row in rows_of(windows)] == [(0, "a"), (2, "b"), (4, "c")]
    assert bad_of(windows) == [
        (1, "fields", "", "2 fields", "more than 1000"),
        (3, "too_long", "", "at most 20000 bytes", "more"),
    ]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('a,"\n'), max_size=30), st.integers(1, 9))
def test_marks_are_followed_over_blocks_as_over_the_whole(content: str, size: int) -> None:
    raw = content.encode()
    pieces = [raw[i : i + size] for i in range(0, len(raw), size)]
    assert QuoteScanner(",").scan(pieces) == QuoteScanner(",").scan([raw])
    strict = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        assert list(strict) is not None
        fault = False
    except csv.Error:
        fault = True
    assert bool(QuoteScanner(",").scan([raw])) == fault


def test_a_large_file_takes_no_more_memory_than_some_blocks(tmp_path: Path) -> None:
    drawn = random.Random(0)
    words = ["".join(drawn.choices("abcdef ", k=200)) for _ in range(100)]
    lines = [f"{i},{words[i % 100]}" for i in range(100_000)]
    (tmp_path / "x.csv").write_text("id,text\n" + "\n".join(lines))
    before, most, count = pa.total_allocated_bytes(), 0, 0
    files = corpus_files([tmp_path / "x.csv"])
    settled = data.settle(files, TEXT, ("id",))
    (split,) = data.split_files(files, 1 << 30)
    for rows in data.read(split, settled, window=1000):
        most, count = max(most, pa.total_allocated_bytes() - before), count + len(rows)
    assert count == 100_000
    assert most < 12 << 20  # of 20 MB


@pytest.mark.parametrize("first", ["a.csv", "z.csv"])
def test_values_of_csv_are_texts_beside_the_texts_of_another_kind(
    tmp_path: Path, first: str
) -> None:
    (tmp_path / first).write_text("id,text\n5,uno\n6,dos\n")
    (tmp_path / "m.jsonl").write_text('{"id": "x1", "text": "tres"}\n')
    files = data.find_files([tmp_path])
    columns = data.settle(files, TEXT, ("id",))
    assert columns.kept == pa.schema({"id": pa.string()})
    kept = [
        value
        for split in data.split_files(files, 1 << 30)
        for rows in data.read(split, columns, window=9)
        for value in rows.kept["id"].to_pylist()
    ]
    assert sorted(kept) == ["5", "6", "x1"]
