"""A process with limits ends in a reason, whatever happens in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.core import confined_process
from engine.core.confined_process import FailedStepError, Step, run
from engine.errors import BackendError

MODULE = """
import os, sys
def prepare(): pass
def attempt(what):
    if what == "memory": bytearray(1 << 30)
    if what == "time":
        while True: pass
    if what == "crash": os.abort()
    if what == "exit": os._exit(3)
    if what == "leave": sys.exit("left")
    if what == "error": raise ValueError("first\\nsecond")
    if what == "empty": raise ValueError
    if what == "environment": assert "A_SECRET" not in os.environ
    if what == "print": sys.stderr.write("noise")
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "attempts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("A_SECRET", "x")


def steps(*what: str) -> list[Step]:
    return [Step("attempts", {"what": each}, 64 << 20, 1) for each in what]


def test_good_steps_are_silent() -> None:
    run(steps("nothing", "environment", "print"))


def test_a_large_library_of_a_later_step_is_loaded_without_limits(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(
        "taken = []\ndef prepare(): taken.append(bytearray(256 << 20))\ndef attempt(): pass\n"
    )
    run([*steps("nothing"), Step("large", {}, 64 << 20, 1)])


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("memory", "takes more than 64 MiB of memory to open"),
        ("time", "takes more than 1 s of CPU time to open"),
        ("crash", "ends the process that opens it (code -6)"),
        ("exit", "ends the process that opens it (code 3)"),
        ("leave", "left"),
        ("error", "first"),
        ("empty", "ValueError"),
    ],
)
def test_what_fails_is_told(what: str, reason: str) -> None:
    if what in ("memory", "time") and not sys.platform.startswith("linux"):
        pytest.skip("limits as Linux has them")
    with pytest.raises(FailedStepError) as failed:
        run(steps("nothing", what, "nothing"))
    assert failed.value.number == 1
    assert failed.value.reason.startswith(reason)


def test_a_process_that_cannot_begin_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="could not begin"):
        run([Step("no.such.module", {}, 1, 1)])
    monkeypatch.setattr(confined_process.sys, "executable", "/no/such/python")
    with pytest.raises(BackendError, match="could not begin") as error:
        run(steps("nothing"))
    assert "check=False" in error.value.hint
