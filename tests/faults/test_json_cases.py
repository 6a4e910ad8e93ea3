"""Cases of JSON as lines and as elements of an array: all good ones are rows, all bad ones bad rows,
and what stands beside them is not touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from faults.json_cases import CASES, Case
from faults.reading_rows import Contents, read_all

from engine.errors import ColumnError, EngineError, InputError

TOO_DEEP = ("i_deeper_list", "i_deeper_object")
"""For a type of Arrow: the column is refused."""
BESIDE = b'{"text":"beside","v":null}'


def _read(path: Path, content: bytes) -> Contents:
    path.write_bytes(content)
    return read_all(path, keep=("v",))


def _value(case: Case) -> Any:
    return json.loads(case.line).get("v")


def _check(case: Case, contents: Contents, number: int) -> None:
    """That one row of the contents is what the case's name says."""
    is_row, is_bad = number in contents.rows, number in contents.rejects
    if case.verdict == "n":
        assert is_bad and not is_row
    elif case.verdict == "y":
        assert is_row and not is_bad
        text, kept = contents.rows[number]
        assert (text, repr(kept[0])) == ("t", repr(_value(case))) or kept[0] == _value(case)
        assert type(kept[0]) is not bool or isinstance(_value(case), bool)
    else:
        assert not (is_row and is_bad)
        assert is_row or is_bad or not case.line.strip()


def test_there_are_many_cases_of_each_verdict() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 150
    assert {case.verdict for case in CASES} == set("yni")
    for case in CASES:
        if case.verdict == "y":
            assert isinstance(json.loads(case.line), dict), case.name


@pytest.mark.parametrize("verdict", ["y", "n", "i"])
def test_a_file_of_one_line(tmp_path: Path, verdict: str) -> None:
    for case in (case for case in CASES if case.verdict == verdict):
        try:
            contents = _read(tmp_path / f"{case.name}.jsonl", case.line + b"\n")
        except EngineError as error:
            assert verdict != "y" or case.name == "y_line_no_v", (case.name, error)
            continue
        if case.line.strip() and case.line != b"[]":  # which is an array without elements
            assert {*contents.rows, *contents.rejects} == {0}, case.name
            _check(case, contents, 0)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_line_between_others(tmp_path: Path, case: Case) -> None:
    try:
        contents = _read(tmp_path / "corpus.jsonl", b"\n".join([BESIDE, case.line, BESIDE]))
    except ColumnError as error:
        assert case.name in TOO_DEEP and "corpus.jsonl" in str(error)
        return
    assert {0, 2} <= contents.rows.keys() <= {0, 1, 2} and contents.rejects.keys() <= {1}
    assert contents.rows[0] == contents.rows[2] == ("beside", (None,))
    _check(case, contents, 1)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_element_between_others(tmp_path: Path, case: Case) -> None:
    try:
        contents = _read(
            tmp_path / "corpus.json", b"[" + b",".join([BESIDE, case.line, BESIDE]) + b"]"
        )
    except (InputError, ColumnError) as error:
        assert case.verdict == "n" or case.name in TOO_DEEP, error
        assert "corpus.json" in str(error)
        return
    if case.verdict == "n" and len(contents.rows) + len(contents.rejects) != 3:
        # It has commas between elements: each of its pieces is one.
        assert contents.rows[0] == contents.rows[max(contents.rows)] == ("beside", (None,))
        assert case.name == "n_line_two_objects_comma" or contents.rejects
        return
    assert contents.rows[0] == contents.rows[2] == ("beside", (None,))
    _check(case, contents, 1)
