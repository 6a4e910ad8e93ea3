"""The tutorial, walked through from its first command to its last, in an empty folder.

A small classifier of the same labels stands in for the model of the hub, and `support` for Airflow.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import bundles
from support.checkpoints.news import LABELS, news

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
MODEL = "mrm8488/bert-mini-finetuned-age_news-classification"
COMMANDS = {
    "engine": "-m engine", "airflow": "-m support.airflow_command", "python": "",
}  # fmt: skip


def files() -> dict[str, str]:
    """The tutorial's scripts by the name that their first line has."""
    scripts = [text for kind, text in BLOCKS if kind == "python"]
    return {text.splitlines()[0].removeprefix("# "): text for text in scripts}


def steps() -> list[tuple[str, str]]:
    """Commands, each with the output that is shown for it and those before it."""
    found: list[tuple[str, str]] = []
    for kind, text in BLOCKS:
        if kind == "sh":
            found.append((text, ""))
        elif kind == "text":
            found[-1] = (found[-1][0], text)
    return found


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A classifier that was trained on the corpus of another day."""
    pytest.importorskip("optimum.exporters.onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.py").write_text(files()["corpus.py"], encoding="utf-8")
    runpy.run_path("corpus.py")["write_day"]("day", 90_000, 3000)
    rows = pq.read_table("news/day.parquet").drop_null()
    texts, topics = (tuple(rows[name].to_pylist()) for name in ("headline", "topic"))
    return bundles.checkpoint_of(news, texts, topics)


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """An empty folder with the tutorial's scripts, and its commands beside it."""
    here = tmp_path / "tutorial"
    for name, text in files().items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    for name, arguments in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        command.chmod(0o755)
    return here


def run(lines: str, folder: Path, environment: dict[str, str]) -> str:
    """What a block of commands prints; each has to end as it is said to."""
    printed = ""
    script = ""
    for line in lines.splitlines():
        expected = re.search(r"# ends with exit code (\d+)$", line)
        script += f"{line}\n"
        if line.startswith("export "):
            continue
        done = subprocess.run(
            ["sh", "-c", script], cwd=folder, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        printed += done.stdout + done.stderr
        assert done.returncode == int(expected[1] if expected else 0), f"{line}\n{printed}"
        script = ""
    return printed


def like(shown: str) -> re.Pattern[str]:
    """A line as it is shown, whatever its numbers and sizes are, and with ... for anything."""
    pattern = re.escape(shown.strip()).replace(r"\.\.\.", ".*")
    pattern = re.sub(r"\d[\d,]*(\\\.\d+)?(e\\-\d+)?", r"[\\d,.e+-]+", pattern)
    return re.compile(rf"^\s*{pattern}", re.MULTILINE)


def test_the_tutorial_from_its_first_command_to_its_last(folder: Path, checkpoint: Path) -> None:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {
        **os.environ, "PYTHONPATH": paths, "PATH": f"{folder.parent / 'bin'}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1", "COLUMNS": "200",
    }  # fmt: skip
    environment.pop("AIRFLOW__CORE__DAGS_FOLDER", None)
    commands = [(lines, shown) for lines, shown in steps() if not lines.startswith("pip ")]
    assert sum(MODEL in lines for lines, _ in commands) == 1
    for lines, shown in commands:
        printed = run(lines.replace(MODEL, str(checkpoint)), folder, environment)
        for line in shown.splitlines():
            assert like(line).search(printed), f"{line!r} is not in:\n{printed}"
    for made in ("report.html", "diff.html", "labels-by-airflow/_SUCCESS"):
        assert (folder / made).is_file()


def test_what_it_installs_exists() -> None:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        extras = tomllib.load(stream)["project"]["optional-dependencies"]
    named = re.findall(r"corpus-engine\[([\w,]+)\]", PAGE)
    assert len(named) == 2
    assert {extra for names in named for extra in names.split(",")} <= set(extras)


def test_the_stand_in_has_the_labels_of_the_corpus() -> None:
    assert all(f'"{label}"' in files()["corpus.py"] for label in LABELS)
