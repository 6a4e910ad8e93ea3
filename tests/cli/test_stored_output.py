"""An output in an object store from the command line: run, read, verified, cleaned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.fakes import write_jsonl
from support.object_stores import BUCKET, Store, server, store

from engine.demo import BUNDLE
from engine.demo.numerals import portuguese, spanish

__all__ = ["server", "store"]

OUT = f"s3://{BUCKET}/a/out"


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "secret-of-a-test" not in done.stdout + done.stderr
    return done


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "numbers.jsonl", [spanish(n) for n in range(20)])


def test_a_run_is_read_verified_and_cleaned(store: Store, numbers: Path) -> None:
    done = call("run", BUNDLE, numbers, "-o", OUT, "--keep", "id")
    assert done.returncode == 0, done.stderr
    assert f"1 parts in {OUT} (0 were already done)" in done.stdout
    rows = [json.loads(line) for line in call("head", OUT, "-n", 3).stdout.splitlines()]
    assert [row["translation_text"] for row in rows] == [portuguese(n) for n in range(3)]
    store.put("a/out/part-00009-x.arrow", b"x")
    store.client.create_multipart_upload(Bucket=BUCKET, Key="a/out/part-00008-x.arrow")
    removed = json.loads(call("gc", OUT, "--json").stdout)
    assert removed["files"] == ["part-00009-x.arrow"]
    assert removed["uploads"] == ["part-00008-x.arrow"]
    assert store.uploads() == []
    assert "no problems" in call("verify", OUT).stdout


def test_a_dry_run_and_refusals_leave_nothing(store: Store, numbers: Path) -> None:
    planned = call("run", BUNDLE, numbers, "-o", OUT, "--dry-run")
    assert f"1 in {OUT}: 1 new" in planned.stdout, planned.stderr
    refused = call("run", BUNDLE, numbers, "-o", "http://host/out")
    assert refused.returncode == 2
    assert "only local folders, s3://, gs:// and az:// are written" in refused.stderr
    wrong = call("run", BUNDLE, numbers, "-o", OUT, "--text", "nothing")
    assert wrong.returncode == 2, wrong.stderr
    assert call("gc", OUT).returncode == 1
    assert store.contents() == {}
