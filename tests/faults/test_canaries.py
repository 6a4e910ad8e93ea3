"""No secret gets out: the short form of `faults.canaries`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import canary_points
from faults.canary_corpora import ADDRESS, ENVIRONMENT, ROW

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
POINTS = (
    "control",
    "good parquet", "good as json", "plan as json", "one file", "stacks dumped",
    "bad, broken: stop", "bad, broken: reject", "bad, not text: stop", "bad, other types: reject",
    "bad, bytes: reject", "bad, long number: stop", "bad, with texts", "bad, to a pipe",
    "types, csv", "types rejected, parquet", "csv, more fields", "csv, quote",
    "file, parquet, flipped.parquet", "file, arrow, cut.arrow", "file, plain as gz.jsonl.gz",
    "no such column", "no space for arrow", "broken description", "loud",
    "input address 0", "input address 1 planned", "model address 2", "output address 0",
    "bug in encode", "bug in infer, debugging", "bug in the writer",
    "text-generation, object: fail", "question-answering, number: fail", "rerank, in memory",
    "zero-shot-classification, number: reject",
)  # fmt: skip


def test_no_secret_is_in_what_a_command_leaves(tmp_path: Path) -> None:
    saved = tmp_path / "canaries.json"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "benchmarks")))
    done = subprocess.run(
        [sys.executable, "-m", "faults.canaries", "--save", str(saved), "--points", *POINTS],
        env=os.environ | {"PYTHONPATH": paths, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads(saved.read_text())["points"]}
    assert rows.keys() == set(POINTS)
    assert [name for name, row in rows.items() if row["leaks"]] == ["control"]
    assert not [name for name, row in rows.items() if row["rc"] not in (0, 1, 2, 3)]
    found = {leak.rpartition(": ")[2] for leak in rows["control"]["leaks"]}
    assert found == {ROW, ENVIRONMENT, ADDRESS, "7731773177"}
    assert {leak.rpartition(": ")[0] for leak in rows["control"]["leaks"]} == {
        "stdout", "stderr", "out/_manifest/run.json", f"name of out/part-{ROW}",
    }  # fmt: skip


def test_every_point_has_a_name_of_its_own(tmp_path: Path) -> None:
    names = [point.name for point in canary_points.points(tmp_path)]
    assert len(names) == len(set(names))
    assert set(POINTS) <= set(names)
