"""The promises of a run, held with a backend that answers by arithmetic.

Every row accounted for and in order, the same row the same answer, stopped anywhere and gone on
with, and nothing half-written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fakes import (
    DIMENSIONS,
    LABELS,
    MODEL_CONFIGS,
    VOCABULARY,
    FakeBackend,
    decoded,
    hidden_of,
    ids_of,
    logits_of,
    make_bundle,
    open_bundle,
    text_of,
    texts,
    write_arrow,
    write_jsonl,
    write_parquet,
)
from support.runs import BoomError, content, corpus, no_thread_left, rows_of, table

from engine import data
from engine.bundle.tokenizer import Tokenizer
from engine.core.device import Device
from engine.core.telemetry import Progress
from engine.core.types import Rows
from engine.data import writers
from engine.errors import (
    ColumnError,
    DeviceError,
    EngineError,
    InputError,
    OtherRunError,
    OutputError,
    RowError,
    SettingsError,
    Stopped,
    TooManyRejects,
)
from engine.runner import coordinator, results, worker
from engine.runner.inspection import inspect
from engine.runner.manifest import Manifest
from engine.runner.records import COUNTS
from engine.runner.report import Report
from engine.runner.verify import verify

SMALL: dict[str, Any] = {"window": 16, "batch_tokens": 64, "keep": ("id",), "workers": 2}

__all__ = ["corpus", "no_thread_left"]

# Tasks whose graphs the fake backend has.
FAKED = ("feature-extraction", "text-classification", "translation", "summarization")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {task: make_bundle(folder / task, task) for task in FAKED}


@pytest.fixture(scope="module")
def features(bundles: dict[str, Path]) -> Path:
    return bundles["feature-extraction"]


def go(
    bundle: Path,
    inputs: Any,
    out: Path,
    *,
    backend: FakeBackend | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Report:
    model = open_bundle(bundle, backend)
    return coordinator.run(model, inputs, out, on_progress=on_progress, **SMALL | settings)


def failing_at(call: int, error: BaseException | None = None) -> FakeBackend:
    def before(number: int) -> None:
        if number >= call:
            raise error or BoomError("a graph broke")

    return FakeBackend(before=before)


def rejects_of(out: Path) -> dict[str, list[tuple[int, str]]]:
    rejects: dict[str, list[tuple[int, str]]] = {
        Path(entry.input.path).name: [] for entry in Manifest(out).entries()
    }
    for row in results.rejects(out):
        rejects[Path(row["file"]).name].append((row["row"], row["code"]))
    return rejects


def expected_embedding(text: str) -> list[float]:
    hidden = np.array(hidden_of(ids_of(text)), np.float32)
    return (hidden.sum(axis=0) / np.float32(len(hidden))).tolist()


BAD = {5, 31, 32, 33, 90}


# every row accounted for


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_rows_in_are_rows_out_and_rejected_in_order(
    tmp_path: Path, features: Path, corpus: Path, kind: str, compression: str
) -> None:
    out = tmp_path / "out"
    report = go(features, corpus, out, on_error="reject", keep=("id", "text"), format=kind,
                compression=compression, split_size=500)  # fmt: skip
    assert report.splits > 6
    assert (report.rows_in, report.rows_out, report.rows_rejected) == (150, 145, 5)
    assert report.rejected == {"null_text": 5}
    assert report.exit_code == 3
    rows = rows_of(out, report)
    assert [row["id"] for row in rows] == [i for i in range(150) if i not in BAD]
    assert all(row["embedding"] == expected_embedding(row["text"]) for row in rows)
    assert rejects_of(out) == {
        "a.jsonl": [(5, "null_text"), (31, "null_text"), (32, "null_text"), (33, "null_text")],
        "b.parquet": [],
        "c.jsonl.gz": [(10, "null_text")],
        "d.arrow": [],
        "f.jsonl": [],
    }
    assert verify(out).problems == ()
    assert json.loads((out / "_SUCCESS").read_text())["files"] == list(report.files)
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [".huggingface.yaml", "_SUCCESS", "_manifest", *report.files]
    )


def test_every_part_holds_the_rows_of_its_split(
    tmp_path: Path, features: Path, corpus: Path
) -> None:
    report = go(features, corpus, tmp_path / "out", on_error="reject", split_size=500)
    for entry in Manifest(tmp_path / "out").entries():
        assert 0 < entry.seconds <= report.seconds + 0.001
        counts = entry.counts
        assert counts["rows_in"] == counts["rows_out"] + counts["rows_rejected"]
        assert table(tmp_path / "out" / entry.part.file).num_rows == counts["rows_out"]
        assert tuple(counts) == COUNTS


def test_a_fingerprint_does_not_depend_on_the_order_of_settings(
    tmp_path: Path, features: Path
) -> None:
    go(features, write_jsonl(tmp_path / "x.jsonl", texts(3)), tmp_path / "out")
    record = Manifest(tmp_path / "out").read_run() or {}
    fingerprint = record.pop("fingerprint")
    assert record.pop("inputs") == [{"name": "text", "holds": "text", "needed": True}]
    text = json.dumps(record, sort_keys=True)
    assert fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert record.keys() == {"settings", "bundle"}


def test_tokens_and_truncated_rows_are_counted_and_noted(tmp_path: Path, features: Path) -> None:
    items = ["w1", "w2 w3 w4 w5 w6 w7", "w8 w9 w10 w11", ""]
    path = write_jsonl(tmp_path / "x.jsonl", items)
    started = time.perf_counter()
    report = go(features, path, tmp_path / "out", max_length=4)
    assert 0 < report.seconds <= time.perf_counter() - started + 0.001
    assert report.rows_per_second == pytest.approx(4 / report.seconds, rel=0.2)
    assert report.tokens_per_second == pytest.approx(11 / report.seconds, rel=0.2)
    assert report.padding == round(report.padded_tokens / 11, 3)
    assert report.tokens == 2 + 4 + 4 + 1
    assert report.truncated == 2
    assert any("2 rows were cut at 4 tokens" in note for note in report.notes)
    assert report.padded_tokens >= report.tokens
    assert report.rows_computed == 4


def test_kept_columns_stand_before_the_results_in_the_order_asked_for(
    tmp_path: Path, features: Path
) -> None:
    path = write_parquet(tmp_path / "x.parquet", ["w1", "w2"])
    for keep, names in (("text,id", ["text", "id"]), ("all", ["id", "text"]), ((), [])):
        report = go(features, path, tmp_path / f"out-{keep}", keep=keep)
        answers = table(tmp_path / f"out-{keep}" / report.files[0])
        assert answers.column_names == [*names, "embedding"]
        assert answers.schema.field("embedding").type == pa.list_(pa.float32(), DIMENSIONS)


def test_texts_that_repeat_are_computed_once(tmp_path: Path, features: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [f"w{n % 7} w{n % 3}" for n in range(400)])
    backends = FakeBackend(), FakeBackend()
    reports = [
        go(features, path, tmp_path / f"out-{dedupe}", backend=backend, dedupe=dedupe, window=100)
        for backend, dedupe in zip(backends, (True, False), strict=True)
    ]
    once, each = (sum(shape[0] for _, shape in backend.shapes) for backend in backends)
    assert (once, each) == (4 * 21, 400)
    assert [report.repeats for report in reports] == [400 - 4 * 21, 0]
    assert len({report.tokens for report in reports}) == 1
    assert reports[0].rows_computed == reports[1].rows_computed == 400
    answers = [
        rows_of(tmp_path / f"out-{d}", r) for d, r in zip((True, False), reports, strict=True)
    ]
    assert answers[0] == answers[1]


def test_zero_rows_everywhere_is_a_run_with_nothing_in_it(tmp_path: Path, features: Path) -> None:
    folder = tmp_path / "corpus"
    write_jsonl(folder / "empty.jsonl", [])
    (folder / "empty.jsonl.gz").write_bytes(gzip.compress(b""))
    write_parquet(folder / "empty.parquet", [])
    pq.ParquetWriter(folder / "bare.parquet", pa.schema([("text", pa.string()),
                                                          ("id", pa.int64())])).close()  # fmt: skip
    write_arrow(folder / "empty.arrow", pa.table({"text": pa.array([], pa.string()), "id": []}))
    backend = FakeBackend()
    for size in (1, 1 << 30):
        out = tmp_path / f"out-{size}"
        report = go(features, folder, out, backend=backend, split_size=size)
        assert (report.rows_in, report.rows_out, report.splits) == (0, 0, 5)
        assert report.exit_code == 0
        assert any("no rows in 5 of the inputs" in note for note in report.notes)
        for file in report.files:
            assert table(out / file).schema.names == ["id", "embedding"]
        assert verify(out).problems == ()
        assert go(features, folder, out, split_size=size).splits_skipped == 5
    assert backend.shapes == []


def test_a_file_of_bad_rows_only_has_an_empty_part(tmp_path: Path, features: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [None] * 50)
    report = go(features, path, tmp_path / "out", on_error="reject")
    assert (report.rows_in, report.rows_out, report.rows_rejected) == (50, 0, 50)
    assert verify(tmp_path / "out").problems == ()


def test_one_file_with_no_rows_among_others_loses_none(tmp_path: Path, features: Path) -> None:
    folder = tmp_path / "corpus"
    write_jsonl(folder / "a.jsonl", [])
    write_jsonl(folder / "b.jsonl", texts(20), 0)
    write_jsonl(folder / "c.jsonl", [])
    write_jsonl(folder / "d.jsonl", texts(5), 20)
    report = go(features, folder, tmp_path / "out")
    assert [row["id"] for row in rows_of(tmp_path / "out", report)] == list(range(25))


# the same row, the same answer


def test_answers_do_not_depend_on_windows_batches_splits_or_workers(
    tmp_path: Path, features: Path, corpus: Path
) -> None:
    answers = []
    for i, settings in enumerate(
        (
            {},
            {"window": 1},
            {"window": 7, "batch_tokens": 1, "workers": 3},
            {"window": 5000, "batch_tokens": 100_000, "workers": 1},
            {"split_size": 200},
        )
    ):
        report = go(features, corpus, tmp_path / str(i), on_error="reject", **settings)
        answers.append(rows_of(tmp_path / str(i), report))
    assert all(rows == answers[0] for rows in answers)


@pytest.mark.parametrize("task", FAKED)
def test_one_worker_and_three_leave_the_same_bytes(
    tmp_path: Path, bundles: dict[str, Path], corpus: Path, task: str
) -> None:
    drawn = np.random.default_rng(0).random(1000)
    uneven = FakeBackend(before=lambda call: threading.Event().wait(drawn[call % 1000] / 500))
    one = go(bundles[task], corpus, tmp_path / "one", on_error="reject", workers=1)
    three = go(bundles[task], corpus, tmp_path / "three", on_error="reject", workers=3,
               tokenizers=4, backend=uneven)  # fmt: skip
    assert content(tmp_path / "one") == content(tmp_path / "three")
    assert (one.tokens, one.output_tokens) == (three.tokens, three.output_tokens)


def test_batches_keep_the_budget(tmp_path: Path, features: Path, corpus: Path) -> None:
    backend = FakeBackend()
    go(features, corpus, tmp_path / "out", on_error="reject", backend=backend)
    assert backend.shapes
    assert all(rows * length <= 64 for _, (rows, length) in backend.shapes)


def test_translation_answers_with_tokens_and_reasons(
    tmp_path: Path, bundles: dict[str, Path]
) -> None:
    items = texts(60, seed=5)
    path = write_jsonl(tmp_path / "x.jsonl", items)
    report = go(bundles["translation"], path, tmp_path / "out", prefix="w7 ", max_new_tokens=5)
    rows = rows_of(tmp_path / "out", report)
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    for text, row in zip(items, rows, strict=True):
        tokens, ended = decoded(ids_of("w7 " + text), 5)
        assert row["translation_text"] == text_of(tokens)
        assert row["output_tokens"] == len(tokens)
        assert row["finish_reason"] == ("stop" if ended else "length")
    assert report.output_tokens == sum(row["output_tokens"] for row in rows)


def test_pairs_reach_the_model_with_their_type_ids(
    tmp_path: Path, bundles: dict[str, Path]
) -> None:
    left, right = texts(30, seed=1), texts(30, seed=2)
    pq.write_table(pa.table({"a": left, "b": right}), tmp_path / "x.parquet")
    report = go(bundles["text-classification"], tmp_path / "x.parquet", tmp_path / "out",
                text="a,b", keep=(), top_k=0, function_to_apply="none",
                backend=FakeBackend(type_ids=True))  # fmt: skip
    for a, b, row in zip(left, right, rows_of(tmp_path / "out", report), strict=True):
        ids = (*ids_of(a), *(token + VOCABULARY for token in ids_of(b)))
        logits = np.array(logits_of(ids), np.float32)
        order = np.argsort(-logits, kind="stable")
        assert row["labels"] == [LABELS[i] for i in order]
        assert row["scores"] == logits[order].tolist()


def test_a_list_in_memory_is_answered_as_a_run_answers_it(
    tmp_path: Path, bundles: dict[str, Path]
) -> None:
    items = texts(80, seed=9)
    path = write_jsonl(tmp_path / "x.jsonl", items)
    for task in FAKED:
        bundle = bundles[task]
        report = go(bundle, path, tmp_path / task, keep=())
        answered = open_bundle(bundle)(items)
        assert answered.to_pylist() == rows_of(tmp_path / task, report)
        alone = [open_bundle(bundle)([text]).to_pylist()[0] for text in items[:10]]
        assert alone == answered.to_pylist()[:10]
        assert open_bundle(bundle)([]).schema == answered.schema


@pytest.mark.parametrize(
    ("task", "items"),
    [
        ("translation", "one string"),
        ("translation", ["w1", None]),
        ("translation", ["w1", 5]),
        ("translation", [("w1", "w2", "w3")]),
        ("translation", ["\ud800"]),
        ("text-classification", [("w1", "w2"), "w3"]),
        ("text-classification", [("w1", "w2", "w3")]),
        ("text-classification", [("w1", None)]),
    ],
)
def test_a_list_of_something_else_is_refused(
    bundles: dict[str, Path], task: str, items: Any
) -> None:
    with pytest.raises(InputError):
        open_bundle(bundles[task])(items)


# stopped anywhere, run again


@pytest.fixture
def uninterrupted(tmp_path: Path, features: Path, corpus: Path) -> dict[str, Any]:
    """What a run that was never stopped leaves."""
    go(features, corpus, tmp_path / "whole", on_error="reject")
    return content(tmp_path / "whole")


@pytest.mark.parametrize("call", [0, 1, 4, 9, 15, 25])
def test_a_run_that_broke_and_went_on_leaves_what_an_uninterrupted_one_does(
    tmp_path: Path, features: Path, corpus: Path, uninterrupted: dict[str, Any], call: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(BoomError):
        go(features, corpus, out, on_error="reject", backend=failing_at(call))
    half = content(out)
    assert "_SUCCESS" not in half
    assert all(p.suffix == ".journal" for p in (out / "_tmp").rglob("*.*"))
    for name, value in half.items():
        assert name.startswith("_tmp/") or uninterrupted[name] == value, (
            "what is visible is what a whole run writes"
        )
    report = go(features, corpus, out, on_error="reject")
    assert content(out) == uninterrupted
    assert (report.rows_in, report.rows_rejected) == (150, 5)
    assert verify(out).problems == ()


def test_a_run_that_breaks_again_and_again_gets_done(
    tmp_path: Path, features: Path, corpus: Path, uninterrupted: dict[str, Any]
) -> None:
    out, broke = tmp_path / "out", 0
    for _ in range(9):
        try:
            go(features, corpus, out, on_error="reject", backend=failing_at(45))
        except BoomError:
            broke += 1
    assert 1 <= broke < 9
    assert content(out) == uninterrupted


@pytest.mark.parametrize("moment", ["rejects named", "part named", "committed"])
@pytest.mark.parametrize("part", [0, 2])
def test_a_run_killed_between_any_two_renames_can_be_continued(
    tmp_path: Path,
    features: Path,
    corpus: Path,
    uninterrupted: dict[str, Any],
    moment: str,
    part: int,
) -> None:
    out = tmp_path / "out"
    finish, commit = writers.FileWriter.finish, Manifest.commit
    named: list[str] = []

    def finish_then_die(self: writers.FileWriter, *check: Any) -> writers.OutputFile:
        written = finish(self)
        wanted = "_manifest/rejects/" if moment == "rejects named" else "part-"
        named.extend([written.file] if written.file.startswith(wanted) else [])
        if moment != "committed" and len(named) > min(part, 1):
            raise BoomError
        return written

    def commit_then_die(self: Manifest, entry: Any) -> None:
        commit(self, entry)
        named.append(entry.part.file)
        if moment == "committed" and len(named) > part:
            raise BoomError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers.FileWriter, "finish", finish_then_die)
        patch.setattr(Manifest, "commit", commit_then_die)
        # A killed process removes nothing.
        patch.setattr(writers.FileWriter, "abandon", lambda self: None)
        with pytest.raises(BoomError):
            go(features, corpus, out, on_error="reject")
    go(features, corpus, out, on_error="reject")
    assert content(out) == uninterrupted
    assert verify(out).problems == ()


def test_an_interrupt_is_stopped_and_the_next_run_completes(
    tmp_path: Path,
    features: Path,
    corpus: Path,
    uninterrupted: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "COUNTS_SECONDS", 0.0)

    def interrupt(progress: Progress) -> None:
        if progress.split >= 2:
            raise KeyboardInterrupt

    with pytest.raises(Stopped) as caught:
        go(features, corpus, tmp_path / "out", on_error="reject", on_progress=interrupt)
    assert caught.value.exit_code == 75
    assert "2 of 5 parts" in caught.value.message
    assert "same command" in caught.value.hint
    report = go(features, corpus, tmp_path / "out", on_error="reject")
    assert report.splits_skipped == 2
    assert content(tmp_path / "out") == uninterrupted


def test_an_interrupt_reaches_a_decoder_that_is_at_work(
    tmp_path: Path, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COUNTS_SECONDS", 0.0)
    path = write_jsonl(tmp_path / "x.jsonl", texts(50))
    stepping, stopped = threading.Event(), threading.Event()

    def before(call: int) -> None:
        if call == 3:
            stepping.set()
            assert stopped.wait(30)

    def interrupt(progress: Progress) -> None:
        if stepping.is_set():
            stopped.set()
            raise KeyboardInterrupt

    backend = FakeBackend(before=before)
    with pytest.raises(Stopped):
        go(bundles["translation"], path, tmp_path / "out", backend=backend, workers=1,
           on_progress=interrupt, max_new_tokens=100_000)  # fmt: skip


def test_a_finished_run_computes_nothing(tmp_path: Path, features: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    first = go(features, corpus, out, on_error="reject")
    before = content(out)
    dates = {p: p.stat().st_mtime_ns for p in out.glob("part-*")}
    backend = FakeBackend()
    again = go(features, corpus, out, on_error="reject", backend=backend)
    assert backend.shapes == []
    assert again.splits_skipped == again.splits == 5
    assert again.rows_computed == 0
    assert [getattr(again, n) for n in COUNTS] == [getattr(first, n) for n in COUNTS]
    assert again.files == first.files
    assert content(out) == before
    assert {p: p.stat().st_mtime_ns for p in out.glob("part-*")} == dates


def test_what_cannot_change_the_answers_does_not_start_them_anew(
    tmp_path: Path, features: Path, corpus: Path
) -> None:
    go(features, corpus, tmp_path / "out", on_error="reject")
    for settings in (
        {"workers": 1}, {"threads": 3}, {"max_rejects": 50}, {"overwrite": True},
        {"device": "cpu"}, {"on_error": "fail"}, {"pooling": "mean"},
    ):  # fmt: skip
        backend = FakeBackend()
        report = go(features, corpus, tmp_path / "out", backend=backend,
                    **{"on_error": "reject"} | settings)  # fmt: skip
        assert report.splits_skipped == 5
        assert backend.shapes == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("keep", ()),
        ("limit", 9),
        ("format", "parquet"),
        ("compression", "none"),
        ("split_size", 100),
        ("window", 17),
        ("batch_tokens", 65),
        ("max_length", 8),
        ("pooling", "cls"),
        ("normalize", True),
    ],
)
def test_what_can_change_a_byte_is_refused_by_name_and_taken_with_overwrite(
    tmp_path: Path, features: Path, setting: str, value: Any
) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(30))
    out = tmp_path / "out"
    go(features, path, out)
    before = content(out)
    with pytest.raises(OtherRunError) as caught:
        go(features, path, out, **{setting: value})
    assert setting in caught.value.message
    assert content(out) == before
    go(features, path, out, overwrite=True, **{setting: value})
    go(features, path, tmp_path / "fresh", **{setting: value})
    assert content(out) == content(tmp_path / "fresh")


def test_another_bundle_is_refused(tmp_path: Path, features: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(5))
    model_config = dataclasses.replace(MODEL_CONFIGS["feature-extraction"], max_length=31)
    other = make_bundle(tmp_path / "other", model_config=model_config)
    go(features, path, tmp_path / "out")
    with pytest.raises(OtherRunError, match="bundle"):
        go(other, path, tmp_path / "out")


def test_a_folder_in_which_nothing_was_answered_yet_takes_other_settings(
    tmp_path: Path, features: Path
) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(5))
    with pytest.raises(ColumnError):
        go(features, path, tmp_path / "out", text="body")
    assert go(features, path, tmp_path / "out").rows_out == 5


def test_a_changed_input_is_answered_anew_and_only_that(
    tmp_path: Path, features: Path, corpus: Path
) -> None:
    out = tmp_path / "out"
    go(features, corpus, out, on_error="reject")
    dates = {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")}
    changed = corpus / "a.jsonl"
    lines = changed.read_text().splitlines(keepends=True)
    changed.write_text("".join(lines[:3] + lines[6:]))
    backend = FakeBackend()
    report = go(features, corpus, out, on_error="reject", backend=backend)
    assert report.splits_skipped == 4
    assert report.rows_in == 147
    assert sum(rows for _, (rows, _) in backend.shapes) == 34
    assert rejects_of(out)["a.jsonl"] == [(28, "null_text"), (29, "null_text"), (30, "null_text")]
    redone = {p.name for p in out.glob("part-*") if p.stat().st_mtime_ns != dates[p.name]}
    assert len(redone) == 1
    assert next(iter(redone)).startswith("part-00000-a-")
    go(features, corpus, tmp_path / "fresh", on_error="reject")
    assert content(out) == content(tmp_path / "fresh")


def test_an_input_that_shrank_to_fewer_splits_is_answered_anew(
    tmp_path: Path, features: Path
) -> None:
    path, out = tmp_path / "x.jsonl", tmp_path / "out"
    write_jsonl(path, texts(100))
    assert go(features, path, out, split_size=1000).splits > 4
    kept = path.read_text().splitlines(keepends=True)[:40]
    path.write_text("".join(kept))
    report = go(features, path, out, split_size=1000)
    assert report.rows_in == 40
    assert report.splits_skipped >= 1
    go(features, path, tmp_path / "fresh", split_size=1000)
    assert content(out) == content(tmp_path / "fresh")
    assert verify(out).problems == ()


def test_a_change_that_shifts_the_rows_of_later_splits_shifts_their_rejects(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.data.splits._CHUNK", 10)
    path, out = tmp_path / "x.jsonl", tmp_path / "out"
    items: list[str | None] = [*texts(100)]
    items[90] = None
    write_jsonl(path, items)
    go(features, path, out, split_size=1000, on_error="reject")
    before = rejects_of(out)["x.jsonl"]
    lines = path.read_bytes().splitlines(keepends=True)
    # As many bytes, one line less: the later splits' own bytes are the same.
    lines[3:5] = [b'{"text": "' + b"w" * (len(lines[3] + lines[4]) - 13) + b'"}\n']
    path.write_bytes(b"".join(lines))
    go(features, path, out, split_size=1000, on_error="reject", keep=("id",))
    assert (before, rejects_of(out)["x.jsonl"]) == ([(90, "null_text")], [(89, "null_text")])
    go(features, path, tmp_path / "fresh", split_size=1000, on_error="reject")
    assert content(out) == content(tmp_path / "fresh")


def test_an_input_of_which_only_the_date_changed_is_not_answered_again(
    tmp_path: Path, features: Path, corpus: Path
) -> None:
    go(features, corpus, tmp_path / "out", on_error="reject")
    os.utime(corpus / "a.jsonl", (1, 1))
    assert go(features, corpus, tmp_path / "out", on_error="reject").splits_skipped == 5


def test_rejects_go_when_their_rows_were_mended(tmp_path: Path, features: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", ["w1", None])
    assert go(features, path, tmp_path / "out", on_error="reject").exit_code == 3
    write_jsonl(path, ["w1", "w2"])
    assert go(features, path, tmp_path / "out").exit_code == 0
    assert not list((tmp_path / "out/_manifest/rejects").glob("*"))
    assert verify(tmp_path / "out").problems == ()


@pytest.mark.parametrize("lost", ["part", "rejects", "record", "damaged record", "cut part"])
def test_what_was_lost_from_the_output_is_computed_again(
    tmp_path: Path, features: Path, corpus: Path, uninterrupted: dict[str, Any], lost: str
) -> None:
    out = tmp_path / "out"
    report = go(features, corpus, out, on_error="reject")
    part = out / report.files[0]
    record = out / "_manifest" / f"{part.stem}.json"
    rejects = out / "_manifest/rejects" / f"{part.stem}.jsonl"
    if lost == "damaged record":
        record.write_bytes(record.read_bytes()[:50])
    elif lost == "cut part":
        part.write_bytes(part.read_bytes()[:-8])
    else:
        {"part": part, "rejects": rejects, "record": record}[lost].unlink()
    assert verify(out).problems
    assert go(features, corpus, out, on_error="reject").splits_skipped == 4
    assert content(out) == uninterrupted


def test_an_input_more_is_added_and_an_input_less_is_removed(
    tmp_path: Path, features: Path, corpus: Path
) -> None:
    out = tmp_path / "out"
    some = [corpus / "a.jsonl", corpus / "b.parquet"]
    go(features, some, out, on_error="reject")
    report = go(features, some[:1], out, on_error="reject")
    assert (report.splits, report.splits_skipped, report.rows_computed) == (1, 1, 0)
    assert any("no inputs any more" in note and "b.parquet" in note for note in report.notes)
    assert verify(out).problems == ()
    assert go(features, corpus, out, on_error="reject").splits_skipped == 1


def test_inputs_of_another_corpus_are_refused(tmp_path: Path, features: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    go(features, corpus / "a.jsonl", out, on_error="reject")
    before = content(out)
    with pytest.raises(OtherRunError, match=r"a\.jsonl"):
        go(features, corpus / "b.parquet", out, on_error="reject")
    assert content(out) == before


def test_a_file_of_the_same_size_is_not_taken_for_a_renamed_one(
    tmp_path: Path, features: Path
) -> None:
    out = tmp_path / "out"
    go(features, write_jsonl(tmp_path / "a.jsonl", ["w1"]), out)
    before = content(out)
    with pytest.raises(OtherRunError, match=r"a\.jsonl"):
        go(features, write_jsonl(tmp_path / "b.jsonl", ["w2"]), out)
    assert content(out) == before


@pytest.mark.parametrize("record", ["none", "unreadable"])
def test_a_part_without_a_record_does_not_stay_beside_a_success(
    tmp_path: Path, features: Path, corpus: Path, record: str
) -> None:
    out = tmp_path / "out"
    go(features, corpus, out, on_error="reject")
    whole = content(out)
    (part,) = out.glob("part-*-a-*")
    for folder, ending in ((out, part.suffix), (out / data.REJECTS, ".jsonl")):
        (folder / f"part-00000-gone-01234567{ending}").write_bytes(part.read_bytes())
    if record == "unreadable":
        (out / "_manifest/part-00000-gone-01234567.json").write_text("{}")
    (out / "notes.txt").write_text("mine")
    go(features, corpus, out, on_error="reject")
    assert content(out) == whole | {"notes.txt": b"mine"}
    assert verify(out).problems == ()


@pytest.mark.parametrize("step", range(3))
def test_a_stop_while_a_part_is_renamed_leaves_no_row_twice(
    tmp_path: Path, features: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    go(features, corpus, out, on_error="reject")
    (corpus / "a.jsonl").rename(corpus / "z.jsonl")
    renames, real = [], Path.rename

    def stopping(path: Path, target: Path) -> Path:
        renames.append(path)
        if len(renames) > step:
            raise BoomError
        return real(path, target)

    monkeypatch.setattr(Path, "rename", stopping)
    with contextlib.suppress(BoomError):
        go(features, corpus, out, on_error="reject")
    monkeypatch.undo()
    go(features, corpus, out, on_error="reject")
    go(features, corpus, fresh, on_error="reject")
    assert content(out) == content(fresh)


def test_a_moved_corpus_is_not_answered_again(tmp_path: Path, features: Path, corpus: Path) -> None:
    out, moved = tmp_path / "out", tmp_path / "elsewhere" / "corpus2"
    before = go(features, corpus, out, on_error="reject")
    moved.parent.mkdir()
    corpus.rename(moved)
    report = go(features, moved, out, on_error="reject")
    assert report.rows_computed == 0
    assert report.files == before.files
    assert verify(out).inputs_missing == 0


def test_a_renamed_file_takes_its_answers_along(
    tmp_path: Path, features: Path, corpus: Path
) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    go(features, corpus, out, on_error="reject")
    (corpus / "e").rename(corpus / "renamed")
    (corpus / "a.jsonl").rename(corpus / "z.jsonl")
    assert go(features, corpus, out, on_error="reject").rows_computed == 0
    assert verify(out).problems == ()
    go(features, corpus, fresh, on_error="reject")
    assert content(out) == content(fresh)


def test_an_output_folder_within_the_corpus_is_no_input(
    tmp_path: Path, features: Path, corpus: Path
) -> None:
    out = corpus / "answers"
    with pytest.raises(BoomError):
        go(features, corpus, out, on_error="reject", backend=failing_at(9))
    for spelled in (corpus, str(corpus / "**"), [corpus / "*", corpus / "e/*"]):
        report = go(features, spelled, out, on_error="reject")
        assert report.rows_in == 150
    with pytest.raises(InputError, match="output folder"):
        go(features, out, out)


# a limit of rows


@pytest.mark.parametrize("limit", [1, 40, 41, 95, 149, 150, 9999])
def test_a_limit_takes_the_first_rows_over_all_inputs_also_after_a_stop(
    tmp_path: Path, features: Path, corpus: Path, limit: int
) -> None:
    backend = FakeBackend()
    report = go(features, corpus, tmp_path / "a", on_error="reject", limit=limit, backend=backend)
    wanted = [i for i in range(min(limit, 150)) if i not in BAD]
    assert [row["id"] for row in rows_of(tmp_path / "a", report)] == wanted
    assert report.rows_in == min(limit, 150)
    assert verify(tmp_path / "a").problems == ()
    with pytest.raises(BoomError):
        go(features, corpus, tmp_path / "b", on_error="reject", limit=limit,
           backend=failing_at(len(backend.shapes) // 2))  # fmt: skip
    go(features, corpus, tmp_path / "b", on_error="reject", limit=limit)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    again = go(features, corpus, tmp_path / "b", on_error="reject", limit=limit)
    assert again.rows_computed == 0


@pytest.mark.parametrize("rows", [10, 30, 60])
def test_a_limit_holds_after_an_earlier_input_grew_or_shrank(
    tmp_path: Path, features: Path, rows: int
) -> None:
    folder, out = tmp_path / "corpus", tmp_path / "out"
    for name in "abc":
        write_jsonl(folder / f"{name}.jsonl", texts(20))
    assert go(features, folder, out, limit=45).rows_in == 45
    write_jsonl(folder / "a.jsonl", texts(rows, seed=1))
    report = go(features, folder, out, limit=45)
    assert report.rows_in == min(45, rows + 40)
    assert verify(out).problems == ()
    go(features, folder, tmp_path / "fresh", limit=45)
    assert content(out) == content(tmp_path / "fresh")


# bad rows


def test_the_first_bad_row_stops_a_run_and_is_named_without_its_text(
    tmp_path: Path, features: Path
) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(100))
    lines = path.read_text().splitlines()
    lines[70], lines[90] = '{"text": "the secret", "id": oops', '{"text": 5}'
    path.write_text("\n".join(lines))
    with pytest.raises(RowError) as caught:
        go(features, path, tmp_path / "out")
    assert (caught.value.row, caught.value.code) == (70, "broken_json")
    assert caught.value.path == str(path)
    assert "row 70" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "--on-error reject" in caught.value.hint
    assert caught.value.exit_code == 1
    assert list((tmp_path / "out").glob("part-*")) == []


def test_rejects_say_which_and_why_without_the_text(tmp_path: Path, features: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 0, "text": "w1"}\nsecret\n\n{"id": 1, "text": ["secret"]}\n')
    report = go(features, path, tmp_path / "out", on_error="reject")
    (file,) = (tmp_path / "out/_manifest/rejects").iterdir()
    assert file.stem == Path(report.files[0]).stem
    rows = list(results.rejects(tmp_path / "out"))
    assert {row["file"] for row in rows} == {str(path)}
    assert [(row["row"], row["code"]) for row in rows] == [(1, "broken_json"), (3, "not_text")]
    assert all(row["message"] == data.REASONS[row["code"]] for row in rows)
    assert b"secret" not in file.read_bytes()
    assert report.rejected == {"broken_json": 1, "not_text": 1}


@pytest.mark.parametrize(("allowed", "passes"), [(-1, True), (5, True), (4, False), (0, False)])
def test_max_rejects_is_the_most_a_run_may_have(
    tmp_path: Path, features: Path, corpus: Path, allowed: int, passes: bool
) -> None:
    settings: dict[str, Any] = {"on_error": "reject", "max_rejects": allowed}
    if passes:
        assert go(features, corpus, tmp_path / "out", **settings).rows_rejected == 5
        return
    with pytest.raises(TooManyRejects) as caught:
        go(features, corpus, tmp_path / "out", **settings)
    assert f"at most {allowed} are allowed" in caught.value.message
    assert "null_text" in caught.value.message
    assert re.search(r"; the first of the latest window is row \d+ of /.*\.", caught.value.message)


def test_max_rejects_counts_the_rows_set_aside_before_a_stop(
    tmp_path: Path, features: Path
) -> None:
    folder, out = tmp_path / "corpus", tmp_path / "out"
    for name in "ab":
        write_jsonl(folder / f"{name}.jsonl", ["w1", None, None, "w2"])
    settings: dict[str, Any] = {"on_error": "reject", "max_rejects": 3}
    for _ in range(2):
        with pytest.raises(TooManyRejects, match="4 bad rows"):
            go(features, folder, out, **settings)
    go(features, folder / "a.jsonl", tmp_path / "one", **settings)
    with pytest.raises(TooManyRejects, match="4 bad rows"):
        go(features, folder, tmp_path / "one", **settings)


@pytest.mark.parametrize("on_error", ["fail", "reject"])
@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.jsonl.gz"])
def test_an_unreadable_file_is_never_skipped(
    tmp_path: Path, features: Path, on_error: str, name: str
) -> None:
    folder = tmp_path / "corpus"
    write_jsonl(folder / "a.jsonl", texts(9))
    (folder / name).write_bytes(b"not what it says")
    with pytest.raises(InputError, match=name):
        go(features, folder, tmp_path / "out", on_error=on_error)


# errors of stages


def broken(*args: Any, **named: Any) -> Any:
    raise BoomError("a stage broke")


def full(*args: Any, **named: Any) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stage", ["read", "tokenize", "infer", "finish", "write", "commit"])
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_the_error_of_the_failing_stage_is_the_one_raised_and_nothing_is_left(
    tmp_path: Path,
    bundles: dict[str, Path],
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    kind: str,
) -> None:
    wanted: type[BaseException] = BoomError
    backend = FakeBackend()
    if stage == "read":
        wanted = InputError
        (corpus / "c.jsonl.gz").write_bytes((corpus / "c.jsonl.gz").read_bytes()[:-9])
    elif stage == "tokenize":
        monkeypatch.setattr(Tokenizer, "encode", broken)
    elif stage == "infer":
        backend = failing_at(30)
    elif stage == "finish":
        monkeypatch.setattr(Tokenizer, "decode", broken)
    elif stage == "write":
        wanted = OutputError
        monkeypatch.setattr(writers.HashingFile, "write", full)
    else:
        wanted = OutputError
        monkeypatch.setattr("os.fsync", full)
    out = tmp_path / "out"
    with pytest.raises(wanted) as caught:
        go(bundles["translation"], corpus, out, on_error="reject", backend=backend, format=kind)
    if wanted is OutputError:
        assert isinstance(caught.value, OutputError)
        assert "free some space" in caught.value.hint
    assert not [p for p in (out / "_tmp").rglob("*") if p.is_file() and p.suffix != ".journal"]
    assert not (out / "_SUCCESS").exists()
    monkeypatch.undo()
    if stage != "read":
        go(bundles["translation"], corpus, out, on_error="reject", format=kind)
        assert verify(out).problems == ()


def test_a_stage_that_fails_is_seen_while_a_worker_is_still_busy(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error must set the stop event without the busy worker's help."""
    path = write_jsonl(tmp_path / "x.jsonl", texts(200))
    busy, encode, calls = threading.Event(), Tokenizer.encode, []
    stopping: list[threading.Event] = []
    thread_group = worker.ThreadGroup

    def spied() -> Any:
        threads = thread_group()
        stopping.append(threads.stopping)
        return threads

    def before(call: int) -> None:
        busy.set()
        assert stopping[0].wait(30), "the run did not stop"

    def break_later(self: Tokenizer, *args: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            assert busy.wait(30)
            raise BoomError
        return encode(self, *args, **named)

    monkeypatch.setattr(worker, "ThreadGroup", spied)
    monkeypatch.setattr(Tokenizer, "encode", break_later)
    with pytest.raises(BoomError):
        go(features, path, tmp_path / "out", backend=FakeBackend(before=before))


@pytest.mark.parametrize("how", ["grows", "changes", "goes"])
def test_an_input_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(100))
    read = data.read

    def meddled(*args: Any, **named: Any) -> Iterator[Rows]:
        windows = read(*args, **named)
        yield next(windows)
        if how == "grows":
            path.write_bytes(path.read_bytes() + b'{"text": "w1"}\n')
        elif how == "changes":
            path.write_bytes(path.read_bytes()[::-1])
        else:
            path.unlink()
        yield from windows

    monkeypatch.setattr(worker.data, "read", meddled)
    with pytest.raises(InputError, match=r"x\.jsonl"):
        go(features, path, tmp_path / "out", on_error="reject")
    assert list((tmp_path / "out").glob("part-*")) == []


@pytest.mark.parametrize("more", [b'{"id": 9, "text": "w1"}\n', b"{"])
def test_an_input_that_changes_before_its_turn_is_an_error_and_the_next_run_takes_it_as_it_is(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    folder, out = tmp_path / "corpus", tmp_path / "out"
    for name in "ab":
        write_jsonl(folder / f"{name}.jsonl", texts(20))
    identity = data.content_hash

    def grow(split: Any) -> str:
        if split.path.stem == "a":
            with (folder / "b.jsonl").open("ab") as stream:
                stream.write(more)
        return identity(split)

    monkeypatch.setattr(coordinator.data, "content_hash", grow)
    with pytest.raises(InputError, match=r"b\.jsonl: changed"):
        go(features, folder, out, on_error="reject")
    monkeypatch.undo()
    report = go(features, folder, out, on_error="reject")
    assert report.rows_in == 41


def test_progress_of_an_input_that_went_is_no_crash(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COUNTS_SECONDS", 0.0)
    path = write_jsonl(tmp_path / "x.jsonl", texts(100))
    for some in (None, b""):
        write_jsonl(path, texts(100))

        def meddle(progress: Progress, some: bytes | None = some) -> None:
            path.unlink(missing_ok=True)
            if some is not None:
                path.write_bytes(some)

        with pytest.raises(InputError, match=r"x\.jsonl"):
            go(features, path, tmp_path / "out", on_error="reject", on_progress=meddle,
               window=1)  # fmt: skip


def test_a_kept_column_with_a_results_name_is_refused(tmp_path: Path, features: Path) -> None:
    pq.write_table(pa.table({"text": ["w1"], "embedding": [1]}), tmp_path / "x.parquet")
    for keep in (("embedding",), ("all",)):
        with pytest.raises(ColumnError, match="'embedding' is also the name of a result column"):
            go(features, tmp_path / "x.parquet", tmp_path / "out", keep=keep)


def test_a_kept_type_that_the_format_lacks_is_an_error(tmp_path: Path, features: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "w1", "meta": {}}\n')
    with pytest.raises(OutputError, match="meta"):
        go(features, tmp_path / "x.jsonl", tmp_path / "out", keep=("meta",), format="parquet")
    report = go(features, tmp_path / "x.jsonl", tmp_path / "arrow", keep=("meta",))
    assert rows_of(tmp_path / "arrow", report)[0]["meta"] == {}


# settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"poolin": "cls"}, "did you mean 'pooling'"),
        ({"widow": 3}, "did you mean 'window'"),
        ({"options": {"poolin": "cls"}}, "did you mean 'pooling'"),
        ({"options": 5}, "options"),
        ({"top_k": 3}, "unknown setting 'top_k'"),
        ({"pooling": "sum"}, "pooling"),
        ({"dimensions": 7}, "dimensions"),
        ({"prompt": "query"}, "unknown prompt"),
        ({"text": ("a", "b")}, "takes text"),
        ({"window": 0}, "window"),
    ],
)
def test_settings_are_refused_before_anything_is_opened(
    tmp_path: Path, features: Path, settings: dict[str, Any], says: str
) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(5))
    with pytest.raises(SettingsError) as caught:
        go(features, path, tmp_path / "out", **settings)
    assert says in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "out",
    ["http://host/out", "https://h/x", "hf://datasets/a", "file:///tmp/x", "hdfs:/x", "s3:/b/o"],
)
def test_an_output_of_another_scheme_is_refused(
    tmp_path: Path, features: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SettingsError, match="only local folders, s3://, gs:// and az:// are"):
        coordinator.run(features, corpus, out)
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_input_leaves_no_output_folder(tmp_path: Path, features: Path) -> None:
    with pytest.raises(InputError):
        go(features, tmp_path / "x.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_setting_and_an_option_may_be_given_by_name_or_among_options(
    tmp_path: Path, features: Path
) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(20))
    go(features, path, tmp_path / "a", pooling="cls")
    go(features, path, tmp_path / "b", options={"pooling": "cls"})
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_a_bundle_loaded_on_another_device_is_refused(
    tmp_path: Path, features: Path, wanted: str
) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(5))
    with pytest.raises(DeviceError, match="loaded on cpu"):
        go(features, path, tmp_path / "out", device=wanted)
    report = go(
        features, path, tmp_path / "out", device="cuda", backend=FakeBackend(device=Device("cuda"))
    )
    assert report.device == "cuda:0"
    assert {e.device for e in Manifest(tmp_path / "out").entries()} == {"cuda:0"}


def test_progress_goes_from_none_to_all(
    tmp_path: Path, features: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COUNTS_SECONDS", 0.0)
    seen: list[Progress] = []
    go(features, corpus, tmp_path / "out", on_error="reject", on_progress=seen.append)
    assert seen[0].done < 1
    assert all(0 <= p.done <= 1 for p in seen)
    assert [p.split for p in seen] == sorted(p.split for p in seen)
    assert [p.rows for p in seen] == sorted(p.rows for p in seen)
    assert {p.splits for p in seen} == {5}
    assert seen[-1].rejects == 5
    assert (seen[-1].split, seen[-1].done) == (5, 1)
    assert not any(p.stuck for p in seen)
    write_jsonl(corpus / "z.jsonl", texts(40))
    go(features, corpus, tmp_path / "out", on_error="reject", on_progress=seen.append)
    again = [p for p in seen if p.splits == 6]
    assert (again[0].split, again[-1].split, again[-1].done) == (5, 6, 1)


def test_progress_counts_the_rows_of_the_split_that_is_being_answered(
    tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COUNTS_SECONDS", 0.0)
    path = write_parquet(tmp_path / "x.parquet", texts(100))
    seen: list[Progress] = []
    go(features, path, tmp_path / "out", on_progress=seen.append)
    assert any(0 < p.done < 1 and p.split == 0 for p in seen)


# verify and inspect


@pytest.fixture
def finished(tmp_path: Path, features: Path, corpus: Path) -> Path:
    go(features, corpus, tmp_path / "out", on_error="reject")
    assert verify(tmp_path / "out") == dataclasses.replace(
        verify(tmp_path / "out"), parts=5, rows_in=150, rows_out=145, rows_rejected=5,
        inputs_checked=5, inputs_missing=0, problems=(),
    )  # fmt: skip
    return tmp_path / "out"


def edited(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def first(out: Path, pattern: str) -> Path:
    return sorted(out.glob(pattern))[0]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def recount(out: Path, **changes: int) -> None:
    record = first(out, "_manifest/part-*.json")
    edited(record, counts=json.loads(record.read_text())["counts"] | changes)


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (lambda out: flip(first(out, "part-*")), "bytes have changed"),
    "flipped reject": (lambda out: flip(first(out, "_manifest/rejects/*")), "bytes have changed"),
    "missing part": (lambda out: first(out, "part-*").unlink(), "is missing"),
    "missing rejects": (lambda out: first(out, "_manifest/rejects/*").unlink(), "is missing"),
    "cut part": (lambda out: first(out, "part-*").write_bytes(b"ARROW1"), "bytes have changed"),
    "extra part": (
        lambda out: (out / "part-00009-z.arrow").write_bytes(b"x"),
        "part-00009-z.arrow: has no record",
    ),
    "extra rejects": (
        lambda out: (out / "_manifest/rejects/part-00009-z.jsonl").write_bytes(b"x"),
        "_manifest/rejects/part-00009-z.jsonl: has no record",
    ),
    "more rows out": (
        lambda out: recount(out, rows_out=37, rows_in=41),
        "has 36 rows, and its record says 37",
    ),
    "rows in": (
        lambda out: recount(out, rows_in=39),
        "rows in are not the sum of rows out and rejected",
    ),
    "fewer rejects": (lambda out: recount(out, rows_rejected=0), "and its record says 0"),
    "tokens": (lambda out: recount(out, tokens=1), "tokens is"),
    "no rejects": (
        lambda out: edited(first(out, "_manifest/part-*.json"), rejects=None),
        "rejected rows are in no file",
    ),
    "other settings": (
        lambda out: edited(first(out, "_manifest/part-*.json"), fingerprint="f"),
        "other settings",
    ),
    "lost record": (lambda out: first(out, "_manifest/part-*.json").unlink(), "has no record"),
    "damaged record": (
        lambda out: first(out, "_manifest/part-*.json").write_text("{"),
        "has no record",
    ),
    "lost part and record": (
        lambda out: [first(out, p).unlink() for p in ("_manifest/part-*.json", "part-*")],
        "lists other parts",
    ),
    "no success": (lambda out: (out / "_SUCCESS").unlink(), "_SUCCESS: is missing"),
    "damaged success": (lambda out: (out / "_SUCCESS").write_text("{}"), "_SUCCESS: is damaged"),
    "odd success": (lambda out: (out / "_SUCCESS").write_text("[1]"), "_SUCCESS: is damaged"),
    "other success": (lambda out: edited(out / "_SUCCESS", rows_in=151), "rows_in is 151"),
    "fewer files": (lambda out: edited(out / "_SUCCESS", files=[]), "lists other parts"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_verify_finds_tampering(finished: Path, what: str) -> None:
    tamper, says = TAMPERED[what]
    tamper(finished)
    assert any(says in problem for problem in verify(finished).problems), verify(finished).problems


def test_verify_finds_a_changed_input_and_counts_a_missing_one(
    finished: Path, corpus: Path
) -> None:
    flip(corpus / "d.arrow")
    (corpus / "b.parquet").unlink()
    (corpus / "c.jsonl.gz").write_bytes(b"")
    verdict = verify(finished)
    assert (verdict.inputs_checked, verdict.inputs_missing) == (4, 1)
    assert len(verdict.problems) == 2
    assert all("have changed" in problem for problem in verdict.problems)
    assert verify(finished, inputs=False).problems == ()
    assert verify(finished, inputs=False).inputs_checked == 0


def test_verify_of_what_is_no_run_is_an_error(tmp_path: Path, corpus: Path) -> None:
    for folder in (corpus, tmp_path / "nowhere"):
        with pytest.raises(OutputError, match="not the output of a run"):
            verify(folder)


def test_verify_of_a_run_that_stopped_says_so(tmp_path: Path, features: Path, corpus: Path) -> None:
    with pytest.raises(BoomError):
        go(features, corpus, tmp_path / "out", on_error="reject", backend=failing_at(20))
    (problem,) = verify(tmp_path / "out").problems
    assert "has not finished" in problem


def test_inspect_shows_a_run_a_part_and_a_bundle(finished: Path, features: Path) -> None:
    run = inspect(finished)
    assert (run["kind"], run["finished"], run["parts"], run["rows_in"]) == ("run", True, 5, 150)
    assert run["schema"]["id"] == "int64"
    part = inspect(first(finished, "part-*"), rows=2)
    assert (part["kind"], part["rows"], len(part["first_rows"])) == ("part", 36, 2)
    assert inspect(first(finished, "_manifest/rejects/*"))["rows"] == 4
    whole = table(first(finished, "part-*")).to_pylist()
    for rows in (-1, 0, 1, 20, 36, 1000):
        assert inspect(first(finished, "part-*"), rows=rows)["first_rows"] == whole[: max(rows, 0)]
    assert len(inspect(first(finished, "_manifest/rejects/*"), rows=3)["first_rows"]) == 3
    bundle = inspect(features)
    assert (bundle["kind"], bundle["task"]) == ("bundle", "feature-extraction")


def test_inspect_refuses_anything_else_by_name(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "x.arrow").write_bytes(b"junk")
    (tmp_path / "x.txt").write_bytes(b"junk")
    for path in ("x.arrow", "x.txt", "nowhere", "corpus"):
        with pytest.raises(EngineError, match=path):
            inspect(tmp_path / path)
    first(finished, "part-*").unlink()
    with pytest.raises(InputError):
        inspect(finished)
