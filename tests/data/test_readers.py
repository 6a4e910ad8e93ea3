"""Paths to splits to rows: nothing lost, nothing doubled, bad rows set aside by number."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fakes import corpus_files, write_arrow, write_jsonl, write_parquet

from engine import data
from engine.core.types import Column, Rows, Split
from engine.data import columnar, json_objects, jsonl, kinds, line_chunks, long_lines
from engine.data import splits as split_module
from engine.data import windows as window_reader
from engine.errors import ColumnError, EngineError, InputError

few = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def windows(
    path: Path,
    *,
    text: Sequence[str] = ("text",),
    keep: Sequence[str] = (),
    window: int = 1000,
    limit: int = 0,
    split_size: int = 1 << 30,
) -> list[Rows]:
    return [
        read
        for split in data.split_files(corpus_files([path]), split_size)
        for read in read_rows(split, text=text, keep=keep, window=window, limit=limit)
    ]


def read_rows(
    split: Split, *, text: Sequence[str], keep: Sequence[str], window: int, limit: int = 0
) -> Iterator[Rows]:
    settled = data.settle([split.file], columns(text), keep)
    return data.read(split, settled, window=window, limit=limit)


def find(inputs: Sequence[str | Path]) -> list[Path]:
    return [file.path for file in data.find_files(inputs)]


def columns(names: Sequence[str]) -> list[Column]:
    return [Column(name) for name in names]


def good(read: Sequence[Rows]) -> list[str]:
    return [text for rows in read for text in rows.texts[0].to_pylist()]


def bad(read: Sequence[Rows]) -> list[tuple[int, str]]:
    return [
        pair
        for rows in read
        for pair in zip(rows.rejects.rows.tolist(), rows.rejects.codes, strict=True)
    ]


def kept(read: Sequence[Rows]) -> pa.Table:
    return pa.Table.from_batches([rows.kept for rows in read])


def zst(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def noise(rows: int) -> bytes:
    """JSON lines that do not compress well, so that cuts and flips fall into the data."""
    drawn = random.Random(0)
    return b"".join(b'{"text": "%032x"}\n' % drawn.getrandbits(128) for _ in range(rows))


# find


def test_find_gives_files_folders_and_globs_once_each_sorted_and_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = write_jsonl(tmp_path / "b/one.jsonl", ["w1"])
    b = write_parquet(tmp_path / "a/deep/two.parquet", ["w1"])
    (tmp_path / "a/notes.txt").write_text("not an input")
    monkeypatch.chdir(tmp_path)
    wanted = [b, a]
    assert find(["b/one.jsonl", tmp_path / "a"]) == wanted
    assert find(["b/../b/one.jsonl", "**/*.parquet", "a", "./b/*"]) == wanted
    assert find([tmp_path]) == wanted
    assert all(path.is_absolute() for path in find(["b"]))


def test_find_leaves_hidden_and_underscored_names_below_a_folder_out(tmp_path: Path) -> None:
    seen = write_jsonl(tmp_path / "seen.jsonl", ["w1"])
    for name in (".hidden.jsonl", "_part.jsonl", ".git/x.jsonl", "_manifest/x.jsonl"):
        write_jsonl(tmp_path / name, ["w1"])
    assert find([tmp_path]) == [seen]
    assert find([tmp_path / "_part.jsonl"]) == [tmp_path / "_part.jsonl"]


def test_find_expands_a_folder_that_a_glob_matches_as_if_it_were_named(tmp_path: Path) -> None:
    part = write_parquet(tmp_path / "table.parquet/part-0.parquet", ["w1"])
    write_jsonl(tmp_path / "other/x.jsonl", ["w1"])
    (tmp_path / "empty").mkdir()
    assert find([tmp_path / "*.parquet"]) == [part]
    assert find([tmp_path / "*"]) == find([tmp_path])


def test_find_takes_a_name_with_glob_characters_literally_where_it_exists(tmp_path: Path) -> None:
    odd = write_jsonl(tmp_path / "a[1].jsonl", ["w1"])
    assert find([odd]) == [odd]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ftp://bucket/x.parquet", "no store that is known"),
        ("table.docx", "unknown ending"),
        ("missing.jsonl", "corpus.jsonl, hollow, more.parquet"),
        ("nowhere/missing.jsonl", "does not exist either"),
        ("*.pq", "nothing matches"),
        ("*.docx", "nothing matches"),
        ("hollow", "no input files in this folder"),
        ("x" * 5000 + ".jsonl", "too long"),
    ],
)
def test_find_says_what_is_wrong_with_an_input(tmp_path: Path, name: str, says: str) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", ["w1"])
    write_parquet(tmp_path / "more.parquet", ["w1"])
    (tmp_path / "table.docx").write_text("text\na\n")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow/readme.md").write_text("nothing here")
    with pytest.raises(EngineError) as caught:
        find([name if "://" in name else tmp_path / name])
    assert says in str(caught.value)


def test_find_without_inputs_is_an_error() -> None:
    with pytest.raises(InputError, match="no input"):
        find([])


@pytest.mark.parametrize("ending", sorted(kinds.ENDINGS))
def test_every_ending_is_known_in_capitals_too(ending: str) -> None:
    assert data.kind_of(Path(f"x{ending.upper()}")) == kinds.ENDINGS[ending]


# plan


@few
@given(
    lines=st.lists(st.text("ab", max_size=12), max_size=40),
    size=st.integers(1, 60),
    ending=st.booleans(),
)
def test_byte_ranges_of_a_jsonl_file_are_the_file(
    tmp_path: Path, lines: list[str], size: int, ending: bool
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(lines) + ("\n" if ending else ""))
    content = path.read_bytes()
    splits = list(data.split_files(corpus_files([path]), size))
    assert b"".join(content[s.start : s.stop] for s in splits) == content
    assert [s.start for s in splits] == [0, *(s.stop for s in splits[:-1])]
    assert [s.ordinal for s in splits] == list(range(len(splits)))
    for split in splits:
        assert split.first_row == content[: split.start].count(b"\n")
        assert split.start == 0 or content[split.start - 1 : split.start] == b"\n"
        # A split ends with the first line that makes it large enough, or with the file.
        enough = content.find(b"\n", split.start + size - 1) + 1
        assert split.stop == (enough or len(content))


def test_a_line_longer_than_a_split_and_than_a_read_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_module, "_CHUNK", 7)
    path = write_jsonl(tmp_path / "x.jsonl", ["w1", "w2 " * 100, "w3"])
    splits = list(data.split_files(corpus_files([path]), 20))
    assert len(splits) == 3
    assert good(windows(path, split_size=20)) == ["w1", "w2 " * 100, "w3"]


@few
@given(rows=st.integers(0, 60), group=st.integers(1, 20), size=st.integers(1, 4000))
def test_row_group_ranges_of_a_parquet_file_are_the_file(
    tmp_path: Path, rows: int, group: int, size: int
) -> None:
    path = write_parquet(tmp_path / "x.parquet", [f"w{i}" for i in range(rows)], group=group)
    splits = list(data.split_files(corpus_files([path]), size))
    groups = pq.ParquetFile(path).metadata.num_row_groups
    assert splits[0].start == 0
    assert splits[-1].stop == path.stat().st_size
    assert [s.start for s in splits[1:]] == [s.stop for s in splits[:-1]]
    if len(splits) > 1:
        assert [s.row_groups[0] for s in splits] == [0, *(s.row_groups[1] for s in splits[:-1])]
        assert splits[-1].row_groups[1] == groups
    read = windows(path, keep=["id"], split_size=size)
    assert good(read) == [f"w{i}" for i in range(rows)]
    assert kept(read)["id"].to_pylist() == list(range(rows))
    assert [s.first_row for s in splits] == [
        sum(data.estimate_rows(s) for s in splits[:i]) for i in range(len(splits))
    ]


def test_a_parquet_file_without_row_groups_is_one_split_however_small_splits_are(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.parquet"
    pq.ParquetWriter(path, pa.schema([("text", pa.string())])).close()
    (split,) = data.split_files(corpus_files([path]), 1)
    assert (split.start, split.stop) == (0, path.stat().st_size)
    assert good(windows(path, split_size=1)) == []


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst", "arrow"])
def test_what_cannot_be_entered_in_the_middle_is_one_split(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "arrow":
        write_arrow(path, pa.table({"text": ["w1"] * 500}))
    else:
        path.write_bytes((gzip.compress if kind == "jsonl.gz" else zst)(noise(100)))
    assert len(list(data.split_files(corpus_files([path]), 10))) == 1


def test_split_names_depend_on_the_place_in_the_corpus_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "a/x.jsonl", ["w1 w2 w3"] * 9)
    monkeypatch.chdir(tmp_path)
    alone = [s.name for s in data.split_files(data.find_files(["a"]), 100)]
    write_jsonl(tmp_path / "b/x.jsonl", ["w1"])
    write_jsonl(tmp_path / "a/aa.jsonl", ["w1"])
    for spelled in (["a/*.jsonl"], ["./a/../a"], [tmp_path / "a"], ["a/x.jsonl", "a/aa.jsonl"]):
        splits = list(data.split_files(data.find_files(spelled), 100))
        assert [s.name for s in splits if s.path.name == "x.jsonl"] == alone
    (tmp_path / "a").rename(tmp_path / "moved")
    splits = list(data.split_files(data.find_files(["moved"]), 100))
    assert [s.name for s in splits if s.path.name == "x.jsonl"] == alone


def test_files_of_one_name_have_names_of_their_own(tmp_path: Path) -> None:
    for folder in ("a/x", "b/x", "c"):
        write_jsonl(tmp_path / folder / "one.jsonl", ["w1"])
    inputs = [tmp_path / "a/x/one.jsonl", tmp_path / "b/x", tmp_path / "c/*.jsonl"]
    files = data.find_files(inputs)
    assert [file.name for file in files] == ["a/x/one.jsonl", "b/x/one.jsonl", "c/one.jsonl"]
    names = [split.name for split in data.split_files(files, 1 << 20)]
    assert len(set(names)) == 3


def test_a_split_is_named_after_its_file_and_the_hash_of_its_name(tmp_path: Path) -> None:
    """Part files are called after it, and a later version has to find them."""
    write_jsonl(tmp_path / "deep/rows.of.2024.jsonl", ["w1"])
    (split,) = data.split_files(data.find_files([tmp_path]), 1 << 20)
    assert split.name == f"rows-{hashlib.sha256(b'deep/rows.of.2024.jsonl').hexdigest()[:8]}"


def test_a_split_name_fits_a_file_system_whatever_the_file_is_called(tmp_path: Path) -> None:
    long = write_jsonl(tmp_path / ("é" * 120 + ".jsonl"), ["w1"])
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl"))
    write_jsonl(odd, ["w1"])
    for split in data.split_files(corpus_files([long, odd]), 1 << 20):
        name = f"part-00000-{split.name}.parquet"
        assert len(os.fsencode(name)) <= 255


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.jsonl"):
        list(data.split_files(corpus_files([tmp_path / "x.jsonl"]), 100))
    split = Split(corpus_files([tmp_path / "x.jsonl"])[0], 0, "x", 0, 10)
    with pytest.raises(InputError, match=r"x\.jsonl"):
        data.content_hash(split)
    assert data.estimate_rows(split) == 0


def test_identity_is_the_hash_of_a_files_bytes(tmp_path: Path) -> None:
    for path in (
        write_jsonl(tmp_path / "x.jsonl", ["w1"] * 9),
        write_parquet(tmp_path / "x.parquet", ["w1"] * 9),
    ):
        (split,) = data.split_files(corpus_files([path]), 1 << 30)
        assert data.content_hash(split) == hashlib.sha256(path.read_bytes()).hexdigest()


def changed(path: Path, content: bytes, split_size: int) -> list[bool]:
    """Which splits of a file are others after its content is replaced."""
    before = [data.content_hash(s) for s in data.split_files(corpus_files([path]), split_size)]
    path.write_bytes(content)
    after = [data.content_hash(s) for s in data.split_files(corpus_files([path]), split_size)]
    assert len(before) == len(after) > 3
    return [a != b for a, b in zip(before, after, strict=True)]


def test_a_change_touches_its_own_split_only_unless_all_depend_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_module, "_CHUNK", 60)
    path = write_jsonl(tmp_path / "x.jsonl", [f"w{i:02}" for i in range(50)])
    content = path.read_bytes()
    tail = changed(path, content.replace(b'"w49"', b'"w48"'), 400)
    assert tail == [False] * (len(tail) - 1) + [True]
    path.write_bytes(content)
    assert changed(path, content.replace(b'"w20"', b'"w21"'), 400).count(True) == 1
    path.write_bytes(content)
    # The first lines say of what types the kept columns are, in every split.
    assert all(changed(path, content.replace(b'"id": 0,', b'"id":.0,'), 400))
    path.write_bytes(content)
    assert all(changed(path, b" " + content[1:], 400))


def test_another_footer_makes_every_split_of_a_parquet_file_another(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [f"w{i}" for i in range(50)], group=10)
    table = pq.read_table(path).rename_columns(["no", "text"])
    pq.write_table(table, tmp_path / "y.parquet", row_group_size=10)
    assert all(changed(path, (tmp_path / "y.parquet").read_bytes(), 200))


def test_every_byte_of_a_parquet_footer_is_in_the_hash_of_every_split(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [f"w{i}" for i in range(50)], group=10)
    content = path.read_bytes()
    first, *_ = data.split_files(corpus_files([path]), 200)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    hashes = []
    for at in [footer - 1, *range(footer, len(content) - 8)]:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        hashes.append(data.content_hash(first))
    path.write_bytes(content)
    assert hashes[0] == data.content_hash(first), "the byte before it belongs to the last split"
    assert len(set(hashes)) == len(hashes)


def test_a_word_in_the_dictionary_of_a_row_group_belongs_to_the_split_of_that_group(
    tmp_path: Path,
) -> None:
    """The dictionary page stands before the pages of data; a resumed run must see its change."""
    files = []
    for word in ("apple", "grape"):
        texts = [f"w{n:04}" for n in range(40)]
        texts[25] = word
        files.append(tmp_path / f"{word}.parquet")
        pq.write_table(pa.table({"text": texts}), files[-1], row_group_size=10,
                       compression="none", write_statistics=False)  # fmt: skip
    chunk = pq.ParquetFile(files[0]).metadata.row_group(2).column(0)
    assert chunk.dictionary_page_offset < chunk.data_page_offset
    # The two files differ in nothing but that word.
    assert files[1].read_bytes() == files[0].read_bytes().replace(b"apple", b"grape")
    assert changed(files[0], files[1].read_bytes(), 1) == [False, False, True, False]


def test_expected_rows_are_near_the_truth_where_it_is_cheap_to_know(tmp_path: Path) -> None:
    lines = write_jsonl(tmp_path / "x.jsonl", ["w1 w2"] * 1000)
    (tmp_path / "e.jsonl").write_bytes(b"")
    (split,) = data.split_files(corpus_files([lines]), 1 << 30)
    assert data.estimate_rows(split) == pytest.approx(1000, rel=0.1)
    assert (
        data.estimate_rows(next(data.split_files(corpus_files([tmp_path / "e.jsonl"]), 1 << 30)))
        == 0
    )
    path = write_parquet(tmp_path / "x.parquet", ["w1"] * 77)
    assert data.estimate_rows(next(data.split_files(corpus_files([path]), 1 << 30))) == 77


# read: every kind

LINES = ["w1", "uno dos", "ø 漢字 🎉", 'a "quote" \\ and \n newline', "", "  spaces  "]


def make(folder: Path, kind: str, texts: Sequence[str | None]) -> Path:
    path = folder / f"x.{kind.removesuffix('-stream')}"
    table = pa.table({"id": pa.array(range(len(texts)), pa.int64()),
                      "text": pa.array(texts, pa.string())})  # fmt: skip
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind.startswith("arrow"):
        write_arrow(path, table, stream=kind.endswith("stream"))
    else:
        content = write_jsonl(folder / "plain.jsonl", texts).read_bytes()
        pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zst}[kind]
        path.write_bytes(pack(content))
    return path


KINDS = ("parquet", "arrow", "arrow-stream", "jsonl", "jsonl.gz", "jsonl.zst")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_its_rows_in_order_with_the_kept_columns(
    tmp_path: Path, kind: str
) -> None:
    texts = LINES * 300
    path = make(tmp_path, kind, texts)
    read = windows(path, keep=["id"], window=700)
    assert good(read) == texts
    assert kept(read).to_pydict() == {"id": list(range(len(texts)))}
    assert [len(r) for r in read] == [700, 700, 400]
    assert [r.last for r in read] == [False, False, True]
    assert kept(windows(path, keep=("all",))).column_names == ["id", "text"]


@pytest.mark.parametrize("kind", KINDS)
def test_null_texts_are_rejected_with_their_numbers(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path, kind, ["w1", None, "w3", None, None, "w6"])
    read = windows(path, keep=["id"])
    assert good(read) == ["w1", "w3", "w6"]
    assert bad(read) == [(1, "null_text"), (3, "null_text"), (4, "null_text")]
    assert kept(read)["id"].to_pylist() == [0, 2, 5]
    error = data.first_error(read[0])
    assert error is not None
    assert (error.row, error.code, error.path) == (1, "null_text", str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_counts_good_and_bad_rows(tmp_path: Path, kind: str) -> None:
    texts = [f"w{i}" if i % 3 else None for i in range(1400)]
    path = make(tmp_path, kind, texts)
    for limit in (1, 2, 511, 512, 513, 1399, 1400, 5000):
        read = windows(path, window=100, limit=limit)
        assert good(read) == [t for t in texts[:limit] if t]
        assert [r for r, _ in bad(read)] == [i for i, t in enumerate(texts[:limit]) if not t]
        assert read[-1].last


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_without_rows_gives_one_empty_last_window(tmp_path: Path, kind: str) -> None:
    (only,) = windows(make(tmp_path, kind, []), keep=["id"])
    assert len(only) == 0
    assert only.last
    assert only.kept is not None
    assert only.kept.schema.names == ["id"]


@few
@given(
    texts=st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=60),
    window=st.integers(1, 30),
    kind=st.sampled_from(["parquet", "jsonl", "arrow"]),
)
def test_windows_cut_the_rows_and_change_none(
    tmp_path: Path, texts: list[str | None], window: int, kind: str
) -> None:
    texts = [t if t is None else t.encode("utf-8", "ignore").decode() for t in texts]
    read = windows(make(tmp_path, kind, texts), keep=["id"], window=window)
    assert good(read) == [t for t in texts if t is not None]
    assert bad(read) == [(i, "null_text") for i, t in enumerate(texts) if t is None]
    assert kept(read)["id"].to_pylist() == [i for i, t in enumerate(texts) if t is not None]
    assert all(len(r) <= window for r in read)
    assert [r.last for r in read] == [False] * (len(read) - 1) + [True]


def test_a_window_of_long_texts_ends_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_reader, "WINDOW_BYTES", 4000)
    monkeypatch.setattr(columnar, "ROWS", 10)
    monkeypatch.setattr(line_chunks, "CHUNK", 1000)
    texts = ["x" * 100] * 200
    for kind in ("parquet", "arrow", "jsonl"):
        read = windows(make(tmp_path, kind, texts))
        assert good(read) == texts
        assert len(read) > 4
        assert all(sum(map(len, r.texts[0].to_pylist())) <= 4000 for r in read)


def test_bad_rows_do_not_pile_up_until_a_good_one_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "ROWS", 10)
    monkeypatch.setattr(line_chunks, "CHUNK", 200)
    for kind in ("parquet", "arrow", "jsonl"):
        read = windows(make(tmp_path, kind, [None] * 400), window=50)
        assert [row for row, _ in bad(read)] == list(range(400))
        assert max(len(r.rejects.rows) for r in read) <= 60
        assert all(not r.last for r in read[:-1])


def test_only_the_needed_columns_travel(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1], "text": ["w1"], "b": [2], "text.more": ["w2"]}), path)
    (only,) = windows(path)
    assert only.kept is not None
    assert only.kept.num_columns == 0
    (both,) = windows(path, keep=["b", "a", "b"])
    assert both.kept is not None
    assert both.kept.schema.names == ["b", "a"]
    assert good(windows(path, text=["text.more"])) == ["w2"]


def test_pairs_need_both_texts(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": ["w1", None, "w3"], "b": ["x1", "x2", None]}), path)
    (read,) = windows(path, text=["b", "a"], keep=("all",))
    assert [c.to_pylist() for c in read.texts] == [["x1"], ["w1"]]
    assert bad([read]) == [(1, "null_text"), (2, "null_text")]


# read: columns and their types


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_every_string_type_is_text_and_can_be_kept(
    tmp_path: Path, kind: pa.DataType, ending: str
) -> None:
    texts = ["w1", None, "w3"] * 300
    column = pa.array(texts, pa.string())
    column = column.dictionary_encode().cast(kind) if "dict" in str(kind) else column.cast(kind)
    table = pa.table({"text": column, "other": column})
    path = tmp_path / f"x.{ending}"
    if ending == "parquet":
        pq.write_table(table, path, row_group_size=250)
    else:
        write_arrow(path, table)
    read = windows(path, keep=["other"], window=100)
    assert good(read) == ["w1", "w3"] * 300
    assert kept(read)["other"].to_pylist() == ["w1", "w3"] * 300
    assert len(bad(read)) == 300


def test_dictionaries_that_change_between_row_groups_give_one_schema(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    values = pa.array([f"v{i}" for i in range(40)]).dictionary_encode()
    pq.write_table(pa.table({"text": values, "k": values}), path, row_group_size=7)
    read = windows(path, keep=["k"], window=10)
    assert kept(read)["k"].to_pylist() == [f"v{i}" for i in range(40)]


def test_a_null_typed_text_column_is_all_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": pa.nulls(3)}), path)
    assert bad(windows(path)) == [(i, "null_text") for i in range(3)]


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl"])
def test_a_wrong_column_names_those_that_are_there(tmp_path: Path, ending: str) -> None:
    path = make(tmp_path, ending, ["w1"])
    with pytest.raises(ColumnError) as caught:
        windows(path, text=["body"])
    assert "'body'" in caught.value.message
    assert "'id', 'text'" in caught.value.hint
    assert "--text" in caught.value.hint
    with pytest.raises(ColumnError, match="--keep"):
        windows(path, keep=["id", "lost"])


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_column_of_another_type_is_refused(tmp_path: Path, ending: str) -> None:
    path = make(tmp_path, ending, ["w1"])
    with pytest.raises(ColumnError, match="holds int64, not text"):
        windows(path, text=["id"])


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["w1"])] * 2, names=["text", "text"])
    with pytest.raises(InputError, match="two columns are called 'text'"):
        windows(write_arrow(tmp_path / "x.arrow", twice))


def test_a_parquet_file_without_columns_has_no_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({}), tmp_path / "x.parquet")
    for size in (1, 1 << 30):
        with pytest.raises(ColumnError, match="it has no columns"):
            windows(tmp_path / "x.parquet", split_size=size)


# read: invalid bytes


def with_invalid(kind: pa.DataType) -> pa.Array:
    large = kind == pa.large_string()
    values = pa.array([b"w1", b"\xff\xfe", b"w3"], pa.large_binary() if large else pa.binary())
    if kind == pa.string_view():
        return values.cast(pa.binary_view()).view(kind)
    return values.view(kind)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
@pytest.mark.parametrize("column", ["text", "other"])
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_invalid_utf8_is_a_bad_row_in_text_and_in_kept_columns(
    tmp_path: Path, kind: pa.DataType, column: str, ending: str
) -> None:
    fine = pa.array(["x1", "x2", "x3"])
    table = pa.table({"text": fine, "other": fine, column: with_invalid(kind)})
    path = tmp_path / f"x.{ending}"
    pq.write_table(table, path) if ending == "parquet" else write_arrow(path, table)
    read = windows(path, keep=["other"])
    assert bad(read) == [(1, "invalid_utf8")]
    assert len(good(read)) == kept(read).num_rows == 2
    assert good(windows(path, text=["text" if column == "other" else "other"])) == [
        "x1",
        "x2",
        "x3",
    ]


def test_invalid_utf8_in_a_dictionary_is_bad_in_the_rows_that_point_at_it(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1, 2, None]), with_invalid(pa.string()))
    path = write_arrow(tmp_path / "x.arrow", pa.table({"text": column}))
    assert bad(windows(path)) == [(1, "invalid_utf8"), (2, "invalid_utf8"), (4, "null_text")]


def test_damage_within_an_arrow_file_is_no_row_policy(tmp_path: Path) -> None:
    beyond = pa.DictionaryArray.from_arrays(pa.array([0, 99]), pa.array(["w1", "w2"]), safe=False)
    offsets = pa.py_buffer(np.array([0, 1, 10**9, 3], np.int32).tobytes())
    jumping = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"abc")])
    for column in (beyond, jumping):
        path = write_arrow(tmp_path / "x.arrow", pa.table({"text": column}))
        with pytest.raises(InputError, match=r"x\.arrow"):
            windows(path)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"text": "w1"', "broken_json"),
        (b'{"text": "w1"},', "broken_json"),
        (b'{"text": "w1"}{"text": "w2"}', "broken_json"),
        (b'{"text": "w1"} null', "broken_json"),
        (b"{'text': 'w1'}", "broken_json"),
        (b'{"text": "tab\there"}', "broken_json"),
        (b'{"text": "nul\0here"}', "broken_json"),
        (b'{"text": "w1"}\0', "broken_json"),
        (b'\xef\xbb\xbf{"text": "w1"}', "broken_json"),
        (b"not json", "broken_json"),
        (b"null", "not_object"),
        (b"[1, 2]", "not_object"),
        (b'["text"]', "not_object"),
        (b'"text"', "not_object"),
        (b"12", "not_object"),
        (b"true", "not_object"),
        (b'{"text": 12}', "not_text"),
        (b'{"text": 1.5}', "not_text"),
        (b'{"text": NaN}', "not_text"),
        (b'{"text": true}', "not_text"),
        (b'{"text": ["w1"]}', "not_text"),
        (b'{"text": {"a": 1}}', "not_text"),
        (b'{"text": null}', "null_text"),
        (b"{}", "null_text"),
        (b'{"id": 3}', "null_text"),
        (b'{"text": "\xff"}', "invalid_utf8"),
        (b"\xff", "invalid_utf8"),
        (b'{"text": "\\ud800"}', "invalid_utf8"),
        (b'{"text": "w1", "id": "three"}', "kept_type"),
        (b'{"text": "w1", "id": [1]}', "kept_type"),
        (b'{"text": "w1", "id": %d}' % 10**76, "kept_type"),
    ],
)
@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_bad_line_is_rejected_with_its_reason(
    tmp_path: Path, line: bytes, code: str, at: int
) -> None:
    lines = [b'{"id": %d, "text": "w%d"}' % (i, i) for i in range(6)]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([*lines[:at], line, *lines[at:]]))
    read = windows(path, keep=["id"])
    assert bad(read) == [(at, code)]
    assert good(read) == [f"w{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"null", "not_object"),
        (b"null\nnull", "not_object"),
        (b"7", "not_object"),
        (b"oops", "broken_json"),
        (b"\xff", "invalid_utf8"),
        (b'{"text": 7}', "not_text"),
        (b'{"text": "\xff"}', "invalid_utf8"),
    ],
)
def test_a_file_may_hold_nothing_but_bad_lines(tmp_path: Path, line: bytes, code: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(line)
    assert bad(windows(path)) == [(i, code) for i in range(line.count(b"\n") + 1)]


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "w1", "more": "\xff"}',
        b'{"text": "w1", "\xff": 1}',
        b'{"text": "w1", "more": %s}' % (b"1" * 5000),
        b'{"text": "w1", "more": %s}' % (b"[" * 400 + b"]" * 400),
        b'{"text": "w1", "more": NaN}',
        b'{"text": "w1", "more": "\\ud800"}',
        b'{"text": "w1", "more": 1, "more": 2}',
        b'{"text": "w0", "text": "w1"}',
        b'{"te\\u0078t": "w1"}',
        b' {"text": "w1"}',
        b'{"text": "w1"}\r',
        b'\t{ "text" : "w1" } ',
        b'{"text": "w1", "id": 5.0}',
    ],
)
def test_a_good_line_is_good_whatever_its_neighbours_are(tmp_path: Path, line: bytes) -> None:
    first = b'{"id": 1, "f": 0.5, "text": "w0"}'
    path = tmp_path / "x.jsonl"
    rows = []
    for neighbour in (first, b"broken", b"", b'{"text": null}'):
        path.write_bytes(b"\n".join([first, neighbour, line]))
        read = windows(path, keep=["id", "f"])
        assert good(read)[-1] == "w1"
        rows.append(kept(read).to_pylist()[-1])
    assert all(other == rows[0] for other in rows)


def test_blank_lines_are_no_rows_but_count(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\n{"text": "w1"}\n\n   \r\n{"text": null}\n\n\n{"text": "w2"}\n\n')
    read = windows(path)
    assert good(read) == ["w1", "w2"]
    assert bad(read) == [(4, "null_text")]


def test_objects_that_share_a_line_or_run_over_lines_are_broken_though_the_sums_agree(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "w1"}{"text": "w2"}\n\n{"text": "w3"}\n')
    assert (good(windows(path)), bad(windows(path))) == (["w3"], [(0, "broken_json")])
    path.write_bytes(b'{"text":\n"w1"}{"text": "w2"}\n')
    assert bad(windows(path)) == [(0, "broken_json"), (1, "broken_json")]
    path.write_bytes(b'{"text": "w1", "m": {"a": 1\n}}{"text": "w2"}\n{"text": "w3"}\n')
    assert (good(windows(path)), bad(windows(path))) == (
        ["w3"],
        [(0, "broken_json"), (1, "broken_json")],
    )


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ending", [True, False])
@pytest.mark.parametrize("chunk", [3, 17, 1 << 20])
def test_marks_newlines_and_a_missing_last_one_change_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    newline: bytes,
    bom: bytes,
    ending: bool,
    chunk: int,
) -> None:
    monkeypatch.setattr(line_chunks, "CHUNK", chunk)
    lines = [b'{"id": %d, "text": "w%d"}' % (i, i) for i in range(20)]
    content = bom + newline.join(lines) + (newline if ending else b"")
    for name, pack in (("x.jsonl", bytes), ("x.jsonl.gz", gzip.compress), ("x.ndjson.zst", zst)):
        (tmp_path / name).write_bytes(pack(content))
        read = windows(tmp_path / name, keep=["id"])
        assert good(read) == [f"w{i}" for i in range(20)]
        assert bad(read) == []
        assert kept(read)["id"].to_pylist() == list(range(20))


def test_types_of_kept_columns_come_from_the_head_of_the_file_in_every_split(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.jsonl"
    lines = [{"text": f"w{i}", "v": i if i else 0.5, "tags": ["a"] if i == 0 else [],
              "meta": {"a": i}} for i in range(30)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = windows(path, keep=("all",), split_size=200)
    assert len({r.split for r in read}) > 3
    table = kept(read)
    assert table.schema.field("v").type == pa.float64()
    assert table.to_pylist() == lines


def test_mixed_types_of_a_kept_column_make_the_odd_rows_bad(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [{"text": "w1", "v": v} for v in (1, "two", None, 3, True, 4)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = windows(path, keep=["v"])
    assert bad(read) == [(1, "kept_type"), (4, "kept_type")]
    assert kept(read)["v"].to_pylist() == [1, None, 3, 4]
    assert len(good(windows(path))) == 6


def test_a_type_that_comes_late_counts_as_one_that_comes_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_chunks, "CHUNK", 60)
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        b"".join(b'{"text": "w1", "v": %d}\n' % i for i in range(9))
        + b"""
{"text": "w2", "v": 9.5}
{"text": "w3", "v": "ten"}
"""
    )
    for split_size in (40, 1 << 30):
        read = windows(path, keep=["v"], split_size=split_size)
        assert bad(read) == [(11, "kept_type")]
        assert kept(read)["v"].to_pylist() == [*range(9), 9.5]


@few
@given(
    parts=st.lists(
        st.sampled_from([".", '"', ":", ",", "-", " ", "0", "9" * 7, "1" * 15, "7" * 16, "é"]),
        max_size=12,
    )
)
def test_long_numbers_are_found_by_arrays_as_by_a_regular_expression(parts: list[str]) -> None:
    content = b":" + "".join(parts).encode()
    found = re.search(rb'(?<![\d."])\d{16}', content)
    assert json_objects.has_long_number(content) == bool(found)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("chunk", [10, 1 << 20])
def test_no_whole_number_loses_its_last_digits_among_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int, chunk: int
) -> None:
    monkeypatch.setattr(line_chunks, "CHUNK", chunk)
    values = [2**53 + 1, 0.5, 2][::order]
    path = lines(tmp_path / "x.jsonl", *({"text": "w1", "v": {"x": value}} for value in values))
    read = windows(path, keep=["v"])
    stored = [row["x"] for row in kept(read)["v"].to_pylist()]
    assert len(stored) + len(bad(read)) == 3
    assert all(value in values for value in stored)
    assert len(stored) >= 2


def test_a_file_of_bad_lines_only_has_no_types_and_loses_none(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("oops\n[]\nnull\n")
    read = windows(path, keep=["id"])
    assert good(read) == []
    assert bad(read) == [(0, "broken_json"), (1, "not_object"), (2, "not_object")]


def test_a_line_without_end_is_a_bad_row_and_not_gathered_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_chunks, "CHUNK", 100)
    monkeypatch.setattr(line_chunks, "LONG", 500)
    monkeypatch.setattr(long_lines, "LONGEST", 1000)
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' + b" " * 100_000))
    assert bad(windows(path)) == [(1, "too_long")]


def test_a_key_that_is_no_unicode_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"text": "w1", "\\ud800": 1}\n')
    assert good(windows(path)) == ["w1"]
    with pytest.raises(InputError, match=r"x\.jsonl"):
        windows(path, keep=("all",))


good_lines = st.builds(
    lambda text, n: json.dumps({"text": text, "n": n}, ensure_ascii=bool(n % 2)).encode(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.integers(-9, 9),
)
bad_lines = st.sampled_from(
    [b"{", b"[]", b"null", b"7", b'{"text": 7}', b'{"text": null}', b'{"text": "\xff"}', b"\xff",
     b'{"text": "a"} {"text": "b"}', b'{"text": "\\udc00"}', b"{}", b'{"text": "a", "n": "x"}']
)  # fmt: skip
blank_lines = st.sampled_from([b"", b" ", b"\r"])


@few
@given(
    first=good_lines,
    lines=st.lists(st.one_of(good_lines, good_lines, bad_lines, blank_lines), max_size=40),
    chunk=st.integers(3, 200),
    window=st.integers(1, 20),
    split_size=st.sampled_from([40, 300, 1 << 30]),
)
def test_good_rows_and_rejects_are_all_lines_in_order_whatever_the_chunks(
    tmp_path: Path, first: bytes, lines: list[bytes], chunk: int, window: int, split_size: int
) -> None:
    lines = [first, *lines]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.MonkeyPatch.context() as patch:
        whole = windows(path, keep=["n"], window=10_000)
        patch.setattr(line_chunks, "CHUNK", max(chunk, len(first) + 1))
        read = windows(path, keep=["n"], window=window, split_size=split_size)
    wanted = {}
    for number, line in enumerate(lines):
        try:
            content = json.loads(line.decode())
            wanted[number] = (content["text"].encode().decode(), int(content.get("n")))
        except (ValueError, TypeError, KeyError, AttributeError):
            if line.strip():
                wanted[number] = None
    rejected = [row for row, _ in bad(read)]
    assert rejected == [number for number, row in wanted.items() if row is None]
    assert list(zip(good(read), kept(read)["n"].to_pylist(), strict=True)) == [
        row for row in wanted.values() if row is not None
    ]
    assert bad(read) == bad(whole)
    assert kept(read).equals(kept(whole))


kept_values = st.fixed_dictionaries(
    {},
    optional={
        "i": st.integers(-(2**63), 2**63 - 1),
        "f": st.floats(allow_nan=False, allow_infinity=False),
        "b": st.booleans(),
        "s": st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        "l": st.lists(st.integers(0, 9), max_size=3),
        "o": st.fixed_dictionaries({}, optional={"x": st.integers(0, 9)}),
    },
)


@few
@given(lines=st.lists(kept_values, min_size=1, max_size=15))
def test_both_parsers_give_the_same_columns(lines: list[dict[str, Any]]) -> None:
    schema = pa.schema(
        [
            ("text", pa.string()),
            ("i", pa.int64()),
            ("f", pa.float64()),
            ("b", pa.bool_()),
            ("s", pa.string()),
            ("l", pa.list_(pa.int64())),
            ("o", pa.struct([("x", pa.int64())])),
        ]
    )
    encoded = [json.dumps({"text": "w1"} | line).encode() for line in lines]
    fast = jsonl._parse_whole(b"\n".join(encoded), schema)
    assert fast is not None
    slow = [jsonl._parse_strictly(line, schema, ("text",)) for line in encoded]
    assert fast.to_pylist() == [row for batch in slow for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("first", "odd"),
    [("0.5", "true"), ('["a"]', '"bc"'), ('{"a": 1}', '[["a", 1]]'), ('"a"', "1"), ("true", "1"),
     ("1", '"1"'), ("[]", '""'), ("{}", "[]")],
)  # fmt: skip
def test_a_kept_value_is_kept_as_it_is_or_its_row_is_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, odd: str
) -> None:
    monkeypatch.setattr(line_chunks, "CHUNK", 10)
    read = windows(two_lines(tmp_path, first, odd), keep=["v"])
    assert bad(read) == [(1, "kept_type")]
    assert kept(read)["v"].to_pylist() == [json.loads(first)]


def two_lines(folder: Path, first: str, second: str) -> Path:
    path = folder / "x.jsonl"
    path.write_text(f'{{"text": "w1", "v": {first}}}\n{{"text": "w2", "v": {second}}}\n')
    return path


@pytest.mark.parametrize(
    ("first", "odd"),
    [("1", "9.5"), ("9.5", "1"), ("1", "1e30"), ("[1]", "[1.5]"), ('{"a": 1}', '{"a": 1.5}')],
)
def test_whole_numbers_and_floats_of_a_key_are_kept_as_floats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, odd: str
) -> None:
    monkeypatch.setattr(line_chunks, "CHUNK", 10)
    read = windows(two_lines(tmp_path, first, odd), keep=["v"])
    assert bad(read) == []
    assert kept(read)["v"].to_pylist() == [json.loads(first), json.loads(odd)]


# read: files that are not what they say


def contents() -> dict[str, bytes]:
    table = pa.table({"text": ["w1", "w2"] * 50})
    files = {}
    for kind, make_one in (
        ("parquet", lambda s: pq.write_table(table, s)),
        ("arrow", lambda s: _ipc(pa.ipc.new_file, s, table)),
        ("stream", lambda s: _ipc(pa.ipc.new_stream, s, table)),
    ):
        sink = pa.BufferOutputStream()
        make_one(sink)
        files[kind] = sink.getvalue().to_pybytes()
    files["jsonl"] = noise(100)
    return files | {"jsonl.gz": gzip.compress(noise(100)), "jsonl.zst": zst(noise(100))}


def _ipc(opened: Any, sink: Any, table: pa.Table) -> None:
    with opened(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_file_of_another_format_than_its_ending_is_refused_whole(
    tmp_path: Path, ending: str
) -> None:
    for kind, content in contents().items():
        if kind == ending or (kind, ending) == ("stream", "arrow"):
            continue
        path = tmp_path / f"{kind.replace('.', '-')}.{ending}"
        path.write_bytes(content)
        with pytest.raises(InputError, match=path.name.replace(".", r"\.")):
            windows(path)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl.gz", "jsonl.zst"])
def test_a_truncated_file_is_refused_wherever_it_was_cut(tmp_path: Path, kind: str) -> None:
    content = contents()[kind]
    path = tmp_path / f"x.{kind}"
    for cut in (1, 2, 3, 4, 7, 8, 9, 16, 60, len(content) // 2, len(content) - 3, len(content)):
        path.write_bytes(content[:-cut])
        with pytest.raises(InputError):
            windows(path)


def test_a_stream_cut_within_a_message_is_refused(tmp_path: Path) -> None:
    content = contents()["stream"]
    for cut in (1, 4, 9, len(content) // 2):
        (tmp_path / "x.arrow").write_bytes(content[:-cut])
        with pytest.raises(InputError):
            windows(tmp_path / "x.arrow")


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
def test_a_corrupt_compressed_file_is_refused(tmp_path: Path, kind: str) -> None:
    content = noise(5000)
    packed = gzip.compress(content) if kind == "jsonl.gz" else zst(content)
    # A zstd frame without a checksum, as here, cannot tell a changed literal: its blocks only.
    for at in (0, 2, 9, len(packed) // 2 if kind == "jsonl.gz" else 12):
        broken = bytearray(packed)
        broken[at : at + 40] = b"\xff" * 40
        (tmp_path / f"x.{kind}").write_bytes(broken)
        with pytest.raises(InputError):
            windows(tmp_path / f"x.{kind}")
    (tmp_path / f"x.{kind}").write_bytes(packed + b"trailing junk")
    with pytest.raises(InputError):
        windows(tmp_path / f"x.{kind}")


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
def test_a_compressed_file_may_have_several_members(tmp_path: Path, kind: str) -> None:
    pack = gzip.compress if kind == "jsonl.gz" else zst
    parts = [noise(50), b"", b'{"text": "across the ', b'seam"}\n', noise(3)]
    (tmp_path / f"x.{kind}").write_bytes(b"".join(map(pack, parts)))
    read = windows(tmp_path / f"x.{kind}")
    assert len(good(read)) == 54
    assert good(read)[50] == "across the seam"


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl.gz", "jsonl.zst"])
def test_an_empty_file_of_a_kind_that_is_never_empty_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"x.{kind}").write_bytes(b"")
    with pytest.raises(InputError):
        windows(tmp_path / f"x.{kind}")


def test_parquet_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    table = pa.table({"text": [f"{i:x}" * 9 for i in range(2000)]})
    pq.write_table(table, tmp_path / "x.parquet", use_dictionary=False)
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[4:40] = b"\xff" * 36
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(EngineError, match=r"x\.parquet"):
        windows(tmp_path / "x.parquet")


def test_a_folder_and_a_missing_file_are_errors_that_say_so(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    split = Split(corpus_files([tmp_path / "x.jsonl"])[0], 0, "x", 0, 10)
    with pytest.raises(InputError, match="directory"):
        list(data.read(split, data.settle([split.file], columns(["text"]), []), window=10))
    gone = Split(corpus_files([tmp_path / "gone.parquet"])[0], 0, "x", 0, 10)
    with pytest.raises(InputError, match=r"gone\.parquet"):
        list(data.read(gone, data.settle([gone.file], columns(["text"]), []), window=10))


# columns of lists


LISTED: list[Any] = [["w1", "w2"], [], ["w3"], None, ["w4", None], ["w5"]]


def write_lists(tmp_path: Path, ending: str) -> Path:
    path = tmp_path / f"x.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps({"words": w}) + "\n" for w in LISTED))
        return path
    table = pa.table({"words": pa.array(LISTED, pa.large_list(pa.large_string()))})
    if ending == "parquet":
        pq.write_table(table, path)
        return path
    return write_arrow(path, table)


@pytest.mark.parametrize("holds", ["texts", "either"])
@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl"])
def test_a_column_of_lists_is_read_where_the_task_takes_one(
    tmp_path: Path, ending: str, holds: str
) -> None:
    path = write_lists(tmp_path, ending)
    (split,) = data.split_files(corpus_files([path]), 1 << 30)
    (read,) = data.read(
        split, data.settle([split.file], [Column("words", holds)], ["words"]), window=10
    )
    assert read.texts[0].type == pa.list_(pa.string())
    assert read.texts[0].to_pylist() == [["w1", "w2"], [], ["w3"], ["w5"]]
    assert bad([read]) == [(3, "null_text"), (4, "null_text")]
    assert read.kept.num_rows == 4
    with pytest.raises(ColumnError, match="not text") if ending != "jsonl" else nullcontext():
        windows(path, text=["words"])


def test_the_first_value_decides_whether_a_column_holds_lists_or_texts(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"t": ["a"]}\n{"t": "b"}\n{"t": ["c", 5]}\n{"t": ["d"]}\n')
    (split,) = data.split_files(corpus_files([path]), 1 << 30)
    (read,) = data.read(split, data.settle([split.file], [Column("t", "either")], []), window=10)
    assert read.texts[0].to_pylist() == [["a"], ["d"]]
    assert bad([read]) == [(1, "not_text"), (2, "not_text")]
    (read,) = data.read(split, data.settle([split.file], [Column("t")], []), window=10)
    assert read.texts[0].to_pylist() == ["b"]


def test_a_list_with_invalid_utf8_is_a_bad_row(tmp_path: Path) -> None:
    inner = pa.array([b"ok", b"\xff", b"fine"], pa.binary()).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), inner)
    path = write_arrow(tmp_path / "x.arrow", pa.table({"words": lists}))
    (split,) = data.split_files(corpus_files([path]), 1 << 30)
    (read,) = data.read(split, data.settle([split.file], [Column("words", "texts")], []), window=10)
    assert read.texts[0].to_pylist() == [["ok"], ["fine"]]
    assert bad([read]) == [(1, "invalid_utf8")]


# one schema for all files


def lines(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("depth", ["key", "struct", "list"])
def test_a_key_seen_late_is_kept(tmp_path: Path, depth: str) -> None:
    values: dict[str, tuple[object, object]] = {
        "key": (None, "z"),
        "struct": ({"a": 1}, {"a": 2, "b": "z"}),
        "list": ([{"a": 1}], [{"a": 2, "b": "z"}]),
    }
    early, late = values[depth]
    first = {"text": "w1 " * 400} | ({} if early is None else {"m": early})
    path = lines(tmp_path / "x.jsonl", *[first] * 1500, {"text": "w2", "m": late})
    assert path.stat().st_size > line_chunks.CHUNK
    for keep in (("all",), ("m",)):
        assert kept(windows(path, keep=keep)).column("m").to_pylist()[-1] == late


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2**63], pa.uint64()),
        ([2**64 - 1, None], pa.uint64()),
        ([-(2**63), 2**63 - 1], pa.int64()),
        ([1, 1.5], pa.float64()),
        (["2024-01-01", "2024-01-01T00:00:00"], pa.string()),
        ([None, None], pa.string()),
    ],
)
def test_values_of_json_keep_what_they_are(
    tmp_path: Path, values: list[object], kind: pa.DataType
) -> None:
    path = lines(tmp_path / "x.jsonl", *({"text": "w1", "x": value} for value in values))
    column = kept(windows(path, keep=["x"])).column("x")
    assert column.type == kind
    assert column.to_pylist() == values


def test_kept_columns_have_one_type_in_all_files(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"text": "w1", "id": 1})
    lines(tmp_path / "b.jsonl", {"text": "w1", "id": None})
    lines(tmp_path / "c.jsonl", {"text": "w1", "more": [1]})
    pq.write_table(pa.table({"text": ["w1"], "id": pa.array([2], pa.int16())}), tmp_path / "d.pq")
    files = data.find_files([tmp_path])
    settled = data.settle(files, columns(["text"]), ("all",))
    assert settled.kept.field("id").type == pa.int64()
    tables = [
        rows.kept
        for split in data.split_files(files, 1 << 30)
        for rows in data.read(split, settled, window=10)
    ]
    ids = pa.Table.from_batches(tables, schema=settled.kept).column("id").to_pylist()
    assert ids == [1, None, None, 2]


def test_kept_types_that_no_type_holds_are_refused_with_both_files(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"text": "w1", "id": 1})
    lines(tmp_path / "b.jsonl", {"text": "w1", "id": "x1"})
    with pytest.raises(
        ColumnError, match=r"b\.jsonl: column 'id' holds string, and int64 in .*a\.jsonl"
    ):
        data.settle(data.find_files([tmp_path]), columns(["text"]), ("id",))
    assert data.settle(data.find_files([tmp_path]), columns(["text"]), ()).kept.names == []


def test_a_column_that_no_file_has_is_refused(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"text": "w1", "id": 1})
    with pytest.raises(ColumnError, match="no column 'ids'") as caught:
        data.settle(data.find_files([tmp_path]), columns(["text"]), ("ids",))
    assert "'id'" in caught.value.hint


def test_a_text_column_missing_from_the_last_file_is_found_before_any_is_read(
    tmp_path: Path,
) -> None:
    lines(tmp_path / "a.jsonl", {"text": "w1"})
    pq.write_table(pa.table({"body": ["w1"]}), tmp_path / "b.parquet")
    with pytest.raises(ColumnError, match=r"b\.parquet: no column 'text'"):
        data.settle(data.find_files([tmp_path]), columns(["text"]), ())


@pytest.mark.parametrize(
    ("first", "second", "kind", "held"),
    [
        (pa.array([2**53 + 1, 4]), pa.array([1.5]), pa.float64(), [4.0, 1.5]),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1, 3]), pa.uint64(), [2**64 - 1, 3]),
        (pa.array([[2**53 + 1], [4]]), pa.array([[1.5]]), pa.list_(pa.float64()), [[4.0], [1.5]]),
    ],
)
def test_a_value_that_the_settled_type_does_not_hold_is_a_bad_row(
    tmp_path: Path, first: pa.Array, second: pa.Array, kind: pa.DataType, held: list[object]
) -> None:
    for name, ids in (("a", first), ("b", second)):
        table = pa.table({"text": ["w1"] * len(ids), "id": ids})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    files = data.find_files([tmp_path])
    settled = data.settle(files, columns(["text"]), ("id",))
    assert settled.kept.field("id").type == kind
    read = [
        rows
        for split in data.split_files(files, 1 << 30)
        for rows in data.read(split, settled, window=10)
    ]
    assert kept(read)["id"].to_pylist() == held
    assert [code for _, code in bad(read)] == ["kept_type"]


@pytest.mark.parametrize("keep", [("text",), ("all",)])
def test_a_kept_text_column_is_text_whatever_its_first_line_holds(
    tmp_path: Path, keep: tuple[str, ...]
) -> None:
    path = lines(tmp_path / "x.jsonl", {"text": 7}, {"text": "w1"}, {"text": None}, {"text": "w2"})
    read = windows(path, keep=keep)
    assert kept(read)["text"].to_pylist() == good(read) == ["w1", "w2"]
    assert bad(read) == [(0, "not_text"), (2, "null_text")]


def test_a_flipped_bit_is_found_by_the_checksum_of_its_page(tmp_path: Path) -> None:
    path, table = tmp_path / "x.parquet", pa.table({"text": [f"w{i}" for i in range(3000)]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    whole = path.read_bytes()
    assert len(good(windows(path))) == 3000
    for at in range(200, 9000, 700):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(InputError, match=r"x\.parquet: cannot be read as parquet"):
            windows(path)


# what is not read


def test_files_that_are_not_read_are_counted_by_ending(tmp_path: Path) -> None:
    seen = write_jsonl(tmp_path / "seen.jsonl", ["w1"])
    for name in ("a.docx", "deep/b.DOCX", "c.json", "README", "_skipped.docx", ".git/x.docx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked").symlink_to(tmp_path / "deep")
    os.mkfifo(tmp_path / "pipe.jsonl")
    counts = {
        ".docx": 2,
        ".json": 1,
        "names without an ending": 1,
        "links to nothing": 1,
        "links to folders": 1,
        "special files": 1,
    }
    for spelled in (
        [tmp_path],
        [tmp_path, tmp_path / "seen.jsonl"],
        [tmp_path, tmp_path / "s*"],
    ):
        discovery = data.discover(spelled)
        assert [file.path for file in discovery.files] == [seen]
        assert discovery.unread == counts
    assert data.discover([seen]).unread == {}


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(InputError, match=r"pipe\.jsonl: not a regular file"):
        find([tmp_path / "pipe.jsonl"])


def test_a_link_beside_its_target_counts_once(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "b.jsonl", ["w1"])
    for name in ("a.jsonl", "c.jsonl"):
        (tmp_path / name).symlink_to(file)
    assert find([tmp_path]) == [file]
    only = tmp_path / "links"
    only.mkdir()
    for name in ("x.jsonl", "y.jsonl"):
        (only / name).symlink_to(file)
    assert find([only]) == [only / "x.jsonl"]


def test_a_file_counts_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    real = tmp_path / "real"
    file = write_jsonl(real / "deep/b.jsonl", ["w1"])
    (real / "deep/a.jsonl").symlink_to("b.jsonl")
    (real / "deep/loop").symlink_to("..")
    (real / "deep/x.dat").touch()
    assert find([f"{real}/**/*.jsonl"]) == [file]
    assert data.discover([f"{real}/**/*.*"]).unread == {".dat": 1}
    (tmp_path / "link").symlink_to("real")
    assert find([tmp_path / "link"]) == [tmp_path / "link/deep/b.jsonl"]
    assert find([tmp_path / "link", real]) == [file]


@pytest.mark.parametrize("spelled", ["", "*", "**", "*/*", "o*/**"])
def test_the_output_of_a_run_is_no_corpus_unless_it_is_named(tmp_path: Path, spelled: str) -> None:
    seen = write_jsonl(tmp_path / "other/seen.jsonl", ["w1"])
    part = write_parquet(tmp_path / "out/part-00000-x.parquet", ["w1"])
    write_parquet(tmp_path / "out/rejects/part-00000-x.parquet", ["w1"])
    (tmp_path / "out/_manifest").mkdir()
    (tmp_path / "out/_manifest/run.json").write_text("{}")
    (tmp_path / "out/_SUCCESS").write_text("{}")
    discovery = data.discover([tmp_path / spelled])
    assert [file.path for file in discovery.files] == [seen]
    assert discovery.unread == {"outputs of other runs": 1}
    assert data.discover([tmp_path / spelled], tmp_path / "out").unread == {}
    assert find([tmp_path / "out"]) == find([tmp_path / "out/*.parquet"]) == [part]
    with pytest.raises(InputError, match="nothing matches") as caught:
        find([tmp_path / "ou?"])
    assert str(tmp_path / "out") in caught.value.hint
