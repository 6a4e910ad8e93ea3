"""The documentation site names pages, files and objects that exist; `scripts/docs` builds it."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
NAMES = [name for page in PAGES for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)]


def resolve(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


@pytest.mark.parametrize("name", NAMES)
def test_a_documented_object_exists(name: str) -> None:
    assert resolve(name).__doc__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_in_the_navigation_and_its_sources_exist(page: Path) -> None:
    assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in CONFIG
    text = page.read_text(encoding="utf-8")
    assert all((ROOT / file).is_file() for file in re.findall(r'--8<-- "(.+?)"', text))
    assert all((ROOT / "examples" / f).is_file() for f in re.findall(r"\[example: (.+?)\]", text))


def test_every_command_and_example_has_its_place() -> None:
    import typer

    from engine.cli import app

    commands = set(typer.main.get_command(app).commands)
    page = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\[help: (\w+)\]", page)) == commands
    page = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    examples = {file.name for file in (ROOT / "examples").glob("*.py")}
    assert set(re.findall(r"\[example: (.+?)\]", page)) == examples


def test_ci_runs_scripts_that_exist_on_the_declared_versions_of_python() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    for script in re.findall(r"run: (scripts/\w+)", workflow):
        assert (ROOT / script).stat().st_mode & 0o111
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert re.findall(r'"(3\.\d+)"', workflow.partition("matrix:")[2].partition("steps:")[0]) == (
        declared
    )
