"""Parts in every format: what is read back is what was written."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.core.config import FORMATS, TEXT_FORMATS
from engine.data import parts, writers
from engine.data.json_text import json_lines
from engine.errors import InputError

NOW = datetime.datetime(2024, 2, 29, 1, 2, 3, 456789)
ENTITIES = [[{"word": 'B"e,\n', "score": 0.5, "at": [1, 2]}], [], None, [{"word": None, "at": []}]]
COLUMNS: dict[str, pa.Array] = {
    "id": pa.array([2**64 - 1, None, 0, 1], pa.uint64()),
    "small": pa.array([-128, None, 0, 127], pa.int8()),
    "text": pa.array(['a "b"\\', "", None, "\r\n\t\x00\x1f\x7f,;é\u2028😀"]),
    "large": pa.array(["-1", "1", "null", "NaN"], pa.large_string()),
    "flag": pa.array([True, None, False, True]),
    "single": pa.array([0.1, 1.0, None, 3.4e38], pa.float32()),
    "double": pa.array([0.1, -0.0, 5e-324, 1e22]),
    "at": pa.array([NOW, None, NOW, NOW], pa.timestamp("us")),
    "zoned": pa.array([NOW, None, NOW, NOW], pa.timestamp("ns", "Europe/Berlin")),
    "day": pa.array([NOW.date(), None, NOW.date(), NOW.date()]),
    "digits": pa.array([Decimal("12345678901234567890.12"), None, Decimal("-0.01"), Decimal(1)]),
    "raw": pa.array([b"\x00\xff", b"", None, b"abc"]),
    "took": pa.array([1, None, -3, 4], pa.duration("us")),
    "entities": pa.array(ENTITIES),
    "time": pa.array([NOW.time(), None, NOW.time(), None], pa.time64("us")),
    "map": pa.array(
        [[("k", 1), ("k", None)], None, [], [("é", 2)]], pa.map_(pa.string(), pa.int8())
    ),
    "fixed": pa.array([[1, 2], None, [3, None], [4, 5]], pa.list_(pa.int16(), 2)),
    "larger": pa.array([["a"], None, [], [None]], pa.large_list(pa.large_string())),
    "bytes": pa.array([[b"\xff"], None, [], [None]], pa.list_(pa.binary())),
    "deep": pa.array(
        [[{"at": NOW, "raw": b"\x00"}], None, [None], [{"at": None, "raw": b"a"}]],
        pa.list_(pa.struct([("at", pa.timestamp("ns", "UTC")), ("raw", pa.binary())])),
    ),
    "costs": pa.array([{"d": Decimal("1.50")}, None, {"d": None}, {"d": Decimal("0.25")}]),
    "void": pa.array([{}, None, {}, {}], pa.struct([])),
    "nested": pa.array([{"a": {"b": [1.5]}}, None, {"a": None}, {"a": {"b": None}}]),
    'n"a,m\ne é': pa.array([1, 2, 3, 4]),
}


def write(file: Path, columns: pa.RecordBatch) -> Path:
    kind = parts.format_of(file)
    writer = writers.FileWriter(file.parent, file.name, columns.schema, kind, "none")
    writer.write(columns)
    writer.finish()
    return file


def read(file: Path, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(parts.batches(file, schema), schema=schema)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_comes_back_in_its_own_type(tmp_path: Path, kind: str, name: str) -> None:
    if (kind, name) == ("parquet", "void"):
        pytest.skip("Parquet has no struct without fields")
    for column in (COLUMNS[name], COLUMNS[name].slice(1, 2), COLUMNS[name].slice(0, 0)):
        columns = pa.RecordBatch.from_arrays([pa.nulls(len(column)), column], names=["x", name])
        file = write(tmp_path / f"part{FORMATS[kind]}", columns)
        if kind in TEXT_FORMATS:  # a column of nothing has no type there
            columns = columns.set_column(
                0, pa.field("x", pa.string()), pa.nulls(len(column), pa.string())
            )
        assert read(file, columns.schema).equals(pa.Table.from_batches([columns]))
        assert parts.count_rows(file) == len(column)


@pytest.mark.parametrize("kind", FORMATS)
def test_all_columns_together_and_as_a_dataset(tmp_path: Path, kind: str) -> None:
    columns = pa.RecordBatch.from_pydict({n: c for n, c in COLUMNS.items() if n != "void"})
    empty = write(tmp_path / f"empty{FORMATS[kind]}", columns.slice(0, 0))
    file = write(tmp_path / f"part{FORMATS[kind]}", columns)
    assert read(file, columns.schema).equals(pa.Table.from_batches([columns]))
    rows = parts.dataset([empty, file, empty], kind, columns.schema)
    assert rows.schema.names == columns.schema.names
    assert rows.to_table()["id"].to_pylist() == COLUMNS["id"].to_pylist()
    assert rows.to_table()["text"].to_pylist() == COLUMNS["text"].to_pylist()
    assert parts.dataset([empty], kind, columns.schema).to_table().schema.names == rows.schema.names


@pytest.mark.parametrize("kind", FORMATS)
def test_some_columns_in_batches_of_few_rows(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROWS", 3)
    columns = pa.RecordBatch.from_pydict({n: c for n, c in COLUMNS.items() if n != "void"})
    file = write(tmp_path / f"part{FORMATS[kind]}", columns)
    for names in (["digits", "text", "id"], ["entities"], ["nested", 'n"a,m\ne é', "fixed"]):
        batches = list(parts.columns(file, columns.schema, names))
        assert [batch.num_rows for batch in batches] == [3, 1]
        assert all(batch.schema.names == names for batch in batches)
        found = pa.Table.from_batches(batches).to_pydict()
        assert found == {name: COLUMNS[name].to_pylist() for name in names}
    empty = write(tmp_path / f"empty{FORMATS[kind]}", columns.slice(0, 0))
    assert list(parts.columns(empty, columns.schema, ["id"])) == []


def test_long_rows_of_parquet_are_decoded_a_few_at_a_time(tmp_path: Path) -> None:
    texts = pa.array(["x" * (5 << 20) + str(i) for i in range(20)])
    file = write(tmp_path / "part.parquet", pa.RecordBatch.from_arrays([texts], names=["text"]))
    rows = [batch.num_rows for batch in parts.columns(file, None, ["text"])]
    assert sum(rows) == 20
    assert max(rows) <= 32 // 5


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(st.lists(VALUES, min_size=1, max_size=5), st.integers(0, 2))
def test_json_lines_are_what_the_standard_library_writes(values: list[Any], start: int) -> None:
    try:
        column = pa.array(values)
    except (pa.ArrowException, TypeError):
        return  # values of several types, which no column has
    columns = pa.RecordBatch.from_arrays([column], names=["v"]).slice(start)
    lines = json_lines(columns).to_pybytes().decode().split("\n")
    assert lines.pop() == ""
    expected = [{"v": _without_nan(v)} for v in columns.column(0).to_pylist()]
    read_back = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert repr(read_back) == repr(expected)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return {k: _without_nan(v) for k, v in value.items()} if isinstance(value, dict) else value


def test_values_without_a_form_in_json_are_null_and_others_have_one() -> None:
    columns = {
        "f": pa.array([math.nan, math.inf, 1.0]),
        "h": pa.array([0.5, None, 2], pa.float16()),
        "m": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
        "d": pa.array(["x", None, "x"]).dictionary_encode(),
        "t": pa.array([datetime.time(1, 2, 3), None, None], pa.time32("s")),
        "v": pa.array(["x", None, "y"], pa.string_view()),
        "n": pa.nulls(3),
        "e": pa.array([{}, None, {}], pa.struct([])),
    }
    lines = json_lines(pa.RecordBatch.from_pydict(columns)).to_pybytes().decode().splitlines()
    assert lines == [
        '{"f":null,"h":0.5,"m":[{"key":"k","value":1}],"d":"x","t":"01:02:03","v":"x","n":null,"e":{}}',
        '{"f":null,"h":null,"m":null,"d":null,"t":null,"v":null,"n":null,"e":null}',
        '{"f":1.0,"h":2.0,"m":[],"d":"x","t":null,"v":"y","n":null,"e":{}}',
    ]


TEXTS = st.lists(st.none() | st.text(st.sampled_from('a",\r\n;\\é')), max_size=6)


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TEXTS)
def test_csv_is_read_by_the_standard_library_too(tmp_path: Path, values: list[str | None]) -> None:
    columns = pa.RecordBatch.from_pydict(
        {"v": pa.array(values, pa.string()), "n": list(range(len(values)))}
    )
    file = write(tmp_path / "part.csv", columns)
    content = file.read_bytes().decode()
    rows = list(csv.reader(io.StringIO(content, newline="")))
    assert rows == [["v", "n"], *([v or "", str(n)] for n, v in enumerate(values))]
    assert parts.count_rows(file) == len(values)
    assert read(file, columns.schema).equals(pa.Table.from_batches([columns]))


def test_csv_of_one_column_has_no_empty_line(tmp_path: Path) -> None:
    """Readers skip those, and a row would be lost."""
    file = write(tmp_path / "part.csv", pa.RecordBatch.from_pydict({"v": ["x", None, ""]}))
    assert file.read_text() == '"v"\n"x"\n""\n""\n'


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_part_is_named(tmp_path: Path, kind: str) -> None:
    columns = pa.RecordBatch.from_pydict({"a": [1, 2], "b": [1, 2]})
    file = write(tmp_path / f"part{FORMATS[kind]}", columns)
    file.write_bytes(file.read_bytes()[:-3] + b'"x{')
    with pytest.raises(InputError, match="cannot be read"):
        read(file, columns.schema)
