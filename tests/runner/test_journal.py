"""A split that was stopped computes only what is missing, and its bytes are the same."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fakes import FakeBackend, make_bundle, open_bundle, texts, write_jsonl
from support.runs import BoomError, content, no_thread_left

import engine
from engine.core.telemetry import Progress
from engine.core.types import Arrays, Ragged
from engine.errors import OtherRunError, Stopped
from engine.runner import coordinator, journal, preview, worker
from engine.runner.journal import Journal, rows_kept

__all__ = ["no_thread_left"]

ROWS = 200
RUN: dict[str, Any] = {"window": 64, "batch_tokens": 64, "keep": ("id",), "workers": 2}
TASKS = ("feature-extraction", "text-classification", "translation")
HEADER = {"run": "r", "batches": 0}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {task: make_bundle(folder / task, task) for task in TASKS}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "x.jsonl", texts(ROWS))


def go(bundle: Path, file: Path, out: Path, fail_at: int = -1, **settings: Any) -> engine.Report:
    def before(call: int) -> None:
        if call == fail_at:
            raise BoomError

    model = open_bundle(bundle, FakeBackend(before=before))
    return coordinator.run(model, file, out, **RUN | settings)


def stop(bundle: Path, file: Path, out: Path, call: int = 20, **settings: Any) -> Path:
    """Break a run at a graph call, and return the journal that it leaves."""
    with pytest.raises(BoomError):
        go(bundle, file, out, call, **settings)
    (left,) = (out / "_tmp").glob("*.journal")
    return left


@pytest.mark.parametrize("task", TASKS)
def test_what_was_computed_before_a_stop_is_not_computed_again(
    tmp_path: Path, bundles: dict[str, Path], file: Path, task: str
) -> None:
    go(bundles[task], file, tmp_path / "whole")
    call = 60 if task == "translation" else 20
    stop(bundles[task], file, tmp_path / "out", call)
    report = go(bundles[task], file, tmp_path / "out")
    assert report.rows_resumed > 0
    assert report.rows_resumed + report.rows_computed == report.rows_out == ROWS
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_many_stops_compute_each_row_once_but_for_the_batches_in_hand(
    tmp_path: Path, bundles: dict[str, Path], file: Path
) -> None:
    bundle, out = bundles["feature-extraction"], tmp_path / "out"
    go(bundle, file, tmp_path / "whole")
    stops = 0
    while stops < 100:
        try:
            report = go(bundle, file, out, fail_at=3, workers=1)
            break
        except BoomError:
            stops += 1
    assert stops > 5
    assert report.rows_resumed > 0.8 * ROWS
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 2},
        {"num_beams": 2, "num_return_sequences": 2},
        {"do_sample": True, "seed": 7},
        {"do_sample": True, "num_return_sequences": 2},
        {"return_scores": True},
        {"dedupe": False, "return_logprobs": True},
    ],
    ids=str,
)
def test_rows_of_a_decoder_are_kept_as_they_finish(
    tmp_path: Path, bundles: dict[str, Path], file: Path, options: dict[str, Any]
) -> None:
    bundle, out = bundles["translation"], tmp_path / "out"
    whole = go(bundle, file, tmp_path / "whole", **options)
    stops = 0
    while True:
        try:
            report = go(bundle, file, out, fail_at=40 + 20 * (stops > 40), **options)
            break
        except BoomError:
            stops += 1
    assert report.rows_resumed + report.rows_computed == whole.rows_computed == ROWS
    assert content(out) == content(tmp_path / "whole")
    in_rows = "return_scores" not in options and "return_logprobs" not in options
    if in_rows and options.get("num_return_sequences", 1) == 1:
        assert report.rows_resumed > 0


def test_a_stop_within_a_batch_of_a_decoder_keeps_the_rows_that_have_finished(
    tmp_path: Path, bundles: dict[str, Path], file: Path
) -> None:
    """The whole file is one batch, whose first graph calls are recorded row by row."""
    bundle, out = bundles["translation"], tmp_path / "out"
    one: dict[str, Any] = {"window": 1000, "workers": 1}
    go(bundle, file, tmp_path / "whole", **one)
    stop(bundle, file, out, 30, **one)
    report = go(bundle, file, out, **one)
    assert 0 < report.rows_resumed < ROWS
    assert content(out) == content(tmp_path / "whole")


def test_rows_of_a_decoder_are_kept_for_any_number_of_workers(
    tmp_path: Path, bundles: dict[str, Path], file: Path
) -> None:
    bundle, out = bundles["translation"], tmp_path / "out"
    go(bundle, file, tmp_path / "whole", workers=1)
    stop(bundle, file, out, 60, workers=3)
    report = go(bundle, file, out, workers=1)
    assert report.rows_resumed > 0
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("task", ["feature-extraction", "translation"])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_torn_or_damaged_journal_changes_no_byte(
    tmp_path: Path, bundles: dict[str, Path], file: Path, damage: str, task: str
) -> None:
    bundle, out = bundles[task], tmp_path / "out"
    go(bundle, file, tmp_path / "whole")
    left = stop(bundle, file, out, 60 if task == "translation" else 20)
    whole, draw = left.read_bytes(), random.Random(damage)
    for _ in range(12):
        at = draw.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :]

        left.parent.mkdir(exist_ok=True)
        left.write_bytes(whole[:at] if damage == "cut" else flipped)
        for committed in [*out.glob("part-*"), *out.glob("_manifest/part-*"), out / "_SUCCESS"]:
            committed.unlink(missing_ok=True)
        go(bundle, file, out)
        assert content(out) == content(tmp_path / "whole"), at


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_every_record_before_the_damage_is_read_and_none_is_read_wrong(
    tmp_path: Path, damage: str
) -> None:
    file, arrays = tmp_path / "x.journal", example_arrays()
    first = Journal(file, HEADER)
    for n in range(3):
        first.add(bytes([n]) * 16, arrays, rows=n + 1)
    first.close()
    whole = file.read_bytes()
    for at in range(len(whole)):
        flipped = whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :]
        file.write_bytes(whole[:at] if damage == "cut" else flipped)
        again = Journal(file, HEADER)
        for n in range(3):
            if (found := again.find(bytes([n]) * 16)) is not None:
                assert_equal(found, arrays)
        again.add(b"k" * 16, arrays, rows=1)
        again.close()
        third = Journal(file, HEADER)
        assert_equal(third.find(b"k" * 16) or {}, arrays)
        third.remove()
        assert not file.exists()


def example_arrays() -> Arrays:
    lengths = np.array([2, 0, 1])
    return {
        "flags": np.array([[True], [False], [True]]),
        "halves": np.zeros((3, 2), np.float16),
        "no columns": np.zeros((3, 0), np.float32),
        "tokens": Ragged.of(np.arange(3), lengths),
        "vectors": Ragged.of(np.ones((3, 4), np.float32).T[:3].copy(), lengths),
        "strided": np.arange(12).reshape(3, 4)[:, ::2],
    }


def assert_equal(found: Arrays, wanted: Arrays) -> None:
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        pairs = [(found[name], value)]
        if isinstance(value, Ragged):
            other = found[name]
            assert isinstance(other, Ragged)
            pairs = [(other.values, value.values), (other.offsets, value.offsets)]
        for one, two in pairs:
            np.testing.assert_array_equal(one, two, strict=True)  # type: ignore[arg-type]  # arrays by now


def test_what_comes_after_the_end_leaves_the_journal_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.journal"
    journal = Journal(file, {"run": "a"})
    journal.add(b"k" * 16, {"a": np.arange(3)}, 3)
    journal.close()
    before = file.read_bytes()
    journal.add(b"l" * 16, {"a": np.arange(3)}, 3)
    journal.sync()
    assert file.read_bytes() == before


def test_a_stop_says_what_is_kept(
    tmp_path: Path, bundles: dict[str, Path], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COUNTS_SECONDS", 0.0)
    out = tmp_path / "out"

    def interrupt(progress: Progress) -> None:
        if progress.rows > 50:
            raise KeyboardInterrupt

    model = open_bundle(bundles["feature-extraction"], FakeBackend())
    with pytest.raises(Stopped) as caught:
        coordinator.run(model, file, out, on_progress=interrupt, **RUN)
    (journal,) = (out / "_tmp").glob("*.journal")
    header = journal.read_bytes().splitlines()[0]
    run = header.decode().split('"run": "')[1].split('"')[0]
    rows = rows_kept(out, run, {f"{journal.stem}.arrow"})
    assert rows_kept(out, run, {"another.arrow"}) == 0
    assert rows > 50
    assert f"0 of 1 parts finished and {rows:,} rows of the others kept" in caught.value.message
    assert go(bundles["feature-extraction"], file, out).rows_resumed == rows


def test_other_settings_are_refused_where_only_a_journal_has_rows_until_it_is_cleared(
    tmp_path: Path, bundles: dict[str, Path], file: Path
) -> None:
    bundle, out = bundles["feature-extraction"], tmp_path / "out"
    stop(bundle, file, out)
    before = content(out)
    with pytest.raises(OtherRunError, match=r"max_length 0 \(now 5\)"):
        go(bundle, file, out, max_length=5)
    assert "max_length" in preview.plan(bundle, [file], out, **RUN | {"max_length": 5}).refused
    assert content(out) == before
    report = go(bundle, file, out, max_length=5, overwrite=True)
    assert report.rows_resumed == 0
    assert report.rows_computed == ROWS


def test_a_file_that_grew_keeps_what_is_computed_of_its_beginning(
    tmp_path: Path, bundles: dict[str, Path], file: Path
) -> None:
    bundle, out = bundles["feature-extraction"], tmp_path / "out"
    stop(bundle, file, out)
    write_jsonl(file, texts(ROWS) + texts(10, seed=1))
    assert go(bundle, file, out).rows_resumed > 0
    go(bundle, file, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_a_full_disk_costs_the_journal_and_not_the_run(
    tmp_path: Path, bundles: dict[str, Path], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "LAZY_SECONDS", 0.0)
    monkeypatch.setattr("os.pwrite", full)
    report = go(bundles["feature-extraction"], file, tmp_path / "out")
    assert report.rows_out == ROWS
    assert any("no space to record" in note for note in report.notes)


def test_a_split_that_finishes_at_once_has_no_journal(
    tmp_path: Path, bundles: dict[str, Path], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = os.open

    def watched(path: Any, *arguments: Any, **named: Any) -> int:
        opened.append(str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr("os.open", watched)
    for seconds, created in ((600.0, False), (0.0, True)):
        opened.clear()
        monkeypatch.setattr(journal, "LAZY_SECONDS", seconds)
        go(bundles["feature-extraction"], file, tmp_path / str(seconds))
        left = [path for path in opened if path.endswith(".journal")]
        # Once to look for an earlier start's, and once more to create it.
        assert len(left) == 1 + created
        assert not (tmp_path / str(seconds) / "_tmp").exists()
