"""Lines of progress on standard error, for the log of whatever started the run."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from engine.cli import progress
from engine.core.telemetry import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def at(rows: int, **more: Any) -> Progress:
    return Progress(rows / 100, rows, 0, 10 * rows, 11 * rows, 0, 1, 5.0, **more)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_line_every_ten_seconds_where_nobody_looks_also_beside_json(
    clock: list[float], capfd: pytest.CaptureFixture[str], as_json: bool
) -> None:
    with progress.shown(quiet=as_json) as show:
        for seconds in range(35):
            clock[0] = 100.0 + seconds
            show(at(seconds))
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(" · ")[0] for line in lines] == [
        " 10%  45s left",
        " 20%  20s left",
        " 30%  12s left",
    ]


def test_a_stall_is_in_the_line_too(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with progress.shown(quiet=True) as show:
        clock[0] += 31
        show(at(7, stuck="reading a.jsonl: no progress for 31 s"))
    assert "reading a.jsonl: no progress for 31 s" in capfd.readouterr().err


def test_a_terminal_beside_json_is_told_of_stalls_only(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.shown(quiet=True) as show:
        clock[0] += 31
        show(at(7))
        assert terminal.getvalue() == ""
        show(at(7, stuck="reading a.jsonl: no progress for 31 s"))
    assert "no progress" in terminal.getvalue()
