"""Cases of JSON as lines and as elements of an array: good ones are rows, bad ones bad rows, and
what stands beside them is not touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from faults.json_cases import CASES, Case
from faults.reading_rows import Contents, read_all

from engine.errors import EngineError

TOO_DEEP = ("i_deeper_list", "i_deeper_object")
"""For a type of Arrow: the column is refused."""
OTHER_LAYOUTS = (
    "n_line_list",
    "n_line_list_of_object",
    "n_line_two_objects",
    "n_line_two_objects_space",
)
"""A file with nothing else is an array, or objects without lines."""
BESIDE = b'{"text":"beside","v":null}'


def _read(path: Path, content: bytes) -> Contents | EngineError:
    path.write_bytes(content)
    try:
        return read_all(path, keep=("v",))
    except EngineError as error:
        return error


def _value(case: Case) -> Any:
    return json.loads(case.line).get("v")


def _check(case: Case, contents: Contents, number: int) -> None:
    """That one row of the contents is what the case's name says."""
    is_row, is_bad = number in contents.rows, number in contents.rejects
    if case.verdict == "n":
        assert (is_row, is_bad) == (False, True), case.name
    elif case.verdict == "y":
        assert (is_row, is_bad) == (True, False), case.name
        text, kept = contents.rows[number]
        assert (text, repr(kept[0])) == ("t", repr(_value(case))) or kept[0] == _value(case)
        assert type(kept[0]) is not bool or isinstance(_value(case), bool)
    else:
        assert is_row + is_bad == 1 or not case.line.strip(), case.name


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
        contents = _read(tmp_path / f"{case.name}.jsonl", case.line + b"\n")
        if isinstance(contents, EngineError):
            assert verdict != "y" or case.name == "y_line_no_v", (case.name, contents)
        elif case.line.strip() and case.name not in OTHER_LAYOUTS:
            assert {*contents.rows, *contents.rejects} == {0}, case.name
            _check(case, contents, 0)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_line_between_others(tmp_path: Path, case: Case) -> None:
    contents = _read(tmp_path / "corpus.jsonl", b"\n".join([BESIDE, case.line, BESIDE]))
    if isinstance(contents, EngineError):
        assert case.name in TOO_DEEP, contents
        return
    assert {0, 2} <= contents.rows.keys() <= {0, 1, 2}
    assert contents.rejects.keys() <= {1}
    assert contents.rows[0] == contents.rows[2] == ("beside", (None,))
    _check(case, contents, 1)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_element_between_others(tmp_path: Path, case: Case) -> None:
    contents = _read(tmp_path / "corpus.json", b"[" + b",".join([BESIDE, case.line, BESIDE]) + b"]")
    if isinstance(contents, EngineError):
        assert case.verdict == "n" or case.name in TOO_DEEP, contents
        return
    last = max(contents.rows)
    assert contents.rows[0] == contents.rows[last] == ("beside", (None,))
    if len(contents.rows) + len(contents.rejects) == 3:
        _check(case, contents, 1)
    else:  # it has commas between elements: each of its pieces is one
        assert case.verdict == "n"
        assert contents.rejects or case.name == "n_line_two_objects_comma"
