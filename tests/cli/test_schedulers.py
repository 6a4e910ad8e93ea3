"""The examples for schedulers run as they stand, each share with the variables that its system
sets, and leave one output."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine.demo import BUNDLE

EXAMPLES = Path(__file__).parents[2] / "examples" / "shares"
SHARES = 2


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "corpus"
    folder.mkdir(parents=True)
    for name in "abc":
        (folder / f"{name}.jsonl").write_text('{"text": "uno"}\n{"text": null}\n')
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine with the command `engine`, and what stands for the scheduler's own."""
    own = tmp_path / "bin"
    own.mkdir()
    run = f'exec {shlex.quote(sys.executable)} -m engine "$@"\n'
    # GNU parallel puts each line of its input where {} is, and runs what comes out by a shell.
    parallel = (
        'while [ "$1" != engine ]; do shift; done\n'
        'while read -r line; do sh -c "$(printf "%s " "$@" | sed "s/{}/$line/g")" || exit; done\n'
    )
    for name, text in (("engine", run), ("parallel", parallel), ("scontrol", 'echo "$@"\n')):
        (own / name).write_text(f"#!/bin/sh\n{text}")
        (own / name).chmod(0o755)
    python = os.pathsep.join(filter(None, (str(EXAMPLES.parents[1]), os.environ.get("PYTHONPATH"))))
    path = f"{own}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": python, "SHARES": str(SHARES)}


def run(command: list[str], environment: dict[str, str], folder: Path) -> list[dict[str, object]]:
    """The summaries that it prints."""
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(summaries: list[dict[str, object]], out: Path) -> None:
    """That these are the shares, and that the output is whole."""
    assert [summary["share"] for summary in summaries] == ["1/2", "2/2"]
    assert [summary["parts_open"] for summary in summaries] == [1, 0]
    answers = engine.open(out).to_table()
    assert answers["translation_text"].to_pylist() == ["um"] * 3
    success = json.loads((out / "_SUCCESS").read_text())
    assert (success["rows_in"], success["rows_rejected"]) == (6, 3)


def test_slurm(tmp_path: Path, corpus: Path, environment: dict[str, str]) -> None:
    script, out = EXAMPLES / "slurm.sh", tmp_path / "out"
    text = script.read_text()
    assert re.search(r"^#SBATCH --array=1-8$", text, re.MULTILINE)
    summaries = []
    for task in range(1, SHARES + 1):
        own = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "7"}
        command = ["sh", str(script), str(BUNDLE), str(corpus), str(out)]
        summaries += run(command, environment | own, tmp_path)
    check(summaries, out)


def test_kubernetes(tmp_path: Path, corpus: Path, environment: dict[str, str]) -> None:
    text = (EXAMPLES / "kubernetes.yaml").read_text()
    found = re.search(r"command: \[sh, -c\]\n +args:\n +- (.*)\Z", text, re.DOTALL)
    assert found
    line = " ".join(found[1].split())
    (corpus.parent / "model").symlink_to(BUNDLE)
    line = line.replace("/data/", f"{corpus.parent}/").replace("/8", f"/{SHARES}")
    summaries = []
    for index in range(SHARES):
        own = {"JOB_COMPLETION_INDEX": str(index)}
        summaries += run(["sh", "-c", line], environment | own, tmp_path)
    check(summaries, corpus.parent / "out")


def test_gnu_parallel(tmp_path: Path, corpus: Path, environment: dict[str, str]) -> None:
    script, out = EXAMPLES / "parallel.sh", tmp_path / "out"
    command = ["sh", str(script), str(BUNDLE), str(corpus), str(out)]
    check(run(command, environment, tmp_path), out)
