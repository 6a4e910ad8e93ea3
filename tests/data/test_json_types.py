"""The types of the keys of JSON lines, and what a line is called that does not fit them."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import corpus_files

from engine import data
from engine.core.types import TEXT, Column
from engine.data import json_types, json_values, line_chunks

Row = tuple[int, str, str, str, str]


def read(
    path: Path, values: list[str], inputs: tuple[Column, ...] = (TEXT,)
) -> tuple[str, list[Any], list[Row]]:
    """The settled type of key `a`, its good values, and the bad rows of a file of such values."""
    path.write_text("\n".join(f'{{"text": "t", "a": {value}}}' for value in values))
    columns = data.settle(corpus_files([path]), list(inputs), ["a"])
    (split,) = data.split_files(corpus_files([path]), 1 << 28)
    rows = list(data.read(split, columns, window=100))
    bad = [
        (int(row), *details)
        for window in rows
        for row, *details in zip(
            window.rejects.rows,
            window.rejects.codes,
            window.rejects.columns,
            window.rejects.expected,
            window.rejects.found,
            strict=True,
        )
    ]
    good = [value for window in rows for value in window.kept.column("a").to_pylist()]
    return str(columns.kept.field("a").type), good, bad


BIG = 2**64


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2**63 - 1], "int64"),
        ([1, 2**63], "uint64"),
        ([2**64 - 1], "uint64"),
        ([-1, 2**64 - 1], "decimal128(38, 0)"),
        ([2**64 - 1, 5, -1], "decimal128(38, 0)"),
        ([1, BIG], "decimal128(38, 0)"),
        ([-(2**63) - 1], "decimal128(38, 0)"),
        ([-(10**38) + 1, 10**38 - 1], "decimal128(38, 0)"),
        ([10**38, None, 1], "decimal256(76, 0)"),
        ([[1], [-BIG, None], []], "list<item: decimal128(38, 0)>"),
        ([[2**63], [1]], "list<item: uint64>"),
        ([[2**63], [-1]], "list<item: decimal128(38, 0)>"),
        ([{"x": -1}, {"x": 2**63}], "struct<x: decimal128(38, 0)>"),
        ([{"x": [{"y": BIG}]}, {}], "struct<x: list<item: struct<y: decimal128(38, 0)>>>"),
    ],
)
@pytest.mark.parametrize("chunk", [1 << 20, 30])
def test_whole_numbers_keep_every_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[Any], kind: str, chunk: int
) -> None:
    monkeypatch.setattr(line_chunks, "CHUNK", chunk)
    settled, good, bad = read(tmp_path / "x.jsonl", [json.dumps(value) for value in values])
    assert (settled, bad) == (kind, [])
    assert json.loads(json.dumps(good, default=int)) == values or good == [
        {"x": None} if value == {} else value for value in values
    ]


@pytest.mark.parametrize(
    ("values", "bad"),
    [
        (["1", '"x"'], (1, "kept_type", "a", "int64", "text")),
        (["1", "[2]"], (1, "kept_type", "a", "int64", "list")),
        (["1", "true"], (1, "kept_type", "a", "int64", "true/false")),
        (["true", "0"], (1, "kept_type", "a", "true/false", "whole number")),
        (['"x"', "-3"], (1, "kept_type", "a", "text", "negative whole number")),
        (['"x"', "1.5"], (1, "kept_type", "a", "text", "number")),
        (["[]", '""'], (1, "kept_type", "a", "list", "text")),
        (["{}", "[]"], (1, "kept_type", "a", "object", "list")),
        (["[[1]]", '["x"]'], (1, "kept_type", "a[]", "list", "text")),
        (['{"b": [{"c": 1}]}', '{"b": [{"c": 2}, {"c": "x"}]}'],
         (1, "kept_type", "a.b[].c", "int64", "text")),
        (['{"b": {"c": "x"}}', '{"b": 7}'], (1, "kept_type", "a.b", "object", "whole number")),
        (["0.5", str(2**53 + 1)], (1, "kept_type", "a", "double", "whole number of 16 digits")),
        (["[0.5]", f"[{BIG}]"], (1, "kept_type", "a[]", "double", "whole number of 20 digits")),
        (["1", "1e400"], (1, "kept_type", "a", "double", "number too large for any type")),
        (["1", "7" * 77],
         (1, "kept_type", "a", "decimal256(76, 0)", "whole number of 77 digits")),
        (["1", "7" * 5000],
         (1, "kept_type", "a", "decimal256(76, 0)", "number too large for any type")),
        ([str(BIG), '"5"'], (1, "kept_type", "a", "decimal128(38, 0)", "text")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("chunk", [1 << 20, 30])
def test_a_line_of_another_type_names_the_key_and_both_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[str], bad: Row, chunk: int
) -> None:
    monkeypatch.setattr(line_chunks, "CHUNK", chunk)
    _, good, rejects = read(tmp_path / "x.jsonl", [values[0], *values])
    assert rejects == [(bad[0] + 1, *bad[1:])]
    assert len(good) == 2


def test_a_key_that_comes_late_below_one_that_differs_is_kept(tmp_path: Path) -> None:
    values = ['{"b": 1}', '{"b": "x", "late": 1}', '{"late": 2}', '[{"late": 3}]']
    kind, good, bad = read(tmp_path / "x.jsonl", values)
    assert kind == "struct<b: int64, late: int64>"
    assert good == [{"b": 1, "late": None}, {"b": None, "late": 2}]
    assert bad == [
        (1, "kept_type", "a.b", "int64", "text"), (3, "kept_type", "a", "object", "list"),
    ]  # fmt: skip


def test_a_key_that_is_no_text_is_named_by_its_escape(tmp_path: Path) -> None:
    _, _, bad = read(tmp_path / "x.jsonl", ['{"k": 1}', '{"\\ud800": 1}'])
    assert bad == [(1, "kept_type", "a.\\ud800", "no such key", "whole number")]


def test_numbers_that_json_does_not_have_are_kept(tmp_path: Path) -> None:
    values = ["0.1234567890123456789", "NaN", "-Infinity", "-0.0", "1e-400", "1"]
    kind, good, bad = read(tmp_path / "x.jsonl", values)
    assert (kind, bad) == ("double", [])
    assert math.isnan(good[1])
    assert math.copysign(1, good[3]) == -1
    assert [good[0], *good[2:]] == [0.1234567890123456789, -math.inf, 0, 0, 1]


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ('{"text": 5}', ("not_text", "text", "text", "whole number")),
        ('{"text": ["x"]}', ("not_text", "text", "text", "list")),
        ('{"text": {"x": 1}}', ("not_text", "text", "text", "object")),
        ('{"text": null}', ("null_text", "text", "", "")),
        ('{"text": "\\ud800"}', ("invalid_utf8", "text", "", "")),
        ('{"text": "w", "a": "\\udfff"}', ("invalid_utf8", "a", "", "")),
        ('{"text": "w", "a": 5}', ("kept_type", "a", "text", "whole number")),
        ('["text"]', ("not_object", "", "object", "list")),
        ("{", ("broken_json", "", "", "")),
    ],
)
def test_a_bad_line_names_its_column(tmp_path: Path, line: str, bad: tuple[str, ...]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "t", "a": "x"}\n' + line)
    columns = data.settle(corpus_files([path]), [TEXT], ["a"])
    (split,) = data.split_files(corpus_files([path]), 1 << 28)
    (rows,) = data.read(split, columns, window=100)
    rejects = rows.rejects
    assert (*rejects.codes, *rejects.columns, *rejects.expected, *rejects.found) == bad
    error = data.first_error(rows)
    assert error is not None
    assert f"{path}: row 1 (counted from 0)" in error.message
    assert all(word in error.message for word in bad[1:])


def test_lists_of_texts_and_messages_are_named_by_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    good = {"chat": [{"role": "user", "content": "x"}]}
    path.write_text(f'{json.dumps(good)}\n{{"chat": [{{"role": "user", "content": 5}}]}}')
    columns = data.settle(corpus_files([path]), [Column("chat", "chat")], [])
    (split,) = data.split_files(corpus_files([path]), 1 << 28)
    (rows,) = data.read(split, columns, window=100)
    rejects = rows.rejects
    assert (rejects.columns, rejects.expected, rejects.found) == (
        ("chat[].content",), ("text",), ("whole number",),
    )  # fmt: skip


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**40), 10**40), st.text("ab", max_size=3),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
json_like = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=6,
)


@given(values=st.lists(json_like, min_size=1, max_size=8), chunk=st.integers(20, 200))
def test_every_value_comes_out_as_it_is_or_is_named(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], chunk: int
) -> None:
    path = tmp_path_factory.mktemp("values") / "x.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_chunks, "CHUNK", chunk)
        _, good, bad = read(path, [json.dumps(value) for value in values])
    named = {row for row, *_ in bad}
    assert all(code == "kept_type" and column for _, code, column, *_ in bad)
    whole = [value for row, value in enumerate(values) if row not in named]
    assert len(whole) == len(good)
    assert all(map(_alike, whole, good))


def _alike(value: Any, stored: Any) -> bool:
    """Whether a stored value is the one of the line, with nulls for the keys that it lacks."""
    if isinstance(stored, dict):
        return isinstance(value, dict) and all(
            _alike(value.get(key), stored.get(key)) for key in {*stored, *value}
        )
    if isinstance(stored, list):
        return isinstance(value, list) and len(value) == len(stored) and all(
            map(_alike, value, stored)
        )  # fmt: skip
    if isinstance(stored, Decimal):
        return int(stored) == value
    return bool(stored == value) and isinstance(stored, bool) == isinstance(value, bool)


@given(values=st.lists(json_like, min_size=1, max_size=5), cut=st.integers(0, 5))
def test_types_do_not_depend_on_how_the_values_are_cut(values: list[Any], cut: int) -> None:
    null = pa.null()
    whole = json_values.widened(null, values)
    assert whole == json_values.widened(json_values.widened(null, values[:cut]), values[cut:])
    assert whole == json_values.widened(whole, values)


LATIN = [
    b'{"text": "t", "a": "caf\xe9", "late": 1}',
    b'{"text": "t", "m": {"x": "\xff", "deep": [1.5]}}',
    b'{"text": "t", "k\xe9y": 1, "beside": true}',
    b'{"text": "t", "a": "\xed\xa0\x80", "n": 123456789012345678901}',
    b'{"text": "t", "l": ["\xc3", null], "q": "\xf0\x9f"}',
]


@pytest.mark.parametrize("line", LATIN, ids=range(len(LATIN)))
@pytest.mark.parametrize("other", [b"{broken", b'{"text": "t", "n": -1}'])
def test_keys_beside_bytes_that_are_no_text_do_not_depend_on_other_lines(
    tmp_path: Path, line: bytes, other: bytes
) -> None:
    files = {"alone": [line], "beside": [line, other], "behind": [other, line]}
    keys = {}
    for name, lines in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in lines))  # one chunk
        (file,) = corpus_files([path])
        schema = json_types.schema(file, None, True)
        keys[name] = {f.name: str(f.type) for f in schema if f.name not in ("text", "n")}
    assert keys["alone"] == keys["beside"] == keys["behind"]
    assert all("\ufffd" not in name for name in keys["alone"])


@pytest.mark.parametrize("first", [True, False])
def test_an_object_with_a_key_that_is_no_text_is_a_bad_row_and_loses_nothing(
    tmp_path: Path, first: bool
) -> None:
    bad, good = b'{"text": "t", "v": {"\xe9": 1, "x": 2}}', b'{"text": "t", "v": {"x": 3}}'
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([bad, good] if first else [good, bad]))
    files = corpus_files([path])
    columns = data.settle(files, [TEXT], ["v"])
    (split,) = data.split_files(files, 1 << 28)
    rows = list(data.read(split, columns, window=100))
    assert [v for window in rows for v in window.kept.column("v").to_pylist()] == [{"x": 3}]
    assert [code for window in rows for code in window.rejects.codes] == ["invalid_utf8"]
