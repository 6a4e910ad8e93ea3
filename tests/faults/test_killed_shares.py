"""Shares that are killed while others write leave the bytes of one run: in short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.network import ROOT

pytest.importorskip("onnxruntime")


def test_killed_shares_that_are_started_again_leave_the_bytes_of_one_run(tmp_path: Path) -> None:
    # In a process of its own, since a fork of this one would have what other tests' threads lock.
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "faults.shares", "--save", str(file), "--rounds", "8"]
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "tests", "benchmarks"))
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    ways = json.loads(file.read_text())["ways"]
    assert [figures["rounds"] for figures in ways.values()] == [{"right": 4}, {"right": 4}]
