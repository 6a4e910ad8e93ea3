"""Fields of nested columns, named with dots: read, kept, refused, and the same in every kind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import data
from engine.core.types import Column
from engine.data.nested_fields import heads, locate
from engine.errors import ColumnError

ROWS: list[dict[str, Any]] = [
    {"id": 1, "doc": {"text": "uno", "meta": {"url": "u1", "n": 1}, "other": "x"}},
    {"id": 2, "doc": {"text": None, "meta": {"url": "u2", "n": 2}, "other": "y"}},
    {"id": 3, "doc": None},
    {"id": 4, "doc": {"text": "dos", "meta": None, "other": "z"}},
    {"id": 5, "doc": {"text": "tres", "meta": {"url": None, "n": 3}, "other": None}},
]
KINDS = ("jsonl", "parquet", "arrow")


def write(folder: Path, name: str, rows: Sequence[dict[str, Any]], kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        table = pa.Table.from_pylist(list(rows))
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    return path


def read(
    inputs: Path | Sequence[Path],
    texts: Sequence[Column],
    keep: Sequence[str] = (),
    most: int = 0,
    **more: Any,
) -> tuple[list[list[Any]], list[dict[str, Any]], list[tuple[Any, ...]]]:
    """Input columns, kept rows, and bad rows as (row, code, column, expected, found)."""
    files = data.find_files([inputs] if isinstance(inputs, Path) else inputs)
    columns = replace(data.settle(files, texts, keep, **more), max_row_bytes=most)
    values: list[list[Any]] = [[] for _ in texts]
    kept, bad = [], []
    for split in data.split_files(files, 1 << 30):
        for rows in data.read(split, columns, window=2):
            for texts_read, column in zip(values, rows.texts, strict=True):
                texts_read.extend(column.to_pylist())
            assert rows.kept.schema == columns.kept
            kept += rows.kept.to_pylist()
            r = rows.rejects
            bad += zip(r.rows.tolist(), r.codes, r.columns, r.expected, r.found, strict=True)
    return values, kept, bad


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_is_an_input_column_and_is_kept_under_its_name(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a", ROWS, kind)
    keep = ["id", "doc.meta.url", "doc.text", "doc.meta"]
    values, kept, bad = read(path, [Column("doc.text")], keep)
    assert values == [["uno", "dos", "tres"]]
    assert [row["doc.text"] for row in kept] == ["uno", "dos", "tres"]
    assert [row["doc.meta.url"] for row in kept] == ["u1", None, None]
    assert [row["doc.meta"] for row in kept] == [ROWS[i]["doc"]["meta"] for i in (0, 3, 4)]
    assert [row["id"] for row in kept] == [1, 4, 5]
    assert [(row, code, column) for row, code, column, *_ in bad] == [
        (1, "null_text", "doc.text"),
        (2, "null_text", "doc.text"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_all_keeps_the_columns_and_not_their_fields_twice(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, "a", ROWS, kind)
    values, kept, bad = read(path, [Column("doc.text")], ["all"])
    assert values == [["uno", "dos", "tres"]]
    assert kept == [row for row in ROWS if row["doc"] and row["doc"]["text"]]
    assert len(bad) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_comes_before_a_field(kind: str, tmp_path: Path) -> None:
    rows = [{"doc.text": "column", "doc": {"text": "field"}, "a.b": {"c": "inner"}}]
    path = write(tmp_path, "a", rows, kind)
    values, kept, _ = read(path, [Column("doc.text"), Column("a.b.c")], ["doc.text", "a.b.c"])
    assert values == [["column"], ["inner"]]
    assert kept == [{"doc.text": "column", "a.b.c": "inner"}]


def test_files_of_several_kinds_are_one_corpus(tmp_path: Path) -> None:
    paths = [write(tmp_path, kind, ROWS, kind) for kind in KINDS]
    values, kept, bad = read(paths, [Column("doc.text")], ["doc.meta.n"])
    assert values == [["uno", "dos", "tres"] * 3]
    assert [row["doc.meta.n"] for row in kept] == [1, None, 3] * 3
    assert len(bad) == 6


def test_a_file_without_a_kept_field_has_nulls(tmp_path: Path) -> None:
    rows = [{"text": "a", "doc": {"x": 1}}], [{"text": "b"}], [{"text": "c", "doc": {"y": 2}}]
    for kind in KINDS:
        folder = tmp_path / kind
        paths = [write(folder, str(n), rows[n], kind) for n in range(3)]
        values, kept, bad = read(paths, [Column("text")], ["doc.x"])
        assert (values, kept) == ([["a", "b", "c"]], [{"doc.x": v} for v in (1, None, None)])
        assert not bad


def test_lines_with_faults_do_not_hurt_their_neighbours(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        '{"doc": {"text": "uno", "n": 1, "more": [1]}}',
        '{"doc": {"text": 7, "n": 2}}',
        '{"doc": "text", "n": 3}',
        '{"doc": {"text": "dos", "n": 4, "late": {"key": 1}}, "m": 1}',
        "not json",
        '{"doc": {"text": "tres", "n": "five"}}',
        '{"doc": {"n": 6}}',
        '{"doc": [{"text": "x"}]}',
    ]
    path.write_text("\n".join(lines))
    values, kept, bad = read(path, [Column("doc.text")], ["doc.n"])
    assert values == [["uno", "dos"]]
    assert kept == [{"doc.n": 1}, {"doc.n": 4}]
    assert bad == [
        (1, "not_text", "doc.text", "text", "whole number"),
        (2, "not_text", "doc", "object", "text"),
        (4, "broken_json", "", "", ""),
        (5, "kept_type", "doc.n", "int64", "text"),
        (6, "null_text", "doc.text", "", ""),
        (7, "not_text", "doc", "object", "list"),
    ]


def test_lists_of_texts_and_chats_within_an_object_are_read(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    for kind in KINDS:
        path = write(tmp_path, kind, [{"d": {"labels": ["a", "b"], "chat": chat}}], kind)
        columns = [Column("d.labels", holds="either"), Column("d.chat", holds="chat")]
        values, _, bad = read(path, columns)
        assert (values, bad) == ([[["a", "b"]], [chat]], [])


def test_a_parquet_file_is_read_without_the_field_beside(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"doc": [{"big": "x" * 99, "text": f"t{i}"} for i in range(9)]}), path)
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    assert column.path_in_schema == "doc.big"
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(bytes(content))
    values, _, _ = read(path, [Column("doc.text")])
    assert values == [[f"t{i}" for i in range(9)]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("doc.txt", "no column 'doc.txt'", "'doc', 'doc.text', 'doc.items', 'id'"),
        ("doc.items.text", "'doc.items' holds list<", "only fields of a struct"),
        ("id.x", "'id' holds int64", "only fields of a struct"),
        ("doc.", "no column 'doc.'", "'doc.text'"),
        (".doc", "no column '.doc'", "'doc.text'"),
        ("nowhere.text", "no column 'nowhere.text'", "'doc.text'"),
    ],
)
@pytest.mark.parametrize("flag", ["--text", "--keep"])
def test_what_has_no_such_field_is_refused(
    kind: str, name: str, message: str, hint: str, flag: str, tmp_path: Path
) -> None:
    path = write(tmp_path, "a", [{"doc": {"text": "a", "items": [{"text": "b"}]}, "id": 1}], kind)
    texts, keep = ([Column(name)], []) if flag == "--text" else ([Column("doc.text")], [name])
    with pytest.raises(ColumnError) as error:
        read(path, texts, keep)
    assert f"a.{kind}" in error.value.message
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_field_in_one_file_and_a_column_in_the_next_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "a", [{"doc": {"text": "a"}}], "jsonl")
    second = write(tmp_path, "b", [{"doc.text": "b"}], "parquet")
    with pytest.raises(ColumnError, match=r"b\.parquet: 'doc\.text' is a column, and field 'text'"):
        read([first, second], [Column("doc.text")])


def test_a_type_given_for_a_field_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a", ROWS, "jsonl")
    with pytest.raises(ColumnError, match=r"'doc\.meta\.n' is a field of column 'doc'"):
        read(path, [Column("doc.text")], ["doc.meta.n"], given={"doc.meta.n": pa.string()})


@pytest.mark.parametrize("keep", [["all"], ["doc", "doc.text"]])
def test_an_object_that_is_kept_has_the_tasks_type_where_it_is_read(
    keep: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"doc": {"text": 7}}\n{"doc": {"text": "a"}}\n{"doc": {"text": "b", "z": 1}}')
    values, kept, bad = read(path, [Column("doc.text")], keep)
    assert values == [["a", "b"]]
    assert [row["doc"] for row in kept] == [{"text": "a", "z": None}, {"text": "b", "z": 1}]
    assert bad == [(0, "not_text", "doc.text", "text", "whole number")]


@pytest.mark.parametrize("name", ["b.csv", "b.jsonl", "b.parquet"])
def test_a_file_whose_column_has_no_fields_is_refused(name: str, tmp_path: Path) -> None:
    first = write(tmp_path, "a", [{"text": "x", "doc": {"n": 1}}], "jsonl")
    if name == "b.csv":
        (tmp_path / name).write_text("text,doc\nx,y\n")
    else:
        write(tmp_path, "b", [{"text": "x", "doc": "y"}], name[2:])
    with pytest.raises(ColumnError, match=rf"{name}: no column 'doc\.n', and 'doc' holds string"):
        read([first, tmp_path / name], [Column("text")], ["doc.n"])


def test_two_fields_of_a_name_are_refused(tmp_path: Path) -> None:
    inner = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], ["x", "x"])
    with pa.ipc.new_file(tmp_path / "a.arrow", pa.schema([("doc", inner.type)])) as writer:
        writer.write_batch(pa.record_batch([inner], names=["doc"]))
    with pytest.raises(ColumnError, match=r"a\.arrow: two fields are called 'doc\.x'"):
        read(tmp_path / "a.arrow", [Column("doc.x")])


def test_fields_whose_types_do_not_unify_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "a", [{"text": "x", "doc": {"n": 1}}], "parquet")
    second = write(tmp_path, "b", [{"text": "x", "doc": {"n": "y"}}], "parquet")
    with pytest.raises(
        ColumnError, match=r"'doc\.n' holds string, and int64 in .*a\.parquet"
    ) as error:
        read([first, second], [Column("text")], ["doc.n"])
    assert "--schema" not in error.value.hint


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_in_an_object_is_a_bad_row(kind: str, tmp_path: Path) -> None:
    rows = [{"doc": {"text": "a"}}, {"doc": {"text": "x" * (3 << 20), "n": 1}}]
    path = write(tmp_path, "a", rows, kind)
    assert read(path, [Column("doc.text")])[0] == [[row["doc"]["text"] for row in rows]]
    values, _, bad = read(path, [Column("doc.text")], most=1 << 20)
    assert values == [["a"]]
    assert bad == [(1, "too_long", "doc.text", f"at most {1 << 20} bytes", "more")]


NAMES = st.text(st.sampled_from("ab."), min_size=1, max_size=4)
TREES: st.SearchStrategy[Any] = st.recursive(
    st.just("leaf"), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3)
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(NAMES, TREES, min_size=1, max_size=3))
def test_every_field_of_any_object_is_reached(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    table = pa.Table.from_pylist([tree])
    for name in {name for name, _ in _walk(tree, "")}:
        place = locate(table.schema, name)
        assert place is not None
        value: Any = tree
        for key in place[0]:
            value = value[key]
        assert ".".join(place[0]) == name
        for kind in KINDS if isinstance(value, str) else ():
            path = write(folder, "a", [tree], kind)
            assert read(path, [Column(name)], [name]) == ([["leaf"]], [{name: "leaf"}], [])


def _walk(tree: Any, before: str) -> list[tuple[str, Any]]:
    found = []
    for name, inner in tree.items() if isinstance(tree, dict) else ():
        found += [(before + name, inner), *_walk(inner, f"{before}{name}.")]
    return found


def test_heads_are_what_stands_before_a_dot() -> None:
    assert heads("a.b.c") == ["a.b", "a"]
    assert heads("a") == heads("") == heads(".a") == heads("a.") == []
