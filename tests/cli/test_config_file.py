"""Settings from a file and from variables, which of them counts, and a run from its own record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from engine.cli import config_file
from engine.demo import BUNDLE


def call(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id": 1, "text": "uno"}\n' * 12)
    return file


@pytest.fixture
def settings(rows: Path, tmp_path: Path) -> Path:
    file = tmp_path / "run.toml"
    config_file.save(
        file,
        {
            "model": str(BUNDLE),
            "inputs": [str(rows)],
            "out": str(tmp_path / "out"),
            "keep": "id",
            "limit": "3",
            "do-sample": False,
        },
    )
    return file


def limit(*arguments: object, **variables: str) -> int:
    done = call("run", *arguments, "--dry-run", "--json", **variables)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["settings"]["limit"])


def test_the_command_line_counts_before_variables_before_the_file_before_defaults(
    settings: Path, rows: Path, tmp_path: Path
) -> None:
    assert limit(BUNDLE, rows, "-o", tmp_path / "out") == 0
    assert limit("-c", settings) == 3
    assert limit("-c", settings, ENGINE_LIMIT="0.004k") == 4
    assert limit("-c", settings, "--limit", "5", ENGINE_LIMIT="4") == 5
    assert limit(ENGINE_CONFIG=str(settings)) == 3


def test_what_is_saved_is_read_again(rows: Path, tmp_path: Path) -> None:
    saved, out = tmp_path / "saved.toml", tmp_path / "out"
    given = ("--keep", "id,text", "--num-beams", "2", "--no-dedupe", "--split-size", "1.5MB")
    done = call("run", BUNDLE, rows, "-o", out, *given, "--save", saved, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    again = call("run", "-c", saved, "--dry-run", "--json")
    assert json.loads(again.stdout) == json.loads(done.stdout)
    assert tomllib.loads(saved.read_text())["split-size"] == 3 << 19


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lmit = 3\n", "unknown key in FILE: 'lmit'\nhint: did you mean 'limit'?"),
        ("limit = \n", "FILE: no TOML: "),
        ("limit = 'ten'\n", "--limit is 'ten'"),
        ("device = 'tpu'\n", "'tpu'"),
    ],
)
def test_a_wrong_file_is_refused(text: str, said: str, settings: Path) -> None:
    lines = settings.read_text().splitlines(keepends=True)
    settings.write_text("".join([*lines[:4], text]))
    done = call("run", "-c", settings)
    assert done.returncode == 2
    assert said.replace("FILE", str(settings)) in done.stderr


def test_a_missing_file_is_named(settings: Path) -> None:
    done = call("run", "-c", settings.with_name("rum.toml"))
    assert done.returncode == 2
    assert f"did you mean '{settings}'?" in done.stderr


@pytest.mark.parametrize("name", ["out", "out.jsonl"])
def test_a_run_is_run_again_from_its_record(
    name: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("run", BUNDLE, rows.name, "-o", name, "--keep", "id", "--limit", "3")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir("/")
    again = call("rerun", tmp_path / name, ENGINE_LIMIT="7")
    assert again.returncode == 0, again.stderr
    assert "3 rows in, 3 answered" in again.stdout
    assert "(1 were already done)" in again.stdout
    refused = call("run", BUNDLE, rows, "-o", tmp_path / name, "--num-beams", "2")
    assert refused.returncode == 2
    other = call("rerun", tmp_path / name, "-o", tmp_path / f"other{name}")
    assert other.returncode == 0, other.stderr
    assert call("verify", tmp_path / f"other{name}").returncode == 0


def test_what_cannot_be_run_again_says_so(tmp_path: Path, rows: Path) -> None:
    done = call("rerun", tmp_path)
    assert done.returncode == 2
    assert "no record of a command" in done.stderr


@pytest.mark.parametrize(
    "value",
    ["a\\b", 'say "hi"\n', "\x7f\x01", "ünï", "007", "10k", ["a", "b,c"], True, False, ""],
)
def test_values_survive_a_file(value: object, tmp_path: Path) -> None:
    config_file.save(tmp_path / "a.toml", {"key": value})
    assert config_file.read(tmp_path / "a.toml") == {"key": value}


def test_a_record_has_absolute_paths_and_no_signatures(tmp_path: Path) -> None:
    given: dict[str, object] = {
        "model": "org/name", "inputs": ["*.jsonl", "https://host/a?sig=1"], "out": "o", "limit": 3,
        "log-file": "run.log",
    }  # fmt: skip
    assert config_file.absolute(given) == {
        "model": "org/name",
        "inputs": [os.path.abspath("*.jsonl"), "https://host/a?..."],
        "out": os.path.abspath("o"),
        "limit": 3,
        "log-file": os.path.abspath("run.log"),
    }
