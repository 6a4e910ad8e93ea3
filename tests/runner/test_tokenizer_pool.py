"""Tokenizing in processes of their own: the same bytes, the same errors, nothing left running."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from support import checkpoints
from support.bundles import checkpoint_of, export_once

from engine.bundle import format as bundle_format
from engine.core.config import RunConfig
from engine.core.device import CPU, Device
from engine.core.helper_process import command
from engine.core.types import Rows
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import BackendError, BundleError, RowError, Stopped
from engine.pipeline import Bundle
from engine.runner import plan, tokenizer_pool, worker
from engine.runner.coordinator import run
from engine.runner.tokenizer_pool import TokenizerPool, TokenizerSettings

pytest.importorskip("onnxruntime")

PROGRAM = "from engine.runner.tokenizer_pool import main"

TASKS: dict[str, dict[str, Any]] = {
    "feature-extraction": {},
    "question-answering": {"text": ["question", "text"], "doc_stride": 4},
    "token-classification": {"stride": 2, "aggregation_strategy": "simple"},
    "zero-shot-classification": {"candidate_labels": ("house", "dog")},
    "fill-mask": {"top_k": 2},
}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Corpora as small as these would be finished before a process is ready."""
    pool = tokenizer_pool.TokenizerPool
    monkeypatch.setattr(
        worker, "TokenizerPool", lambda settings, count, local: pool(settings, count)
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    rows = [{"text": spanish(n % 30)} for n in range(300)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def pool_processes() -> list[psutil.Process]:
    """Processes of this one that tokenize."""
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if PROGRAM in str(child.cmdline())
    ]


def part(out: Path) -> bytes:
    (file,) = out.glob("part-*")
    return file.read_bytes()


def pool_settings(**changes: Any) -> TokenizerSettings:
    fields = {"folder": Path(BUNDLE), "options": {}, "max_length": 32, "type_ids": False}
    return TokenizerSettings(**{**fields, "dedupe": True, **changes})


def test_a_run_gives_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    for count in (0, 1, 3):
        report = run(BUNDLE, corpus, tmp_path / str(count), tokenizers=count, window=40)
        assert report.repeats > 0
        assert report.stage_seconds["tokenize"] > 0
    assert part(tmp_path / "1") == part(tmp_path / "3") == part(tmp_path / "0")
    assert not pool_processes()


@pytest.mark.parametrize("task", TASKS)
def test_what_a_task_stores_for_finish_comes_back(tmp_path: Path, task: str) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    export_once(checkpoint_of(checkpoints.encoder, "bert", task), tmp_path / "bundle", task=task)
    mask = bundle_format.load(tmp_path / "bundle").description.model_config.mask_token
    texts = [*checkpoints.SENTENCES, "", f"the {mask} is {mask}", "the garden " * 60]
    rows = [{"text": text, "question": "who " * (n % 5)} for n, text in enumerate(texts)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for count in (0, 2):
        run(tmp_path / "bundle", file, tmp_path / str(count), tokenizers=count, window=3,
            **TASKS[task])  # fmt: skip
    assert part(tmp_path / "2") == part(tmp_path / "0")


def test_each_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_pool, "cores", lambda: 6)
    pool = TokenizerPool(pool_settings(), 2)
    try:
        shares = {process.environ()["RAYON_NUM_THREADS"] for process in pool_processes()}
        assert shares == {"3"}
        encoded = pool(Rows(None, (pa.array(["uno", "dos mil", "uno"]),)))
        model = Bundle.load(BUNDLE, device="cpu")
        wanted = model.stages({}, max_length=32).encode(encoded.rows)
        assert encoded.ids.values.tolist() == wanted.ids.values.tolist()
        assert encoded.firsts is not None
        assert encoded.firsts.tolist() == [0, 1, 0]
    finally:
        pool.close()
    assert not pool_processes()


def test_on_a_gpu_there_are_as_many_as_keep_it_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    def tokenizers(device: Device) -> int:
        config = RunConfig()
        return plan.sized(config, device, 1, decoder=False, loaded=None).tokenizers

    counts = {}
    for cores in (1, 2, 16, 64):
        monkeypatch.setattr(plan, "cores", lambda cores=cores: cores)
        counts[cores] = tokenizers(Device("cuda"))
    assert counts == {1: 1, 2: 1, 16: 8, 64: 8}
    assert tokenizers(CPU) == 0


def test_cores_are_shared_out_among_workers_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "cores", lambda: 16)

    def sizes(device: Device, count: int = 1, **settings: Any) -> tuple[int, int, int]:
        bound = {"decoder": settings.pop("decoder", False), "loaded": settings.pop("loaded", None)}
        config = plan.sized(RunConfig(**settings), device, count, **bound)
        return config.workers, config.threads, config.tokenizers

    gpu = Device("cuda")
    assert sizes(CPU) == (4, 4, 0)
    assert sizes(CPU, loaded=SimpleNamespace(workers=2)) == (2, 8, 0)
    assert sizes(CPU, workers=3, tokenizers=2) == (3, 5, 2)
    assert sizes(CPU, threads=5) == (4, 5, 0)
    assert sizes(gpu) == (2, 8, 8)
    assert sizes(gpu, decoder=True) == (1, 16, 8)
    assert sizes(gpu, 4) == (2, 2, 2)
    assert sizes(gpu, 4, workers=3, threads=7, tokenizers=1) == (3, 7, 1)


def test_an_error_in_a_process_is_raised_by_the_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = TokenizerPool(pool_settings(folder=tmp_path), 1)
    try:
        for _ in range(2):
            with pytest.raises(BundleError, match="not a bundle") as failed:
                pool(Rows(None, (pa.array(["uno"]),)))
            assert failed.value.hint
    finally:
        pool.close()
    corpus.write_text(corpus.read_text() + '{"text": null}\n', encoding="utf-8")
    with pytest.raises(RowError, match="row 300"):
        run(BUNDLE, corpus, tmp_path / "out", tokenizers=2, window=40)
    assert not pool_processes()


def test_a_killed_process_is_an_error_and_the_next_run_continues(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = tokenizer_pool._TokenizerProcess.encode

    def killed(self: Any, rows: Rows) -> Any:
        self.child._process.send_signal(signal.SIGKILL)
        self.child._process.wait()
        return encode(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer_pool._TokenizerProcess, "encode", killed)
        with pytest.raises(BackendError, match="ended by itself, exit code -9") as failed:
            run(BUNDLE, corpus, tmp_path / "out", tokenizers=2, window=40)
    assert "--tokenizers" in failed.value.hint
    assert not pool_processes()
    assert run(BUNDLE, corpus, tmp_path / "out", tokenizers=2, window=40).rows_out == 300


def test_a_stopped_run_leaves_no_process(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Any, answers: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker.Worker, "_write", stop)
    with pytest.raises(Stopped):
        run(BUNDLE, corpus, tmp_path / "out", tokenizers=2, window=10)
    assert not pool_processes()


def test_no_process_outlives_a_killed_run(corpus: Path, tmp_path: Path) -> None:
    code = (
        "import engine, sys, time\n"
        "from engine.runner.tokenizer_pool import TokenizerPool, TokenizerSettings\n"
        "from pathlib import Path\n"
        f"settings = TokenizerSettings(Path({str(BUNDLE)!r}), {{}}, 32, False, True)\n"
        "pool = TokenizerPool(settings, 2)\n"
        "print('started', flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    assert parent.stdout.readline() == "started\n"
    children = pool_processes()
    assert len(children) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_process_whose_run_is_killed_within_a_window_ends_silently() -> None:
    settings = pickle.dumps(TokenizerSettings(BUNDLE, {}, 64, False, True))
    window = pickle.dumps(Rows(None, (pa.array(["a text"] * 1000),), numbers=np.arange(1000)))
    code = command("engine.runner.tokenizer_pool")
    gone = subprocess.run(code, input=settings + window[:-9], capture_output=True, check=True)
    assert (gone.stderr, gone.stdout) == (b"", b"")  # its input is closed: nobody would hear


def test_until_a_process_is_ready_the_run_tokenizes_a_window_at_a_time(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, under_way = [], []

    def counting_pool(settings: TokenizerSettings, count: int, local: Any) -> TokenizerPool:
        def counted(rows: Rows) -> Any:
            under_way.append(rows)
            seen.append(len(under_way))
            try:
                return local(rows)
            finally:
                under_way.pop()

        return TokenizerPool(settings, count, counted)

    monkeypatch.setattr(tokenizer_pool._TokenizerProcess, "is_ready", lambda self: False)
    monkeypatch.setattr(worker, "TokenizerPool", counting_pool)
    run(BUNDLE, corpus, tmp_path / "2", tokenizers=2, window=10)
    assert seen == [1] * 30
    run(BUNDLE, corpus, tmp_path / "0", tokenizers=0, window=10)
    assert part(tmp_path / "2") == part(tmp_path / "0")


def test_processes_that_are_ready_come_first() -> None:
    pool = TokenizerPool(pool_settings(), 1, lambda rows: pytest.fail("it is ready"))
    try:
        while not pool._processes[0].is_ready():
            time.sleep(0.01)
        for _ in range(3):
            pool(Rows(None, (pa.array(["uno"]),), numbers=np.arange(1)))
    finally:
        pool.close()
