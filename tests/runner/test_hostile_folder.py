"""Helper processes take the engine, Python's modules and their libraries from where the run has
them, whatever lies in the working directory."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from engine.core.helper_process import command, module_places
from engine.demo import BUNDLE

PACKAGE = Path(engine.__file__).parent
HOSTILE = (
    "engine", "tokenizers", "json", "pickle", "numpy", "pyarrow", "jinja2", "random", "typing",
    "onnxruntime", "resource",
)  # fmt: skip
TRAP = "import os; os.write(2, b'TRAPPED ' + __name__.encode()); os._exit(66)\n"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with modules that end whatever imports them."""
    folder = tmp_path / "hostile"
    for name in HOSTILE:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(TRAP)
        (folder / f"{name}.py").write_text(TRAP)
    return folder


RUN = """
import sys, os
sys.path[:] = {places}
import engine, jinja2, json, numpy, onnxruntime
import pickle, pyarrow, random, resource, tokenizers, typing
from engine.bundle.chat_template import ChatTemplate
os.chdir({hostile!r})
sys.path.insert(0, {first!r})
report = engine.run({bundle!r}, {corpus!r}, {out!r}, tokenizers=1, device="cpu")
bundle = engine.Bundle.load({bundle!r})
chat = [{{"role": "user", "content": "hello"}}]
prompts = ChatTemplate("{{{{ messages[0].content }}}}", {{}}).render([chat])
print(report.rows_out, bundle(["dos"])["translation_text"].to_pylist(), prompts)
"""


@pytest.mark.parametrize("first", ["", "."])
def test_every_helper_process_works_in_a_hostile_folder(
    tmp_path: Path, hostile: Path, first: str
) -> None:
    """A tokenizer pool, the trial of a bundle and a chat template's process, of a run that has
    loaded its own modules before it went there."""
    corpus = tmp_path / "a.jsonl"
    corpus.write_text('{"text": "uno"}\n' * 9)
    places = [*filter(None, sys.path), str(PACKAGE.parent)]
    code = RUN.format(
        places=places, hostile=str(hostile), first=first, bundle=str(BUNDLE), corpus=str(corpus),
        out=str(tmp_path / "out"),
    )  # fmt: skip
    cache = {"CORPUS_ENGINE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, check=False, env={**os.environ, **cache},
    )  # fmt: skip
    assert "TRAPPED" not in done.stderr
    assert done.stdout.strip() == "9 ['dois'] ['hello']", done.stderr


def test_the_command_line_works_in_a_hostile_folder(tmp_path: Path, hostile: Path) -> None:
    script = tmp_path / "bin" / "engine"  # as pip writes it
    script.parent.mkdir()
    script.write_text("import sys\nfrom engine.cli import main\nsys.exit(main())\n")
    (hostile / "a.jsonl").write_text('{"text": "uno"}\n')
    arguments = ["run", str(BUNDLE), "a.jsonl", "-o", "out", "--tokenizers", "1", "--json"]
    places = os.pathsep.join([*filter(None, sys.path), str(PACKAGE.parent)])
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=hostile, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": places, "CORPUS_ENGINE_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "TRAPPED" not in done.stderr
    assert json.loads(done.stdout)["rows_out"] == 1


def test_nothing_else_starts_python() -> None:
    """Whoever names the interpreter does so in `helper_process`, or only to print it."""
    naming = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable"
    }
    assert naming <= {"core/helper_process.py", "runtime/doctor.py", "integrations/airflow.py"}


def test_the_package_is_taken_from_where_it_is(tmp_path: Path) -> None:
    """Also where no path of this process leads there."""
    code = command("engine.core.helper_process")[-1]
    assert repr(str(PACKAGE.resolve() / "__init__.py")) in code
    assert importlib.util.find_spec("engine") is not None


def test_the_working_directory_is_looked_at_last_and_only_where_this_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, link = tmp_path / "here", tmp_path / "link"
    here.mkdir()
    link.symlink_to(here)
    monkeypatch.chdir(here)
    other = str(tmp_path / "other")
    assert module_places([other, "/lib"]) == [other, "/lib"]
    for own in ("", ".", str(here), str(link)):
        assert module_places([own, other, "/lib", other]) == [other, "/lib", str(here)]
    here.rmdir()
    assert module_places(["", ".", other]) == [other]
