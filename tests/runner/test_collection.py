"""What a killed run left is removed, and nothing that a record names or a start goes on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.fakes import FakeBackend, make_bundle, open_bundle
from support.object_stores import BUCKET, Store, no_stage_left, server, store
from support.runs import BoomError, content, corpus

import engine
from engine.errors import OutputError
from engine.runner import coordinator, results
from engine.runner.collection import collect
from engine.runner.conversion import convert
from engine.runner.inspection import inspect
from engine.runner.manifest import Manifest
from engine.runner.verify import verify

__all__ = ["corpus", "no_stage_left", "server", "store"]

SMALL: dict[str, Any] = {
    "window": 16, "batch_tokens": 64, "keep": ("id",), "workers": 1, "on_error": "reject",
}  # fmt: skip
OUT = f"s3://{BUCKET}/out"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "features")


def run(bundle: Path, corpus: Path, out: Any, before: Callable[[int], None] | None = None) -> None:
    backend = FakeBackend(before=before) if before else FakeBackend()
    coordinator.run(open_bundle(bundle, backend), corpus, out, **SMALL)


def test_a_folder_loses_what_no_record_names(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    run(bundle, corpus, out)
    whole = content(out)
    left = ["part-00009-x.arrow", "_manifest/rejects/part-00009-x.jsonl", "_tmp/part-1-x.arrow",
            "_manifest/.part-00009-x.json.tmp", "._SUCCESS.tmp"]  # fmt: skip
    kept = ["mine.txt", "part-of-mine.csv", "_tmp/part-00009-x.journal"]
    for name in left + kept:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("x")
    assert sorted(collect(out, dry_run=True).files) == sorted(left)
    assert all((out / name).is_file() for name in left)
    assert sorted(collect(out).files) == sorted(left)
    assert content(out) == whole | dict.fromkeys(kept, b"x")
    assert collect(out).files == ()


def test_a_run_that_writes_is_not_disturbed(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    run(bundle, corpus, out)
    with Manifest(out).held(), pytest.raises(OutputError, match="another run is writing here"):
        collect(out)
    with pytest.raises(OutputError, match="not the output of a run"):
        collect(tmp_path)


def test_what_a_start_goes_on_from_stays(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    def boom(call: int) -> None:
        if call == 8:
            raise BoomError

    for folder in ("one", "two"):
        with pytest.raises(BoomError):
            run(bundle, corpus, tmp_path / folder, boom)
    before = content(tmp_path / "one")
    assert collect(tmp_path / "one").files == ()
    assert content(tmp_path / "one") == before


def test_a_store_loses_parts_and_uploads(store: Store, bundle: Path, corpus: Path) -> None:
    run(bundle, corpus, OUT)
    whole = store.contents()
    left = ("part-00009-x.arrow", "_manifest/rejects/part-00009-x.jsonl")
    for name in (*left, "mine.txt"):
        store.put(f"out/{name}", b"x")
    uploads = ("out/part-00007-x.arrow", "out/part-00008-ü +.arrow", "out/mine", "outer/part-1")
    for key in (*uploads, uploads[0]):
        store.client.create_multipart_upload(Bucket=BUCKET, Key=key)
    assert any("has no record" in problem for problem in verify(OUT).problems)
    first = collect(OUT, dry_run=True)
    assert set(first.files) == set(left)
    assert sorted(first.uploads) == ["part-00007-x.arrow"] * 2 + ["part-00008-ü +.arrow"]
    assert len(store.uploads()) == 5
    assert collect(OUT) == first
    assert store.contents() == whole | {"out/mine.txt": b"x"}
    assert sorted(store.uploads()) == ["out/mine", "outer/part-1"]
    assert verify(OUT).problems == ()


def test_an_empty_folder_of_a_store_is_no_run(store: Store) -> None:
    with pytest.raises(OutputError, match="not the output of a run"):
        collect(OUT)
    assert store.contents() == {}


@pytest.mark.parametrize("format", ["arrow", "parquet", "jsonl", "csv"])
def test_results_are_read_from_a_store_as_from_a_folder(
    tmp_path: Path, store: Store, bundle: Path, corpus: Path, format: str
) -> None:
    here = tmp_path / "out"
    settings = SMALL | {"format": format}
    report = coordinator.run(open_bundle(bundle), corpus, OUT, **settings)
    coordinator.run(open_bundle(bundle), corpus, here, **settings)
    table = engine.open(OUT).to_table()
    assert table.equals(engine.open(here).to_table())
    assert report.table().equals(table)
    assert engine.open(OUT).head(3).equals(table.slice(0, 3))
    assert list(results.rejects(OUT)) == list(results.rejects(here))
    assert inspect(OUT) == inspect(here)
    assert verify(OUT) == verify(here)
    assert verify(OUT).problems == ()
    convert(OUT, tmp_path / "converted", to="parquet")
    assert engine.open(tmp_path / "converted").to_table().num_rows == table.num_rows
    assert engine.plan(bundle, corpus, OUT, **settings).parts == {"done": 5}


def test_what_cannot_be_read_is_said(store: Store, bundle: Path, corpus: Path) -> None:
    with pytest.raises(OutputError, match="not the output of a run"):
        engine.open(OUT)
    with pytest.raises(OutputError, match="one file, which has no records in a store"):
        engine.open(f"s3://{BUCKET}/out.parquet")
