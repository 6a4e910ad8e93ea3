"""One of two runs of a folder writes, and one that has lost it changes nothing: in short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.network import ROOT

pytest.importorskip("onnxruntime")


def test_one_of_a_pair_writes_and_a_run_that_lost_its_lock_changes_nothing(tmp_path: Path) -> None:
    # In a process of its own, since a fork of this one would have what other tests' threads lock.
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "faults.locks", "--save", str(file)]
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "tests", "benchmarks"))
    run = subprocess.run(
        [*command, "--pairs", "6", "--takeovers", "6", "--seed", "2"],
        capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    for counts in json.loads(file.read_text())["ways"].values():
        assert set(counts["pairs"]) <= {"right", "in turn"}
        assert set(counts["takeovers"]) <= {"right", "in turn", "first had finished"}
