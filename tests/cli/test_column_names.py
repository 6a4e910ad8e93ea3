"""Names of columns with commas, dots, spaces and quotation marks, as a person types them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import engine
from engine.cli import app
from engine.cli.options import _joined
from engine.core.settings import for_shell, join_commas, split_commas
from engine.demo import BUNDLE
from engine.errors import ColumnError

NAMES = st.lists(st.text(min_size=1).filter(lambda name: "\0" not in name))
ODD = ["a,b", "a", "b", " edge ", "it's", "doc.text", "a\\b", "a\\", 'say "x"', "-x", "all,", "ü x"]


@given(NAMES)
def test_every_name_can_be_typed(names: list[str]) -> None:
    assert split_commas(join_commas(names)) == tuple(names)
    assert _joined([join_commas([name]) for name in names]) == tuple(names)
    for name in names:
        assert split_commas(shlex.split(for_shell(name))[0]) == (name,)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b", ("a", "b")),
        (" a , b ,", ("a", "b")),
        ("a\\,b,c", ("a,b", "c")),
        ("my text", ("my text",)),
        ("a\\b", ("a\\b",)),
        ("a\\\\,b", ("a\\", "b")),
        ("\\ a\\ ", (" a ",)),
        ("a\\", ("a\\",)),
        ("", ()),
        (" , ", ()),
    ],
)
def test_a_backslash_takes_a_comma_into_a_name(text: str, names: tuple[str, ...]) -> None:
    assert split_commas(text) == names


def test_repeated_options_are_names_too() -> None:
    assert _joined(["a", "b,c", "d\\,e"]) == ("a", "b", "c", "d,e")


@pytest.mark.parametrize("name", ODD)
def test_the_hint_for_a_missing_column_works_when_it_is_pasted(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({name: ["uno", "dos"], "other": [1, 2]}), file)
    with pytest.raises(ColumnError) as error:
        engine.run(BUNDLE, file, tmp_path / "out", text="missing")
    match = re.fullmatch(r"--text one of: (.*), 'other'", error.value.hint)
    assert match is not None
    typed = split_commas(shlex.split(match[1])[0])
    assert typed == (name,)
    report = engine.run(BUNDLE, file, tmp_path / "out", text=typed, keep=join_commas(typed))
    assert report.rows_out == 2


def test_the_command_line_takes_repeated_names_and_those_of_fields(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": 1, "a,b": 2, "doc": {"text": "uno", "x.y": {"my url": "u"}}}\n')
    out = tmp_path / "out"
    typed = ["--text", "doc.text", "--keep", "id,a\\,b", "--keep", "doc.x.y.my url"]
    done = CliRunner().invoke(app, ["run", str(BUNDLE), str(file), "-o", str(out), *typed])
    assert done.exit_code == 0, done.output
    row = engine.open(out).to_table().to_pylist()[0]
    assert [*row.items()][:3] == [("id", 1), ("a,b", 2), ("doc.x.y.my url", "u")]
    assert row["translation_text"] == "um"


def test_a_field_that_becomes_a_column_redoes_the_part(tmp_path: Path) -> None:
    file, out = tmp_path / "a.jsonl", tmp_path / "out"
    rows = '{"doc": {"text": "uno"}}\n' * 3
    file.write_text(rows)
    more: dict[str, Any] = {"text": "doc.text", "split_size": len(rows), "on_error": "reject"}
    first = engine.run(BUNDLE, file, out, **more)
    again = engine.run(BUNDLE, file, out, **more)
    assert (first.rows_out, again.splits_skipped) == (3, 1)
    file.write_text(rows + '{"doc.text": "dos"}\n')
    changed = engine.run(BUNDLE, file, out, **more)  # of two parts, the first from the same bytes
    assert (changed.splits, changed.rows_out, changed.rows_rejected) == (2, 1, 3)
