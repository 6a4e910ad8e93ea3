"""Nesting, keys and blank lines of JSON end no process, fill no memory and lose no row."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.reading_rows import read_all
from faults.sandbox import MIB, OK, call_apart
from hypothesis import given
from hypothesis import strategies as st

from engine.data.columnar import MOST_FIELDS
from engine.data.csv_layout import MOST_COLUMNS
from engine.data.json_nesting import LEVELS, deep_lines, filled_lines
from engine.errors import ColumnError, InputError

GOOD = b'{"text": "a", "id": 1}\n'


def written(folder: Path, content: bytes, name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("levels", [LEVELS + 1, 5_000, 100_000])
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")]
)
@pytest.mark.parametrize("keep", [("all",), ()])
def test_a_line_that_is_too_deep_is_a_bad_row_and_no_crash(
    tmp_path: Path, levels: int, opening: bytes, closing: bytes, keep: tuple[str, ...]
) -> None:
    deep = b'{"text": "b", "d": ' + opening * levels + b"1" + closing * levels + b"}\n"
    path = written(tmp_path, GOOD + deep + GOOD)
    outcome = call_apart(read_all, path, keep, seconds=60)
    assert outcome.state == OK, outcome
    assert sorted(outcome.value.rows) == [0, 2]
    assert outcome.value.rejects == {1: ("too_deep", "")}


def test_the_deepest_line_that_is_read(tmp_path: Path) -> None:
    inner = LEVELS - 1
    line = b'{"text": "b", "d": ' + b"[" * inner + b"]" * inner + b"}\n"
    outcome = call_apart(read_all, written(tmp_path, GOOD + line), (), seconds=60)
    assert sorted(outcome.value.rows) == [0, 1]


def test_brackets_in_texts_are_no_levels() -> None:
    texts = b'{"text": "' + b'[\\"{' * 5_000 + b'"}\n'
    hidden = b'{"text": "' + b"]" * 5_000 + b'", "d": ' + b"[" * 600 + b"]" * 600 + b"}\n"
    assert deep_lines(texts + hidden + texts) == [1]


@given(st.lists(st.text('[]{}"\\ a,:', max_size=30), max_size=6))
def test_depth_is_that_of_a_walk_over_the_line(lines: list[str]) -> None:
    def depth(line: str) -> int:
        level = most = 0
        inside = escaped = False
        for character in line:
            if inside:
                inside = escaped or character != '"'
                escaped = character == "\\" and not escaped
            elif character == '"':
                inside = True
            else:
                level += (character in "[{") - (character in "]}")
                most = max(most, level)
        return most

    wide = [line.replace("\\", "").replace("[", "[" * 200) for line in lines]
    expected = [n for n, line in enumerate(wide) if depth(line) > LEVELS]
    assert deep_lines("\n".join(wide).encode()) == expected


@given(st.lists(st.sampled_from(["", " ", "\t\r", "a", " b ", "{}", "\r"])))
def test_blank_lines_are_passed_over_and_counted(lines: list[str]) -> None:
    expected = [(n, line.strip().encode()) for n, line in enumerate(lines) if line.strip()]
    assert filled_lines("\n".join(lines).encode()) == expected


def test_millions_of_blank_lines_are_read_in_little_memory(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + b"\n" * (16 * MIB) + GOOD)
    outcome = call_apart(read_all, path, seconds=60)
    assert outcome.state == OK
    assert outcome.peak < 512 * MIB
    assert sorted(outcome.value.rows) == [0, 1 + 16 * MIB]


def test_keys_that_are_data_are_not_kept_and_the_hint_helps(tmp_path: Path) -> None:
    lines = [b'{"text": "a", "k%d": 1}\n' % n for n in range(MOST_FIELDS + 1)]
    path = written(tmp_path, GOOD + b"".join(lines))
    with pytest.raises(ColumnError, match=r"more than 10,000 columns or keys(.|\n)*--keep"):
        read_all(path)
    assert len(read_all(path, ("id",)).rows) == MOST_FIELDS + 2


def test_a_header_of_too_many_columns_is_refused(tmp_path: Path) -> None:
    header = b"text" + b",c" * MOST_COLUMNS + b"\n"
    with pytest.raises(InputError, match="50,001 columns, and at most 50,000 are read"):
        read_all(written(tmp_path, header, "a.csv"))
