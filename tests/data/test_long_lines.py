"""A long line is read block by block, and is the row, or the bad row, that it is when it is read
whole."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import corpus_files, write_arrow

from engine import data
from engine.core.types import Column, Rows
from engine.data import kinds, line_chunks, long_lines, windows
from engine.data.columnar import BATCH_BYTES, ROWS

MARKS = ["\\", '"', "\\u0430", "\\ud83d\\ude00", "\\ud800", "é", "界", "😀", "\\n", "ab", " ", "{"]


@contextmanager
def read_in_pieces(block: int) -> Iterator[None]:
    """Lines of more than 24 bytes are long ones, and texts of 8 bytes are held apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_chunks, "CHUNK", block)
        patch.setattr(line_chunks, "LONG", 24)
        patch.setattr(long_lines, "LONG_TEXT", 8)
        yield


def read(
    path: Path, keep: Sequence[str] = (), holds: Any = "text", most: int = 0, window: int = 100
) -> list[Rows]:
    files = corpus_files([path])
    settled = replace(data.settle(files, [Column("t", holds)], keep), max_row_bytes=most)
    splits = data.split_files(files, 1 << 30)
    return [rows for split in splits for rows in data.read(split, settled, window=window)]


def contents(several: Sequence[Rows]) -> tuple[list[object], ...]:
    """Texts, kept columns, their rows, and the bad rows with all details."""
    kept = [row for w in several for row in (w.kept.to_pylist() if w.kept is not None else [])]
    rejects = [w.rejects for w in several]
    faults = [
        fault
        for r in rejects
        for fault in zip(r.rows.tolist(), r.codes, r.columns, r.expected, r.found, strict=True)
    ]
    texts = [text for w in several for text in w.texts[0].to_pylist()]
    return texts, kept, [n for w in several for n in w.numbers.tolist()], faults


strings = st.lists(st.sampled_from(MARKS), max_size=12).map("".join)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line with strings of all kinds, good or bad, long or short."""
    one = st.one_of(
        strings.map(lambda raw: f'"{raw}"'),
        st.text(max_size=30).map(json.dumps),
        st.text(max_size=30).map(lambda text: json.dumps(text, ensure_ascii=False)),
    )
    values = st.one_of(one, st.sampled_from(["null", "1", "1.5", "[]", '["ab", "abcdefghijkl"]']))
    keys = draw(st.permutations(["t", "k", "x", "y"]))[: draw(st.integers(1, 4))]
    fields = [f'"{key}"{draw(st.sampled_from([":", ": ", " :"]))}{draw(values)}' for key in keys]
    line = "{" + ", ".join(fields) + "}"
    return line.encode("utf-8", "surrogatepass").replace(b"\n", b"")


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(some=st.lists(lines(), min_size=1, max_size=6), block=st.integers(5, 40), dice=st.randoms())
def test_a_line_is_the_row_that_it_is_when_it_is_read_whole(
    tmp_path: Path, some: list[bytes], block: int, dice: random.Random
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"t": "a", "k": "b"}\n' + b"\n".join(some) + dice.choice([b"", b"\n"]))
    whole = contents(read(path, ["k"]))
    with read_in_pieces(block):
        pieces = contents(read(path, ["k"]))
    assert pieces[:3] == whole[:3]
    # What is wrong with a line that has several faults depends on which is seen first.
    assert [fault[0] for fault in pieces[3]] == [fault[0] for fault in whole[3]]


@pytest.mark.parametrize("block", [7, 64, 1 << 20])
@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ("a long text, and more of it", "text"),
        (["short", "a long text, and more", None, "and another long one"], "texts"),
        ([{"role": "user", "content": "a long message and more"}], "chat"),
    ],
)
def test_long_texts_are_found_at_any_depth(
    tmp_path: Path, value: Any, holds: str, block: int
) -> None:
    path = tmp_path / "a.jsonl"
    kept = {"title": "a title that is long", "n": 3, "deep": [{"of": "something that is long"}]}
    rows = [{"t": value, "k": kept, "x": "not taken, however long it is"}] * 3
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = contents(read(path, ["k"], holds))
    with read_in_pieces(block):
        assert contents(read(path, ["k"], holds)) == whole
    assert whole[2] == [0, 1, 2] or holds == "texts"


def test_the_next_lines_keep_their_numbers_behind_one_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_lines, "LONGEST", 400)
    path = tmp_path / "a.jsonl"
    lines = [
        {"t": "a"},
        {"t": "b", "more": [12345] * 100},  # more than can be held, besides its text
        {"t": "c" * 500},
        {"t": "d", "x": "x" * 5_000},  # which is not held
        {"t": "e"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with read_in_pieces(32):
        texts, _, rows, faults = contents(read(path, most=499))
    assert (texts, rows) == (["a", "d", "e"], [0, 3, 4])
    assert [fault[:3] for fault in faults] == [(1, "too_long", ""), (2, "too_long", "t")]
    assert faults[1][3:] == ("at most 499 bytes", "more")


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "arrow"])
@pytest.mark.parametrize("most", [0, 3, 4, 100])
def test_rows_beyond_max_row_bytes_are_bad_rows(tmp_path: Path, ending: str, most: int) -> None:
    texts = ["abc", "abcd", "é", "éé", "ééé", "", None]
    path, table = tmp_path / f"a.{ending}", pa.table({"t": texts})
    if ending == "jsonl":
        path.write_text("".join(json.dumps({"t": text}) + "\n" for text in texts))
    elif ending == "parquet":
        pq.write_table(table, path)
    else:
        write_arrow(path, table)
    _, _, rows, faults = contents(read(path, most=most))
    sizes = [len((text or "").encode()) for text in texts]
    long = [n for n, size in enumerate(sizes) if most and size > most]
    assert [(row, code) for row, code, *_ in faults if code == "too_long"] == [
        (row, "too_long") for row in long
    ]
    assert rows == [n for n in range(6) if n not in long]


def test_bytes_of_lists_and_messages_count_together(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"t": ["abc", "de"]}\n{"t": ["abc", "def"]}\n{"t": []}\n')
    assert contents(read(path, holds="texts", most=5))[2:][0] == [0, 2]
    path.write_text(
        '{"t": [{"role": "a", "content": "bcd"}]}\n{"t": [{"role": "abc", "content": "de"}]}\n'
    )
    assert contents(read(path, holds="chat", most=4))[2] == [0]


def test_a_key_that_is_long_makes_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"t": "a"}\n{"t": "a", "a key of many letters": 1}\n{"t": "b"}\n')
    with read_in_pieces(16):
        _, _, rows, faults = contents(read(path, ["all"]))
    assert rows == [0, 2]
    assert faults[0][:2] == (1, "too_long")


def test_parquet_rows_that_are_long_are_read_few_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    text = "".join(map(str, range(BATCH_BYTES // 24)))
    pq.write_table(pa.table({"t": [text + str(n) for n in range(8)], "x": range(8)}), path)
    (split,) = data.split_files(corpus_files([path]), 1 << 30)
    settled = data.settle([split.file], [Column("t")], ())
    stretches = list(kinds.KINDS["parquet"].read(split, settled))
    assert max(map(len, stretches)) < 8 < ROWS
    assert sum(map(len, stretches)) == 8


def test_a_long_row_is_a_window_of_its_own_before_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "WINDOW_BYTES", 100)
    path = tmp_path / "a.jsonl"
    texts = ["a", "b" * 200, "c" * 300, "d", "e" * 400]
    path.write_text("".join(json.dumps({"t": text}) + "\n" for text in texts))
    with read_in_pieces(16):
        several = read(path)
    assert [rows.numbers.tolist() for rows in several if rows.numbers is not None] == [
        [0],
        [1],
        [2],
        [3],
        [4],
        [],
    ]
    assert [rows.last for rows in several] == [False] * 5 + [True]
