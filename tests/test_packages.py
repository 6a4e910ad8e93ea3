"""What is packaged, and of what the image is made; `scripts/build` builds both."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import engine
from engine import demo

ROOT = Path(engine.__file__).parents[1]
if not (ROOT / "Dockerfile").is_file():
    pytest.skip("only in the repository", allow_module_level=True)


def steps() -> list[tuple[str, str]]:
    """Name and arguments of the Dockerfile's instructions."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8"))
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        return tomllib.load(stream)


def copied() -> list[str]:
    return [
        source
        for name, rest in steps()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]


def test_the_image_is_made_of_what_there_is() -> None:
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source


def test_what_the_image_is_made_of_is_not_left_out() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
             if line and not line.startswith("#")]  # fmt: skip
    for source in copied():
        kept = True
        for rule in rules:
            if fnmatch.fnmatch(source, rule.removeprefix("!")):
                kept = rule.startswith("!")
        assert kept, f".dockerignore leaves {source} out"
    assert rules[0] == "*"


def test_the_build_has_what_the_package_is_made_of() -> None:
    declared = project()["project"]
    needed = {declared["readme"], *declared["license-files"], "pyproject.toml", "engine"}
    assert needed <= set(copied())


def test_the_image_runs_as_nobody_in_particular_and_hears_signals() -> None:
    last = dict(steps())
    assert last["USER"] not in ("root", "0")
    # A shell between would be process 1, and keep the signals to itself.
    assert json.loads(last["ENTRYPOINT"]) == ["engine"]
    assert list(project()["project"]["scripts"]) == ["engine"]
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["WORKDIR"] == last["VOLUME"]


def test_the_image_keeps_no_cache_and_its_extras_are_an_argument() -> None:
    installs = [rest for name, rest in steps() if name == "RUN" and "pip" in rest]
    assert installs
    assert all("--no-cache-dir" in rest and "${EXTRAS}" in rest for rest in installs)
    (extras,) = (rest.partition("=")[2] for name, rest in steps()
                 if name == "ARG" and rest.startswith("EXTRAS="))  # fmt: skip
    assert set(extras.split(",")) <= set(project()["project"]["optional-dependencies"])


def test_the_versions_that_are_declared_are_those_that_are_built_for() -> None:
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project()["project"]["classifiers"]))
    checked = (ROOT / "scripts/check_packages.py").read_text("utf-8")
    assert "VERSIONS = (" + ", ".join(f'"{version}"' for version in versions) + ")" in checked
    assert project()["project"]["requires-python"] == f">={versions[0]}"


def test_the_bundle_of_the_demo_is_packaged_and_its_checkpoint_is_not() -> None:
    patterns = project()["tool"]["setuptools"]["package-data"]["engine"]

    def packaged(file: Path) -> bool:
        name = file.relative_to(ROOT / "engine").as_posix()
        return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)

    assert all(map(packaged, demo.BUNDLE.iterdir()))
    assert not any(map(packaged, demo.CHECKPOINT.iterdir()))


def test_the_demo_says_where_the_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.cli import app

    monkeypatch.setattr(demo, "CHECKPOINT", tmp_path / "none")
    out = tmp_path / "out"
    (out / "bundle-fp32").mkdir(parents=True)
    result = CliRunner().invoke(app, ["demo", "--export", "-o", str(out)])
    assert str(result.exception) == (
        "--export: the demo's checkpoint does not come with the package, only its bundle\n"
        "hint: it is in engine/demo/checkpoint of the repository: run scripts/demo --export in a "
        "clone, or leave --export out"
    )
    assert (out / "bundle-fp32").is_dir()  # nothing was begun
