"""How far a run is: by rows where all inputs tell theirs, by bytes of finished splits elsewhere."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from support.fakes import corpus_files, texts, write_arrow, write_parquet

from engine import data
from engine.core.telemetry import Progress
from engine.core.types import CorpusFile, Split
from engine.runner.messages import Counts
from engine.runner.progress import ProgressMeter, total

ROWS = [10, 30, 60]


@pytest.fixture
def splits(tmp_path: Path) -> list[Split]:
    """Parquet files, which tell their rows."""
    files = [write_parquet(tmp_path / f"{n}.parquet", texts(n)) for n in ROWS]
    return list(data.split_files(corpus_files(files), 1 << 30))


def rows(count: int) -> Counts:
    return Counts({"rows": count, "tokens": 7, "padded": 9})


def test_rows_of_finished_splits_and_of_those_being_answered_count(splits: list[Split]) -> None:
    shown: list[Progress] = []
    meter = ProgressMeter(splits, shown.append)
    meter.show(rows(0), 0)
    meter.assign(splits[0])
    meter.show(rows(4), 0)
    meter.finish(splits[0], 9)  # one of its rows was bad
    meter.show(rows(9), 1)
    meter.assign(splits[1])
    meter.show(rows(9 + 12), 1)
    meter.show(rows(9 + 99), 1)  # no more than the split has
    assert [p.done for p in shown] == [0, 0.04, 0.10, 0.22, 0.40]
    assert [p.split for p in shown] == [0, 0, 1, 1, 1]
    assert {(p.splits, p.tokens, p.padded) for p in shown} == {(3, 7, 9)}
    assert [p.rejects for p in shown] == [0, 0, 1, 1, 1]
    assert [p.rows for p in shown] == [0, 4, 9, 21, 108]
    assert 0 < shown[-1].seconds < 60
    assert shown[0].seconds < shown[-1].seconds


def test_a_split_that_was_finished_before_counts_without_its_rows(splits: list[Split]) -> None:
    shown: list[Progress] = []
    meter = ProgressMeter(splits, shown.append)
    meter.finish(splits[1], 0)
    meter.assign(splits[2])
    meter.show(rows(6), 0)
    meter.finish(splits[2], 60)
    meter.finish(splits[0], 10)
    meter.show(rows(70), 0)
    assert [p.done for p in shown] == [0.36, 1]
    assert meter.finished == 3


def test_where_an_input_cannot_tell_its_rows_finished_bytes_count(tmp_path: Path) -> None:
    files = [write_parquet(tmp_path / "x.parquet", texts(50)), tmp_path / "y.arrow"]
    write_arrow(files[1], pa.table({"text": texts(50)}))
    splits = list(data.split_files(corpus_files(sorted(files)), 1 << 30))
    shown: list[Progress] = []
    meter = ProgressMeter(splits, shown.append)
    meter.assign(splits[0])
    meter.show(rows(30), 0)
    meter.finish(splits[0], 50)
    meter.show(rows(50), 0)
    sizes = [file.stat().st_size for file in sorted(files)]
    assert [p.done for p in shown] == [0, sizes[0] / sum(sizes)]


def test_a_run_that_nobody_watches_weighs_nothing(tmp_path: Path) -> None:
    gone = Split(CorpusFile(tmp_path / "gone.parquet", "gone.parquet", "parquet"), 0, "gone", 0, 9)
    meter = ProgressMeter([gone], None)
    meter.assign(gone)
    meter.show(rows(1), 0)
    meter.finish(gone, 1)
    assert meter.finished == 1


def test_what_workers_count_is_summed_and_the_first_that_is_stuck_is_named() -> None:
    workers = [
        Counts({"rows": 1, "tokens": 5}, {"infer": 1.5}),
        Counts({"rows": 2, "halved": 1}, {"infer": 2.0, "read": 0.5}, "a batch"),
        Counts({}, {}, "another batch"),
    ]
    assert total(workers) == Counts(
        {"rows": 3, "tokens": 5, "halved": 1}, {"infer": 3.5, "read": 0.5}, "a batch"
    )
    assert total([]) == Counts()


@pytest.mark.parametrize("limit", [0, 40, 1000])
def test_progress_is_measured_against_the_limit(limit: int, tmp_path: Path) -> None:
    files = [write_parquet(tmp_path / "x.parquet", texts(100))]
    splits = list(data.split_files(corpus_files(files), 1 << 30))
    shown: list[Progress] = []
    meter = ProgressMeter(splits, shown.append, limit)
    meter.assign(splits[0])
    meter.show(rows(20), 0)
    assert shown[0].done == (0.5 if limit == 40 else 0.2)
