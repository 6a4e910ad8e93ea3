"""Bars of works that are no run: steps of an export, hashing, tuning, and a cell of a notebook."""

from __future__ import annotations

import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from support.commands import call, rows
from test_terminal_bar import screen

import engine
from engine.bench.tune import tune
from engine.cli.export import export_shares
from engine.core.steps import ByteMeter, StepClock, StepProgress
from engine.core.telemetry import Progress, unwatched
from engine.demo import BUNDLE
from engine.runner.verify import verify

__all__ = ["rows"]

STEPS = """
import time
from engine.cli.progress import steps
with steps({"second": 0.1, "third": 0.5}) as tell:
    tell("first step of a name that is rather long for a terminal of a few columns")
    time.sleep(0.5)
    tell("second step")
    time.sleep(120)
"""
BYTES = """
import time
from engine.cli.progress import on_terminal
from engine.core.steps import StepProgress
with on_terminal() as show:
    for _ in range(1200):
        show(StepProgress(0.42, "hashing a number of files", 3600.0, 4971.0))
        time.sleep(0.1)
"""


@pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")
@pytest.mark.parametrize(
    ("width", "figures"),
    [(40, "hashing a number of files"), (80, "files · 1h00m so far"), (120, "1h00m so far")],
)
def test_a_bar_of_bytes_fits_its_terminal(width: int, figures: str, tmp_path: Path) -> None:
    script = tmp_path / "bar.py"
    script.write_text(BYTES)
    (line,) = screen(width, script).rstrip().splitlines()
    assert "…" not in line
    assert " 42% 1h22m left" in f" {line}"
    if width > 40:
        assert figures in line


@pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")
@pytest.mark.parametrize("width", [40, 80, 120])
def test_steps_stand_above_their_bar(width: int, tmp_path: Path) -> None:
    script = tmp_path / "steps.py"
    script.write_text(STEPS)
    lines = screen(width, script).rstrip().splitlines()
    assert lines[0].startswith("first step of a name")
    assert lines[-2] == "second step"
    assert "% " in lines[-1]
    assert "s left · second step" in lines[-1]
    assert "…" not in lines[-1]


def test_the_time_left_follows_from_the_shares() -> None:
    now = [0.0]
    clock = StepClock({"load": 0.25, "compar": 0.75}, lambda: now[0])
    assert clock.state() == StepProgress(0.0, "", 0.0)
    now[0] = 10.0
    clock.begin("plan: a remark begins no step")
    assert clock.state().seconds_left is None
    clock.begin("loading x")
    assert clock.state() == StepProgress(0.25, "loading x", 10.0, 30.0)
    now[0] = 20.0
    assert clock.state() == StepProgress(0.5, "loading x", 20.0, 20.0)
    now[0] = 100.0  # slower than expected: the end of the step is not passed
    assert clock.state() == StepProgress(0.75, "loading x", 100.0, 10.0)
    clock.begin("comparing")
    assert clock.state().seconds_left == pytest.approx(100 / 3)


@pytest.mark.parametrize("recipe", [None, "fp32", "int8", "fp16"])
def test_shares_of_an_export_grow_from_step_to_step(recipe: str | None) -> None:
    shares = list(export_shares(recipe).values())
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1


def test_whole_figures_only() -> None:
    state = StepProgress(0.42, "hashing", 3600.0, 4971.0)
    assert str(state) == "1h22m left · hashing · 1h00m so far"
    assert state.fitting(25) == "1h22m left · hashing"
    assert state.fitting(5) == "1h22m left"
    assert str(StepProgress(0.0, "", 1.0)) == "1s so far"


def test_bytes_are_weighed() -> None:
    shown: list[StepProgress] = []
    meter = ByteMeter([3, 1], "hashing", shown.append)
    meter.add(3)
    meter.add(1)
    assert [state.done for state in shown] == [0.75, 1.0]
    assert shown[-1].seconds_left == 0
    ByteMeter([], "hashing", None).add(0)


def test_verify_tells_how_far_it_is(rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    engine.run(BUNDLE, rows, tmp_path / "out")
    shown: list[StepProgress] = []
    assert not verify(tmp_path / "out", on_progress=shown.append).problems
    assert [state.done for state in shown][-1] == 1.0
    assert {state.what for state in shown} == {"hashing"}
    done = call("verify", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")  # no terminal, no bar


def test_tune_tells_what_is_left_of_its_time(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    shown: list[StepProgress] = []
    tune(tmp_path / "bundle", seconds=1, on_progress=shown.append)
    assert shown
    assert all(state.what.endswith(" rows/s") and state.seconds_left is not None for state in shown)
    assert [s.done for s in shown] == sorted(s.done for s in shown)


class Display:
    """Stands in for IPython's display."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Display:
        assert (raw, display_id) == (True, True)
        self.lines.append(content["text/plain"])
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        self.lines.append(content["text/plain"])


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Display:
    """A process that looks like the kernel of a notebook."""
    shown = Display()
    shell: Any = types.ModuleType("IPython")
    shell.get_ipython = object
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)  # type: ignore[arg-type]  # no module
    return shown


def test_a_notebook_shows_a_line_that_is_written_over(
    cell: Display, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("engine.core.cell_progress._SECONDS", 0.0)
    engine.run(BUNDLE, rows, tmp_path / "out")
    assert cell.lines
    assert all("%  " in line and "uno" not in line for line in cell.lines)
    assert "100%" in cell.lines[-1]
    count = len(cell.lines)
    engine.run(BUNDLE, rows, tmp_path / "quiet", on_progress=unwatched)
    seen: list[Progress] = []
    engine.run(BUNDLE, rows, tmp_path / "own", on_progress=seen.append)
    assert len(cell.lines) == count
    assert seen


def test_nothing_is_shown_outside_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.core import cell_progress

    assert cell_progress.watching() is None
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert cell_progress.watching() is None
