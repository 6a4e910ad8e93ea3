"""The bar in a real terminal (tmux), at three widths; the log and the metrics of a run."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import call, rows

from engine.cli.log import Log
from engine.core.telemetry import Progress
from engine.demo import BUNDLE

__all__ = ["rows"]

SCRIPT = """
import time
from engine.cli.progress import shown
from engine.core.telemetry import Progress
with shown(quiet=False) as show:
    for _ in range(600):
        show(Progress(0.42, 1_234_567, 89, 99_000_000, 120_000_000, 3, 12, 4321.0))
        time.sleep(0.1)
"""


def screen(width: int, script: Path) -> str:
    """What a terminal of this width shows of the bar, waited for."""
    tmux = ["tmux", "-L", f"engine-bar-{width}-{script.parent.name}"]
    command = shlex.join(["env", "-u", "COLUMNS", "-u", "LINES", sys.executable, str(script)])
    subprocess.run([*tmux, "new-session", "-d", "-x", str(width), "-y", "10", command], check=True)
    try:
        for _ in range(600):
            seen = subprocess.run(
                [*tmux, "capture-pane", "-p"], check=False, capture_output=True, text=True
            )
            if " left" in seen.stdout:
                return seen.stdout
            time.sleep(0.1)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)
    pytest.fail("the bar never came")


@pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")
@pytest.mark.parametrize(
    ("width", "figures"),
    [
        (40, "286 rows/s"),
        (80, "286 rows/s · 1,234,567 rows · 89 rejected"),
        (120, "286 rows/s · 1,234,567 rows · 89 rejected · part 4/12 · 22,911 tokens/s"),
    ],
)
def test_the_bar_fits_its_terminal(width: int, figures: str, tmp_path: Path) -> None:
    script = tmp_path / "bar.py"
    script.write_text(SCRIPT)
    lines = screen(width, script).rstrip().splitlines()
    assert len(lines) == 1  # it wraps nowhere
    assert "…" not in lines[0]
    assert " 42% 1h39m left · " in f" {lines[0]}"
    assert figures in lines[0]


@pytest.mark.parametrize("width", [12, 34, 58, 98])
def test_whole_figures_only(width: int) -> None:
    progress = Progress(0.42, 1_234_567, 89, 99_000_000, 120_000_000, 3, 12, 4321.0)
    line = progress.fitting(width)
    assert len(line) <= width
    assert str(progress).startswith(line)
    assert str(progress)[len(line) :].startswith(" · ")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return call("run", BUNDLE, *arguments)


def test_a_log_and_metrics_are_written(rows: Path, tmp_path: Path) -> None:
    log, metrics = tmp_path / "run.log", tmp_path / "run.prom"
    more = ("--log-file", log, "--log-format", "json", "--metrics-file", metrics)
    done = run(rows, "-o", tmp_path / "out", "-q", *more)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (line,) = log.read_text().splitlines()
    event = json.loads(line)
    assert event["event"] == "summary"
    assert event["rows_in"] == 12
    assert 'engine_run_running{model="bundle"} 0\n' in metrics.read_text()
    assert 'engine_run_rows{model="bundle"} 12\n' in metrics.read_text()
    done = run(rows, "-o", tmp_path / "out", "--num-beams", "2", *more)
    assert done.returncode == 2
    assert json.loads(log.read_text().splitlines()[-1])["exit_code"] == 2


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_log_keeps_no_password_of_an_address(format: str) -> None:
    lines = io.StringIO()
    address = "https://user:secret@host/a?token=secret"
    Log(format, lines).write("error", f"{address}: not found", out=address)
    assert "secret" not in lines.getvalue()
    assert "host/a" in lines.getvalue()


def test_verbose_shows_the_time_by_stage(rows: Path, tmp_path: Path) -> None:
    assert "time at work: " in run(rows, "-o", tmp_path / "out", "-v").stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--log-format", "xml"], "--log-format is 'xml'"), (["--metrics-file", "a.txt"], ".prom")],
)
def test_what_is_wrong_of_them_is_said(
    more: list[str], said: str, rows: Path, tmp_path: Path
) -> None:
    done = run(rows, "-o", tmp_path / "out", *more)
    assert done.returncode == 2
    assert said in done.stderr
