"""Types of columns that the person gives, for every kind of file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fakes import corpus_files

from engine import data
from engine.core.column_types import parse_type, types_of
from engine.core.config import RunConfig
from engine.core.types import TEXT
from engine.errors import ColumnError, SettingsError


def read(
    paths: list[Path], types: Mapping[str, str], keep: tuple[str, ...] = ("a",)
) -> tuple[pa.Table, list[tuple[str, int, str, str, str]]]:
    """The kept columns, and (file, row, column, expected, found) of the bad rows."""
    files = corpus_files(paths)
    columns = data.settle(files, [TEXT], keep, types_of(dict(types)))
    tables, bad = [], []
    for split in data.split_files(files, 1 << 28):
        for rows in data.read(split, columns, window=100):
            tables.append(rows.kept)
            r = rows.rejects
            fields = (r.rows, r.columns, r.expected, r.found)
            bad += [(split.path.name, int(n), *ws) for n, *ws in zip(*fields, strict=True)]
    return pa.Table.from_batches(tables), bad


def lines(path: Path, values: list[str]) -> Path:
    path.write_text("\n".join(f'{{"text": "t", "a": {value}}}' for value in values))
    return path


@pytest.mark.parametrize(
    "text",
    ["int64", "uint8", "bool", "string", "large_string", "double", "float", "halffloat", "binary",
     "date32[day]", "timestamp[us]", "timestamp[ns, tz=Europe/Berlin]", "timestamp[s, tz=+01:00]",
     "time64[us]", "duration[ms]", "decimal128(20, 0)", "decimal256(76, 10)",
     "list<item: int64>", "large_list<item: string>", "struct<a: int64, b: list<item: string>>",
     "list<item: struct<x: decimal128(5, 2), y: struct<>>>"],
)  # fmt: skip
def test_a_type_is_named_as_arrow_names_it(text: str) -> None:
    assert str(parse_type(text)) == text


def test_a_type_may_be_named_in_short() -> None:
    assert parse_type("list<int64>") == pa.list_(pa.int64())
    assert parse_type(" struct<a:int32,b: list<text>> ") == pa.struct(
        [("a", pa.int32()), ("b", pa.list_(pa.string()))]
    )
    assert parse_type("decimal(5,2)") == pa.decimal128(5, 2)


@pytest.mark.parametrize(
    "text", ["", "int", "int128", "list<>", "list<int>", "struct<a>", "decimal128(99, 0)",
             "timestamp[h]", "struct<a: int64", "int64; drop"],
)  # fmt: skip
def test_an_unknown_type_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RunConfig.of({"schema": {"id": text}})
    assert f"column 'id': unknown type {text!r}" in str(caught.value)
    assert "int8 to int64" in caught.value.hint


@pytest.mark.parametrize("ending", ["json", "parquet", "arrow"])
def test_types_are_read_from_a_file_and_the_setting_is_its_content(
    tmp_path: Path, ending: str
) -> None:
    types = {"id": pa.int64(), "tags": pa.list_(pa.string())}
    paths = [tmp_path / f"{name}.{ending}" for name in ("one", "two")]
    for path in paths:
        table = pa.schema(list(types.items())).empty_table()
        if ending == "json":
            path.write_text(json.dumps({"id": "int64", "tags": "list<string>"}))
        elif ending == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
    one, two = (RunConfig.of({"schema": str(path)}) for path in paths)
    assert types_of(one.schema) == types
    assert one.shaping() == two.shaping() != RunConfig().shaping()
    assert json.loads(json.dumps(one.shaping())) == one.shaping()


@pytest.mark.parametrize("content", ["{", "[1]", '"int64"', ""])
def test_a_file_without_types_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "types.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match=str(path)):
        RunConfig.of({"schema": str(path)})
    with pytest.raises(SettingsError, match=r"none\.json"):
        RunConfig.of({"schema": str(tmp_path / "none.json")})


def test_files_whose_types_do_not_unify_are_read_by_the_hint(tmp_path: Path) -> None:
    paths = [lines(tmp_path / "x.jsonl", ["1", "2"]), lines(tmp_path / "y.jsonl", ['"three"'])]
    with pytest.raises(ColumnError) as caught:
        read(paths, {})
    assert all(str(path) in caught.value.message for path in paths)
    hint = caught.value.hint
    types = json.loads(hint[hint.index("{") : hint.index("}") + 1])
    table, bad = read(paths, types)
    assert table.column("a").to_pylist() == ["1", "2", "three"]
    assert bad == []


@pytest.mark.parametrize(
    ("kind", "values", "good", "found"),
    [
        ("int32", ["1", "-5", '"7"', f"{2**40}", '"x"', "1.5", "true"], [1, -5, 7],
         ["int64", "text", "number", "true/false"]),
        ("uint64", ["1", f"{2**64 - 1}", "-1", f"{2**64}"], [1, 2**64 - 1],
         ["negative whole number", "whole number of 20 digits"]),
        ("string", ['"x"', "5", "1.5", "true", "[1]", "null", f"{2**70}"],
         ["x", "5", "1.5", "true", None, str(2**70)], ["list"]),
        ("double", ["1", "0.5", '"2.5"', '"x"', "1e400"], [1, 0.5, 2.5],
         ["text", "number too large for any type"]),
        ("date32[day]", ['"2024-02-29"', '"2024-02-30"', "5"], [date(2024, 2, 29)],
         ["string", "whole number"]),
        ("timestamp[us]", ['"2024-02-29T01:02:03"', '"soon"'], [datetime(2024, 2, 29, 1, 2, 3)],
         ["string"]),
        ("decimal128(20, 0)", [f"{2**64}", "-1", '"5"', "0.5", f"{10**20}"],
         [Decimal(2**64), Decimal(-1), Decimal(5)], ["number", "whole number of 21 digits"]),
        ("decimal128(10, 2)", ["1.25", "3", '"0.10"', "0.125"],
         [Decimal("1.25"), Decimal(3), Decimal("0.10")], ["number"]),
        ("list<int64>", ["[1]", '["x"]', "3", "[]"], [[1], []], ["text", "whole number"]),
        ("struct<x: int64>", ['{"x": 1}', '{"x": 1, "y": 2}', '{"x": "1"}', "{}"],
         [{"x": 1}, {"x": None}], ["whole number", "text"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", [1, -1])
def test_lines_are_read_as_the_given_type_or_are_bad(
    tmp_path: Path, kind: str, values: list[str], good: list[Any], found: list[str], order: int
) -> None:
    table, bad = read([lines(tmp_path / "x.jsonl", values[::order])], {"a": kind})
    assert table.schema.field("a").type == parse_type(kind)
    assert table.column("a").to_pylist() == good[::order]
    assert [one[-1] for one in bad] == found[::order]
    assert all(one[2].startswith("a") for one in bad)


@pytest.mark.parametrize(
    ("kind", "values", "good", "bad"),
    [
        ("int32", pa.array([1, 2**40, None]), [1, None], [1]),
        ("string", pa.array([1, None]), ["1", None], []),
        ("int64", pa.array(["5", "x"]), [5], [1]),
        ("float", pa.array([0.5, 1e300]), [0.5], [1]),
        ("double", pa.array([Decimal("0.5"), Decimal("12345678901234567.5")]), [0.5], [1]),
        ("struct<x: int64>", pa.array([{"x": 3, "y": None}, {"x": 1, "y": 2}]), [{"x": 3}], [1]),
        ("list<item: float>", pa.array([[0.5], [1e300]]), [[0.5]], [1]),
        ("struct<x: int64, z: string>", pa.array([{"x": 1}]), [{"x": 1, "z": None}], []),
        ("timestamp[s]", pa.array(["2024-01-01", "soon"]), [datetime(2024, 1, 1)], [1]),
    ],
)
def test_columns_are_cast_to_the_given_type_or_their_rows_are_bad(
    tmp_path: Path, kind: str, values: pa.Array, good: list[Any], bad: list[int]
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["t"] * len(values), "a": values}), path)
    table, rejects = read([path], {"a": kind})
    assert table.column("a").to_pylist() == good
    found = str(pq.read_schema(path).field("a").type)
    assert rejects == [("x.parquet", n, "a", str(parse_type(kind)), found) for n in bad]


@pytest.mark.parametrize(
    ("kind", "values", "good", "bad"),
    [
        ("string", ["007", "x"], ["007", "x"], []),
        ("int64", ["7", "x", "1.5", ""], [7, None], [1, 2]),
        ("decimal128(10, 2)", ["1.25", "1.255"], [Decimal("1.25")], [1]),
        ("float", ["0.5", "1e300"], [0.5], [1]),
        ("uint8", ["5", "300", "-1"], [5], [1, 2]),
    ],
)
def test_fields_of_csv_are_read_as_the_given_type_or_their_rows_are_bad(
    tmp_path: Path, kind: str, values: list[str], good: list[Any], bad: list[int]
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,a\n" + "".join(f"t,{value}\n" for value in values))
    table, rejects = read([path], {"a": kind})
    assert table.column("a").to_pylist() == good
    assert [(row, column) for _, row, column, *_ in rejects] == [(n, "a") for n in bad]


def test_a_given_column_that_no_file_has_is_refused_by_name(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", ["1"])
    for keep in ((), ("a",), ("all",), ("none",)):
        with pytest.raises(ColumnError) as caught:
            read([path], {"none": "int64"}, keep)
        assert "--schema: no file has a column 'none'" in caught.value.message
        assert "'text', 'a'" in caught.value.hint


def test_a_given_column_that_is_not_kept_changes_nothing(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", ["1", "2"])
    table, bad = read([path], {"text": "string", "a": "int64"}, ("a",))
    assert table.column("a").to_pylist() == [1, 2]
    assert bad == []
    assert read([path], {"a": "int64"}, ())[0].num_columns == 0


def test_the_lines_are_not_passed_over_where_every_type_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [lines(tmp_path / "x.jsonl", ["1"] * 9)]
    monkeypatch.setattr("engine.data.line_chunks.CHUNK", 30)
    seen = []
    widen = data.json_types._widen
    monkeypatch.setattr(data.json_types, "_widen", lambda *args: (seen.append(1), widen(*args)))
    read(paths, {"a": "int64"})
    assert len(seen) <= 2


@pytest.mark.parametrize(
    ("kind", "first", "other"),
    [
        (pa.large_list(pa.large_string()), ["a"], '["b"]'),
        (pa.struct([("l", pa.large_list(pa.int64()))]), {"l": [1]}, '{"l": [2]}'),
        (pa.large_string(), "a", '"b"'),
    ],
)
def test_json_lines_fit_the_large_types_of_other_files(
    kind: pa.DataType, first: Any, other: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": ["t"], "a": pa.array([first], kind)}), tmp_path / "a.parquet")
    # The second line is parsed alone, since pyarrow takes none with a bad one beside it.
    both = lines(tmp_path / "b.jsonl", [other, other])
    both.write_text(both.read_text() + '\n{"text": 5}')
    table, bad = read([tmp_path / "a.parquet", both], {})
    assert table["a"].to_pylist() == [first, json.loads(other), json.loads(other)]
    assert [(file, row) for file, row, *_ in bad] == [("b.jsonl", 2)]


def test_lists_have_no_hint_to_become_text_and_are_refused_where_they_should(
    tmp_path: Path,
) -> None:
    pq.write_table(pa.table({"text": ["t"], "a": [[1]]}), tmp_path / "a.parquet")
    texts = lines(tmp_path / "b.jsonl", ['"x"'])
    with pytest.raises(ColumnError) as error:
        read([tmp_path / "a.parquet", texts], {})
    assert "hint: leave 'a' out of --keep, or cast it in one of the files" in str(error.value)
    with pytest.raises(ColumnError, match=r"a\.parquet: column 'a' holds .* cannot become string"):
        read([tmp_path / "a.parquet", texts], {"a": "string"})


@pytest.mark.parametrize("levels", [61, 200, 490])
def test_a_column_that_no_reader_of_arrow_files_takes_is_refused(
    levels: int, tmp_path: Path
) -> None:
    deep = lines(tmp_path / "a.jsonl", ["[" * levels + "]" * levels])
    with pytest.raises(ColumnError, match=r"a\.jsonl: .* levels\nhint: leave"):
        read([deep], {}, ("text", "a"))
    assert read([deep], {}, ("text",))[0].num_rows == 1
