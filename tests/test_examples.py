"""Every script of examples/ runs as it stands, and the README lists it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.demo.numerals import portuguese

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, *arguments: object) -> str:
    """What an example prints."""
    command = [sys.executable, ROOT / "examples" / name, *arguments]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_translate() -> None:
    lines = run("translate.py").splitlines()
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in lines] == [
        portuguese(42), portuguese(1984)
    ]  # fmt: skip


def test_rejects(tmp_path: Path) -> None:
    printed = run("rejects.py", tmp_path)
    assert "on_error='fail': " in printed
    assert "4 rows in, 2 answered" in printed
    rejected = [line for line in printed.splitlines() if line.startswith("{")]
    assert len(rejected) == 2


def test_resume_and_verify(tmp_path: Path) -> None:
    printed = run("resume_and_verify.py", tmp_path)
    assert "stopped: " in printed
    assert " 0 of them finished" not in printed
    assert "3000 rows in" in printed
    assert "problems: none" in printed


def test_sentiment(tiny_bundles: Path) -> None:
    lines = run("sentiment.py", tiny_bundles / "classifier").splitlines()
    assert len(lines) == 4
    assert all(line.startswith(("good ", "bad ")) for line in lines[:3])
    assert {"'labels'", "'scores'"} <= set(lines[3].replace("{", " ").replace(":", " ").split())


def test_embed_corpus(tiny_bundles: Path, tmp_path: Path) -> None:
    rows = [{"id": n, "text": text} for n, text in enumerate(["a b", "b c", "c", "d e f", "a"])]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    printed = run("embed_corpus.py", tiny_bundles / "embedder", corpus, tmp_path / "out")
    assert printed.startswith("5 embeddings of ")
    assert "nearest to 0: [" in printed


def test_quantize(tmp_path: Path) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    fp32, int8 = run("quantize.py", tmp_path).splitlines()[-2:]
    assert fp32.startswith("fp32: ")
    assert int8.startswith("int8: ")
    assert fp32.partition(", ")[2] == int8.partition(", ")[2]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_explained_tested_and_listed(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert f"def test_{file.stem}(" in Path(__file__).read_text(encoding="utf-8")
    assert f"examples/{file.name}" in (ROOT / "README.md").read_text(encoding="utf-8")
