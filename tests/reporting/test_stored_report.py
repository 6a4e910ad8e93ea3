"""The report of an output in an object store, of its records there; a later run replaces them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.fakes import make_bundle, open_bundle, texts, write_jsonl
from support.object_stores import BUCKET, Store, no_stage_left, server, store
from support.pages import read_page

import engine
from engine.errors import OutputError
from engine.reporting import read_report

__all__ = ["no_stage_left", "server", "store"]

OUT = f"s3://{BUCKET}/a/out"


@pytest.fixture
def answer(tmp_path: Path, store: Store) -> Any:
    bundle = make_bundle(tmp_path / "bundle", "text-classification")
    rows: list[Any] = [*texts(90, seed=1), None]
    corpus = write_jsonl(tmp_path / "in" / "rows.jsonl", rows)

    def run(out: str = OUT, **settings: Any) -> engine.Report:
        return engine.run(open_bundle(bundle), corpus, out, keep="id", on_error="reject",
                          workers=1, window=16, **settings)  # fmt: skip

    return run


def starts(store: Store) -> list[str]:
    return [name for name in store.contents("a/out/") if name.startswith("_manifest/starts/")]


def test_an_output_in_a_store_has_a_report(
    tmp_path: Path, store: Store, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer()
    assert len(starts(store)) == 1
    before = store.contents()
    page = engine.report(OUT)
    assert page == Path("out.report.html")
    read_page(page.read_text("utf-8"))
    facts = read_report(OUT).facts
    assert (facts.rows_in, facts.rejected) == (91, {"null_text": 1})
    assert facts.starts[0].counts["rows"] == 90
    assert store.contents() == before
    assert answer().rows_computed == 0
    assert store.contents().keys() == before.keys()


def test_another_run_removes_the_records_of_starts(store: Store, answer: Any) -> None:
    answer()
    earlier = starts(store)
    answer(max_length=16, overwrite=True)
    assert len(starts(store)) == 1
    assert not set(earlier) & set(starts(store))
    assert len(read_report(OUT).facts.starts) == 1


def test_one_file_in_a_store_has_no_records(
    tmp_path: Path, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer(f"{OUT}.parquet")
    with pytest.raises(OutputError, match="no records in a store"):
        engine.report(f"{OUT}.parquet")
    assert not list(tmp_path.glob("*.html"))
