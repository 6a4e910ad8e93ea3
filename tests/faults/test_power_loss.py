"""The short form of `faults.power_loss`, and its model of what a disk may hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import forks
from faults.call_traces import Call, _Reader
from faults.disk_states import Disk, digest
from faults.network import ROOT

pytest.importorskip("onnxruntime")


@pytest.mark.skipif(not forks.can_trace(), reason="strace is not here, or may not attach")
def test_runs_come_out_right_after_a_power_loss(tmp_path: Path) -> None:
    # In a process of its own, since a fork of this one would have the threads of other tests.
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "faults.power_loss", "--save", str(file), "--points", "10",
               "--seconds", "20", "--folder", str(tmp_path), "--only", "fresh with journals",
               "resumed with journals", "inputs renamed", "overwrite"]  # fmt: skip
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "tests", "benchmarks"))
    run = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": paths}, timeout=240,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(file.read_text())
    assert figures["wrong"] == 0
    assert figures["tried"] > 0


def _left(calls: list[Call], folder: Path) -> list[dict[str, bytes | None]]:
    """What a power loss may leave after calls below a folder, each once."""
    disk = Disk(Path("/d"), folder, "in")
    for call in calls:
        disk.apply(call)
    states = {digest(tree): dict(tree) for tree in disk.states(1000, "")}
    assert {digest(tree) for tree in disk.extremes()} <= set(states)
    return sorted(states.values(), key=repr)


def test_data_that_are_not_synced_may_be_absent_torn_or_zeros(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    write = Call("write", "/d/f", 0, at=3, data=b"rows")
    assert _left([write], tmp_path) == [
        {"f": b"old"}, {"f": b"old\0\0\0\0"}, {"f": b"oldro"}, {"f": b"oldrows"},
    ]  # fmt: skip
    assert _left([write, Call("sync", "/d/f", 1)], tmp_path) == [{"f": b"oldrows"}]
    # A write that returns while a sync runs is not in it.
    assert len(_left([write, Call("sync", "/d/f", 0)], tmp_path)) == 4


def test_a_name_is_on_the_disk_once_its_folder_is(tmp_path: Path) -> None:
    calls = [Call("open", "/d/f", 0, creates=True), Call("sync", "/d/f", 1)]
    assert _left(calls, tmp_path) == [{"f": b""}, {}]
    assert _left([*calls, Call("sync", "/d", 2)], tmp_path) == [{"f": b""}]


def test_a_rename_shows_either_name_or_both_in_two_folders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"1")
    within = [Call("rename", "/d/a", 0, target="/d/b")]
    assert _left(within, tmp_path) == [{"a": b"1", "sub": None}, {"b": b"1", "sub": None}]
    across = [Call("rename", "/d/a", 0, target="/d/sub/b")]
    assert _left(across, tmp_path) == [
        {"a": b"1", "sub": None, "sub/b": b"1"}, {"a": b"1", "sub": None},
        {"sub": None, "sub/b": b"1"},
    ]  # fmt: skip


def _hex(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def test_calls_are_read_as_they_returned() -> None:
    file, name = f"3<{_hex('/d/f')}>", f'"{_hex("/d/f")}"'
    lines = [
        f"10 openat(AT_FDCWD<{_hex('/')}>, {name}, O_WRONLY|O_CREAT|O_EXCL, 0666) = {file}",
        f'10 write({file}, "{_hex("ro")}", 2) = 2',
        f"11 fsync({file} <unfinished ...>",
        f'10 write({file}, "{_hex("ws")}", 2) = 2',
        "11 <... fsync resumed>)             = 0",
        f"10 unlink({name}) = -1 ENOENT (No such file or directory)",
        f'10 unlink("{_hex("/other")}") = 0',
    ]
    assert list(_Reader("/d").calls(lines)) == [
        Call("open", "/d/f", 0, creates=True),
        Call("write", "/d/f", 1, at=0, data=b"ro"),
        Call("write", "/d/f", 2, at=2, data=b"ws"),
        Call("sync", "/d/f", 2, target="/d/f"),
    ]  # fmt: skip
