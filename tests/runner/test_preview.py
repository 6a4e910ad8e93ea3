"""What a run would do: as it then does, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import ColumnError

TYPES = {"translation_text": "string", "output_tokens": "int32", "finish_reason": "string"}


def _write(file: Path, first: int, rows: int = 10) -> None:
    numbers = range(first, first + rows)
    table = pa.table({"id": list(numbers), "text": [spanish(n) for n in numbers]})
    pq.write_table(table, file)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, first in (("a", 1), ("b", 40), ("c", 80)):
        _write(folder / f"{name}.parquet", first)
    (folder / "notes.md").write_text("mine")
    return folder


def _content(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_fresh_run_is_told_and_not_begun(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = engine.plan(BUNDLE, corpus, out, keep="id", device="cpu")
    assert not out.exists()
    assert plan.files == ("a.parquet", "b.parquet", "c.parquet")
    assert (plan.kinds, plan.unread) == ({"parquet": 3}, {".md": 1})
    assert (plan.rows, plan.rows_exact) == (30, True)
    assert plan.reads == {"text": "text", "id": "int64"}
    assert plan.writes == {"id": "int64", **TYPES}
    assert plan.parts == {"new": 3}
    assert (plan.refused, plan.removed, plan.device) == ("", (), "cpu")
    report = engine.run(BUNDLE, corpus, out, keep="id", device="cpu")
    schema = engine.open(out).schema
    assert {field.name: str(field.type) for field in schema} == plan.writes
    assert report.splits == 3


def test_what_is_done_and_what_has_changed_is_told(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    engine.run(BUNDLE, corpus, out, keep="id")
    _write(corpus / "b.parquet", 60)
    _write(corpus / "d.parquet", 90)
    (corpus / "c.parquet").rename(corpus / "e.parquet")
    before = _content(out)
    plan = engine.plan(BUNDLE, corpus, out, keep="id")
    assert plan.parts == {
        "done": 1,
        "to do again": 1,
        "new": 1,
        "done, under another name": 1,
    }
    assert plan.removed == ()
    assert _content(out) == before
    report = engine.run(BUNDLE, corpus, out, keep="id")
    assert (report.splits_skipped, report.rows_computed) == (2, 20)
    assert engine.plan(BUNDLE, corpus, out, keep="id").parts == {"done": 4}


def test_answers_that_would_go_are_told(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    engine.run(BUNDLE, corpus, out)
    (corpus / "c.parquet").unlink()
    plan = engine.plan(BUNDLE, corpus, out)
    assert plan.removed == (str(corpus / "c.parquet"),)
    assert engine.run(BUNDLE, corpus, out).splits == 2


@pytest.mark.parametrize("settings", [{"keep": "id"}, {"limit": 3}, {"num_beams": 2}])
def test_a_folder_of_another_run_is_told(
    corpus: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    engine.run(BUNDLE, corpus, out)
    before = _content(out)
    plan = engine.plan(BUNDLE, corpus, out, **settings)
    assert "holds a run with other settings" in plan.refused
    assert "--overwrite" in plan.refused
    assert engine.plan(BUNDLE, corpus, out, overwrite=True, **settings).refused == ""
    assert _content(out) == before


def test_the_limit_of_rows_is_counted_down(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert engine.plan(BUNDLE, corpus, out, limit=15).parts == {"new": 2, "beyond the limit": 1}
    engine.run(BUNDLE, corpus, out, limit=15)
    assert engine.plan(BUNDLE, corpus, out, limit=15).parts == {"done": 2, "beyond the limit": 1}


def test_what_a_run_refuses_is_refused(corpus: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"other": ["x"]}), corpus / "c.parquet")
    with pytest.raises(ColumnError, match=r"c\.parquet: no column 'text'"):
        engine.plan(BUNDLE, corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_of_json_lines_are_estimated(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "uno"}\n' * 50)
    plan = engine.plan(BUNDLE, file, tmp_path / "out")
    assert (plan.rows, plan.rows_exact) == (50, False)
