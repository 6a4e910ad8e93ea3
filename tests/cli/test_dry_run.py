"""engine run --dry-run, and what is refused before a checkpoint is exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import checkpoints
from support.bundles import checkpoint_of
from typer.testing import CliRunner

from engine.cli import app
from engine.demo import BUNDLE
from engine.errors import SettingsError
from engine.export import cache

runner = CliRunner()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": 1, "text": "uno"}\n' * 20)
    return file


def test_a_plan_is_printed_and_nothing_written(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = runner.invoke(app, ["run", str(BUNDLE), str(corpus), "-o", str(out), "--dry-run"])
    assert result.exit_code == 0
    for text in (
        "translation, recipe fp32, on cpu",
        "inputs: 1 files (1 jsonl), about 20 rows: a.jsonl",
        "reads:  text (text)",
        "writes: translation_text (string)",
        "parts:  1 in",
        "settings: workers",
    ):
        assert text in result.output
    assert "changed nothing" not in result.output  # no setting was given
    assert not out.exists()


def test_a_plan_shows_the_settings_that_are_not_the_default(corpus: Path, tmp_path: Path) -> None:
    arguments = ["run", str(BUNDLE), str(corpus), "-o", str(tmp_path / "o"), "--dry-run"]
    result = runner.invoke(app, [*arguments, "--split-size", "1MB", "--limit", "5"])
    (line,) = [line for line in result.output.splitlines() if line.startswith("settings")]
    assert "limit 5, split_size 1MB" in line
    assert not any(name in line for name in ("reject_text", "max_row_bytes", "gpu_memory", "False"))


def test_a_plan_as_json(corpus: Path, tmp_path: Path) -> None:
    arguments = ["run", str(BUNDLE), str(corpus), "-o", str(tmp_path / "o"), "--keep", "id"]
    result = runner.invoke(app, [*arguments, "--dry-run", "--json"])
    plan = json.loads(result.stdout)
    assert plan["writes"]["id"] == "int64"
    assert plan["parts"] == {"new": 1}


def test_a_plan_that_would_be_refused_has_the_exit_code_of_the_refusal(
    corpus: Path, tmp_path: Path
) -> None:
    arguments = ["run", str(BUNDLE), str(corpus), "-o", str(tmp_path / "o")]
    assert runner.invoke(app, arguments).exit_code == 0
    result = runner.invoke(app, [*arguments, "--keep", "id", "--dry-run"])
    assert result.exit_code == 2
    assert "engine run would end with: " in result.output
    assert 'holds a run with other settings: keep [] (now ["id"])' in result.output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--keep", "absent"], "no column 'absent'"),
        (["--text", "body"], "no column 'body'"),
        (["--top-k", "-1"], "top_k is -1"),
        (["--num-beams", "2"], "unknown option of text-classification 'num_beams'"),
        (["--text", "a,b,c"], "text names 3 columns"),
        (["--workers", "-3"], "workers is -3"),
        (["-o", "{file}/out"], "not a folder"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_checkpoint_is_not_exported_for_a_run_that_is_refused(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
    message: str,
    dry: list[str],
) -> None:
    monkeypatch.setenv("CORPUS_ENGINE_CACHE", str(tmp_path / "cache"))
    model = checkpoint_of(checkpoints.classifier)
    settings = [text.format(file=corpus) for text in settings]
    arguments = ["run", str(model), str(corpus), "-o", str(tmp_path / "out"), *settings, *dry]
    result = runner.invoke(app, arguments)
    assert message in str(result.exception) or message in result.output
    assert result.exit_code
    assert "loading" not in result.output
    assert not (tmp_path / "cache").exists() or not list(cache.folder().rglob("bundle.json"))


def test_a_dry_run_of_a_checkpoint_says_what_would_be_exported(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORPUS_ENGINE_CACHE", str(tmp_path / "cache"))
    model = checkpoint_of(checkpoints.classifier)
    result = runner.invoke(
        app,
        ["run", str(model), str(corpus), "-o", str(tmp_path / "out"), "--dry-run", "--keep", "id"],
    )
    assert result.exit_code == 0
    for text in (
        "would be exported for text-classification into",
        "inputs: 1 files (1 jsonl), about 20 rows: a.jsonl",
        "reads:  text (text), id (int64)",
        "writes: id (int64)",
        "the result columns follow from the checkpoint: label: string, score: float32",
        "parts:  1 in",
    ):
        assert text in result.output
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "int8"], "is a bundle of recipe fp32, not int8"),
        (["--task", "ner"], "is a bundle for translation, not for ner"),
        (["--revision", "main"], "which has no revisions"),
        (["--allow-pickle"], "only checkpoints have .bin weights"),
        (["--gpu-memory", "1GB", "--device", "cpu"], "gpu_memory is 1073741824, and device is cpu"),
        (["--format", "csv", "--compression", "zstd"], "csv is written without"),
        (["-o", "-", "--reject-text"], "reject_text is given with -o -"),
        (["-o", "-", "--overwrite"], "overwrite is given with -o -"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=str)
def test_flags_that_would_do_nothing_are_refused(
    arguments: list[str], said: str, dry: list[str], corpus: Path, tmp_path: Path
) -> None:
    out = ["-o", str(tmp_path / "out")] if "-o" not in arguments else []
    result = runner.invoke(app, ["run", str(BUNDLE), str(corpus), *out, *arguments, *dry])
    assert isinstance(result.exception, SettingsError)
    assert said in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_settings_that_do_nothing_are_noted_before_and_after(corpus: Path, tmp_path: Path) -> None:
    arguments = ["run", str(BUNDLE), str(corpus), "-o", str(tmp_path / "out")]
    unused = ["--gpu-memory", "1GB", "--max-rejects", "3", "--top-k", "5"]
    for dry in (["--dry-run"], []):
        result = runner.invoke(app, [*arguments, *unused, *dry])
        assert result.exit_code == 0
        for note in (
            "note: --gpu-memory changed nothing: the run is on the CPU",
            "note: --max-rejects changed nothing: --on-error is fail",
            "note: --top-k changed nothing: --do-sample is off (--do-sample)",
        ):
            assert note in result.output
