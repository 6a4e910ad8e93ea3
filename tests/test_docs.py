"""Documents that can fail: every command and name in them exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = [
    ROOT / "README.md",
    *(ROOT / f"docs/{n}.md" for n in ("corpora", "stores", "bad-days", "generation", "embeddings")),
]


def commands() -> list[str]:
    texts = [guide.read_text(encoding="utf-8") for guide in GUIDES]
    blocks = re.findall(r"```sh\n(.*?)```", "\n".join(texts), re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("engine ")]


def test_the_readme_names_both_scripts() -> None:
    for script in ("scripts/demo", "scripts/test"):
        assert script in README
        assert (ROOT / script).stat().st_mode & 0o111


@pytest.mark.parametrize("command", commands())
def test_every_option_in_the_guides_exists(command: str) -> None:
    _, name, *words = shlex.split(command)
    every = "--help-all" if name in ("run", "bench", "tune") else "--help"
    told = subprocess.run(
        [sys.executable, "-m", "engine", name, every], capture_output=True, text=True, check=True
    )
    for word in words:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", told.stdout), f"{word} in {command}"


def test_exported_names_are_there() -> None:
    for name in engine.__all__:
        assert getattr(engine, name) is not None


ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
UNLISTED = {"__init__.py", "__main__.py", "__pycache__", "py.typed", "version.py"}


def test_architecture_is_one_page_and_draws_every_room() -> None:
    assert len(ARCHITECTURE.splitlines()) <= 120
    picture = ARCHITECTURE.split("## Rooms")[1].split("```")[1]
    drawn = set(re.findall(r"^(?:\w+/ )?(\w+(?:/|\.py))", picture, re.MULTILINE))
    drawn |= set(re.findall(r"^(\w+/) \w+/", picture, re.MULTILINE))
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "engine").iterdir()
        if path.name not in UNLISTED
    }
    assert drawn == there


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`([\w/]+\.py:\w+)`", ARCHITECTURE))))
def test_architecture_names_functions_that_are_there(place: str) -> None:
    path, _, name = place.partition(":")
    text = (ROOT / "engine" / path).read_text(encoding="utf-8")
    assert re.search(rf"^\s*(?:def|class) {name}\b|^{name}\b.* = ", text, re.MULTILINE)


def test_architecture_names_files_that_are_there() -> None:
    names = set(re.findall(r"`([\w/]+/(?:\w+\.py)?)(?::\w+)?`", ARCHITECTURE))
    roots = (ROOT / "engine", ROOT, ROOT / "engine/export/graphs")
    missing = [name for name in names if not any((root / name).exists() for root in roots)]
    assert not missing


def test_the_version_is_in_the_changelog() -> None:
    assert f"## {engine.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_scripts_install_is_pinned() -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {name.lower().replace("_", "-") for name in pinned}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = set(re.findall(r'^    "([\w-]+)[><=]', project, re.MULTILINE))
    needed |= set(re.findall(r'= \["([\w-]+)[><=]', project)) - {"setuptools", "onnxruntime-gpu"}
    assert needed <= pinned
