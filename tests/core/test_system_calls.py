"""What only POSIX has, and the second way: both do the same."""

from __future__ import annotations

import errno
import os
import pickle
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.core import memory_limits, system_calls
from engine.core.system_calls import Incoming

WITHOUT = ("pread", "pwrite", "fdatasync", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "sysconf")


@pytest.fixture(params=["posix", "elsewhere"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "elsewhere":
        for name in WITHOUT:
            monkeypatch.delattr(os, name)
        monkeypatch.delattr(select, "poll")
        monkeypatch.delattr(time, "clock_gettime")
        for module in ("fcntl", "resource"):
            monkeypatch.setitem(sys.modules, module, None)
    return request.param


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def test_bytes_are_read_and_written_at_their_place(tmp_path: Path) -> None:
    handle = system_calls.open_file(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    try:
        assert system_calls.write_at(handle, b"two\n", 4) == 4
        assert system_calls.write_at(handle, memoryview(b"one\n"), 0) == 4
        assert system_calls.read_at(handle, 4, 4) == b"two\n"
        assert system_calls.read_at(handle, 100, 6) == b"o\n"
        assert system_calls.read_at(handle, 4, 8) == b""
        system_calls.sync_data(handle)
        system_calls.sync(handle)
    finally:
        os.close(handle)
    assert (tmp_path / "a").read_bytes() == b"one\ntwo\n"


def test_threads_read_and_write_at_once(tmp_path: Path) -> None:
    handle = system_calls.open_file(tmp_path / "a", os.O_RDWR | os.O_CREAT)

    def own(number: int) -> bool:
        for turn in range(200):
            content = bytes([number, turn % 256]) * 50
            system_calls.write_at(handle, content, number * 100)
            if system_calls.read_at(handle, 100, number * 100) != content:
                return False
        return True

    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(own, range(4)))
    finally:
        os.close(handle)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC])
def test_a_link_is_not_followed(tmp_path: Path, flags: int) -> None:
    (tmp_path / "file").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match=r"symbolic links.*link") as caught:
        system_calls.open_file(tmp_path / "link", flags)
    assert caught.value.errno == errno.ELOOP
    assert (tmp_path / "file").read_text() == "theirs"


def test_no_process_inherits_a_handle(tmp_path: Path) -> None:
    handle = system_calls.open_file(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    assert not os.get_inheritable(handle)
    os.close(handle)


def test_a_folder_is_synced_or_nothing_is_said(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "elsewhere":  # Windows opens no folder

        def denied(*_: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", denied)
    system_calls.sync_folder(tmp_path)


def test_a_lock_keeps_others_out_where_there_are_locks(tmp_path: Path, way: str) -> None:
    first, second = (
        system_calls.open_file(tmp_path / "a", os.O_RDWR | os.O_CREAT) for _ in range(2)
    )
    try:
        assert system_calls.lock(first) == (way == "posix")
        if way == "posix":
            with pytest.raises(BlockingIOError):
                system_calls.lock(second)
    finally:
        os.close(first)
        os.close(second)


def test_what_comes_through_a_pipe_is_noticed(pipe: tuple[int, int]) -> None:
    incoming = Incoming(pipe[0])
    assert not incoming.has_come()
    assert not incoming.has_come(0.02)
    os.write(pipe[1], b"abc")
    assert incoming.has_come(10)
    assert not incoming.has_ended()
    assert incoming.read() == b"abc"
    assert not incoming.has_come()
    os.close(pipe[1])
    assert incoming.has_come(10)
    assert until(incoming.has_ended)
    assert incoming.read() == b""
    assert incoming.read() == b""


def test_an_end_is_noticed_before_what_came_is_read(pipe: tuple[int, int]) -> None:
    incoming = Incoming(pipe[0])
    os.write(pipe[1], b"unread")
    os.close(pipe[1])
    assert until(incoming.has_ended)
    assert incoming.read(2) == b"un"
    assert incoming.read() == b"read"
    assert incoming.read() == b""


def test_a_read_waits_for_what_comes(pipe: tuple[int, int]) -> None:
    incoming = Incoming(pipe[0])
    threading.Timer(0.05, os.write, (pipe[1], b"late")).start()
    assert incoming.read(64) == b"late"


def test_large_messages_come_whole(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_calls, "_AHEAD_BYTES", 1 << 17)  # the thread waits in between
    messages: list[Any] = [os.urandom(3_000_000), "é", list(range(1000)), None]
    file = Incoming(pipe[0]).file()

    def send() -> None:
        with os.fdopen(pipe[1], "wb") as stream:
            for message in messages:
                pickle.dump(message, stream, protocol=5)

    sender = threading.Thread(target=send)
    sender.start()
    assert [pickle.load(file) for _ in messages] == messages
    sender.join()
    with pytest.raises(EOFError):
        pickle.load(file)
    file.close()


def test_a_full_pipe_that_nobody_reads_holds_nobody(pipe: tuple[int, int]) -> None:
    system_calls.write_now(pipe[1], b"heard")
    assert os.read(pipe[0], 64) == b"heard"
    os.set_blocking(pipe[1], False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe[1], bytes(1 << 16))
    os.set_blocking(pipe[1], True)
    before = time.monotonic()
    system_calls.write_now(pipe[1], b"never heard")
    assert time.monotonic() - before < 30
    os.close(pipe[0])  # the thread's write fails then


def test_a_process_that_has_ended_is_known() -> None:
    assert system_calls.process_start(os.getpid()) == ""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert system_calls.process_start(child.pid) is None


def test_limits_are_those_of_the_system(way: str) -> None:
    assert (system_calls.limits() is None) == (way == "elsewhere")
    assert (system_calls.peak_memory() > 1 << 20) == (way == "posix")
    assert memory_limits.find_shortage() == ""
    assert (system_calls.memory() > 1 << 28) == (way == "posix")


def test_the_clock_goes_on() -> None:
    before = system_calls.clock()
    time.sleep(0.02)
    assert 0.01 < system_calls.clock() - before < 60


@pytest.mark.parametrize(
    ("failure", "calls"),
    [
        (None, ["full"]),
        (errno.ENOTSUP, ["full", "fsync"]),
        (errno.EIO, ["full"]),
    ],
)
def test_macos_empties_the_cache_of_the_disk(
    way: str, monkeypatch: pytest.MonkeyPatch, failure: int | None, calls: list[str]
) -> None:
    called: list[str] = []

    def full(handle: int, number: int) -> int:
        called.append({51: "full"}[number])
        if failure:
            raise OSError(failure, os.strerror(failure))
        return 0

    monkeypatch.setitem(sys.modules, "fcntl", SimpleNamespace(fcntl=full, F_FULLFSYNC=51))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "fsync", lambda handle: called.append("fsync"))
    if failure == errno.EIO:
        with pytest.raises(OSError, match="Input/output"):
            system_calls.sync(3)
    else:
        system_calls.sync(3)
    assert called == calls


def until(condition: Any) -> bool:
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return bool(condition())
