"""What a shell is told at Tab, by the protocol that its script speaks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.demo import BUNDLE

TABLE = pa.table(
    {"text": ["uno"], "id": [1], "te;x": [1], "$(touch hit)": [1], 'x\\";touch hit;"': [1]}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(BUNDLE, tmp_path / "my-bundle")
    (tmp_path / "other").mkdir()
    (tmp_path / "a$(touch hit)").mkdir()
    (tmp_path / "a$(touch hit)" / "bundle.json").write_text("{}")
    (tmp_path / "out" / "_manifest").mkdir(parents=True)
    pq.write_table(TABLE, tmp_path / "rows.parquet")
    with pa.ipc.new_file(tmp_path / "rows.arrow", TABLE.schema) as writer:
        writer.write_table(TABLE)
    (tmp_path / "rows.jsonl").write_text('{"text": "uno", "id": 1}\n')
    (tmp_path / "rows.csv").write_text("text,id\nuno,1\n")
    (tmp_path / "z-junk.parquet").write_bytes(bytes(99))
    (tmp_path / "z-junk.jsonl").write_bytes(b'{"te\xff')
    return tmp_path


def ask(folder: Path, **variables: str) -> list[str]:
    """The lines that a shell gets; standard error has none, whatever is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "engine"], cwd=folder, env={**os.environ, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def bash(folder: Path, line: str) -> list[str]:
    words = line.split(" ")
    return ask(
        folder, _ENGINE_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)
    )


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("engine ru", ["run"]),
        ("engine run --max-l", ["--max-length"]),
        ("engine run --aggregation-s", ["--aggregation-strategy"]),
        ("engine run ", ["my-bundle"]),
        ("engine run ./m", ["./my-bundle"]),
        ("engine bench my", ["my-bundle"]),
        ("engine verify ", ["out"]),
        ("engine inspect ", ["my-bundle", "out"]),
        ("engine run x rows.jsonl --format a", ["arrow"]),
        ("engine run x rows.jsonl --device cuda:", ["cuda:0", "cuda:all"]),
        ("engine run x rows.jsonl --task zero", ["zero-shot-classification"]),
        ("engine tasks senti", ["sentiment-analysis"]),
        ("engine convert out --to p", ["parquet"]),
        ("engine export x --recipe int8-", ["int8-static", "int8-tensor", "int8-weight"]),
        *[(f"engine run my-bundle rows.{kind} --text ", ["text", "id"])
          for kind in ("parquet", "arrow", "jsonl", "csv")],
        ("engine run my-bundle . --text t", ["text"]),
        ("engine run x rows.jsonl --keep id,_", ["id,_file", "id,_row"]),
        ("engine compare rows.jsonl rows.csv --key ", ["text", "id"]),
        ("engine run x z-junk.parquet --text ", []),
        ("engine run x z-junk.jsonl --text ", []),
        ("engine run x nothing.jsonl --text ", []),
        ("engine run -c nothing.toml ", ["my-bundle"]),
        ("engine run --help-all x --format c", ["csv"]),
        ("engine --version ver", ["verify"]),
        ("engine run 'x --text ", []),
    ],
)  # fmt: skip
def test_what_is_offered(line: str, offered: list[str], folder: Path) -> None:
    assert [word for word in bash(folder, line) if word] == offered
    assert not (folder / "hit").exists()


def test_every_command_is_offered(folder: Path) -> None:
    from typer.main import get_command

    from engine.cli.commands import app

    commands = get_command(app).list_commands(None)  # type: ignore[attr-defined, arg-type]  # a group
    assert bash(folder, "engine ") == commands


def test_other_shells_have_their_own_forms(folder: Path) -> None:
    line = "engine run x rows.parquet --text "
    zsh = ask(folder, _ENGINE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    assert zsh == ['_arguments \'*: :(("text"', '"id"))\'']
    more = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": line}
    assert ask(folder, _ENGINE_COMPLETE="complete_fish", **more) == ["text", "id"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_calls_engine(shell: str, folder: Path) -> None:
    script = "\n".join(ask(folder, _ENGINE_COMPLETE=f"source_{shell}"))
    assert f"_ENGINE_COMPLETE=complete_{shell}" in script
    assert "engine" in script
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_a_line(folder: Path) -> None:
    (folder / "bin").mkdir()
    engine = folder / "bin/engine"
    engine.write_text(f'#!/bin/sh\nexec {sys.executable} -m engine "$@"\n')
    engine.chmod(0o755)
    script = (
        'eval "$(_ENGINE_COMPLETE=source_bash engine)"; '
        "COMP_WORDS=(engine run x rows.csv --keep i); "
        'COMP_CWORD=5; _engine_completion engine; echo "${COMPREPLY[@]}"'
    )
    here = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=here, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("id\n", "")


def test_nothing_heavy_is_imported(folder: Path) -> None:
    script = (
        "import sys; from engine.cli import commands; commands.call();"
        "heavy = {'onnxruntime', 'torch', 'tokenizers', 'rich', 'pyarrow', 'numpy'};"
        "print(sorted(heavy & {*sys.modules}))"
    )
    for line, heavy in {
        "engine ve": [],
        "engine verify ": [],
        "engine run --li": ["numpy", "pyarrow"],
    }.items():
        variables = {"_ENGINE_COMPLETE": "complete_bash", "COMP_WORDS": line,
                     "COMP_CWORD": str(len(line.split(" ")) - 1)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=folder, env={**os.environ, **variables},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == str(heavy)
