"""The short form of `faults.full_disk`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import kill_library
from faults.network import ROOT


@pytest.mark.skipif(not kill_library.can_load(), reason="the library of faults needs gcc")
def test_runs_whose_disk_fails_end_with_an_error_and_come_out_as_others(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    ways = ["size", "write ENOSPC", "fsync EIO", "read EIO", "open EROFS", "unlink EROFS"]
    command = [sys.executable, "-m", "faults.full_disk", "--save", str(file), "--points", "4",
               "--scenarios", "fresh", "resumed with journals", "overwrite",
               "--only", *ways]  # fmt: skip
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "tests", "benchmarks"))
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    ways_tried = json.loads(file.read_text())["ways"]
    assert sum(figures["failed"] for figures in ways_tried.values()) > 20
