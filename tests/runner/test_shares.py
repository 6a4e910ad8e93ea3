"""Shares of a run: in any order and at once they leave the bytes of one run, and keep off parts of
one another."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fakes import (
    FakeBackend,
    make_bundle,
    open_bundle,
    texts,
    write_jsonl,
    write_parquet,
)
from support.runs import BoomError, content, corpus

import engine
from engine.core import activity
from engine.core.share import Share, dealt, share_of
from engine.core.types import CorpusFile, Split
from engine.demo import BUNDLE
from engine.errors import OtherRunError, OutputError, SettingsError, Stopped
from engine.runner import coordinator, shared_folder
from engine.runner.folder_lock import GATE, LOCK, SHARES, locked
from engine.runner.manifest import Manifest
from engine.runner.report import Report
from engine.runner.shared_folder import SharedFolder
from engine.runner.verify import verify

__all__ = ["corpus"]
SMALL: dict[str, Any] = {
    "window": 16, "batch_tokens": 64, "keep": ("id",), "workers": 1, "on_error": "reject",
    "split_size": 500,
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "features")


def go(
    bundle: Path, inputs: Any, out: Path, share: str = "", backend: Any = None, **more: Any
) -> Report:
    model = open_bundle(bundle, backend)
    return coordinator.run(model, inputs, out, **{**SMALL, **more}, share=share)


def is_done(out: Path) -> bool:
    return (out / "_SUCCESS").is_file()


# which parts are whose


def split(name: str, ordinal: int, folder: str = "/corpus") -> Split:
    return Split(CorpusFile(Path(folder, name), name, "jsonl"), ordinal, name, 0, 9)


@given(
    st.lists(st.tuples(st.text("ab/", min_size=1, max_size=4), st.integers(0, 3)), unique=True),
    st.integers(1, 9),
    st.randoms(),
)
def test_every_split_is_of_one_share_whatever_the_mount_and_the_order(
    names: list[tuple[str, int]], count: int, random: Any
) -> None:
    splits = [split(*name) for name in names]
    shares = [Share(number, count).of(splits) for number in range(1, count + 1)]
    assert sorted(map(len, shares)) == sorted(
        len(splits) // count + (number < len(splits) % count) for number in range(count)
    )
    assert {one for share in shares for one in share} == set(splits)
    elsewhere = [split(*name, folder="/mnt/other") for name in names]
    random.shuffle(elsewhere)
    for number, own in enumerate(shares, 1):
        theirs = Share(number, count).of(elsewhere)
        assert {(s.file.name, s.ordinal) for s in theirs} == {(s.file.name, s.ordinal) for s in own}
    assert dealt(splits)[0::count] == dealt(shares[0])


@pytest.mark.parametrize(
    "text", ["0/8", "9/8", "1", "1/", "/8", "1/0", "-1/8", "1/2/3", "a/b", "1.0/2", "01/8", " "]
)
def test_what_names_no_share_is_refused(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        engine.RunConfig(share=text)
    assert repr(text) in caught.value.message
    assert "counted from 1, such as 2/8" in caught.value.hint
    assert str(share_of("2/8")) == "2/8"


# equivalence


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 2, 3, 1, 1)])
def test_shares_in_any_order_leave_the_bytes_of_one_run(
    tmp_path: Path, bundle: Path, corpus: Path, order: tuple[int, ...]
) -> None:
    whole = go(bundle, corpus, tmp_path / "whole")
    reports = {}
    for number in order:
        assert is_done(tmp_path / "out") == (len(reports) == 3)
        report = go(bundle, corpus, tmp_path / "out", f"{number}/3")
        reports[number] = reports.get(number, report)
        left = {n for n in (1, 2, 3) if n not in reports}
        assert (report.parts_open > 0) == bool(left)
        if left:
            named = ", ".join(f"{n}/3" for n in sorted(left))
            assert any(f"of shares {named}:" in note for note in report.notes)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert sum(report.rows_in for report in reports.values()) == whole.rows_in
    assert sum(report.rows_rejected for report in reports.values()) == whole.rows_rejected
    files = [file for report in reports.values() for file in report.files]
    assert sorted(files) == sorted(whole.files)
    assert verify(tmp_path / "out").problems == ()


def together(calls: list[Callable[[], Report]]) -> list[Report]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_shares_that_end_in_one_moment_leave_what_one_run_leaves(
    tmp_path: Path, bundle: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(bundle, corpus, tmp_path / "whole")
    begun, ended = threading.Barrier(2), threading.Barrier(2)
    look, finish = SharedFolder.look, SharedFolder.finish

    def first_look(self: SharedFolder, split: Split) -> None:
        if not self._states:
            begun.wait(60)
        look(self, split)

    def finish_together(self: SharedFolder, entries: Any) -> Any:
        found = finish(self, entries)
        ended.wait(60)  # each still has its lock, which the other has seen or will see
        return found

    monkeypatch.setattr(SharedFolder, "look", first_look)
    monkeypatch.setattr(SharedFolder, "finish", finish_together)
    out = tmp_path / "out"
    together([lambda n=n: go(bundle, corpus, out, f"{n}/2") for n in (1, 2)])  # type: ignore[misc]  # bound early
    assert content(out) == content(tmp_path / "whole")


def test_shares_at_once_leave_the_bytes_of_one_run(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    go(bundle, corpus, tmp_path / "whole")
    for attempt in range(4):
        out = tmp_path / f"out-{attempt}"
        meet = threading.Barrier(4)

        def call(number: int, out: Path = out, meet: threading.Barrier = meet) -> Report:
            meet.wait()
            return go(bundle, corpus, out, f"{number}/4")

        reports = together([lambda n=n: call(n) for n in range(1, 5)])  # type: ignore[misc]
        assert sorted(report.parts_open for report in reports)[0] == 0
        assert content(out) == content(tmp_path / "whole")


def test_two_that_end_at_the_same_moment_leave_one_success(
    tmp_path: Path, bundle: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(bundle, corpus, tmp_path / "whole")
    meet, finish = threading.Barrier(2), shared_folder.SharedFolder.finish

    def together_finish(self: Any, entries: Any) -> Any:
        meet.wait(60)
        return finish(self, entries)

    monkeypatch.setattr(shared_folder.SharedFolder, "finish", together_finish)
    out = tmp_path / "out"
    reports = together([lambda n=n: go(bundle, corpus, out, f"{n}/2") for n in (1, 2)])  # type: ignore[misc]
    assert [report.parts_open for report in reports] == [0, 0]
    assert content(out) == content(tmp_path / "whole")


def test_more_shares_than_parts_leave_nothing_undone(tmp_path: Path, bundle: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", texts(5))
    go(bundle, tmp_path / "in", tmp_path / "whole")
    empty = go(bundle, tmp_path / "in", tmp_path / "out", "3/3")
    assert (empty.splits, empty.rows_in, empty.parts_open) == (0, 0, 1)
    assert go(bundle, tmp_path / "in", tmp_path / "out", "1/3").parts_open == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_share_from_another_mount_joins(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    go(bundle, corpus, tmp_path / "whole")
    copy = tmp_path / "mnt" / "elsewhere"
    shutil.copytree(corpus, copy)
    go(bundle, corpus, tmp_path / "out", "1/2")
    assert go(bundle, copy, tmp_path / "out", "2/2").parts_open == 0
    ours, wanted = content(tmp_path / "out"), content(tmp_path / "whole")
    parts = {name for name in wanted if not name.startswith("_manifest/part-")}
    assert {name: ours[name] for name in parts} == {name: wanted[name] for name in parts}
    assert ours.keys() == wanted.keys()


def test_one_run_goes_on_where_shares_stopped_and_shares_where_a_run_did(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    go(bundle, corpus, tmp_path / "whole")
    go(bundle, corpus, tmp_path / "out", "1/2")
    report = go(bundle, corpus, tmp_path / "out")
    assert report.splits_skipped > 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    with pytest.raises(BoomError):
        go(bundle, corpus, tmp_path / "other", backend=FakeBackend(before=_boom_at(5)))
    go(bundle, corpus, tmp_path / "other", "2/3")
    go(bundle, corpus, tmp_path / "other", "3/3")
    assert go(bundle, corpus, tmp_path / "other", "1/3").parts_open == 0
    assert content(tmp_path / "other") == content(tmp_path / "whole")


def _boom_at(call: int) -> Callable[[int], None]:
    def before(number: int) -> None:
        if number >= call:
            raise BoomError("a graph broke")

    return before


def test_a_failed_share_is_gone_on_with(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    go(bundle, corpus, tmp_path / "whole")
    out = tmp_path / "out"
    with pytest.raises(BoomError):
        go(bundle, corpus, out, "1/2", FakeBackend(before=_boom_at(3)))
    assert go(bundle, corpus, out, "2/2").parts_open > 0
    assert not is_done(out)
    assert go(bundle, corpus, out, "1/2").parts_open == 0
    assert content(out) == content(tmp_path / "whole")


def test_a_share_that_fails_before_it_keeps_anything_leaves_no_folder(
    tmp_path: Path, bundle: Path
) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", [None, *texts(5)])
    with pytest.raises(engine.errors.RowError):
        go(bundle, tmp_path / "in", tmp_path / "out", "1/2", on_error="fail")
    assert not (tmp_path / "out").exists()


# changes between shares


def test_a_changed_input_is_noticed_by_whoever_ends_last(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    out = tmp_path / "out"
    go(bundle, corpus, out, "1/2")
    own = engine.splits(open_bundle(bundle), corpus, out, **SMALL, share="1/2")
    name = next(str(one["file"]) for one in own if str(one["file"]).endswith("a.jsonl"))
    changed = (corpus / name).read_text().replace('"id": 7', '"id": 8')
    (corpus / name).write_text(changed)
    report = go(bundle, corpus, out, "2/2")
    assert report.parts_open > 0
    assert any("of shares 1/2" in note for note in report.notes)
    assert not is_done(out)
    assert go(bundle, corpus, out, "1/2").parts_open == 0
    go(bundle, corpus, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_a_touched_or_copied_input_is_hashed_and_found_equal(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    go(bundle, corpus, tmp_path / "out", "1/2")
    for file in corpus.rglob("*.*"):
        file.write_bytes(file.read_bytes())
    assert go(bundle, corpus, tmp_path / "out", "2/2").parts_open == 0


def test_files_that_are_added_or_removed_between_shares_are_settled_as_by_a_run(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    out = tmp_path / "out"
    go(bundle, corpus, out, "1/2")
    go(bundle, corpus, out, "2/2")
    assert is_done(out)
    write_parquet(corpus / "aa.parquet", texts(30), 500)
    (corpus / "d.arrow").unlink()
    for _ in range(2):
        for number in (1, 2):
            report = go(bundle, corpus, out, f"{number}/2")
    assert report.parts_open == 0
    go(bundle, corpus, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_a_success_of_fewer_files_goes_with_the_first_share_that_misses_a_part(
    tmp_path: Path, bundle: Path
) -> None:
    write_jsonl(tmp_path / "in/b.jsonl", texts(5))
    go(bundle, tmp_path / "in", tmp_path / "out")
    write_jsonl(tmp_path / "in/c.jsonl", texts(6))
    report = go(bundle, tmp_path / "in", tmp_path / "out", "1/2")
    assert (report.splits_skipped, report.parts_open) == (1, 1)
    assert not is_done(tmp_path / "out")


def test_surplus_parts_go_with_the_success_only(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    go(bundle, corpus, out)
    before = {path.name for path in out.glob("part-*")}
    (corpus / "d.arrow").unlink()
    write_jsonl(corpus / "z.jsonl", texts(9), 900)
    shares = engine.splits(open_bundle(bundle), corpus, out, **SMALL)
    last = next(n for n, one in enumerate(shares) if one["file"] == "z.jsonl") % 2 + 1
    assert go(bundle, corpus, out, f"{3 - last}/2").parts_open > 0
    assert before <= {path.name for path in out.glob("part-*")}
    assert go(bundle, corpus, out, f"{last}/2").parts_open == 0
    assert not list(out.glob("part-*-d-*"))
    assert verify(out).problems == ()


def test_overwrite_takes_a_folder_of_another_run_and_then_its_own_shares(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    out = tmp_path / "out"
    go(bundle, corpus, out, result_prefix="old_")
    with pytest.raises(OtherRunError):
        go(bundle, corpus, out, "1/2")
    go(bundle, corpus, out, "1/2", overwrite=True)
    assert go(bundle, corpus, out, "2/2", overwrite=True).parts_open == 0
    go(bundle, corpus, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


# who may run beside whom


class Waiting:
    """A share that waits in its first batch until it is let go."""

    def __init__(self, bundle: Path, inputs: Path, out: Path, share: str, **more: Any) -> None:
        self.begun, self.free = threading.Event(), threading.Event()
        self.reports: list[Report] = []

        def before(number: int) -> None:
            self.begun.set()
            assert self.free.wait(60)

        def body() -> None:
            self.reports.append(go(bundle, inputs, out, share, FakeBackend(before=before), **more))

        self.thread = threading.Thread(target=body)

    def __enter__(self) -> Waiting:
        self.thread.start()
        assert self.begun.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.free.set()
        self.thread.join(60)
        assert self.reports


def test_a_running_share_keeps_off_itself_and_runs_of_all_parts(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    out = tmp_path / "out"
    with Waiting(bundle, corpus, out, "1/2"):
        with pytest.raises(OutputError, match=r"share 1/2 is writing here \(process \d+"):
            go(bundle, corpus, out, "1/2")
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=r"share 1/2 is writing here"):
                go(bundle, corpus, out, overwrite=overwrite)
        assert go(bundle, corpus, out, "2/2").parts_open > 0
    assert is_done(out)
    go(bundle, corpus, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_a_running_share_keeps_off_shares_that_would_compute_its_parts(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    out = tmp_path / "out"
    with Waiting(bundle, corpus, out, "1/2"):
        with pytest.raises(OutputError, match="one of 2 each, and this is share 2/3") as caught:
            go(bundle, corpus, out, "2/3")
        assert "share the run into 2 as they do" in caught.value.hint
        for more in ({}, {"overwrite": True}):
            with pytest.raises(OtherRunError, match="shares are writing here, of a run with other"):
                go(bundle, corpus, out, "2/2", result_prefix="x_", **more)
        extra = write_jsonl(corpus / "extra.jsonl", texts(3))
        with pytest.raises(OutputError, match="of inputs with other files"):
            go(bundle, corpus, out, "2/2")
        extra.unlink()
    assert go(bundle, corpus, out, "2/2").parts_open == 0
    assert go(bundle, corpus, out, "2/3").parts_open == 0  # what the hint says


def test_a_run_of_all_parts_keeps_off_shares(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    refused = pytest.raises(OutputError, match=r"another run is writing here \(process \d+")
    with Waiting(bundle, corpus, out, ""), refused:
        go(bundle, corpus, out, "1/2")


def test_the_lock_of_a_killed_share_is_nobodys(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    go(bundle, corpus, out, "1/2")
    shares = out / "_manifest" / SHARES
    with locked(out, shares, name="2-of-2.lock"):
        left = (shares / "2-of-2.lock").read_bytes()
    (shares / "2-of-2.lock").write_bytes(left)
    (out / "_manifest" / GATE).write_bytes(left)
    assert go(bundle, corpus, out, "2/2").parts_open == 0
    assert not shares.exists()
    assert not list((out / "_manifest").glob(f".*{LOCK}.*"))


def test_a_share_that_has_lost_its_lock_changes_nothing(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    out = tmp_path / "out"
    file = out / "_manifest" / SHARES / "1-of-2.lock"
    with pytest.raises(OutputError, match="no longer the lock of this run"):
        go(bundle, corpus, out, "1/2", FakeBackend(before=lambda _: file.unlink(missing_ok=True)))
    assert not is_done(out)
    assert not list(out.glob("part-*"))


# what cannot be shared


def test_what_cannot_be_shared_is_refused_by_name(tmp_path: Path, corpus: Path) -> None:
    for more, said in (
        ({"limit": 7}, "share is 1/2, and limit is 7"),
        ({"lock": False}, "share is 1/2, and lock is off"),
    ):
        with pytest.raises(SettingsError) as caught:
            engine.run(BUNDLE, corpus, tmp_path / "out", share="1/2", **more)  # type: ignore[arg-type]
        assert said in caught.value.message
        assert "leave one of them out" in caught.value.hint
    with pytest.raises(SettingsError, match="share is 1/2, and s3://bucket/out is in an object"):
        engine.run(BUNDLE, corpus, "s3://bucket/out", share="1/2")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_the_last_share_writes_an_output_that_is_one_file(
    tmp_path: Path, bundle: Path, corpus: Path, name: str
) -> None:
    go(bundle, corpus, tmp_path / "whole" / name)
    out = tmp_path / name
    first = go(bundle, corpus, out, "2/2")
    assert first.parts_open > 0
    assert not out.exists()
    last = go(bundle, corpus, out, "1/2")
    assert (last.parts_open, last.files) == (0, (name,))
    assert out.read_bytes() == (tmp_path / "whole" / name).read_bytes()


# values for a driver


def test_splits_are_small_json_values_in_the_order_of_the_shares(
    tmp_path: Path, bundle: Path, corpus: Path
) -> None:
    out = tmp_path / "out"
    splits = engine.splits(bundle, corpus, out, **SMALL)
    assert not out.exists()
    assert json.loads(json.dumps(splits)) == list(splits)
    assert all(len(json.dumps(one)) < 300 for one in splits)
    assert [one["file"] for one in splits] == sorted(str(one["file"]) for one in splits)
    assert not any(one["recorded"] for one in splits)
    report = go(bundle, corpus, out, "2/3")
    assert sorted(report.files) == sorted(str(one["part"]) for one in splits[1::3])
    again = engine.splits(bundle, corpus, out, **SMALL)
    assert [one["recorded"] for one in again] == [n % 3 == 1 for n in range(len(splits))]
    assert engine.splits(bundle, corpus, out, **SMALL, share="2/3") == again[1::3]


def test_a_plan_of_a_share_is_of_its_parts(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    shares = [engine.plan(bundle, corpus, out, **SMALL, share=f"{n}/2") for n in (1, 2)]
    whole = engine.plan(bundle, corpus, out, **SMALL)
    assert sum(plan.parts["new"] for plan in shares) == whole.parts["new"]
    go(bundle, corpus, out, "1/2")
    assert engine.plan(bundle, corpus, out, **SMALL, share="1/2").parts.keys() == {"done"}


def test_a_stopped_share_says_how_to_go_on(tmp_path: Path, bundle: Path, corpus: Path) -> None:
    stop = threading.Event()

    def before(number: int) -> None:
        if number == 2:
            stop.set()
            activity.current().stop.wait(60)  # or the share ends before anybody looks

    with pytest.raises(Stopped) as caught:
        go(bundle, corpus, tmp_path / "out", "1/2", FakeBackend(before=before), stop=stop)
    assert caught.value.exit_code == 75
    assert "run the same command again" in caught.value.hint
    go(bundle, corpus, tmp_path / "out", "1/2")
    assert go(bundle, corpus, tmp_path / "out", "2/2").parts_open == 0
    assert Manifest(tmp_path / "out").read_success()
