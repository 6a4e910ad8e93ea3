"""The pages that other commands write: run, bench, tune, quantize."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.commands import call
from support.pages import read_page
from typer.testing import CliRunner

from engine.bench.sweep import Sweep, SweepPoint, Timing
from engine.bundle.tuned import Tuned
from engine.cli import app
from engine.demo import BUNDLE
from engine.export.report import ExportReport

SECRET = "dos mil"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "in" / "rows.jsonl"
    file.parent.mkdir()
    file.write_text(f'{{"text": "{SECRET}"}}\n' * 12 + '{"text": null}\n')
    return file


@pytest.mark.parametrize("out", ["out", "out.parquet"])
def test_a_run_writes_its_page_when_it_ends(rows: Path, tmp_path: Path, out: str) -> None:
    page = tmp_path / "page.html"
    words = ["run", BUNDLE, rows, "-o", tmp_path / out, "--on-error", "reject", "--keep", "all"]
    done = call(*words, "--report", page)
    assert done.returncode == 3, done.stderr
    assert f"report: {page}" in done.stderr
    text = page.read_text("utf-8")
    found = read_page(text)
    assert SECRET not in text
    assert "finish reason" in text.lower().replace("_", " ")
    assert any("7.69%" in shown for shown in found.texts)


@pytest.mark.parametrize(
    ("out", "page", "why"),
    [
        ("-", "page.html", "keeps no records"),
        ("s3://bucket/out.parquet", "page.html", "keeps no records"),
        ("out", "page.pdf", "ends in .html"),
        ("out", "out/page.html", "no folder"),
    ],
)
def test_a_page_that_cannot_be_is_refused_before_the_run(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, page: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    done = call("run", BUNDLE, rows, "-o", out, "--report", page)
    assert done.returncode == 2
    assert why in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_bench_writes_a_page(rows: Path, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    words = ["bench", BUNDLE, rows, "--budgets", "64,128", "--workers", "1", "--rounds", "1"]
    done = call(*words, "--profile", "--json", "--report", page)
    assert done.returncode == 0, done.stderr
    found = read_page(page.read_text("utf-8"))
    best = json.loads(done.stdout)["best"]
    assert any(f"{best['batch_tokens']} tokens, 1 ×" in text for text in found.texts)
    assert any("64 tokens" in text for text in found.texts)
    assert "Inference" in found.texts


def timing(tokens: int, seconds: float) -> Timing:
    return {"batch_tokens": tokens, "workers": 1, "threads": 2, "seconds": seconds,
            "rounds": [seconds, seconds + 1], "rows_per_second": 10 / seconds,
            "tokens_per_second": 99 / seconds, "padding": 1.2}  # fmt: skip


def measured() -> Sweep:
    failed: Timing = {"batch_tokens": 4096, "workers": 2, "threads": 1, "failed": "no memory"}
    return Sweep(
        bundle="models/<b>", task="translation", device="cpu", rows=10, rejected=1, truncated=2,
        tokens=99, output_tokens=0, padding=1.2, stages={"infer": 3.0, "read": 0.1},
        best=SweepPoint(512, 1, 2), sweep=[timing(512, 1.0), timing(1024, 2.0), failed],
        startup_seconds=0.5, first_answer_seconds=0.7, loaded=1, peak_bytes=1 << 28,
    )  # fmt: skip


def test_tune_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = Tuned(512, 1, 2, "a CPU", 2, "rows.jsonl", 1.25)
    monkeypatch.setattr("engine.bench.tune.tune", lambda *_, **__: (tuned, measured()))
    page = tmp_path / "tune.html"
    done = CliRunner().invoke(app, ["tune", str(BUNDLE), "--json", "--report", str(page)])
    assert done.exit_code == 0, done.exception
    found = read_page(page.read_text("utf-8"))
    for shown in ("1.25 ×", "512 tokens, 1 × 2 *", "failed: no memory", "256 MiB"):
        assert shown in found.texts


def test_quantize_writes_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: dict[str, Any] = {
        "same_label": {"value": 0.99, "limit": 0.97, "holds": True},
        "worst_cosine": {"value": 0.5, "limit": 0.9, "holds": False},
    }
    gate = {"sample": "bundled sentences", "rows": 40, "rejected": 0, "figures": figures,
            "size": 0.3, "speed": 2.5, "cpu": "a CPU", "passed": False, "forced": True,
            "worst_layers": ["layer.1"]}  # fmt: skip
    report = ExportReport(tmp_path / "b", "translation", "int8", "logits", 1e-6, 1e-4, gate, 10**6,
                          3.0, ("a note",))  # fmt: skip
    monkeypatch.setattr("engine.export.quantize", lambda *_, **__: report)
    page = tmp_path / "int8.html"
    words = ["quantize", str(BUNDLE), "-o", str(tmp_path / "b"), "--report", str(page)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.exception
    found = read_page(page.read_text("utf-8"))
    for shown in ("2.50 ×", "same label", "worst cosine", "layer.1", "a note", "0.97"):
        assert shown in found.texts


@pytest.mark.parametrize("command", ["bench", "tune", "quantize"])
def test_a_page_is_refused_before_anything_is_measured(command: str) -> None:
    words = [command, "none", *(["-o", "b"] if command == "quantize" else []), "--report", "x.pdf"]
    assert "ends in .html" in str(CliRunner().invoke(app, words).exception)
