"""The short form of `faults.kill_points`, and what it calls right and wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from faults import forks
from faults.kill_checks import differences, problems
from faults.network import ROOT

pytest.importorskip("onnxruntime")
SCENARIOS = (
    "all changes, resumed", "killed, then removed", "overwrite", "two workers with journals",
    "one file, inputs changed",
)  # fmt: skip


@pytest.mark.skipif(not forks.can_trace(), reason="strace is not here, or may not attach")
def test_runs_that_are_killed_come_out_as_others(tmp_path: Path) -> None:
    # In a process of its own, since a fork of this one would have the threads of other tests.
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "faults.kill_points", "--save", str(file), "--points", "5",
               "--random", "1", "--seconds", "20", "--folder", str(tmp_path)]  # fmt: skip
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "tests", "benchmarks"))
    run = subprocess.run(
        [*command, "--only", *SCENARIOS], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": paths}, timeout=240,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(file.read_text())
    assert figures["wrong"] == 0
    assert figures["strace"]["killed"] > 0


def _finished(root: Path) -> Path:
    """An output of one part and its record."""
    out = root / "out"
    (out / "_manifest").mkdir(parents=True)
    part = {"file": "part-00000-a.jsonl", "sha256": sha256(b"rows").hexdigest()}
    (out / part["file"]).write_bytes(b"rows")
    record = {"part": part, "rejects": None}
    (out / "_manifest" / "part-00000-a.json").write_text(json.dumps(record))
    (out / "_SUCCESS").write_text(json.dumps({"files": [part["file"]]}))
    return out


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("part-00000-a.jsonl", None, "part-00000-a.jsonl is gone, and _SUCCESS is there"),
        ("part-00000-a.jsonl", "row", "part-00000-a.jsonl is not what its record says"),
        ("part-00000-b.jsonl", "rows", "part-00000-b.jsonl has no record beside _SUCCESS"),
        ("_manifest/part-00000-a.json", None, "part-00000-a.jsonl has no record"),
    ],
)
def test_a_success_that_does_not_hold_is_told(
    tmp_path: Path, name: str, content: str | None, problem: str
) -> None:
    out = _finished(tmp_path)
    assert problems(tmp_path, "out") == []
    (out / name).unlink(missing_ok=True)
    if content:
        (out / name).write_text(content)
    assert problem in " ".join(problems(tmp_path, "out"))
    (out / "_SUCCESS").unlink()
    assert problems(tmp_path, "out") == []


def test_outputs_differ_by_names_and_bytes() -> None:
    assert differences({"a": b"1", "b": b"2"}, {"a": b"1", "b": b"2"}) == []
    assert differences({"a": b"1", "b": b"2"}, {"b": b"3", "c": b"4"}) == [
        "c is missing", "a is left over", "b has other bytes",
    ]  # fmt: skip


def test_points_are_counted_by_thread_and_call() -> None:
    lines = [
        '10 mkdir("/w/out/a", 0777) = 0',
        '11 mkdir("/w/in/a", 0777 <unfinished ...>',
        '10 mkdir("/w/in", 0777) = -1 EEXIST (File exists)',
        "11 <... mkdir resumed>) = 0",
        '11 mkdir("/w/out/b", 0777) = 0',
        '10 write(5</w/out/a/x>, "rows", 4) = 4',
    ]
    points = list(forks._points(lines, ["/w/out"]))
    assert points == [forks.Point("mkdir", 1), forks.Point("mkdir", 2), forks.Point("write", 1)]
