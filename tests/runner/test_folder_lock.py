"""One run at a time writes a folder, on file systems with locks and without; who lost it stops."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.core import system_calls
from engine.data import FileWriter, writers
from engine.demo import BUNDLE
from engine.errors import OutputError
from engine.runner import folder_lock
from engine.runner.coordinator import run
from engine.runner.folder_lock import FILE, LOCK, locked
from engine.runner.journal import Journal
from engine.runner.lock_holder import Holder, process_start, read_holder, this_process
from engine.runner.manifest import Manifest

Refuse = Callable[[int], None]


@pytest.fixture
def flock_fails(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    def refuse(number: int) -> None:
        def flock(*args: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    return refuse


def leave(folder: Path, **changes: object) -> Holder:
    """Have a lock file name another process."""
    holder = dataclasses.replace(this_process(FILE), **changes)  # type: ignore[arg-type]  # by name
    (folder / LOCK).write_bytes(holder.to_bytes())
    return holder


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES])
def test_only_a_lock_that_another_holds_is_another_run(
    tmp_path: Path, flock_fails: Refuse, number: int
) -> None:
    flock_fails(number)
    with (
        pytest.raises(OutputError, match="another run is writing here"),
        locked(tmp_path, tmp_path),
    ):
        pass


@pytest.mark.parametrize("number", [errno.EIO, errno.EPERM, errno.EBADF])
def test_a_lock_that_fails_is_told_as_what_it_is(
    tmp_path: Path, flock_fails: Refuse, number: int
) -> None:
    flock_fails(number)
    with pytest.raises(OutputError, match="cannot be locked") as caught, locked(tmp_path, tmp_path):
        pass
    assert os.strerror(number) in caught.value.message
    assert "another run" not in caught.value.message
    with locked(tmp_path, tmp_path, guarded=False):  # what the hint names
        pass


@pytest.mark.parametrize(
    "number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, None]
)
def test_one_at_a_time_on_file_systems_with_locks_and_without(
    tmp_path: Path, flock_fails: Refuse, number: int | None
) -> None:
    if number:
        flock_fails(number)
    for _ in range(2):
        with locked(tmp_path, tmp_path) as hold:
            holder = read_holder((tmp_path / LOCK).read_bytes())
            assert holder
            assert (holder.pid, holder.way == FILE) == (os.getpid(), number is not None)
            with pytest.raises(
                OutputError, match=f"another run.*process {os.getpid()} on"
            ) as caught:
                locked(tmp_path, tmp_path).__enter__()
            assert "wait for it" in caught.value.hint
            hold.check()
        assert not (tmp_path / LOCK).exists() or (tmp_path / LOCK).read_bytes() == b""


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 600, b"[]", b'{"pid": 1}', b"\xff"])
def test_a_lock_file_that_names_nobody_is_taken(
    tmp_path: Path, flock_fails: Refuse, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "_EMPTY_SECONDS", 0.05)
    flock_fails(errno.ENOLCK)
    (tmp_path / LOCK).write_bytes(content)
    with locked(tmp_path, tmp_path) as hold:
        hold.check()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_file_of_a_process_that_has_ended_is_taken_over(
    tmp_path: Path, flock_fails: Refuse
) -> None:
    flock_fails(errno.ENOLCK)
    stale = [{"pid": gone()}, {"started": "1"}, {"boot": "an earlier start"}]
    for changes in stale:
        leave(tmp_path, **changes)
        with locked(tmp_path, tmp_path) as hold:
            hold.check()
        assert list(tmp_path.iterdir()) == []


def test_a_lock_file_of_another_machine_is_refused_until_it_is_removed(
    tmp_path: Path, flock_fails: Refuse
) -> None:
    for number in (None, errno.ENOLCK):
        if number:
            flock_fails(number)
        for changes in ({"host": "elsewhere"}, {"namespace": "pid:[1]"}):
            holder = leave(tmp_path, pid=4711, **changes)
            with pytest.raises(OutputError, match="another run is writing here") as caught:
                locked(tmp_path, tmp_path).__enter__()
            assert str(holder) in caught.value.message
            assert holder.since in caught.value.message
            assert f"remove {tmp_path / LOCK}" in caught.value.hint
            (tmp_path / LOCK).unlink()
            with locked(tmp_path, tmp_path):
                pass


@pytest.mark.parametrize("time", range(20))
def test_of_many_that_take_a_lock_over_one_does(
    tmp_path: Path, flock_fails: Refuse, time: int
) -> None:
    flock_fails(errno.ENOLCK)
    leave(tmp_path, pid=gone())
    barrier, stack = threading.Barrier(6), ExitStack()
    holds: list[folder_lock.Hold] = []
    refused: list[str] = []

    def take() -> None:
        barrier.wait()
        try:
            holds.append(stack.enter_context(locked(tmp_path, tmp_path)))
        except OutputError as error:
            refused.append(error.message)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(holds), len(refused)) == (1, 5)
    assert all("another run is writing here" in message for message in refused)
    holds[0].check()
    stack.close()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_a_process_that_has_ended_is_claimed_too(
    tmp_path: Path, flock_fails: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock_fails(errno.ENOLCK)
    leave(tmp_path, pid=gone())

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            locked(tmp_path, tmp_path).__enter__()
    (claim,) = tmp_path.glob(f"{LOCK}.*")
    content = json.loads(claim.read_bytes())
    claim.write_bytes(Holder(**{**content, "started": "1"}).to_bytes())
    with locked(tmp_path, tmp_path) as hold:
        hold.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [None, errno.ENOLCK])
def test_a_run_that_has_lost_its_lock_changes_nothing(
    tmp_path: Path, flock_fails: Refuse, number: int | None
) -> None:
    if number:
        flock_fails(number)
    corpus, out = tmp_path / "c.jsonl", tmp_path / "out"
    corpus.write_text("".join(f'{{"text": "{n}"}}\n' for n in range(300)))
    after: dict[str, bytes] = {}

    def take(progress: object) -> None:
        if not after:
            (out / "_manifest" / LOCK).unlink()
            run(BUNDLE, corpus, out, window=50, device="cpu")
            after.update(tree(out))

    with pytest.raises(OutputError, match="no longer the lock of this run") as caught:
        run(BUNDLE, corpus, out, on_progress=take, window=10, batch_tokens=16, device="cpu")
    assert tree(out) == after
    assert "run the same command again" in caught.value.hint


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"a folder"
        for path in folder.rglob("*")
    }


def test_every_change_of_records_looks_for_the_lock(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "out")
    with manifest.held():
        (manifest.folder / LOCK).unlink()
        with locked(manifest.out, manifest.folder):
            before = tree(manifest.out)
            changes: list[Callable[[], object]] = [
                lambda: manifest.forget("part-00000-x.arrow"),
                lambda: manifest.drop_surplus([]),
                lambda: manifest.succeed({}),
                lambda: manifest.write(manifest.folder / "run.json", "{}"),
            ]
            for change in changes:
                with pytest.raises(OutputError, match="another run has taken the folder"):
                    change()
            assert tree(manifest.out) == before


def test_a_journal_of_a_lost_folder_is_left_alone(tmp_path: Path) -> None:
    file, lost = tmp_path / "a.journal", False
    journal = Journal(file, {}, lambda: lost)
    journal.close()
    file.write_bytes(b"another run's")
    lost = True
    again = Journal(file, {}, lambda: lost)
    again.remove()
    assert file.read_bytes() == b"another run's"


def test_no_lock_is_taken_where_none_is_wanted_and_the_report_says_so(tmp_path: Path) -> None:
    corpus, out = tmp_path / "c.jsonl", tmp_path / "out"
    corpus.write_text('{"text": "1"}\n')
    with Manifest(out).held():
        report = run(BUNDLE, corpus, out, lock=False, device="cpu")
    assert any("--no-lock" in note for note in report.notes)
    again = run(BUNDLE, corpus, out, device="cpu")
    assert again.splits_skipped == 1
    assert not any("--no-lock" in note for note in again.notes)


def test_when_a_process_was_started_is_known() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid())
    assert process_start(gone()) is None


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES])
def test_a_folder_that_cannot_be_synced_is_no_error_and_a_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.fsync

    def fsync(handle: int, *, folders: bool = True) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}") == folders:
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    writers.write_text(tmp_path / "a.json", "{}")
    monkeypatch.setattr(os, "fsync", lambda handle: fsync(handle, folders=False))
    with pytest.raises(OutputError, match="cannot be written"):
        writers.write_text(tmp_path / "b.json", "{}")
    assert not (tmp_path / "b.json").exists()


def test_a_folder_whose_disk_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        system_calls.sync_folder(tmp_path)


def test_what_a_writer_drops_is_its_own(tmp_path: Path) -> None:
    schema = writers.REJECTS_SCHEMA
    first = FileWriter(tmp_path, "part-00000-x.arrow", schema, "arrow", "none")
    second = FileWriter(tmp_path, "part-00000-x.arrow", schema, "arrow", "none")
    first.abandon()
    second.finish()
    assert (tmp_path / "part-00000-x.arrow").is_file()
