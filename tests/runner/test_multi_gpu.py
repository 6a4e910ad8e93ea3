"""Several devices: a process each, one output, and the bytes of a run on one."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from engine import errors
from engine.core.config import RunConfig
from engine.core.device import CPU, Device
from engine.core.types import Columns
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import (
    BackendError,
    EngineError,
    OutputError,
    RowError,
    SettingsError,
    Stopped,
    TooManyRejects,
)
from engine.pipeline import Bundle
from engine.runner import coordinator, multi_gpu, plan
from engine.runner.coordinator import run
from engine.runner.folder_lock import Hold
from engine.runner.manifest import Manifest
from engine.runner.messages import Committed, WorkerSettings
from engine.runner.threads import ThreadGroup

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices where all are asked for: the processor, twice."""

    def devices(wanted: str) -> tuple[Device, ...]:
        return (CPU, CPU) if wanted == "cuda:all" else (CPU,)

    monkeypatch.setattr(plan, "devices", devices)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for n in range(5):
        rows = [{"id": i, "text": spanish(i)} for i in range(40 * n, 40 * n + 40)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{n}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def tree(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.glob("part-*"))}


def go(corpus: Path, out: Path, **more: Any) -> Any:
    return run(BUNDLE, corpus, out, keep=["id"], device="cuda:all", **more)


def test_all_gpus_give_the_bytes_of_one(corpus: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    one = run(BUNDLE, corpus, tmp_path / "one", keep=["id"], device="cpu")
    all_ = go(corpus, tmp_path / "all", on_progress=seen.append)
    assert tree(tmp_path / "all") == tree(tmp_path / "one")
    assert (all_.rows_in, all_.rows_out, all_.splits) == (200, 200, 5)
    assert all_.rows_computed == one.rows_computed == 200
    assert all_.tokens == one.tokens
    assert all_.device == "cuda:all"
    assert all_.ran["device"] == "cuda:all"
    assert all_.ran["provider"] == "CPUExecutionProvider"
    assert all_.stage_seconds["infer"] > 0
    assert seen
    assert {entry.device for entry in Manifest(tmp_path / "all").entries()} == {"cpu"}
    assert (tmp_path / "all/_SUCCESS").exists()
    again = go(corpus, tmp_path / "all")
    assert again.splits_skipped == 5
    assert again.rows_computed == 0


def test_a_stopped_run_continues(corpus: Path, tmp_path: Path) -> None:
    def stop(self: Any, number: int, message: Any) -> None:
        if isinstance(message, Committed):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator.Coordinator, "receive", stop)
        with pytest.raises(Stopped):
            go(corpus, tmp_path / "out", window=10)
    assert not [
        child for child in psutil.Process().children() if "multi_gpu" in str(child.cmdline())
    ]
    assert not (tmp_path / "out/_SUCCESS").exists()
    before = len(tree(tmp_path / "out"))
    assert go(corpus, tmp_path / "out", window=10).splits_skipped == before > 0
    run(BUNDLE, corpus, tmp_path / "one", keep=["id"], device="cpu", window=10)
    assert tree(tmp_path / "out") == tree(tmp_path / "one")


def test_an_error_in_a_process_is_raised_by_the_run(corpus: Path, tmp_path: Path) -> None:
    (corpus / "2.jsonl").write_text('{"id": 1, "text": "uno"}\n{"id": 2, "text": null}\n')
    with pytest.raises(RowError, match=r"2\.jsonl: row 1") as failed:
        go(corpus, tmp_path / "out")
    assert "--on-error reject" in failed.value.hint
    assert (failed.value.row, failed.value.code) == (1, "null_text")
    done = go(corpus, tmp_path / "out", on_error="reject")
    assert (done.rows_rejected, done.rows_out) == (1, 161)
    assert done.rejected.get("null_text", 0) <= 1


def test_bad_rows_are_counted_over_all_processes(corpus: Path, tmp_path: Path) -> None:
    for n in range(5):
        (corpus / f"{n}.jsonl").write_text('{"id": 1, "text": "uno"}\n{"id": 2, "text": null}\n')
    with pytest.raises(TooManyRejects, match="at most 2"):
        go(corpus, tmp_path / "out", on_error="reject", max_rejects=2)


def test_a_killed_process_is_an_error_and_the_next_run_continues(
    corpus: Path, tmp_path: Path
) -> None:
    killed = threading.Event()

    def kill(progress: Any) -> None:
        for child in psutil.Process().children():
            if not killed.is_set() and "engine.runner.multi_gpu" in str(child.cmdline()):
                killed.set()
                child.send_signal(signal.SIGKILL)

    with pytest.raises(BackendError, match="exit code -9") as failed:
        go(corpus, tmp_path / "out", on_progress=kill)
    assert "run the same command again" in failed.value.hint
    assert go(corpus, tmp_path / "out").rows_out == 200


def test_processes_do_not_outlive_their_run(tmp_path: Path) -> None:
    """Its input ends with the run, whatever ended that."""
    settings = WorkerSettings(
        Path("nowhere"),
        tmp_path,
        CPU,
        RunConfig(),
        "",
        Columns((), pa.schema([])),
        Hold(tmp_path, tmp_path / ".lock"),
    )
    process = multi_gpu._start(settings)
    inner = process._process
    assert inner.stdin
    inner.stdin.close()
    assert inner.wait(60) == 0


def test_what_cannot_be_combined_with_all_gpus_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="limit 7"):
        go(corpus, tmp_path / "out", limit=7)
    loaded = Bundle.load(BUNDLE, device="cpu")
    with pytest.raises(SettingsError, match="a loaded bundle"):
        run(loaded, corpus, tmp_path / "out", device="cuda:all")


def test_one_gpu_needs_no_processes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "devices", lambda wanted: (CPU,))
    monkeypatch.setattr(multi_gpu, "answer", None)
    assert go(corpus, tmp_path / "out").device == "cpu"


@pytest.mark.parametrize(
    "error",
    [
        RowError("a.jsonl", 7, "null", "it is null"),
        OutputError("full", "make room"),
        TooManyRejects("many"),
        ValueError("the text of a row" * 2000),
    ],
)
def test_errors_travel_between_processes_unchanged(error: Exception) -> None:
    line = json.dumps(errors.to_dict(error))
    assert len(line) < 4096
    copy = errors.from_dict(json.loads(line))
    if isinstance(error, EngineError):
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)
    else:
        assert isinstance(copy, BackendError)
        assert copy.message == "ValueError, a bug of the engine"  # a library may quote a row
    assert isinstance(copy, errors.EngineError)


def test_merge_gives_items_as_they_come() -> None:
    def slow(count: int, pause: float) -> Iterator[int]:
        for n in range(count):
            time.sleep(pause)
            yield n

    threads = ThreadGroup()
    sources = [slow(3, 0.001), slow(0, 0), slow(5, 0.002)]
    merged = list(threads.merge(sources))
    assert [n for number, n in merged if number == 0] == [0, 1, 2]
    assert [n for number, n in merged if number == 2] == [0, 1, 2, 3, 4]
    assert len(merged) == 8
    threads.close()

    def failing() -> Iterator[int]:
        yield 1
        raise OutputError("full")

    threads = ThreadGroup()
    with pytest.raises(OutputError, match="full"):
        list(threads.merge([failing(), slow(10**9, 0.01)]))
    threads.close()


def test_every_setting_reaches_the_processes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = (Device("cuda"), Device("cuda", 1))
    monkeypatch.setattr(plan, "devices", lambda wanted: gpus)
    monkeypatch.setattr(plan, "gpu_name", lambda device: "")
    manifest = Manifest(tmp_path / "o")
    options = {"max_new_tokens": 3}
    settled = plan.make_plan(
        BUNDLE, corpus, manifest, {"keep": "id", "device": "cuda:all", "options": options}
    )
    config, run_ = settled.config, coordinator.Coordinator(settled, manifest, None)
    for gpu, settings in zip(gpus, map(run_._worker_settings, gpus), strict=True):
        again = pickle.loads(pickle.dumps(settings))
        assert again == settings
        assert (again.device, again.fingerprint) == (gpu, settled.record["fingerprint"])
        assert again.config.shaping() == config.shaping()
        cores = len(os.sched_getaffinity(0))
        assert again.config.workers * again.config.threads <= max(1, cores // 2)
